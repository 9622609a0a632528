"""Small draws from ``random.Random``, using ``random()`` only: its stream is the same on every machine and version."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from farm.seeds import key

T = TypeVar("T")


def stream(seed: int, purpose: str, *ids: object) -> Random:
    """A generator of its own for one purpose and one item."""
    return Random(key(seed, purpose, *ids))


def pick(r: Random, choices: Sequence[T]) -> T:
    """One of ``choices``, uniformly."""
    return choices[int(r.random() * len(choices))]


def some(r: Random, choices: Sequence[T], n: int) -> list[T]:
    """``n`` distinct ones of ``choices`` (all, when there are fewer), in random order."""
    pool = list(choices)
    return [pool.pop(int(r.random() * len(pool))) for _ in range(min(n, len(pool)))]


def shuffle(r: Random, rows: list[T]) -> None:
    """Fisher-Yates, in place."""
    for i in range(len(rows) - 1, 0, -1):
        j = int(r.random() * (i + 1))
        rows[i], rows[j] = rows[j], rows[i]
