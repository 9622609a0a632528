"""Pairs per second, CPU and memory of farm's annotation engine and of alpaca_eval, on the same pairs and server.

Part 1 asks a local judge server (a process of its own, canned answers, --latency) about --pairs pairs: farm with its
ledger on, through at most --connections calls at a time; alpaca_eval 0.6.6 with its cache on, at its default setting
(5 threads, chunks of 128) and at the best of a few others, on the first --peer-pairs of the same pairs, since its rate
does not depend on how many there are. Imports and reading the pairs do not count, memory is that of the whole process.
The ideal rate is connections / latency.

Part 2 answers --cached pairs from a filled ledger, in a new process: pairs per second, and MB above an idle
interpreter for a quarter of the pairs and for all of them.

alpaca_eval runs in an environment of its own: --peer-python names one, else the script makes it and installs from PyPI.
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from farm.annotate.engine import stream
from farm.annotate.ledger import Ledger
from farm.annotate.plan import Comparison
from farm.annotate.pool import Pool, load_pool
from farm.lm.endpoints import InProcess, OpenAIEndpoint
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.world import serve
from farm.world.instructions import evaluation
from farm.world.judge import Completion
from farm.world.writers import write

PEER = "alpaca_eval==0.6.6"
ANSWERS = ("A", "B")
ANNOTATOR = "a08"  # of farm13: a short chat; its prompts are a little longer than alpaca_eval's
GOALS = {"x default": 30, "x best": 10, "cpu_ms": 1.5, "mb": 150, "ideal": 0.85, "cached": 15_000, "cached_mb": 300}


def peak_kb() -> int:
    """Peak memory of this process (Linux). Not ru_maxrss, in which the kernel counts the process that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


PEAK = inspect.getsource(peak_kb)
PEER_SIDE = (
    PEAK
    + r"""
import json, os, resource, sys, time, yaml
settings = json.load(sys.stdin)
os.chdir(settings["folder"])
os.environ["OPENAI_CLIENT_CONFIG_PATH"] = settings["folder"] + "/clients.json"
import alpaca_eval.constants
template = str(alpaca_eval.constants.EVALUATORS_CONFIG_DIR / "chatgpt" / "basic_prompt.txt")
json.dump({"default": [{"api_key": settings["token"], "base_url": settings["url"]}]}, open("clients.json", "w"))
yaml.safe_dump({"judge": {
    "prompt_template": template, "fn_completions": "openai_completions", "batch_size": 1,
    "completions_kwargs": {"model_name": "scripted/a08", "max_tokens": 50, "temperature": 0, "price_per_token": 1e-6,
                           **settings["completions"]},
    "completion_parser_kwargs": {"outputs_to_match": {
        1: "^A$", 2: "^B$"}},
}}, open("configs.yaml", "w"))
from alpaca_eval.annotators import PairwiseAnnotator
annotator = PairwiseAnnotator(annotators_config=settings["folder"] + "/configs.yaml")
pairs = json.load(open(settings["pairs"]))
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
start, before = time.perf_counter(), cpu()
rows = annotator.annotate_pairs(pairs, **settings["call"])
seconds, used = time.perf_counter() - start, cpu() - before
print(json.dumps({"answered": sum(r["preference"] is not None and r["preference"] == r["preference"] for r in rows),
                  "seconds": seconds, "cpu": used, "kb": peak_kb()}))
"""
)


# -- what both sides judge --------------------------------------------------------------------------------------------


