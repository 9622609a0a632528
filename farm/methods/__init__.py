"""The method shelf: one file per method, each with a ``Config`` and ``run(task, config)``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

NAMES = (  # those that ``improve`` may name; sft comes before them
    "feedme", "reward_conditioning", "best_of_n", "expert_iteration", "ppo", "rloo", "grpo", "remax", "quark",
    "dpo", "online_dpo", "kto",
)  # fmt: skip


def module(name: str) -> Any:
    """The module of one method, imported on use (it brings torch)."""
    return import_module(f"farm.methods.{name}")
