"""PPO samples per second and peak memory: farm against the last TRL release that had a PPO trainer (1.12.0).

Same random Llama (about 1M and 10M parameters), prompts of 8 to 32 tokens (--shortest-prompt 32: all of one length),
responses of 8 to 48 as the policy ends them (with --shortest 48 none ends by itself), 64 rollouts per step in 4 epochs
of 4 minibatches, a reward model of the policy's size.

In batches of 64 from Alpaca's 52k the mean prompt has 0.26 of the longest one's words and the mean response 0.22; here
it is 0.62 and 0.5 to 0.7, so real lengths differ more. TRL needs a value network of its own; farm runs once with one
(``network``) and once with its default, a value head on the policy's trunk (``head``), in fp32 and, at 10m, in bf16,
which TRL's PPO ignores. Every side runs in a process of its own, in turns; the first step of each warms up and is not
counted.

--curve compares what is learned instead of how fast: both trainers on the offline world, from one SFT policy, against
one reward model trained on gold labels, same steps, lengths, losses and optimizer, several seeds; mean score and KL by
step side by side, and the gold reward of the final policies. Differences are farm minus TRL with the standard error
over seeds.

TRL is unpacked beside the script's scratch files (``pip install --no-deps --target``) unless --peer-path names a
folder that holds it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import turns

PEER = "trl==1.12.0"
SIZES = {"1m": (128, 4), "10m": (320, 6)}  # width, layers
SIDES = ("trl", "network", "head", "network-bf16", "head-bf16")
VOCABULARY, PROMPT, RESPONSE = 4096, 32, 48
ROLLOUTS, EPOCHS, MINIBATCHES, KL = 64, 4, 4, 0.05


@dataclass(frozen=True)
class Plan:
    """What one side does: ``steps`` of PPO from ``folder``/policy against ``folder``/reward."""

    side: str
    steps: int
    response: int = RESPONSE
    lr: float = 1e-5
    seed: int = 0
    world: bool = False
    shortest_prompt: int = PROMPT


@dataclass(frozen=True)
class Learned:
    """What came out: a mark after every step, and each step's mean score and KL; the policy is in ``policy``."""

    marks: list[turns.Mark]
    scores: list[float]
    kl: list[float]
    tokens: float | None
    policy: Path


def words() -> list[str]:
    return [f"w{i}" for i in range(VOCABULARY - 8)]


def text(pick: random.Random, tokens: int) -> str:
    return " ".join(pick.choice(words()) for _ in range(tokens))


def prompt(pick: random.Random, shortest: int) -> str:
    """One of ``shortest`` to PROMPT tokens, with the mark that begins it."""
    return text(pick, pick.randint(shortest, PROMPT) - 1)


def asks(plan: Plan) -> list[Any]:
    """The prompts: the offline world's, or random ones of the plan's shortest to PROMPT tokens."""
    from farm.records import Instruction

    if plan.world:
        from farm.world.instructions import training

        return training()["unlabeled"]
    pick = random.Random(0)
    return [Instruction.make(prompt(pick, plan.shortest_prompt)) for _ in range(ROLLOUTS * 4)]