def comparisons(count: int) -> Iterator[Comparison]:
    """Pairs of the offline world: all pairs of as many versions of every evaluation instruction as are needed."""
    instructions = evaluation()
    versions = next(v for v in range(2, 1000) if v * (v - 1) // 2 * len(instructions) * 0.9 >= count)
    return islice(_all_pairs(instructions, versions), count)


def _all_pairs(instructions: list[Instruction], versions: int) -> Iterator[Comparison]:
    for instruction in instructions:
        texts = dict.fromkeys(
            write(instruction, 0.2 + 0.7 * v / versions, v, "benchmark") for v in range(versions)
        )  # some come out the same
        responses = [Response.make(instruction.id, t, f"w{i}", n_tokens=1) for i, t in enumerate(texts)]
        for one, two in combinations(responses, 2):
            pair = Pair.of(one, two)
            a, b = (one, two) if pair.a == one.id else (two, one)
            yield Comparison(pair, instruction, a, b)


def pool() -> Pool:
    whole = load_pool("farm13")
    return whole.model_copy(update={"annotators": (whole.annotator(ANNOTATOR),)})


# -- farm's side, in a process of its own -----------------------------------------------------------------------------


class Canned:
    """A judge in this process that has no opinion, to fill a ledger."""

    def chat(self, model: str, messages: list[dict[str, str]], **settings: Any) -> Completion:
        return Completion(ANSWERS[len(messages[-1]["content"]) % 2], "stop", 600, 4)

    def complete(self, model: str, prompt: str, **settings: Any) -> Completion:
        return self.chat(model, [{"content": prompt}])


def farm_side(settings: dict[str, Any]) -> None:
    """``judge`` asks a server, ``fill`` fills a ledger without one, ``cached`` answers from it."""
    todo: Any = islice(comparisons(settings.get("of", settings["pairs"])), settings["pairs"])
    if settings["do"] == "judge":
        todo = list(todo)
    name = {"name": "benchmark"}
    endpoint: Any = InProcess(Canned(), **name)
    if settings["do"] != "fill":
        endpoint = OpenAIEndpoint(settings["url"], api_key=settings.get("token", "none"), **name)
    answered = 0

    def sink(judgement: Judgement) -> None:
        nonlocal answered
        answered += judgement.outcome is Outcome.DECIDED

    start, before = time.perf_counter(), _cpu()
    with Ledger(settings["ledger"]) as ledger:
        stream(
            todo, pool(), sink, models=dict.fromkeys(("strong", "medium", "completion"), "scripted/a08"), seed=0,
            endpoint=endpoint, purpose="benchmark", ledger=ledger, concurrency=settings.get("connections", 16),
        )  # fmt: skip
    seconds, used = time.perf_counter() - start, _cpu() - before
    print(json.dumps({"answered": answered, "seconds": seconds, "cpu": used, "kb": peak_kb()}))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# -- measuring --------------------------------------------------------------------------------------------------------


def child(command: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(command, input=json.dumps(settings), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:80]} failed:\n{done.stderr[-3000:]}")
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def farm_child(**settings: Any) -> dict[str, Any]:
    return child([sys.executable, __file__, "--side"], settings)


def figures(measured: dict[str, Any], pairs: int, ideal: float) -> dict[str, float]:
    if measured["answered"] < 0.99 * pairs:
        sys.exit(f"only {measured['answered']} of {pairs} pairs were answered: the figures would mean nothing")
    rate = pairs / measured["seconds"]
    return {
        "pairs": pairs,
        "pairs_per_second": round(rate, 1),
        "share_of_ideal": round(rate / ideal, 3),
        "cpu_ms_per_pair": round(1000 * measured["cpu"] / pairs, 3),
        "peak_mb": round(measured["kb"] / 1024, 1),
    }


def peer_python(args: argparse.Namespace, folder: Path) -> str:
    """The interpreter of alpaca_eval's environment; made here unless one is given."""
    if args.peer_python:
        return str(args.peer_python)
    print(f"installing {PEER} into an environment of its own", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder / "peer"], check=True)
    python = folder / "peer" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    return str(python)


