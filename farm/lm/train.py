"""The one training loop that SFT, the reward model and DPO share.

Each brings its examples, a loss and a weight per example; the loop brings keyed shuffling into batches of like
length, gradient accumulation normalised by the weight of the whole batch (so that accumulating equals the big batch),
AdamW with warm-up and decay, gradient clipping, and an error on the first loss that is not finite.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from farm.errors import DataError, TrainError
from farm.lm import parallel
from farm.seeds import rng

Progress = Callable[[int, int, dict[str, float]], None]
E = TypeVar("E")

BETAS = (0.9, 0.95)  # 0.95 learned the offline world in half the updates that 0.999 took


class Optim(BaseModel):
    """How to descend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    epochs: float = Field(1.0, gt=0, description="passes over the examples; 0.5 uses half of them")
    batch: int = Field(64, ge=1, description="examples per update")
    micro_batch: int = Field(0, ge=0, description="examples per forward pass; 0 = the whole batch")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the updates in which the rate rises from 0")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="decay to 0 after warm-up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of matrix products; weights stay float32. bfloat16 pays from about 10M parameters up"
    )


@dataclass(frozen=True)
class Trained:
    """What a run of the loop did: updates made, tokens pushed through, and the loss of each update."""

    updates: int
    tokens: int
    losses: tuple[float, ...]


# Loss of a micro-batch: (sum of weighted losses, statistics summed over the micro-batch's examples).
Loss = Callable[[list[E]], tuple[Tensor, dict[str, float]]]


def fit(
    parameters: list[torch.nn.Parameter],
    examples: Sequence[E],
    loss: Loss[E],
    optim: Optim,
    *,
    seed: int,
    purpose: str,
    size: Callable[[E], int],
    weight: Callable[[E], float],
    progress: Progress | None = None,
    after: Callable[[int], None] | None = None,
) -> Trained:
    """Minimise sum(loss) / sum(weight) over ``examples``; ``size`` is an example's length in tokens.

    ``after`` is called with the number of updates done after each one. Progress gets (updates done, total, stats per
    example and 'loss' per weight). Raises DataError without examples, TrainError when a loss is not finite.
    """
    if not examples:
        raise DataError(f"{purpose}: no examples to train on")
    plan = schedule([size(e) for e in examples], optim.batch, optim.epochs, seed, purpose)
    optimizer = torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay, betas=BETAS, fused=True)
    losses, tokens = [], 0
    for update, rows in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * rate(update, len(plan), optim.warmup, optim.schedule)
        chosen = [examples[i] for i in rows]
        tokens += sum(size(e) for e in chosen)
        with mixed_precision(parameters[0].device.type, optim.dtype):
            value, stats = _accumulate(chosen, loss, sum(weight(e) for e in chosen), optim.micro_batch)
        if not math.isfinite(value):
            raise TrainError(
                f"{purpose}: the loss is {value} at update {update + 1} of {len(plan)}; "
                "lower the learning rate, or look for broken examples"
            )
        step(optimizer, parameters, optim.clip)
        losses.append(value)
        if progress is not None:
            progress(update + 1, len(plan), {"loss": value} | {k: v / len(chosen) for k, v in stats.items()})
        if after is not None:
            after(update + 1)
    return Trained(len(plan), tokens, tuple(losses))


def mixed_precision(device: str, dtype: str) -> torch.autocast:
    """Matrix products of the passes inside in ``dtype``; nothing for float32."""
    if device == "cpu" and dtype == "bfloat16":
        # oneDNN keeps a program per shape of product, up to 1,024 in each of two caches, and responses that end by
        # themselves make new shapes in every batch: 730 MB in 3 steps of PPO at 10M parameters, hardly used again.
        for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
            os.environ.setdefault(cache, "32")
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")


def _accumulate(chosen: list[E], loss: Loss[E], total: float, micro_batch: int) -> tuple[float, dict[str, float]]:
    """Backward through this process's share of a batch in parts, each divided by the weight of the whole batch."""
    value, stats = 0.0, dict[str, float]()
    mine = parallel.share(chosen)
    part = micro_batch or max(1, len(mine))
    for start in range(0, len(mine), part):
        summed, numbers = loss(mine[start : start + part])
        scaled = summed / max(total, 1e-12)
        scaled.backward()  # type: ignore[no-untyped-call]
        value += float(scaled.detach())
        for k, v in numbers.items():
            stats[k] = stats.get(k, 0.0) + v
    summed_up = parallel.total({"loss": value} | stats)
    return summed_up.pop("loss"), summed_up


def step(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], clip: float) -> float:
    """Add gradients over processes, clip to norm ``clip``, update, clear. Returns the norm before clipping.

    Raises TrainError when the gradient is not finite (the parameters are then unchanged).
    """
    parallel.add_gradients(parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip))
    if not math.isfinite(norm):
        raise TrainError("the gradient is not finite; lower the learning rate, or look for broken examples")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def rate(update: int, total: int, warmup: float, shape: str) -> float:
    """Learning-rate factor in (0, 1] of 0-based ``update``: linear warm-up, then decay to 0 after the last one."""
    rise = math.ceil(warmup * total)
    if update < rise:
        return (update + 1) / (rise + 1)
    if shape == "constant":
        return 1.0
    gone = (update - rise) / max(1, total - rise)
    return 1.0 - gone if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))


def schedule(sizes: Sequence[int], batch: int, epochs: float, seed: int, purpose: str) -> list[list[int]]:
    """Row numbers of each update: every epoch a keyed shuffle, cut into batches of rows of similar length.

    Rows are sorted by length only within windows of 32 batches, and the batches are shuffled again, so that neither
    the order nor the company of a row is fixed.
    """
    plan: list[list[int]] = []
    for epoch in range(math.ceil(epochs)):
        random = rng(seed, purpose, "order", epoch)
        order = random.permutation(len(sizes)).tolist()
        order = order[: max(1, round(len(order) * min(1.0, epochs - epoch)))]
        cuts: list[list[int]] = []
        for start in range(0, len(order), 32 * batch):
            window = sorted(order[start : start + 32 * batch], key=lambda i: sizes[i])
            cuts += [window[k : k + batch] for k in range(0, len(window), batch)]
        plan += [cuts[i] for i in random.permutation(len(cuts)).tolist()]
    return plan
