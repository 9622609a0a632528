"""The method shelf: one file per method, each with a ``Config`` and ``run(task, config)``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

NAMES = ("best_of_n", "expert_iteration", "ppo", "dpo")  # those that ``improve`` may name; sft comes before them


def module(name: str) -> Any:
    """The module of one method, imported on use (it brings torch)."""
    return import_module(f"farm.methods.{name}")