def judging(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Part 1."""
    ideal = args.connections / args.latency
    result: dict[str, Any] = {"ideal_pairs_per_second": round(ideal, 1)}
    with serve.background(canned=ANSWERS, latency=args.latency) as (url, token):
        where = {"url": url, "token": token, "connections": args.connections}
        ours = farm_child(do="judge", pairs=args.pairs, ledger=str(folder / "ledger.sqlite"), **where)
        result["farm"] = show("farm", figures(ours, args.pairs, ideal))
        if args.no_peer:
            return result
        python = peer_python(args, folder)
        count = min(args.pairs, args.peer_pairs)
        rows = [
            {"instruction": c.instruction.full_text, "output_1": c.a.text, "output_2": c.b.text}
            for c in comparisons(args.pairs)
        ]
        (folder / "pairs.json").write_text(json.dumps(rows[:count]))
        peer: dict[str, dict[str, float]] = {}
        tried: dict[str, tuple[dict[str, int], dict[str, int]]] = {"default": ({}, {})}
        for threads in args.peer_threads:
            tried[f"{threads} threads"] = ({"num_procs": threads}, {"chunksize": count})
        for name, (completions, call) in tried.items():
            place = folder / name.replace(" ", "-")
            place.mkdir()
            settings = {"folder": str(place), "pairs": str(folder / "pairs.json"), "completions": completions}
            theirs = child([python, "-c", PEER_SIDE], where | settings | {"call": call})
            peer[name] = show(f"alpaca_eval, {name}", figures(theirs, count, ideal))
    best = max((row for name, row in peer.items() if name != "default"), key=lambda row: row["pairs_per_second"])
    result |= {"peer": peer, "ratios": {}}
    for name, theirs in (("default", peer["default"]), ("best", best)):
        gain = {"pairs_per_second": result["farm"]["pairs_per_second"] / theirs["pairs_per_second"]}
        gain |= {what: theirs[what] / result["farm"][what] for what in ("cpu_ms_per_pair", "peak_mb")}
        result["ratios"][name] = show(f"ratios to its {name}", {what: round(value, 1) for what, value in gain.items()})
    return result


def cached(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Part 2."""
    ledger = str(folder / "cache.sqlite")
    farm_child(do="fill", pairs=args.cached, ledger=ledger)
    probe = PEAK + "\nprint(peak_kb())"
    idle_mb = float(subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True).stdout) / 1024
    result: dict[str, Any] = {}
    for pairs in (args.cached // 4, args.cached):
        # Nobody listens on port 9: a single call would end the run.
        measured = farm_child(do="cached", pairs=pairs, of=args.cached, ledger=ledger, url="http://127.0.0.1:9/v1")
        row = figures(measured, pairs, 1.0)
        del row["share_of_ideal"]
        row["mb_above_idle"] = round(row.pop("peak_mb") - idle_mb, 1)
        result[f"{pairs} pairs"] = show("from cache", row)
    return result


def show(name: str, row: dict[str, float]) -> dict[str, float]:
    print(f"{name:24} " + ", ".join(f"{what.replace('_', ' ')} {value:g}" for what, value in row.items()), flush=True)
    return row


def main() -> None:
    if sys.argv[1:] == ["--side"]:
        farm_side(json.load(sys.stdin))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8000, help="pairs that farm judges (8000)")
    parser.add_argument("--latency", type=float, default=0.3, help="seconds per answer (0.3)")
    parser.add_argument("--connections", type=int, default=128, help="calls at a time (128)")
    parser.add_argument("--peer-pairs", type=int, default=1000, help="of them, pairs that alpaca_eval judges (1000)")
    parser.add_argument("--peer-python", type=Path, help=f"interpreter of an environment with {PEER}")
    parser.add_argument(
        "--peer-threads", type=int, nargs="+", default=[16, 64, 128], help="settings tried for its best"
    )
    parser.add_argument("--no-peer", action="store_true", help="farm alone")
    parser.add_argument("--cached", type=int, default=200_000, help="pairs answered from cache, 0 for none (200000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as one JSON object")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "annotate", "goals": GOALS}
    with tempfile.TemporaryDirectory() as folder:
        result |= judging(args, Path(folder))
        if args.cached:
            result["cached"] = cached(args, Path(folder))
    versions = {"python": platform.python_version(), "peer": PEER, "system": platform.platform()}
    result["settings"] = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"
    } | versions
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