def make(folder: Path, size: str, shortest: int, shortest_prompt: int) -> None:
    """A policy and a reward model of one size; below 48, ``shortest`` has the policy learn to end by itself."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from farm.lm import tiny
    from farm.lm.load import load_policy, save_policy
    from farm.lm.prompts import encode_prompts, encode_texts
    from farm.lm.train import Optim
    from farm.methods import sft
    from farm.records import Instruction

    width, layers = SIZES[size]
    settings = tiny.TinySettings(hidden=width, layers=layers, heads=4, mlp=3 * width, positions=PROMPT + RESPONSE + 8)
    tiny.create(folder / "policy", settings, 0, vocabulary=words())
    policy = load_policy(folder / "policy")
    if shortest < RESPONSE:
        pick = random.Random(1)
        answers = [text(pick, pick.randint(shortest, RESPONSE) - 1) for _ in range(16 * 16)]
        prompts = encode_prompts([Instruction.make(prompt(pick, shortest_prompt)) for _ in answers], policy.tokenizer)
        rows = encode_texts(answers, [True] * len(answers), policy.tokenizer)
        examples = [(p, r, 1.0) for p, r in zip(prompts, rows, strict=True)]
        sft.train(policy, examples, Optim(lr=3e-3, epochs=1, batch=16), seed=0, purpose="ending")
        save_policy(policy, folder / "policy")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    model.config.pad_token_id = policy.tokenizer.pad_token_id
    model.save_pretrained(folder / "reward")
    policy.tokenizer.save_pretrained(folder / "reward")


def make_world(folder: Path, seed: int) -> None:
    """An SFT policy of the offline world and a reward model trained on gold labels of its samples, both of ``seed``."""
    from farm.lm import tiny
    from farm.lm.load import load_policy, save_policy
    from farm.lm.sample import sample
    from farm.lm.train import Optim
    from farm.methods import sft
    from farm.methods.task import Task
    from farm.records import Pair, Preference, Sampling, by_id
    from farm.reward.model import RewardModel
    from farm.reward.train import Config, train_reward
    from farm.world import gold
    from farm.world.grammar import vocabulary
    from farm.world.instructions import training

    splits = training()
    start = tiny.create(folder / "untrained", tiny.TinySettings(), seed, vocabulary=vocabulary())
    task = Task(seed=seed, folder=folder / "sft", sft=start, instructions=splits["sft"], sampling=Sampling())
    result = sft.run(task, sft.Config(optim=Optim(lr=1e-2, epochs=3, batch=32)))
    policy = load_policy(result.policy_source(folder / "sft"))
    save_policy(policy, folder / "policy")
    prompts = splits["preference"][:6000]
    drawn = sample(policy, prompts, 2, Sampling(max_tokens=40, seed=seed), name="sft", purpose="pairs")
    worth = gold.score([i for i in prompts for _ in range(2)], [r.text for r in drawn], [r.finished for r in drawn])
    preferences = [
        Preference(pair_id=Pair.of(a, b).id, instruction_id=a.instruction_id, responses=(a.id, b.id),
                   winner_id=(a if x > y else b).id, origin="gold")
        for a, b, x, y in zip(drawn[::2], drawn[1::2], worth[::2], worth[1::2], strict=True)
        if x != y and a.text != b.text
    ]  # fmt: skip
    asked, texts = by_id(prompts), by_id(drawn)
    train_reward(folder / "policy", preferences, asked, texts, Config(), seed=seed, folder=folder / "rm")
    rm = RewardModel.load(folder / "rm")
    rm.model.score.weight.data /= rm.sd  # TRL knows no normalisation; the mean is a constant and stays
    rm.model.config.reward_mean, rm.model.config.reward_sd = 0.0, 1.0
    rm.model.save_pretrained(folder / "reward")
    rm.tokenizer.save_pretrained(folder / "reward")


def ours(folder: Path, plan: Plan) -> Learned:
    from farm.methods import ppo
    from farm.methods.task import Task
    from farm.records import Sampling, read
    from farm.reward.model import RewardModel

    marks: list[turns.Mark] = []

    def mark(done: int, total: int, figures: dict[str, float]) -> None:
        marks.append(turns.now())

    value, _, dtype = plan.side.partition("-")
    out = folder / f"out-{plan.side}-{plan.seed}"
    config = ppo.Config(
        steps=plan.steps, rollouts=ROLLOUTS, epochs=EPOCHS, minibatches=MINIBATCHES, lr=plan.lr, kl_coef=KL,
        curve_every=9999, max_grad_norm=1e9 if plan.world else 1.0, value=value,  # type: ignore[arg-type]
        dtype="bfloat16" if dtype else "float32",
    )  # fmt: skip
    score = RewardModel.load(folder / "reward").score
    sampling = Sampling(max_tokens=plan.response)
    given = {"score": score, "reward": folder / "reward", "progress": mark}
    ppo.run(Task(plan.seed, out, folder / "policy", asks(plan), sampling, **given), config)
    logs = read(out / "steps.jsonl", ppo.StepLog)
    tokens = statistics.mean(log.mean_tokens for log in logs)
    return Learned(marks, [log.score for log in logs], [log.kl for log in logs], tokens, out / "policy")


def theirs(folder: Path, plan: Plan) -> Learned:
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from farm.lm.prompts import encode_prompts

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    data = datasets.Dataset.from_list([{"input_ids": row} for row in encode_prompts(asks(plan), tokenizer)])
    marks: list[turns.Mark] = []

    class Note(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(turns.now())

    out = folder / f"out-trl-{plan.seed}"
    config = PPOConfig(
        output_dir=str(out), per_device_train_batch_size=ROLLOUTS, gradient_accumulation_steps=1,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, total_episodes=ROLLOUTS * plan.steps,
        local_rollout_forward_batch_size=ROLLOUTS, response_length=plan.response, stop_token="eos", temperature=1.0,
        learning_rate=plan.lr, lr_scheduler_type="linear", adam_epsilon=1e-5, kl_coef=KL, bf16=False, seed=plan.seed,
        gradient_checkpointing=False, use_cpu=True, report_to="none", num_sample_generations=0, save_strategy="no",
        disable_tqdm=True, missing_eos_penalty=1.0, logging_steps=1,
    )  # fmt: skip
    load, classify = AutoModelForCausalLM.from_pretrained, AutoModelForSequenceClassification.from_pretrained
    policy = load(folder / "policy", dtype=torch.float32)
    trainer = PPOTrainer(
        config, tokenizer, policy, load(folder / "policy", dtype=torch.float32), classify(folder / "reward"),
        train_dataset=data, value_model=classify(folder / "reward"), eval_dataset=data.select(range(ROLLOUTS)),
        callbacks=[Note()],
    )  # fmt: skip
    trainer.train()
    logs = [row for row in trainer.state.log_history if "objective/scores" in row]
    policy.save_pretrained(out / "policy")
    tokenizer.save_pretrained(out / "policy")
    scores, kl = ([row[k] for row in logs] for k in ("objective/scores", "objective/kl"))
    return Learned(marks, scores, kl, None, out / "policy")


def gold_of(policy: Path) -> float:
    """Mean gold reward of a policy on validation prompts, always the same uniforms."""
    from farm.lm.load import load_policy
    from farm.lm.sample import sample
    from farm.records import Sampling
    from farm.world import gold
    from farm.world.instructions import training

    prompts = training()["val"][:1024]
    drawn = sample(load_policy(policy), prompts, 1, Sampling(max_tokens=40), name="x", purpose="gold")
    return statistics.mean(gold.score(prompts, [r.text for r in drawn], [r.finished for r in drawn]))


def child(folder: Path, plan: Plan, threads: int) -> None:
    """One side in this process: what it took and learned, as JSON."""
    import torch

    torch.set_num_threads(threads)
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    import farm.methods.ppo
    import farm.reward.model  # noqa: F401

    if plan.side == "trl":
        import datasets  # noqa: F401
        from trl.experimental.ppo import PPOTrainer  # noqa: F401

    imports = turns.resident_mb()
    got = theirs(folder, plan) if plan.side == "trl" else ours(folder, plan)
    peak = turns.peak_mb()
    spent = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(got.marks)]
    wall, cpu = (sum(s[k] for s in spent) for k in (0, 1))
    figures = {"samples": ROLLOUTS * len(spent), "wall": wall, "cpu": cpu, "peak_mb": peak, "imports_mb": imports}
    figures |= {"mean_tokens": got.tokens}
    if plan.world:
        figures |= {"scores": got.scores, "kl": got.kl, "gold": gold_of(got.policy)}
    print(json.dumps(figures))


def run_child(folder: Path, plan: Plan, args: argparse.Namespace) -> Any:
    found = filter(None, [str(args.peer_path), os.environ.get("PYTHONPATH")])
    extra = {"TRL_EXPERIMENTAL_SILENCE": "1"} | ({"PYTHONPATH": os.pathsep.join(found)} if plan.side == "trl" else {})
    options = ["--child", json.dumps(asdict(plan)), "--folder", str(folder), "--threads", str(args.threads)]
    return turns.run_child(__file__, options, args.threads, extra)


def compare(folder: Path, size: str, args: argparse.Namespace) -> dict[str, Any]:
    make(folder, size, args.shortest, args.shortest_prompt)
    sides = [s for s in args.sides.split(",") if size != "1m" or not s.endswith("bf16")]
    plan = partial(Plan, shortest_prompt=args.shortest_prompt)
    got = turns.take_turns(sides, args.repetitions, lambda s: run_child(folder, plan(s, args.steps + 1), args))
    plain = [side for side in sides if side in ("network", "head")]
    shares = {side: turns.share_of_products(partial(ours, folder, plan(side, 2, seed=1))) for side in plain}
    return turns.compare(got, "trl") | {"share_of_time_in_matrix_products": shares}


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {"mean": round(statistics.mean(values), 3), "se": round(error, 3)}


def curve(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Score and KL by step of both trainers, means over seeds, and what the differences are worth."""
    make_world(folder, args.world)
    seeds = range(args.seeds)
    asked = args.sides.split(",")
    got: dict[str, list[Any]] = {side: [] for side in ("trl", "network", "head") if side in asked}
    for seed, side in itertools.product(seeds, got):
        got[side].append(run_child(folder, Plan(side, args.steps, 40, args.lr, seed, world=True), args))
        print(f"{side} seed {seed}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {"gold_of_sft": round(gold_of(folder / "policy"), 3)}
    steps = range(args.steps)
    for what in ("scores", "kl"):
        result[what] = {
            side: [round(statistics.mean(r[what][k] for r in runs), 2) for k in steps] for side, runs in got.items()
        }
    for side in [s for s in got if s != "trl"]:
        pairs = list(zip(got[side], got["trl"], strict=True))
        late = steps[len(steps) // 2 :]
        apart = {
            "score_all_steps": [statistics.mean(a["scores"]) - statistics.mean(b["scores"]) for a, b in pairs],
            "score_later_half": [statistics.mean(a["scores"][k] - b["scores"][k] for k in late) for a, b in pairs],
            "kl_later_half": [statistics.mean(a["kl"][k] - b["kl"][k] for k in late) for a, b in pairs],
            "gold_at_the_end": [a["gold"] - b["gold"] for a, b in pairs],
        }
        result[f"{side} - trl"] = {name: mean_and_error(values) for name, values in apart.items()}
    result["gold_at_the_end"] = {side: mean_and_error([r["gold"] for r in runs]) for side, runs in got.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1m,10m", help="which of 1m and 10m (both)")
    parser.add_argument("--sides", default=",".join(SIDES), help="which sides, trl among them (all)")
    parser.add_argument("--steps", type=int, help="counted steps per run (4; with --curve, all steps: 30)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--shortest", type=int, default=8, help="shortest response in tokens (8; 48: none ends)")
    parser.add_argument("--shortest-prompt", type=int, default=8, help=f"shortest prompt (8; at most {PROMPT})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side (1)")
    parser.add_argument("--curve", action="store_true", help="compare learning curves on the offline world")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each side with --curve (4)")
    parser.add_argument("--world", type=int, default=0, help="seed of SFT policy and reward model with --curve (0)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate with --curve (1e-3)")
    parser.add_argument("--peer-path", type=Path, help=f"folder that holds {PEER} (default: installed for the run)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.folder, Plan(**json.loads(args.child)), args.threads)
        return
    asked = args.sides.split(",")
    if "trl" not in asked or len(asked) < 2 or not set(asked) <= set(SIDES):
        parser.error(f"--sides {args.sides}: name trl, which the others are compared with, and some of {SIDES[1:]}")
    for name, value, most in (
        ("--shortest", args.shortest, RESPONSE),
        ("--shortest-prompt", args.shortest_prompt, PROMPT),
    ):
        if not 2 <= value <= most:
            parser.error(f"{name} {value}: give 2 to {most} tokens")
    args.steps = args.steps or (30 if args.curve else 4)
    with tempfile.TemporaryDirectory() as scratch:
        if args.peer_path is None:
            args.peer_path = Path(scratch) / "peer"
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(args.peer_path), PEER]
            subprocess.run(pip, check=True)
        if args.curve:
            result = {"curve": curve(Path(scratch) / "world", args)}
        else:
            result = {size: compare(Path(scratch) / size, size, args) for size in args.sizes.split(",")}
    varied = ("world", "seeds", "lr") if args.curve else ("repetitions", "shortest", "shortest_prompt")
    names = ("threads", "steps", *varied)
    settings = turns.conditions(**{name: getattr(args, name) for name in names})
    print(
        json.dumps({"benchmark": "ppo", "peer": PEER, **result, "settings": settings}, indent=None if args.json else 1)
    )


if __name__ == "__main__":
    main()
