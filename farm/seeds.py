"""Keyed randomness: every random choice is a hash of what it is for.

A draw depends on ``(seed, purpose, ids)`` and on nothing else, so adding an item never changes another,
and the same inputs give the same bytes at any concurrency, in any order, after any crash.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def digest(*parts: object, size: int = 8) -> str:
    """Hex digest (``2 * size`` characters) of the parts, unambiguous under concatenation."""
    return hashlib.blake2b(packed(*parts), digest_size=size).hexdigest()


def packed(*parts: object) -> bytes:
    """What ``digest`` hashes; pieces of it can be kept where millions of digests share their beginning."""
    out: list[bytes] = []
    for part in parts:
        data = str(part).encode()
        out += (len(data).to_bytes(8, "big"), data)
    return b"".join(out)


def key(seed: int, purpose: str, *ids: object) -> int:
    """A 63-bit sub-seed for one purpose and one item."""
    return int(digest(seed, purpose, *ids), 16) >> 1


def uniform(seed: int, purpose: str, *ids: object) -> float:
    """One uniform draw in [0, 1)."""
    return key(seed, purpose, *ids) / 2**63


def rng(seed: int, purpose: str, *ids: object) -> np.random.Generator:
    """A numpy generator of its own for one purpose and one item."""
    import numpy as np

    return np.random.default_rng(key(seed, purpose, *ids))


def torch_rng(seed: int, purpose: str, *ids: object) -> torch.Generator:
    """A CPU torch generator of its own for one purpose and one item."""
    import torch

    return torch.Generator().manual_seed(key(seed, purpose, *ids))
