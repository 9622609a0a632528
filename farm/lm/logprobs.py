"""Log-probabilities of responses under a policy, and divergences between two policies.

All divergences are sums over the tokens of a sequence, in nats. The head is applied at response positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from farm.lm import parallel
from farm.lm.load import Policy, reference_of
from farm.lm.prompts import Batch, Ids, lay_out
from farm.lm.trunk import bare, hidden_at, positions_of

TOKENS_PER_BATCH = 4096
CACHED = 2**18  # logits that stay in a processor's cache
_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap")


def response_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [N, V] of the N response tokens of a batch, and the hidden states [N, d] they come from."""
    inner = bare(model)
    hidden = hidden_at(model, batch, batch.predicts)
    logits = inner.get_output_embeddings()(hidden)
    config = inner.config
    if any(getattr(config, key, None) not in (None, 1.0) for key in _LOGIT_SETTINGS):
        # This architecture reshapes its logits after the head; only its own forward knows how.
        out = inner(
            input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions_of(batch), use_cache=False
        )
        logits = out.logits[batch.predicts]
    return logits.float(), hidden


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[target], [N]."""
    if temperature != 1.0:
        logits = logits / temperature
    return _Chosen.apply(logits, targets)  # type: ignore[no-any-return,no-untyped-call]


class _Chosen(torch.autograd.Function):
    """logits[target] - logsumexp(logits), [N]: what autograd makes of it, to the bit, but in parts that stay in cache
    and with one buffer of gradients."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, CACHED // logits.shape[1])
        total = torch.cat([part.logsumexp(1) for part in torch.split(logits, rows)])
        ctx.save_for_backward(logits, targets, total)
        return logits.gather(1, targets[:, None])[:, 0] - total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, total = ctx.saved_tensors
        gradient = gradients[0][:, None]
        out, rows = torch.empty_like(logits), max(1, CACHED // logits.shape[1])
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            torch.sub(logits[part], total[part, None], out=out[part]).exp_().mul_(-gradient[part])
        return out.scatter_add_(1, targets[:, None], gradient), None


def by_row(packed: Tensor, batch: Batch) -> list[Tensor]:
    """Values of the batch's N response tokens as one CPU tensor per row."""
    return list(packed.cpu().split(batch.lengths))  # type: ignore[no-untyped-call]


def batches(prompts: Sequence[Ids], responses: Sequence[Ids], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Row numbers in batches of about ``tokens`` padded tokens, longest rows first, so that padding is rare."""
    size = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    order = sorted(range(len(size)), key=lambda i: (-size[i], i))
    start = 0
    while start < len(order):
        count = max(1, tokens // size[order[start]])
        yield order[start : start + count]
        start += count


@torch.no_grad()
def logprobs(
    policy: Policy, prompts: Sequence[Ids], responses: Sequence[Ids], temperature: float = 1.0
) -> list[Tensor]:
    """Per-token log-probabilities of each response: a list of float tensors, one per row, each [len(response)]."""
    mine = parallel.share(range(len(prompts)))
    prompts, responses = [prompts[i] for i in mine], [responses[i] for i in mine]
    out: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows in batches(prompts, responses):
        batch = lay_out(
            [prompts[i] for i in rows], [responses[i] for i in rows], policy.tokenizer.pad_token_id, policy.device
        )
        logits, _ = response_logits(policy.model, batch)
        parts = by_row(token_logprobs(logits, batch.targets, temperature), batch)
        for i, part in zip(rows, parts, strict=True):
            out[i] = part
    return parallel.gather(out)


def sequence_sums(parts: Sequence[Tensor]) -> Tensor:
    """Sum of each row's values, [rows], in float64."""
    return torch.stack([p.double().sum() for p in parts]) if parts else torch.zeros(0, dtype=torch.float64)


@torch.no_grad()
def token_kl(
    policy: Policy,
    frozen: Policy | None,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    temperature: float = 1.0,
) -> tuple[list[Tensor], list[Tensor]]:
    """KL(policy || reference) at each token of responses drawn from ``policy``: (k1, full), float tensors by row.

    The reference is ``frozen``, or ``policy`` without its adapters. k1 is log pi/pi_ref of the drawn token (unbiased,
    can be negative); full is the exact divergence over the vocabulary at each position of the drawn sequences
    (unbiased for the sequence's sum, lower variance).
    """
    k1, full = [torch.empty(0)] * len(prompts), [torch.empty(0)] * len(prompts)
    for rows in batches(prompts, responses):
        batch = lay_out(
            [prompts[i] for i in rows], [responses[i] for i in rows], policy.tokenizer.pad_token_id, policy.device
        )
        ours = (response_logits(policy.model, batch)[0] / temperature).log_softmax(1)
        with reference_of(policy, frozen) as reference:
            theirs = (response_logits(reference.model, batch)[0] / temperature).log_softmax(1)
        sampled = (ours - theirs).gather(1, batch.targets[:, None])[:, 0]
        exact = (ours.exp() * (ours - theirs)).sum(1)
        for i, a, b in zip(rows, by_row(sampled, batch), by_row(exact, batch), strict=True):
            k1[i], full[i] = a, b
    return k1, full


def sequence_kl(
    policy: Policy,
    frozen: Policy | None,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """KL(policy || reference) per sequence on responses drawn from ``policy``: (k1, full), each [rows], nats; the sums
    of :func:`token_kl`."""
    k1, full = token_kl(policy, frozen, prompts, responses, temperature)
    return sequence_sums(k1), sequence_sums(full)
