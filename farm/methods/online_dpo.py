"""Online DPO (Guo et al. 2024, arXiv 2402.04792): the policy's own pairs, labelled by the reward, and a DPO step.

    loss = - log s(beta [log pi/pi_ref (y_w) - log pi/pi_ref (y_l)]),   y_1, y_2 ~ pi,  y_w the better by score

Pairs of equal score teach nothing and are left out. Left out: labels from a judge instead of the reward model.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from farm.methods import losses
from farm.methods.on_policy import OnPolicy, Part, Rollouts, train
from farm.methods.task import Result, Task


class Config(OnPolicy):
    """Settings of online DPO; ``kl_coef`` has no effect here, ``beta`` takes its place."""

    beta: float = Field(0.1, gt=0, description="strength of the tie to the reference; smaller moves further")


def run(task: Task, config: Config) -> Result:
    """Train from ``task.sft`` against ``task.score``; see :func:`farm.methods.on_policy.train` for what it raises."""
    return train(task, config, "online_dpo", group=2, signal=labels, loss=lambda part: pair_loss(part, config.beta))


def labels(data: Rollouts) -> Tensor:
    """1 for the better of each pair and 0 for the other, [B]; NaN for both where the scores are equal."""
    first, second = data.scores.view(-1, 2).unbind(1)
    wins = torch.stack([first > second, second > first], 1).float()
    wins[first == second] = torch.nan
    return wins.flatten()


def pair_loss(part: Part, beta: float) -> Tensor:
    """DPO loss summed over sequences (two for each pair, so half the loss stands on each)."""
    ours, theirs, wins = (
        x.view(-1, 2).unbind(1) for x in (part.sums(part.logp), part.sums(part.reference), part.signal)
    )
    loss, _ = losses.dpo((ours[0], ours[1]), (theirs[0], theirs[1]), wins[0], beta)
    return 2 * loss.sum()
