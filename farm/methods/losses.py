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


DPO_LOSSES = ("sigmoid", "smooth", "robust", "hinge", "ipo")


def dpo(
    policy: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    target: Tensor,
    beta: float,
    kind: str = "sigmoid",
    flip: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """DPO loss [B] and implicit reward margin [B] (Rafailov et al. 2023, arXiv 2305.18290).

    Arguments are summed sequence log-probabilities [B] of (first, second) under policy and reference;
    margin = beta [(log pi - log ref)(first) - (log pi - log ref)(second)]. ``target`` is P(first preferred), ``flip``
    the share e of labels known to be wrong. With l(m) the loss of a margin m in favour of the preferred side:
    sigmoid  l = - log s(m)
    smooth   l = - (1 - e) log s(m) - e log s(-m)                       (Mitchell 2023)
    robust   l = [- (1 - e) log s(m) + e log s(-m)] / (1 - 2 e)         (Chowdhury et al. 2024, arXiv 2403.00409)
    hinge    l = max(0, 1 - m)                                          (SLiC, arXiv 2305.10425)
    ipo      l = (m / beta - 1 / (2 beta))^2                            (Azar et al. 2023, arXiv 2310.12036)
    """
    margin = beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
    if kind == "sigmoid":
        return soft_pair(margin, target), margin
    return target * _pair(margin, beta, kind, flip) + (1 - target) * _pair(-margin, beta, kind, flip), margin


def _pair(margin: Tensor, beta: float, kind: str, flip: float) -> Tensor:
    """Loss [B] of margins in favour of the preferred side, by kind (see :func:`dpo`)."""
    if kind == "hinge":
        return (1 - margin).clamp(min=0)
    if kind == "ipo":
        return (margin / beta - 1 / (2 * beta)).square()
    right, wrong = -logsigmoid(margin), -logsigmoid(-margin)
    if kind == "smooth":
        return (1 - flip) * right + flip * wrong
    return ((1 - flip) * right - flip * wrong) / (1 - 2 * flip)


def kto(log_ratio: Tensor, mismatched: Tensor, desirable: Tensor, beta: float) -> Tensor:
    """KTO loss [B] (Ethayarajh et al. 2024, arXiv 2402.01306) of log pi/pi_ref [B] of responses that are
    ``desirable`` (1) or not (0): 1 - s(+- beta (log_ratio - z)), z = mean of ``mismatched`` log-ratios (responses to
    other prompts), not below 0 and without gradient."""
    z = mismatched.mean().clamp(min=0).detach()
    sign = 2 * desirable - 1
    return 1 - torch.sigmoid(sign * beta * (log_ratio - z))


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


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """pi_ref/pi - 1 - log pi_ref/pi of drawn tokens: unbiased for KL(pi || pi_ref) as a value and never negative; as a
    loss its gradient is that of KL(pi_ref || pi) (Schulman 2020; Tang & Munos 2025, arXiv 2506.09477)."""
    log_ratio = reference - logp
    return log_ratio.exp() - 1 - log_ratio
