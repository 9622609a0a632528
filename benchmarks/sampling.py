"""Tokens per second of farm.lm.sample.sample and of transformers' generate, on the same tiny Llama and prompts.

Both draw --n responses per prompt, as best-of-n does (generate by num_return_sequences), from the full distribution at
temperature 1 on one thread; texts in, texts out, so encoding and decoding count. The model is first trained on the
offline world's demonstrations, so that responses end by themselves. The two sides take turns, the first place
alternating, and each ratio compares neighbours in time. Tokens are generated ones, end token included, padding not.
The sampler chooses its own batches; generate's is --batch rows, whole prompts with their n rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded, so it comes before the next imports
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

from farm.lm import tiny
from farm.lm.load import Policy, load_policy
from farm.lm.prompts import render
from farm.lm.sample import sample
from farm.lm.train import Optim
from farm.methods import sft
from farm.methods.task import Task
from farm.records import Instruction, Sampling
from farm.world.grammar import vocabulary
from farm.world.instructions import training

Counts = tuple[int, int]  # tokens generated, responses that ended by themselves


def trained(folder: Path, rows: list[Instruction]) -> Policy:
    """A tiny Llama after a few seconds of SFT."""
    start = tiny.create(folder / "untrained", tiny.TinySettings(), 0, vocabulary=vocabulary())
    task = Task(seed=0, folder=folder, sft=start, instructions=rows, sampling=Sampling())
    result = sft.run(task, sft.Config(optim=Optim(lr=1e-2, epochs=2, batch=32)))
    return load_policy(result.policy_source(folder))


def ours(policy: Policy, prompts: list[Instruction], seed: int, args: argparse.Namespace) -> Counts:
    sampling = Sampling(max_tokens=args.max_tokens, seed=seed)
    responses = sample(policy, prompts, args.n, sampling, name="farm", purpose="benchmark")
    return sum(r.n_tokens + r.finished for r in responses), sum(r.finished for r in responses)


@torch.inference_mode()
def theirs(policy: Policy, prompts: list[Instruction], seed: int, args: argparse.Namespace) -> Counts:
    tokenizer, tokens, finished = policy.tokenizer, 0, 0
    full = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "use_cache": True,
        "num_return_sequences": args.n,
    }
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(seed)
    step = max(1, args.batch // args.n)
    for at in range(0, len(prompts), step):
        texts = [render(i, tokenizer) for i in prompts[at : at + step]]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        out = policy.model.generate(ids, attention_mask=mask, max_new_tokens=args.max_tokens, **full, **ends)
        out = out[:, ids.shape[1] :]
        tokenizer.batch_decode(out, skip_special_tokens=True)
        ended = (out == tokenizer.eos_token_id).cumsum(1) > 0  # what follows the end token is padding
        tokens += int((~ended).sum() + ended.any(1).sum())
        finished += int(ended.any(1).sum())
    return tokens, finished


def spread(values: list[float], digits: int) -> dict[str, float]:
    parts = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, digits) for name, value in parts.items()}


def measure(policy: Policy, prompts: list[Instruction], args: argparse.Namespace) -> dict[str, object]:
    sides = [("farm", ours), ("peer", theirs)]
    runs: dict[str, list[tuple[float, int, int]]] = {"farm": [], "peer": []}
    for repetition in range(args.repetitions + 1):  # the first warms up and is not kept
        for name, draw in sides[:: 1 if repetition % 2 else -1]:
            start = time.perf_counter()
            tokens, finished = draw(policy, prompts, repetition, args)
            runs[name].append((tokens / (time.perf_counter() - start), tokens, finished))
    drawn = len(prompts) * args.n * args.repetitions
    kept = {name: list(zip(*rows[1:], strict=True)) for name, rows in runs.items()}
    ratios = [a / b for a, b in zip(kept["farm"][0], kept["peer"][0], strict=True)]
    result: dict[str, object] = {"benchmark": "sampling", "ratios": {"tokens_per_second": spread(ratios, 2)}}
    for name, (speeds, tokens, ended) in kept.items():
        share = {"mean_tokens": round(sum(tokens) / drawn, 2), "finished": round(sum(ended) / drawn, 4)}
        result[name] = {"tokens_per_second": spread(list(speeds), 0), **share}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": 1}
    versions |= {"cores": os.cpu_count(), "load_average": [round(x, 2) for x in os.getloadavg()]}
    size = {"parameters": sum(p.numel() for p in policy.model.parameters()), "prompts": len(prompts)}
    return result | {"settings": {k: v for k, v in vars(args).items() if k != "json"} | size | versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64, help="prompts per repetition, at most 2000 (64)")
    parser.add_argument("--n", type=int, default=16, help="responses per prompt (16)")
    parser.add_argument("--repetitions", type=int, default=7, help="timed repetitions of each side (7)")
    parser.add_argument("--batch", type=int, default=64, help="rows per call of generate (64)")
    parser.add_argument("--max-tokens", type=int, default=40, help="longest response in tokens (40)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = training()
    with tempfile.TemporaryDirectory() as folder:
        policy = trained(Path(folder), splits["sft"])
    result = measure(policy, splits["val"][: args.prompts], args)
    print(json.dumps(result, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
