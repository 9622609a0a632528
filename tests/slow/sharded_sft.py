"""Run under ``accelerate launch`` (or alone) by test_sharded.py: SFT with ``engine: trl``, and how its weights lay."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback
from two_processes import ASKS, SAMPLING, pairs

from farm.lm import parallel, trl_engine
from farm.lm.load import Lora
from farm.lm.train import Optim
from farm.methods import dpo, sft
from farm.methods.task import Task
from farm.records import by_id
from farm.reward.train import Config as RewardConfig
from farm.reward.train import train_reward

SEEN = {}


class Look(TrainerCallback):
    """What a parameter is in the middle of training, and how much of it this process holds."""

    def on_step_end(self, args, state, control, model=None, **_):
        weight = next(p for p in model.parameters() if p.requires_grad)
        mine = weight.to_local() if hasattr(weight, "to_local") else weight
        SEEN.update(kind=type(weight).__name__, whole=weight.numel(), mine=mine.numel())


def let_fsdp_take_processors():
    """accelerate gives FSDP to accelerators only, and trains CPU processes unsplit without a word."""
    from accelerate import state
    from accelerate.utils import DistributedType

    plain = state.AcceleratorState.__init__

    def init(self, *arguments, fsdp_plugin=None, **named):
        plain(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = init


def main(what: str, toy: str, folder: Path) -> None:
    torch.set_num_threads(1)
    rank, size = parallel.begin()
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        let_fsdp_take_processors()
    callbacks = trl_engine._callbacks
    trl_engine._callbacks = lambda progress: [*callbacks(progress), Look()]
    mine = folder if rank == 0 else folder / f"process-{rank}"
    mine.mkdir(parents=True, exist_ok=True)
    optim = Optim(lr=3e-3, epochs=3, batch=8, micro_batch=2)
    lora = Lora(rank=2) if what == "lora" else None
    preferences, responses = pairs(toy)
    task = Task(0, mine, toy, ASKS, SAMPLING, preferences=preferences, responses=responses, val=ASKS)
    if what in ("sft", "lora"):
        sft.run(task, sft.Config(engine="trl", optim=optim, lora=lora))
    elif what == "dpo":
        dpo.run(task, dpo.Config(engine="trl", optim=optim))
    else:
        # 16 pairs are two whole batches; accelerate would fill up one that is not.
        config = RewardConfig(engine="trl", optim=optim, held_out=0.0)
        train_reward(toy, preferences, by_id(ASKS), responses, config, seed=0, folder=mine / "policy")
    (mine / "seen.json").write_text(json.dumps({"rank": rank, "size": size, **SEEN}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
