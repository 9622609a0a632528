"""Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): advantages normalised within a prompt.

    A_i = (score_i - mean) / (sd + 1e-4)  over the prompt's group,   or without the division (``scale: none``)
    loss = - mean over tokens of min(rho_t A_i, clip(rho_t) A_i) + kl_coef k3_t,   k3 = pi_ref/pi - 1 - log pi_ref/pi

k3 in the loss pulls towards E[r] - beta KL(pi_ref || pi), whose optimum is beta pi_ref / (mu - r) and not PPO's
exponential tilt; the group's mean contains the response itself, which shrinks advantages by (G - 1) / G; dividing by
the spread makes the price of KL differ between prompts. All this is kept because it is the method; ``scale: none`` is
the better choice for a learned reward. Tokens are averaged over the whole minibatch (as in DAPO, arXiv 2503.14476), so
that long responses are not favoured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from farm.methods import losses
from farm.methods.on_policy import OnPolicy, Part, Rollouts, clipped, train
from farm.methods.task import Result, Task


class Config(OnPolicy):
    """Settings of GRPO; here ``kl_coef`` is the weight of k3 per token in the loss."""

    group: int = Field(8, ge=2, description="responses per prompt")
    clip: float = Field(0.2, gt=0, description="clip range of each token's probability ratio")
    scale: Literal["group", "none"] = Field("group", description="divide advantages by the group's spread, or do not")


def run(task: Task, config: Config) -> Result:
    """Train from ``task.sft`` against ``task.score``; see :func:`farm.methods.on_policy.train` for what it raises."""

    def loss(part: Part) -> Tensor:
        return (clipped(part, config.clip) + config.kl_coef * losses.k3(part.logp, part.reference)).sum()

    return train(
        task, config, "grpo", group=config.group, signal=lambda d: advantages(d, config.scale), loss=loss, per="tokens"
    )


def advantages(data: Rollouts, scale: str) -> Tensor:
    """A [B]: score minus the group's mean, over its spread unless ``scale`` is "none"."""
    scores = data.scores.view(-1, data.group)
    centred = scores - scores.mean(1, keepdim=True)
    if scale == "group":
        centred = centred / (scores.std(1, keepdim=True) + 1e-4)
    return centred.flatten()
