"""SFT, DPO and reward-model training: samples per second and peak memory of farm's loop and of TRL's trainers.

One random Llama (about 1M or 10M parameters), the same token rows in the same order, one epoch in batches of the same
size, AdamW at a constant rate: the losses of both sides must be the same numbers, and the largest difference is
printed, as is the share of our time in matrix products. A sample is a row for SFT and a pair for DPO and reward models.
Each side runs in a process of its own, in turns; imports, loading and the first updates are not counted, DPO's
reference log-probabilities are (farm computes them before the first update, TRL in each). TRL runs without bfloat16 and
gradient checkpointing, which it would switch on by default even on a CPU; at 10m both sides also run in bfloat16.
Prompts have 32 tokens, responses --shortest to 48.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import turns

SIZES = {"1m": (128, 4), "10m": (320, 6)}  # width, layers
WHAT = ("sft", "dpo", "reward")
PROMPT, RESPONSE, WORDS = 32, 48, 4088
WARM = 2  # updates that are not counted
Counted = tuple[turns.Mark, int, list[float]]  # seconds and samples counted, and the loss of every update


def make(folder: Path, size: str) -> None:
    from farm.lm import tiny

    width, layers = SIZES[size]
    settings = tiny.TinySettings(hidden=width, layers=layers, heads=4, mlp=3 * width, positions=PROMPT + RESPONSE + 8)
    tiny.create(folder, settings, 0, vocabulary=[f"w{i}" for i in range(WORDS)])


def text(pick: random.Random, tokens: int) -> str:
    return " ".join(f"w{pick.randrange(WORDS)}" for _ in range(tokens))


def material(args: argparse.Namespace) -> tuple[list[Any], list[tuple[str, str]]]:
    """Instructions, and two responses to each; a separator and an end token complete their lengths."""
    from farm.records import Instruction

    pick = random.Random(0)
    count = args.batch * (args.updates + WARM)
    asks = [Instruction.make(text(pick, PROMPT - 1)) for _ in range(count)]
    answers = [tuple(text(pick, pick.randint(args.shortest, RESPONSE) - 1) for _ in range(2)) for _ in range(count)]
    return asks, answers


@contextmanager
def in_order() -> Iterator[None]:
    """Has TRL's trainers take the rows as they come."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer

    theirs = Trainer._get_train_sampler
    Trainer._get_train_sampler = lambda self, rows=None: SequentialSampler(rows or self.train_dataset)
    yield
    Trainer._get_train_sampler = theirs


def run(folder: Path, args: argparse.Namespace) -> Counted:
    """One epoch of ``args.what`` on ``args.side``."""
    from farm.lm.load import Policy, copy_frozen, load_policy
    from farm.lm.prompts import encode_prompts, encode_texts
    from farm.lm.train import Optim, schedule
    from farm.methods import dpo, sft
    from farm.methods.task import Task
    from farm.records import Pair, Preference, Response, Sampling, by_id
    from farm.reward.train import Config as RewardConfig
    from farm.reward.train import from_policy, train_reward

    engine, _, dtype = args.side.partition("-")
    optim = Optim(
        lr=1e-3, epochs=1, batch=args.batch, schedule="constant", warmup=0.0, dtype="bfloat16" if dtype else "float32"
    )
    asks, answers = material(args)
    policy = load_policy(folder)
    prompts = encode_prompts(asks, policy.tokenizer)
    first, second = (encode_texts([a[k] for a in answers], [True] * len(answers), policy.tokenizer) for k in (0, 1))
    responses = [
        [Response.make(i.id, a[k], "x", n_tokens=len(row) - 1, finished=True, sampling=Sampling())
         for i, a, row in zip(asks, answers, side, strict=True)]
        for k, side in enumerate((first, second))
    ]  # fmt: skip
    preferences = [
        Preference(pair_id=Pair.of(a, b).id, instruction_id=a.instruction_id, responses=(a.id, b.id), winner_id=a.id,
                   origin="gold")
        for a, b in zip(*responses, strict=True)
    ]  # fmt: skip
    sizes = [len(p) + len(a) for p, a in zip(prompts, first, strict=True)]
    if args.what != "sft":
        sizes = [s + len(p) + len(b) for s, p, b in zip(sizes, prompts, second, strict=True)]
    order = [i for update in schedule(sizes, args.batch, 1, 0, args.what) for i in update]
    marks, losses = [turns.now()], []

    def mark(done: int, total: int, figures: dict[str, float]) -> None:
        marks.append(turns.now())
        losses.append(figures["loss"])

    common: dict[str, Any] = {"seed": 0, "progress": mark}
    scratch = {"folder": folder / "scratch"}
    before = (0.0, 0.0)
    if args.what == "sft" and engine == "farm":
        sft.train(policy, [(p, a, 1.0) for p, a in zip(prompts, first, strict=True)], optim, purpose="sft", **common)
    elif args.what == "sft":
        from farm.lm import trl_engine

        with in_order():
            trl_engine.sft(policy, [(prompts[i], first[i]) for i in order], optim, **common, **scratch)
    elif args.what == "reward" and engine == "farm":
        config = RewardConfig(optim=optim, held_out=0.0)
        few = responses[0][:8]
        both = by_id([r for side in responses for r in side])
        train_reward(folder, preferences, by_id(asks), both, config, reference=few, **common, **scratch)
    elif args.what == "reward":
        from farm.lm import trl_engine

        classifier = Policy(from_policy(policy, 0), policy.tokenizer, "reward", str(folder))
        rows = [(prompts[i] + first[i], prompts[i] + second[i]) for i in order]
        with in_order():
            trl_engine.reward(classifier, rows, optim, **common, **scratch)
    elif engine == "farm":
        from farm.lm.load import trainable
        from farm.lm.train import fit

        task = Task(0, folder, folder, asks, Sampling(), preferences, by_id([r for s in responses for r in s]))
        config = dpo.Config(optim=optim)
        frozen = copy_frozen(policy)
        start = turns.now()
        examples = dpo.prepare(task, policy, frozen, 512)
        before = tuple(b - a for a, b in zip(start, turns.now(), strict=True))
        fit(
            trainable(policy), examples, lambda rows: dpo.pair_loss(policy, rows, config), optim, purpose="dpo",
            size=lambda e: 2 * len(e[0]) + len(e[1]) + len(e[2]), weight=lambda e: e[6], **common,
        )  # fmt: skip
    else:
        from farm.lm import trl_engine

        rows = [(prompts[i], first[i], second[i]) for i in order]
        frozen = copy_frozen(policy)
        with in_order():
            trl_engine.dpo(policy, frozen, rows, optim, beta=0.1, loss="sigmoid", flip=0.0, **common, **scratch)
    share = args.updates / (args.updates + WARM)  # of the rows whose updates are counted
    spent = tuple(b - a + share * c for a, b, c in zip(marks[WARM], marks[-1], before, strict=True))
    return spent, args.batch * args.updates, losses  # type: ignore[return-value]


