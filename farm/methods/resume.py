"""Checkpoints of a training loop: exactly resumable, whole or absent, safetensors and JSON only.

``folder``/resume/step-N holds the trained parameters, the optimizer's state and the loop's own numbers. It is written
aside and renamed, and the one before it is removed only then. Whether a checkpoint belongs to the present work is the
step's matter (``farm/runs.py``).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.lm import parallel
from farm.runs import RESUME, read_json


def save(
    folder: Path, number: int, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, numbers: Any
) -> None:
    """Write the checkpoint of step ``number``. ``numbers`` is JSON: what else the loop needs to go on."""
    if parallel.place()[0] > 0:
        return  # the first process writes
    tensors: dict[str, Tensor] = {}
    for i, p in enumerate(parameters):
        tensors[f"parameter.{i}"] = p.detach().cpu().contiguous()
        for name, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    target = folder / RESUME / f"step-{number}"
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / "state.safetensors")
    with (partial / "numbers.json").open("w", encoding="utf-8") as f:
        json.dump({"number": number, "numbers": numbers}, f)
        f.flush()
        os.fsync(f.fileno())
    partial.rename(target)
    for other in target.parent.glob("step-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def load(
    folder: Path, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, Any] | None:
    """Restore the last whole checkpoint into ``parameters`` and ``optimizer``: (step, numbers), or None without one."""
    folder = parallel.everyone(folder)[0]  # all processes go on from the first one's checkpoint
    found = []
    for path in (folder / RESUME).glob("step-*"):
        known = read_json(path / "numbers.json")
        if path.suffix != ".partial" and known is not None:
            found.append((int(known["number"]), path, known["numbers"]))
    if not found:
        return None
    number, path, numbers = max(found, key=lambda one: one[0])
    tensors = load_file(path / "state.safetensors")
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.copy_(tensors[f"parameter.{i}"])
            prefix = f"optimizer.{i}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:  # Adam keeps its step count on the CPU unless it is fused on another device
                optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
    return number, numbers
