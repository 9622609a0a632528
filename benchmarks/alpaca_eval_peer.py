"""The peer's side of evaluate.py: alpaca_eval's own functions on a file of verdicts, in alpaca_eval's environment.

Reads one JSON file, writes one: values and CPU seconds of every part. It needs nothing of farm. The data file that
alpaca_eval would download for its length control is read from disk instead.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = cpu()
    result = work()
    return result, cpu() - start


def main(source: str, gamed: str, target: str) -> None:
    start = cpu()
    import pandas as pd
    from alpaca_eval import analyze, metrics
    from alpaca_eval.metrics import glm_winrate

    imported = cpu() - start
    glm_winrate.hf_hub_download = lambda **_: gamed
    with open(source, encoding="utf-8") as f:
        data = json.load(f)
    frames = [
        pd.DataFrame(
            {
                "preference": [float("nan") if p is None else p for p in m["preference"]],
                "output_1": ["x" * n for n in m["chars_reference"]],
                "output_2": ["x" * n for n in m["chars_model"]],
                "generator_1": m["reference"],
                "generator_2": m["model"],
                "annotator": m["annotator"],
            }
        )
        for m in data["models"]
    ]

    def controlled(frame: pd.DataFrame) -> float:
        settings = {"save_weights_dir": None, "is_warn_extreme_changes": False}
        return float(metrics.get_length_controlled_winrate(frame, **settings)["length_controlled_winrate"])

    raw, raw_seconds = timed(lambda: [metrics.get_winrate(frame) for frame in frames])
    lc, lc_seconds = timed(lambda: [controlled(frame) for frame in frames])  # the raw rate once more, as upstream

    people, judge = pd.DataFrame(data["votes"]["people"]), pd.DataFrame(data["votes"]["judge"])
    analyzer, built = timed(
        lambda: analyze.Analyzer(gold_crossannotations=people, gold_annotations=people, n_annotators=4)
    )

    def analysis() -> dict[str, float]:
        longest = analyze._get_longest_predictor(analyzer.df_gold_crossannotations)
        votes = analyzer._select_n_annotations(judge.copy(), n_annotators=4)
        return {
            "with_majority": float(analyzer.agreement_of_annotations(votes, n_majority_vote_1=1)["score"]),
            "human": float(
                analyzer.agreement_of_annotations("gold_crossannotations", annotations_2=None, n_majority_vote_1=1)[
                    "score"
                ]
            ),
            "longest": float(analyzer.agreement_of_annotations(longest, n_majority_vote_1=1)["score"]),
            "bias": float(analyzer.estimate_bias(votes)),
            "variance": float(analyzer.estimate_variance(votes)),
            "prefers_longer": float(analyzer.get_length_biases(votes)["probability_prefer_longer"]),
            "prefers_list": float(analyzer.get_list_biases(votes)["probability_prefer_list"]),
        }

    found, analysis_seconds = timed(analysis)
    result = {
        "win_rate": [float(r["win_rate"]) for r in raw],
        "standard_error": [float(r["standard_error"]) for r in raw],
        "discrete_win_rate": [float(r["discrete_win_rate"]) for r in raw],
        "lc": lc,
        "analysis": found,
        "seconds": {
            "import": imported,
            "win_rate": raw_seconds,
            "length_control": lc_seconds,
            "analysis": built + analysis_seconds,
        },
    }
    with open(target, "w", encoding="utf-8") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
