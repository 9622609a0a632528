"""ReMax (Li et al. 2023, arXiv 2310.10505): REINFORCE with the greedy response's reward as baseline.

    loss = - mean of (r - score(y_greedy)) log pi(y) over sequences,   r = score(y) - kl_coef log pi/pi_ref (y)

One drawn and one greedy response per prompt, no value network, no group.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from farm.lm.load import Policy
from farm.lm.prompts import encode_prompts
from farm.lm.sample import draw
from farm.methods.on_policy import OnPolicy, Part, Rollouts, roll_out, train
from farm.methods.task import Result, Task, checked, to_responses
from farm.records import Instruction, Sampling


class Config(OnPolicy):
    """Settings of ReMax."""


def run(task: Task, config: Config) -> Result:
    """Train from ``task.sft`` against ``task.score``; see :func:`farm.methods.on_policy.train` for what it raises."""
    return train(
        task, config, "remax", group=1, signal=lambda d: d.scores - config.kl_coef * d.kl, loss=loss, roll=roll
    )


def loss(part: Part) -> Tensor:
    """- A log pi(y), summed over sequences; the ratio keeps a second pass over the same rollouts unbiased."""
    return -(part.signal * part.sums(part.logp - part.old).exp()).sum()


def roll(
    task: Task,
    policy: Policy,
    frozen: Policy | None,
    instructions: list[Instruction],
    number: int,
    config: OnPolicy,
    group: int,
) -> Rollouts:
    """Rollouts whose scores are relative to the greedy response's."""
    data = roll_out(task, policy, frozen, instructions, number, config, group)
    sampling = Sampling(temperature=0.0, max_tokens=task.sampling.max_tokens, seed=task.seed)
    prompts = encode_prompts(instructions, policy.tokenizer)
    draws = draw(policy, prompts, [i.id for i in instructions], 1, sampling, purpose="greedy")
    responses = to_responses(policy, instructions, draws, policy.name, sampling)
    assert task.score is not None  # need() has seen to it
    greedy = torch.tensor(checked(policy.name, task.score(instructions, responses), responses), dtype=torch.float32)
    greedy = greedy - config.missing_eos_penalty * (~torch.tensor([d.finished for d in draws]))
    tokens = data.tokens + sum(len(d.ids) for d in draws)
    return replace(data, scores=data.scores - greedy, drawn=2 * data.drawn, tokens=tokens)
