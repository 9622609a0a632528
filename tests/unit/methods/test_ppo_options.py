"""PPO's options: what the KL in the reward is made of, how its price adapts, what the value network starts as."""

from __future__ import annotations

import pytest
import torch

from farm import records
from farm.errors import DataError
from farm.lm import tiny
from farm.lm.load import Lora, load_policy
from farm.lm.prompts import encode_prompts, encode_responses, lay_out
from farm.lm.sample import sample
from farm.lm.trunk import hidden_states
from farm.methods import ppo
from farm.methods.task import Task
from farm.records import Sampling
from farm.reward.model import RewardModel

SAMPLING = Sampling(max_tokens=6)
SMALL = {"steps": 4, "rollouts": 32, "lr": 5e-3}


def count_a(instructions, responses):
    return [r.text.lower().split().count("a") / max(1, r.n_tokens) for r in responses]


def task(toy, asks, folder, **more):
    given = {"seed": 0, "folder": folder, "sft": toy, "instructions": asks, "sampling": SAMPLING, "score": count_a}
    return Task(**given | more)


def logs(folder):
    return records.read(folder / "steps.jsonl", ppo.StepLog)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_logs_show_k1_whatever_the_reward_uses(lora, toy, asks, tmp_path):
    """Before the first update all estimators are 0, so the first step is the same; the log's unit never changes."""
    for name in ("k1", "k3", "full"):
        ppo.run(task(toy, asks, tmp_path / name), ppo.Config(**SMALL, kl_estimator=name, kl_coef=0.5, lora=lora))
    first, second = zip(*(logs(tmp_path / name)[:2] for name in ("k1", "k3", "full")), strict=True)
    assert max(abs(log.kl) for log in first) < 1e-5
    assert len({round(log.kl, 4) for log in second}) == 1
    assert abs(second[0].kl) > 1e-4
    ends = {name: logs(tmp_path / name)[-1].policy_loss for name in ("k1", "k3", "full")}
    assert len(set(ends.values())) == 3


def test_the_price_follows_the_target():
    assert ppo.adapt(0.1, 6.0, 6.0, 512, 10_000) == 0.1
    assert ppo.adapt(0.1, 12.0, 6.0, 512, 10_000) == pytest.approx(0.1 * (1 + 0.2 * 0.0512))  # error clipped
    assert ppo.adapt(0.1, 5.4, 6.0, 500, 10_000) == pytest.approx(0.1 * (1 - 0.1 * 0.05))


def test_adaptive_control_holds_the_kl(toy, asks, tmp_path):
    many = {"steps": 60, "rollouts": 64, "lr": 1e-2, "kl_coef": 0.02}
    ppo.run(task(toy, asks, tmp_path / "free"), ppo.Config(**many))
    ppo.run(task(toy, asks, tmp_path / "held"), ppo.Config(**many, kl_target=0.5, kl_horizon=150))
    free, held = logs(tmp_path / "free"), logs(tmp_path / "held")
    assert free[-1].kl > 2.0
    assert held[-1].kl < 0.6 * free[-1].kl
    assert {log.kl_coef for log in free} == {0.02}
    assert max(log.kl_coef for log in held) > 0.1


def test_a_value_network_starts_as_the_reward_model(toy, asks, tmp_path):
    """Its value at the last token is the normalised reward."""
    from transformers import AutoModelForSequenceClassification

    policy = load_policy(toy)
    model = AutoModelForSequenceClassification.from_pretrained(toy, num_labels=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    model.config.reward_mean, model.config.reward_sd = 0.4, 2.0
    model.save_pretrained(tmp_path / "reward")
    policy.tokenizer.save_pretrained(tmp_path / "reward")
    given = task(toy, asks, tmp_path / "ppo", reward=tmp_path / "reward")
    critic = ppo.Critic(policy, given, ppo.Config(value="network"))
    responses = sample(policy, asks, 1, SAMPLING, name="x", purpose="x")
    rows = encode_prompts(asks, policy.tokenizer), encode_responses(responses, policy.tokenizer)
    batch = lay_out(*rows, policy.tokenizer.pad_token_id)
    with torch.no_grad():
        hidden = hidden_states(critic.own.model, batch)
        last = critic.head(hidden[torch.arange(len(asks)), batch.last])[:, 0]
    scores = RewardModel.load(tmp_path / "reward").score(asks, responses)
    assert last.tolist() == pytest.approx(scores, abs=1e-5)
    ppo.run(given, ppo.Config(**SMALL, value="network"))
    assert max(abs(log.explained_variance) for log in logs(tmp_path / "ppo")) > 0


def test_a_reward_model_that_cannot_be_the_value_network_is_refused(toy, asks, tmp_path):
    with pytest.raises(DataError, match="value_from: policy"):
        ppo.run(task(toy, asks, tmp_path), ppo.Config(**SMALL, value="network"))
    settings = tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=32, positions=32)
    other = tiny.create(tmp_path / "other", settings, 0, vocabulary=["quite", "other", "words"])
    with pytest.raises(DataError, match="another tokenizer"):
        ppo.run(task(toy, asks, tmp_path, reward=other), ppo.Config(**SMALL, value="network"))


def test_bfloat16_learns_with_weights_in_float32(toy, asks, tmp_path):
    config = ppo.Config(steps=30, rollouts=64, lr=1e-2, kl_coef=0.0, missing_eos_penalty=0.0, dtype="bfloat16")
    ppo.run(task(toy, asks, tmp_path), config)
    kept = logs(tmp_path)
    assert [log.first_ratio_error for log in kept] == [0.0] * 30  # the same passes in the same precision
    assert abs(kept[0].kl) < 0.05
    assert kept[-1].score > kept[0].score + 0.3
    assert {p.dtype for p in load_policy(tmp_path / "policy").model.parameters()} == {torch.float32}


def test_in_bfloat16_an_update_sees_the_weights_of_the_one_before(toy, asks, tmp_path):
    """Autocast keeps casts of weights: were it not left in between, the ratio would stay 1 for the whole step. Adapters
    only: embeddings are read without a cast."""
    config = ppo.Config(steps=2, rollouts=16, lr=3e-2, lora=Lora(rank=4), dtype="bfloat16")
    ppo.run(task(toy, asks, tmp_path), config)
    assert max(log.clip_fraction for log in logs(tmp_path)) > 0
