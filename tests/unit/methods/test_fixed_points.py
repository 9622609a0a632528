"""Where the methods end in a world small enough to enumerate: one prompt, responses of one token, known rewards.

KL in the reward (PPO, RLOO, ReMax) maximises E[r] - beta KL(pi || pi_ref): pi = pi_ref exp(r / beta) / Z.
k3 in the loss (GRPO) maximises E[r] - beta KL(pi_ref || pi): pi = beta pi_ref / (mu - r), another distribution. GRPO's
baseline contains the response itself, which scales E[r] by (G - 1) / G, and so its beta by G / (G - 1).
"""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import brentq

from farm.lm.load import load_policy
from farm.lm.prompts import encode_prompts
from farm.methods import grpo, ppo, remax, rloo
from farm.methods.task import Task
from farm.records import Sampling

BETA, GROUP = 0.5, 4
WORTH = {"a": 1.0, "b": 0.5, "c": -0.5, "": -0.3}


def score(instructions, responses):
    return [WORTH.get(r.text.lower(), 0.0) for r in responses]


def next_token(source, prompt):
    with torch.no_grad():
        return load_policy(source).model(prompt).logits[0, -1].double().softmax(0)


@pytest.fixture(scope="module")
def world(toy, asks):
    """Prompt tokens, reference distribution, rewards, and the two optima."""
    policy = load_policy(toy)
    prompt = torch.tensor(encode_prompts(asks[:1], policy.tokenizer))
    start = next_token(toy, prompt)
    texts = policy.tokenizer.batch_decode([[i] for i in range(len(start))], skip_special_tokens=True)
    worth = torch.tensor([WORTH.get(t.lower(), 0.0) for t in texts], dtype=torch.float64)
    beta = BETA * GROUP / (GROUP - 1)
    tilt = start * (worth / BETA).exp()
    top = float(worth.max())
    mu = brentq(lambda m: float((beta * start / (m - worth)).sum()) - 1, top + 1e-6, top + 10)
    return prompt, start, tilt / tilt.sum(), beta * start / (mu - worth)


def distance(p, q):
    return float((p - q).abs().sum()) / 2


ON_POLICY = {"steps": 200, "prompts_per_step": 64, "lr": 1e-2, "kl_coef": BETA, "missing_eos_penalty": 0.0}
PPO = ppo.Config(
    steps=150, rollouts=256, epochs=2, minibatches=1, lr=1e-2, kl_coef=BETA, missing_eos_penalty=0.0, value_coef=0.5
)


def test_the_two_optima_are_told_apart(world):
    _, start, tilt, other = world
    assert distance(tilt, start) > 0.3
    assert distance(tilt, other) > 0.1


@pytest.mark.parametrize(
    ("method", "config"),
    [(ppo, PPO), (rloo, rloo.Config(**ON_POLICY)), (remax, remax.Config(**ON_POLICY | {"prompts_per_step": 256}))],
    ids=["ppo", "rloo", "remax"],
)
def test_kl_in_the_reward_ends_at_the_exponential_tilt(method, config, world, toy, asks, tmp_path):
    prompt, _, tilt, _ = world
    method.run(Task(0, tmp_path, toy, asks[:1], Sampling(max_tokens=1), score=score), config)
    assert distance(next_token(tmp_path / "policy", prompt), tilt) < 0.02


def test_k3_in_the_loss_ends_elsewhere_as_theory_says(world, toy, asks, tmp_path):
    prompt, _, tilt, other = world
    config = grpo.Config(**ON_POLICY, group=GROUP, scale="none")
    grpo.run(Task(0, tmp_path, toy, asks[:1], Sampling(max_tokens=1), score=score), config)
    end = next_token(tmp_path / "policy", prompt)
    assert distance(end, other) < 0.03
    assert distance(end, tilt) > 0.08
