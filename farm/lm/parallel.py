"""Several processes, one training run: each works on its share of a batch, and the sums are those of the whole.

Start processes with ``torchrun --nproc_per_node N`` (gloo on CPUs, nccl on GPUs); :func:`begin` joins them. Losses are
divided by the weight of the whole batch, so adding gradients over processes gives the gradient of one process with
the whole batch. Draws are keyed by what they are for, so who draws them does not matter. In one process, all of this
does nothing. Only the first process may write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def begin() -> tuple[int, int]:
    """Join the processes that torchrun started, once; returns (rank, number of processes)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return place()


def place() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(rows: Sequence[T]) -> list[T]:
    """This process's share: every N-th row."""
    rank, size = place()
    return list(rows[rank::size])


def gather(mine: Sequence[T]) -> list[T]:
    """All shares, in the order of the rows that :func:`share` split."""
    _, size = place()
    if size == 1:
        return list(mine)
    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, list(mine))
    out: list[Any] = [None] * sum(len(p) for p in parts)
    for rank, part in enumerate(parts):
        out[rank::size] = part
    return out


def add_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over processes; a process without rows contributes zero."""
    if place()[1] == 1:
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    start = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[start : start + p.numel()].view_as(p))
        start += p.numel()


def total(values: Mapping[str, float]) -> dict[str, float]:
    """Sums of numbers over processes, by name."""
    out: dict[str, float] = {}
    for part in everyone(dict(values)):
        for name, value in part.items():
            out[name] = out.get(name, 0.0) + value
    return out


def everyone(value: T) -> list[T]:
    """One value of every process, by rank."""
    _, size = place()
    if size == 1:
        return [value]
    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, value)
    return parts
