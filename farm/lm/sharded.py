"""Models that FSDP or DeepSpeed split over processes, made whole again where they lie.

``accelerate launch`` says in the environment that it splits; the trainer then replaces parts of the model in place.
Training must leave plain models behind, which can be sampled from, scored with and saved like any other.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

KINDS = ("FSDP", "DEEPSPEED")  # values of accelerate's DistributedType


def asked() -> bool:
    """Whether ``accelerate launch`` was told to split models."""
    return any(os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true" for kind in KINDS)


@contextmanager
def unharmed(model: Any) -> Iterator[None]:
    """Within, a model that is not trained may be split; afterwards it is as it was."""
    kept = copy.deepcopy(model) if asked() and model is not None else None
    yield
    if kept is not None:
        _become(model, kept)


@contextmanager
def whole_again(trainer: Any) -> Iterator[None]:
    """Within, ``trainer`` may split its model to train it; afterwards every process has the model whole, trained.

    Holds a second copy of the model, on its device, and gathers the trained weights on the processor.
    """
    model = trainer.model
    kept = copy.deepcopy(model) if asked() else None
    yield
    if kept is None or trainer.accelerator.distributed_type not in KINDS:
        return
    state = [trainer.accelerator.get_state_dict(trainer.model_wrapped)]  # whole in the first process only
    dist.broadcast_object_list(state, src=0)
    kept.load_state_dict(state[0])
    _become(model, kept)


def _become(model: Any, other: Any) -> None:
    """Whoever holds ``model`` holds ``other``'s layers from here on: splitting changed its class and its layers."""
    model.__class__ = other.__class__
    model.__dict__ = other.__dict__
