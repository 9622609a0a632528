"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): other samples of the prompt are the baseline.

    A_i = r_i - mean over j != i of r_j,   r_i = score(y_i) - kl_coef (log pi(y_i) - log pi_ref(y_i))
    loss = - mean over sequences of min(rho_i A_i, clip(rho_i, 1 - c, 1 + c) A_i),   rho_i = pi(y_i) / pi_old(y_i)

KL enters the reward as k1 per sequence, so the fixed point is that of PPO. With one update per batch, the default,
rho is 1 and this is REINFORCE. Left out: normalising advantages by their spread.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from farm.methods.on_policy import OnPolicy, Part, Rollouts, clipped, train
from farm.methods.task import Result, Task


class Config(OnPolicy):
    """Settings of RLOO."""

    group: int = Field(4, ge=2, description="responses per prompt")
    clip: float = Field(0.2, gt=0, description="clip range of the sequence's probability ratio")


def run(task: Task, config: Config) -> Result:
    """Train from ``task.sft`` against ``task.score``; see :func:`farm.methods.on_policy.train` for what it raises."""

    def loss(part: Part) -> Tensor:
        return clipped(part, config.clip, "sequence").sum()

    return train(task, config, "rloo", group=config.group, signal=lambda d: advantages(d, config.kl_coef), loss=loss)


def advantages(data: Rollouts, kl_coef: float) -> Tensor:
    """A [B]: reward minus the mean reward of the prompt's other responses."""
    rewards = (data.scores - kl_coef * data.kl).view(-1, data.group)
    others = (rewards.sum(1, keepdim=True) - rewards) / (data.group - 1)
    return (rewards - others).flatten()
