"""farm: compare RLHF methods cheaply, check a simulator of human feedback, reproduce reward over-optimization.

Public names are imported on first use, so that importing farm does nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Instruction": "farm.records",
    "Response": "farm.records",
    "Pair": "farm.records",
    "Judgement": "farm.records",
    "Preference": "farm.records",
    "Outcome": "farm.records",
    "WinRate": "farm.records",
    "RewardCurve": "farm.records",
    "FarmError": "farm.errors",
    "load": "farm.pipeline",
    "run": "farm.pipeline",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'farm' has no attribute {name!r}")
