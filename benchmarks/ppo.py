"""PPO samples per second and peak memory: farm against the last TRL release that had a PPO trainer (1.12.0).

Same random Llama (about 1M and 10M parameters), prompts of 32 tokens, responses of up to 48, 64 rollouts per step in 4
epochs of 4 minibatches, a reward model of the policy's size, fp32. TRL needs a value network of its own; farm runs once
with one (``network``) and once with its default, a value head on the policy's trunk (``head``), and at 10M also in
bf16. Every side runs in a process of its own, in turns; the first step of each warms up and is not counted. Peak memory
is the process's resident maximum, imports included. TRL is unpacked beside the script's scratch files
(``pip install --no-deps --target``) unless --peer-path names a folder that holds it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PEER = "trl==1.12.0"
SIZES = {"1m": (128, 4), "10m": (320, 6)}  # width, layers
SIDES = ("trl", "network", "head", "head-bf16")
VOCABULARY, PROMPT, RESPONSE = 4096, 32, 48
ROLLOUTS, EPOCHS, MINIBATCHES = 64, 4, 4
LR, KL = 1e-5, 0.05


Mark = tuple[float, float]  # wall and processor seconds


def now() -> Mark:
    return time.perf_counter(), time.process_time()


def spans(marks: list[Mark]) -> list[Mark]:
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]


def words() -> list[str]:
    return [f"w{i}" for i in range(VOCABULARY - 8)]


def make(folder: Path, size: str) -> None:
    """A policy and a reward model of one size, and prompts of exactly PROMPT tokens."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from farm.lm import tiny
    from farm.lm.load import load_tokenizer

    width, layers = SIZES[size]
    settings = tiny.TinySettings(hidden=width, layers=layers, heads=4, mlp=3 * width, positions=PROMPT + RESPONSE + 8)
    tiny.create(folder / "policy", settings, 0, vocabulary=words())
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    tokenizer = load_tokenizer(folder / "policy")
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")


def texts(count: int) -> list[str]:
    import random

    pick = random.Random(0)
    return [" ".join(pick.choice(words()) for _ in range(PROMPT - 1)) for _ in range(count)]


def ours(folder: Path, side: str, steps: int) -> list[Mark]:
    from farm.methods import ppo
    from farm.methods.task import Task
    from farm.records import Instruction, Sampling
    from farm.reward.model import RewardModel

    asks = [Instruction.make(t) for t in texts(ROLLOUTS * 4)]
    marks = [now()]

    def mark(done: int, total: int, figures: dict[str, float]) -> None:
        marks.append(now())

    score = RewardModel.load(folder / "reward").score
    sampling = Sampling(max_tokens=RESPONSE)
    out = folder / f"out-{side}"
    task = Task(0, out, folder / "policy", asks, sampling, score=score, reward=folder / "reward", progress=mark)
    settings: dict[str, Any] = {"value": "network" if side == "network" else "head"}
    if side.endswith("bf16"):
        settings["dtype"] = "bfloat16"
    config = ppo.Config(
        steps=steps + 1, rollouts=ROLLOUTS, epochs=EPOCHS, minibatches=MINIBATCHES, lr=LR, kl_coef=KL, curve_every=999,
        **settings,
    )  # fmt: skip
    ppo.run(task, config)
    return spans(marks[1:])


