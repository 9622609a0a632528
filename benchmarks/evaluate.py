"""CPU seconds of farm's evaluator and of alpaca_eval 0.6.6 for the same numbers, from the same verdicts.

Three parts: win rate, standard error and discrete win rate of 55 models; their length-controlled win rates as published
(lc_compat with the penalty cross-validated, alpaca_eval's default); one agreement analysis of 648 pairs with 4 human
votes and 4 verdicts of a judge (simulated), with the rows 'human' and 'longest' beside the judge. Reading files and
building tables is left out on both sides, imports are stated apart. Values are compared: all win rates and errors, all
length-controlled values, and the analysis, which is the same where no majority is tied (alpaca_eval breaks ties by
chance, farm counts them half; it also takes preferences for length and lists from one draw per pair, farm from all).
Last, 1,000 bootstrap resamples of one length-controlled win rate, which alpaca_eval does not offer.

Needs a folder with alpaca_eval_dev/ and length_control/ (AlpacaEval's data, CC BY-NC 4.0), and an environment with
alpaca-eval 0.6.6: --peer-python, or one is made with pip, which needs the network. CPU time is that of one process,
one thread, by getrusage.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is loaded

import numpy as np

from farm.data import alpaca_eval, length_control
from farm.data.length_control import Material
from farm.data.verdicts import Verdicts
from farm.evaluate import alpaca_lc, intervals
from farm.records import Judgement, Outcome, Pair, Response
from farm.study.agreement import agreement

PEER = Path(__file__).with_name("alpaca_eval_peer.py")
PREFERRED = ("weighted_alpaca_eval_gpt4_turbo", "alpaca_eval_gpt4")
PAIRS, VOTES = 648, 4
IMPORT = "import resource\nfrom farm.evaluate import alpaca_lc\nfrom farm.study import agreement\n"
IMPORT += "u = resource.getrusage(resource.RUSAGE_SELF)\nprint(u.ru_utime + u.ru_stime)"


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = cpu()
    result = work()
    return result, cpu() - start


def one_per_model(verdicts: list[Verdicts]) -> list[Verdicts]:
    """The verdicts of the judge that most models have, for every model."""
    order = {name: k for k, name in enumerate(PREFERRED)}
    found: dict[str, Verdicts] = {}
    for v in sorted(verdicts, key=lambda v: (order.get(v.annotator, 9), v.annotator)):
        if v.model != v.reference and len(v.ids) > 300:
            found.setdefault(v.model, v)
    return list(found.values())


def votes(seed: int) -> tuple[dict[str, list[dict[str, Any]]], list[Judgement], list[Judgement], dict[str, Response]]:
    """A simulated panel in both forms: rows for alpaca_eval, records for farm."""
    r = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, Any]]] = {"people": [], "judge": []}
    acts: dict[str, list[Judgement]] = {"people": [], "judge": []}
    responses: dict[str, Response] = {}
    for k in range(PAIRS):
        texts = [" ".join(["word"] * int(n)) + end for n, end in zip(r.integers(5, 90, 2), (" one", " two"))]
        texts = [f"- {t}\n- {t}" if r.random() < 0.2 else t for t in texts]
        first, second = (Response.make(f"i{k}", t, p, n_tokens=1) for t, p in zip(texts, ("one", "two"), strict=True))
        responses |= {first.id: first, second.id: second}
        lean = r.normal(0, 1.2)
        for who, scale in (("people", 1.0), ("judge", 1.6)):
            for vote in range(VOTES):
                second_wins = r.random() < 1 / (1 + np.exp(-scale * lean))
                row = {"instruction": f"task {k}", "output_1": texts[0], "output_2": texts[1], "datasplit": "eval"}
                rows[who].append(row | {"preference": 1 + int(second_wins), "annotator": f"{who}{vote}"})
                acts[who].append(
                    Judgement(
                        pair_id=Pair.of(first, second).id,
                        instruction_id=f"i{k}",
                        annotator="judge" if who == "judge" else f"person{vote}",
                        shown=(first.id, second.id),
                        outcome=Outcome.DECIDED,
                        winner_id=second.id if second_wins else first.id,
                        draw=vote if who == "judge" else 0,
                    )
                )
    return rows, acts["judge"], acts["people"], responses


def ours(models: list[Verdicts], material: Material, panel: Any, args: argparse.Namespace) -> dict[str, Any]:
    _, judge, people, responses = panel

    def rates() -> list[tuple[float, float, float]]:
        found = []
        for v in models:
            _, score, _ = v.by_instruction()
            hard = 0.5 + 0.5 * np.sign(score - 0.5)
            error = intervals.standard_error(score) or 0.0
            found.append((100 * float(score.mean()), 100 * error, 100 * float(hard.mean())))
        return found

    raw, raw_seconds = timed(rates)
    lc, lc_seconds = timed(lambda: [alpaca_lc.lc_compat(v, material) for v in models])
    rows, analysis_seconds = timed(lambda: agreement(judge, people, responses, seed=0, longer_by=30))
    by_name = {row.annotator: row for row in rows}
    example = next(v for v in models if v.model == args.model)
    _, bootstrap = timed(lambda: alpaca_lc.lc(example, material, seed=0, resamples=1000))
    mine = by_name["judge"]
    imported = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    return {
        "win_rate": [r[0] for r in raw],
        "standard_error": [r[1] for r in raw],
        "discrete_win_rate": [r[2] for r in raw],
        "lc": [100 * (c.value or 0.0) for c in lc],
        "analysis": {
            "with_majority": mine.with_majority.value,
            "human": by_name["human"].agreement.value,
            "longest": by_name["longest"].with_majority.value,
            "bias": mine.bias.value,
            "variance": mine.variance.value,
            "prefers_longer": mine.prefers_longer.value,
            "prefers_list": mine.prefers_list.value,
        },
        "seconds": {
            "import": float(imported.stdout),
            "win_rate": raw_seconds,
            "length_control": lc_seconds,
            "analysis": analysis_seconds,
        },
        "bootstrap_of_one_lc": bootstrap,
    }


def gamed(material: Material, path: Path) -> None:
    """The regulariser's rows in the layout alpaca_eval downloads."""
    names = list(material.difficulty)
    with path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"])
        for k, (t, d, target) in enumerate(material.regulariser):
            raw = np.arctanh(np.clip(t, -1 + 1e-15, 1 - 1e-15))
            out.writerow([f"m{k // len(names)}", k % len(names), float(target), float(raw), float(d), False])