def child(args: argparse.Namespace) -> None:
    """One side in this process: what it took, as JSON."""
    import torch

    torch.set_num_threads(args.threads)
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    import farm.methods.dpo
    import farm.reward.train  # noqa: F401

    if args.side.startswith("trl"):
        from trl import DPOTrainer, RewardTrainer, SFTTrainer  # noqa: F401

    imports = turns.resident_mb()
    (wall, cpu), samples, losses = run(args.folder, args)
    figures = {"samples": samples, "wall": wall, "cpu": cpu, "peak_mb": turns.peak_mb(), "imports_mb": imports}
    print(json.dumps(figures | {"losses": losses}))


def compare(what: str, size: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sides = ["trl", "farm"] if size == "1m" else ["trl", "farm", "trl-bf16", "farm-bf16"]

    def measure(side: str) -> Any:
        more = {"what": what, "side": side, "folder": folder, "updates": args.updates, "batch": args.batch}
        more |= {"shortest": args.shortest, "threads": args.threads}
        options = [str(part) for name, value in more.items() for part in (f"--{name}", value)]
        return turns.run_child(__file__, ["--child", *options], args.threads)

    got = turns.take_turns(sides, args.repetitions, measure)
    losses = {side: runs[-1]["losses"] for side, runs in got.items()}
    for runs in got.values():
        for r in runs:
            r["first_loss"], r["final_loss"] = (round(r["losses"][k], 5) for k in (0, -1))
            del r["losses"]
    result = turns.compare(got, "trl")
    for side in sides[1:]:
        apart = max(abs(a - b) for a, b in zip(losses[side], losses["trl"], strict=True))
        result["ratios"][side]["largest_difference_of_losses"] = round(apart, 5)
    few = argparse.Namespace(**vars(args) | {"what": what, "side": "farm", "updates": 2})
    return result | {"share_of_time_in_matrix_products": turns.share_of_products(lambda: run(folder, few))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="sft,dpo,reward", help="which of sft, dpo and reward (all)")
    parser.add_argument("--sizes", default="1m,10m", help="which of 1m and 10m (both)")
    parser.add_argument("--updates", type=int, default=20, help="counted updates per run (20)")
    parser.add_argument("--batch", type=int, default=16, help="rows or pairs per update (16)")
    parser.add_argument("--shortest", type=int, default=RESPONSE, help="shortest response in tokens (48: all alike)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    whole: dict[str, Any] = {"benchmark": "training"}
    with tempfile.TemporaryDirectory() as scratch:
        for size in args.sizes.split(","):
            make(Path(scratch) / size, size)
            for what in args.what.split(","):
                whole[f"{what} {size}"] = compare(what, size, args, Path(scratch) / size)
    import trl

    settings = {k: getattr(args, k) for k in ("updates", "batch", "shortest", "repetitions", "threads")}
    whole["settings"] = turns.conditions(**settings, trl=trl.__version__)
    print(json.dumps(whole, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