def theirs(folder: Path, steps: int) -> list[Mark]:
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from farm.lm.prompts import encode_prompts
    from farm.records import Instruction

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    rows = encode_prompts([Instruction.make(t) for t in texts(ROLLOUTS * 4)], tokenizer)
    data = datasets.Dataset.from_list([{"input_ids": row} for row in rows])
    marks: list[Mark] = []

    class Note(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(now())

    config = PPOConfig(
        output_dir=str(folder / "out-trl"), per_device_train_batch_size=ROLLOUTS, gradient_accumulation_steps=1,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, total_episodes=ROLLOUTS * (steps + 1),
        local_rollout_forward_batch_size=ROLLOUTS, response_length=RESPONSE, stop_token="eos", temperature=1.0,
        learning_rate=LR, kl_coef=KL, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        num_sample_generations=0, save_strategy="no", disable_tqdm=True, missing_eos_penalty=1.0, logging_steps=1000,
    )  # fmt: skip
    load, classify = AutoModelForCausalLM.from_pretrained, AutoModelForSequenceClassification.from_pretrained
    policy = load(folder / "policy", dtype=torch.float32)
    trainer = PPOTrainer(
        config, tokenizer, policy, load(folder / "policy", dtype=torch.float32), classify(folder / "reward"),
        train_dataset=data, value_model=classify(folder / "reward"), eval_dataset=data.select(range(ROLLOUTS)),
        callbacks=[Note()],
    )  # fmt: skip
    trainer.train()
    return spans(marks)


def child(folder: Path, side: str, steps: int, threads: int) -> None:
    """One side in this process: seconds of each counted step and the peak of resident memory, as JSON."""
    import torch

    torch.set_num_threads(threads)
    seconds = theirs(folder, steps) if side == "trl" else ours(folder, side, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


def products(folder: Path) -> float:
    """Share of one of our steps' operator time that is spent in matrix products (torch's profiler, head, fp32)."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        ours(folder, "head", 1)
    events = profiled.key_averages()
    total = sum(e.self_cpu_time_total for e in events)
    names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")
    inside = sum(e.self_cpu_time_total for e in events if e.key.startswith(names))
    return float(inside / total)


def run_child(folder: Path, side: str, args: argparse.Namespace) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(args.threads),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    if side == "trl":
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(args.peer_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    command = [
        sys.executable,
        __file__,
        "--child",
        side,
        "--folder",
        str(folder),
        "--steps",
        str(args.steps),
        "--threads",
        str(args.threads),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(folder: Path, size: str, args: argparse.Namespace) -> dict[str, Any]:
    make(folder, size)
    sides = [s for s in SIDES if size != "1m" or not s.endswith("bf16")]
    rates: dict[str, list[float]] = {s: [] for s in sides}
    costs: dict[str, list[float]] = {s: [] for s in sides}
    peaks: dict[str, float] = {}
    for repetition in range(args.repetitions):
        for side in sides[:: 1 if repetition % 2 else -1]:
            got = run_child(folder, side, args)
            wall, cpu = (sum(s[k] for s in got["seconds"]) for k in (0, 1))
            rates[side].append(ROLLOUTS * len(got["seconds"]) / wall)
            costs[side].append(cpu / ROLLOUTS / len(got["seconds"]))
            peaks[side] = max(peaks.get(side, 0.0), got["peak_mb"])
    result: dict[str, Any] = {
        side: {
            "samples_per_second": round(statistics.median(rates[side]), 2),
            "cpu_ms_per_sample": round(1000 * statistics.median(costs[side]), 1),
            "peak_mb": round(peaks[side]),
        }
        for side in sides
    }
    result["ratios"] = {
        side: {
            "samples_per_second": round(
                statistics.median(a / b for a, b in zip(rates[side], rates["trl"], strict=True)), 2
            ),
            "cpu_seconds": round(statistics.median(a / b for a, b in zip(costs[side], costs["trl"], strict=True)), 2),
            "peak_memory": round(peaks[side] / peaks["trl"], 2),
        }
        for side in sides
        if side != "trl"
    }
    result["matrix_products"] = round(products(folder), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1m,10m", help="which of 1m and 10m (both)")
    parser.add_argument("--steps", type=int, default=4, help="counted steps per run (4)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side (1)")
    parser.add_argument("--peer-path", type=Path, help=f"folder that holds {PEER} (default: installed for the run)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.folder, args.child, args.steps, args.threads)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.peer_path is None:
            args.peer_path = Path(scratch) / "peer"
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(args.peer_path), PEER]
            subprocess.run(pip, check=True)
        result = {size: compare(Path(scratch) / size, size, args) for size in args.sizes.split(",")}
    whole = {
        "benchmark": "ppo",
        "peer": PEER,
        **result,
        "settings": {"threads": args.threads, "steps": args.steps, "repetitions": args.repetitions},
    }
    print(json.dumps(whole, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
