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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.lm import parallel
from farm.progress import say
from farm.runs import RESUME, read_json

STATE = "state.safetensors"


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
    save_file(tensors, partial / STATE)
    with (partial / STATE).open("rb") as f:
        os.fsync(f.fileno())  # the numbers, which say that the checkpoint is whole, come after the weights
    with (partial / "numbers.json").open("w", encoding="utf-8") as f:
        json.dump({"number": number, "numbers": numbers}, f)
        f.flush()
        os.fsync(f.fileno())
    shutil.rmtree(target, ignore_errors=True)  # there only if it could not be read
    partial.rename(target)
    for other in target.parent.glob("step-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def load(
    folder: Path, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, Any] | None:
    """Restore the last whole checkpoint into ``parameters`` and ``optimizer``: (step, numbers), or None without one.

    One that is cut off or of another shape is passed over, and that is said.
    """
    folder = parallel.everyone(folder)[0]  # all processes go on from the first one's checkpoint
    found = []
    for path in (folder / RESUME).glob("step-*"):
        if path.suffix != ".partial":
            found.append((int(path.name.removeprefix("step-")), path))
    for number, path in sorted(found, reverse=True):
        known, tensors = read_json(path / "numbers.json"), _whole(path / STATE, parameters)
        if known is not None and tensors is not None:
            _restore(tensors, parameters, optimizer)
            return number, known["numbers"]
        say(f"note: the checkpoint {path} is cut off or of another model; training goes on from before it")
    return None


def _whole(path: Path, parameters: list[torch.nn.Parameter]) -> dict[str, Tensor] | None:
    try:
        tensors = load_file(path)
        fits = all(tensors[f"parameter.{i}"].shape == p.shape for i, p in enumerate(parameters))
    except (OSError, SafetensorError, KeyError):
        return None
    return tensors if fits else None


def _restore(
    tensors: dict[str, Tensor], parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.copy_(tensors[f"parameter.{i}"])
            prefix = f"optimizer.{i}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:  # Adam keeps its step count on the CPU unless it is fused on another device
                optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