def theirs(python: str, models: list[Verdicts], material: Material, panel: Any, folder: Path) -> dict[str, Any]:
    data = {
        "models": [
            {
                **dict(zip(("annotator", "reference", "model"), v.name, strict=True)),
                "preference": [None if np.isnan(s) else 1 + float(s) for s in v.score],
                # Only the difference of the lengths counts.
                "chars_reference": [int(max(0, -n)) for n in v.longer_by],
                "chars_model": [int(max(0, n)) for n in v.longer_by],
            }
            for v in models
        ],
        "votes": panel[0],
    }
    paths = [folder / name for name in ("input.json", "df_gamed.csv", "output.json")]
    paths[0].write_text(json.dumps(data))
    gamed(material, paths[1])
    subprocess.run([python, str(PEER), *map(str, paths)], check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(paths[2].read_text())
    return result


def environment(folder: Path) -> str:
    """A fresh environment with the peer in it."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "alpaca-eval==0.6.6"], check=True)
    return python


def compare(mine: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    gaps = {k: np.abs(np.array(mine[k]) - np.array(peer[k])) for k in ("win_rate", "standard_error", "lc")}
    gaps["discrete_win_rate"] = np.abs(np.array(mine["discrete_win_rate"]) - np.array(peer["discrete_win_rate"]))
    differences: dict[str, Any] = {k: float(g.max()) for k, g in gaps.items()}
    differences["lc_median"] = float(np.median(gaps["lc"]))
    differences["lc_above_0.001"] = int((gaps["lc"] > 0.001).sum())
    differences |= {k: mine["analysis"][k] - peer["analysis"][k] for k in peer["analysis"]}
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with alpaca_eval_dev and length_control")
    parser.add_argument("--peer-python", help="python of an environment with alpaca-eval 0.6.6 (default: make one)")
    parser.add_argument("--repetitions", type=int, default=1, help="runs of each side, taking turns (1)")
    parser.add_argument("--model", default="claude-2", help="whose length-controlled value to bootstrap")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    verdicts, _ = alpaca_eval.read(args.data / "alpaca_eval_dev" / "annotations.csv.gz")
    known = length_control.read(args.data / "length_control")
    material, models, panel = Material(known.difficulty, known.regulariser), one_per_model(verdicts), votes(0)
    sides: dict[str, list[dict[str, Any]]] = {"farm": [], "peer": []}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        python = args.peer_python or environment(Path(name) / "venv")
        for _ in range(args.repetitions):
            sides["farm"].append(ours(models, material, panel, args))
            sides["peer"].append(theirs(python, models, material, panel, Path(name)))
    parts = ("win_rate", "length_control", "analysis")
    seconds = {
        side: {part: round(statistics.median(run["seconds"][part] for run in runs), 4) for part in ("import", *parts)}
        for side, runs in sides.items()
    }
    for times in seconds.values():
        times["total"] = round(sum(times[p] for p in parts), 4)
        times["total_with_import"] = round(times["total"] + times["import"], 4)
    names = (*parts, "total", "total_with_import")
    result = {
        "benchmark": "evaluate",
        "ratios": {name: round(seconds["peer"][name] / max(seconds["farm"][name], 1e-6), 1) for name in names},
        "cpu_seconds": seconds,
        "bootstrap_of_one_lc": round(statistics.median(run["bootstrap_of_one_lc"] for run in sides["farm"]), 3),
        "differences": compare(sides["farm"][0], sides["peer"][0]),
        "values": {side: runs[0]["analysis"] for side, runs in sides.items()},
        "settings": {"models": len(models), "pairs": PAIRS, "votes": VOTES, "repetitions": args.repetitions},
        "wall_seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
