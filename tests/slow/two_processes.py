"""Run under torchrun (or alone) by test_two_processes.py: train one thing, and say how many processes took part."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from farm.lm import parallel
from farm.lm.load import load_policy
from farm.lm.sample import sample
from farm.lm.train import Optim
from farm.methods import dpo, ppo, rloo, sft
from farm.methods.task import Task
from farm.records import Instruction, Pair, Preference, Sampling, by_id
from farm.reward.train import Config as RewardConfig
from farm.reward.train import train_reward

ASKS = [Instruction.make(f"please say {v} {w}", output=f"{w} {v}.") for w in "abcd" for v in "efgh"]
SAMPLING = Sampling(max_tokens=6)


def count_a(instructions, responses):
    return [r.text.lower().split().count("a") / max(1, r.n_tokens) for r in responses]


def pairs(toy):
    responses = sample(load_policy(toy), ASKS, 2, SAMPLING, name="sft", purpose="pairs")
    made = []
    for a, b in zip(responses[::2], responses[1::2], strict=True):
        pair, winner = Pair.of(a, b), min(a, b, key=lambda r: (r.n_tokens, r.id))
        made.append(
            Preference(
                pair_id=pair.id,
                instruction_id=a.instruction_id,
                responses=(pair.a, pair.b),
                winner_id=winner.id,
                origin="gold",
            )
        )
    return made, by_id(responses)


def main(what: str, toy: str, folder: Path) -> None:
    torch.set_num_threads(1)
    rank, size = parallel.begin()
    mine = folder if rank == 0 else folder / f"process-{rank}"
    mine.mkdir(parents=True, exist_ok=True)
    (mine / "place.txt").write_text(f"{rank} of {size}")
    preferences, responses = pairs(toy)
    task = Task(0, mine, toy, ASKS, SAMPLING, preferences=preferences, responses=responses, score=count_a)
    optim = Optim(lr=3e-3, epochs=3, batch=8)
    if what == "sft":
        sft.run(task, sft.Config(optim=optim))
    elif what == "dpo":
        dpo.run(task, dpo.Config(optim=optim))
    elif what == "ppo":
        ppo.run(task, ppo.Config(steps=3, rollouts=32, lr=3e-3))
    elif what == "rloo":
        rloo.run(task, rloo.Config(steps=3, prompts_per_step=8, epochs=2, lr=3e-3))
    else:
        config = RewardConfig(optim=optim, held_out=0.2)
        train_reward(toy, preferences, by_id(ASKS), responses, config, seed=0, folder=mine / "policy")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
