"""Losses and estimators as pure functions of tensors. Shapes: [N] packed tokens, [B] sequences, [B, T] padded tokens.

Sums, not means: the caller divides by the weight of the whole batch, so that accumulated micro-batches equal one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid


def sft(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of ``targets`` [N] under ``logits`` [N, V], summed, in nats."""
    return cross_entropy(logits, targets, reduction="sum")


def soft_pair(margin: Tensor, target: Tensor) -> Tensor:
    """Logistic loss [B] of ``margin`` [B] for P(first preferred) = ``target`` [B]: -t log s(m) - (1 - t) log s(-m)."""
    return -target * logsigmoid(margin) - (1 - target) * logsigmoid(-margin)


def dpo(
    policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], target: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """DPO loss [B] and implicit reward margin [B] (Rafailov et al. 2023, arXiv 2305.18290).

    Arguments are summed sequence log-probabilities [B] of (first, second) under policy and reference;
    margin = beta [(log pi - log ref)(first) - (log pi - log ref)(second)].
    """
    margin = beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
    return soft_pair(margin, target), margin


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` where ``mask`` is True."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` with mean 0 and (biased) variance 1 over the mask, and 0 outside it."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both [B, T] (Schulman et al. 2016, arXiv 1506.02438).

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}; return = A + V; V after the last token is 0.
    """
    rewards, values = rewards * mask, values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    delta = rewards + gamma * following - values
    advantage, out = torch.zeros_like(delta[:, 0]), torch.empty_like(delta)
    for t in range(delta.shape[1] - 1, -1, -1):
        advantage = delta[:, t] + gamma * lam * advantage
        out[:, t] = advantage
    out = out * mask
    return out, (out + values) * mask


def ppo_policy(logp: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate loss [N], ratio [N] and whether the clipped branch is active [N] (arXiv 1707.06347)."""
    ratio = (logp - old).exp()
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), ratio, clipped > plain


def ppo_value(value: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Clipped value loss [N]: 0.5 max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2)."""
    near = old + (value - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - returns).square(), (near - returns).square())


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """log pi - log pi_ref of drawn tokens: unbiased for KL(pi || pi_ref), can be negative."""
    return logp - reference
