"""Recorded best-of-n samples: read strictly, shuffled, and put through the same curve code as a run's own pool."""

from __future__ import annotations

import gzip
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from farm.data.recorded import read
from farm.errors import DataError
from farm.study import recorded

REAL = Path(__file__).parents[4] / "shared" / "data" / "best_of_n" / "tulu2dpo13b_bon16.jsonl.gz"


def row(k: int, **more):
    return {
        "id": k,
        "instruction": f"say {k}",
        "samples": ["a" * n for n in (1, 5, 3, 2)],
        "gold": [0.1, 0.9, 0.4, None],
        "scores": {"rm": [0.0, 1.0, 2.0, 3.0]},
        "rm_pick": {"picker": 1},
    } | more


def write(folder: Path, *rows, name: str = "f.jsonl") -> Path:
    path = folder / name
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_the_curve_is_the_brute_force_average_over_judged_samples(tmp_path):
    found = recorded.curves(read([write(tmp_path, row(0), row(1), name="f.jsonl.gz")]), seed=0)
    assert set(found) == {"rm", "length", "gold itself"}
    gold, score = [0.1, 0.9, 0.4], [0.0, 1.0, 2.0]  # the fourth sample was not judged
    for n, point in enumerate(found["rm"].curve.points, 1):
        picks = [max(s, key=lambda i: score[i]) for s in combinations(range(3), n)]
        assert point.gold == pytest.approx(np.mean([gold[i] for i in picks]))
    assert found["gold itself"].curve.points[-1].gold == pytest.approx(0.9)
    assert found["length"].curve.points[-1].gold == pytest.approx(0.9)


def test_shuffling_keeps_every_sample_with_its_own_values(tmp_path):
    rows = read([write(tmp_path, *(row(k) for k in range(20)))])
    orders = set()
    for r in rows:
        s = r.shuffled(0)
        assert sorted(zip(s.samples, map(str, s.gold), s.scores["rm"])) == sorted(
            zip(r.samples, map(str, r.gold), r.scores["rm"])
        )
        assert s.samples[s.picks["picker"]] == "aaaaa"
        orders.add(s.samples)
    assert len(orders) > 5
    assert rows[0].shuffled(0) == rows[0].shuffled(0)


def test_order_that_carries_information_is_noticed(tmp_path):
    random = np.random.default_rng(0)

    def made(trend):
        return [
            row(
                k,
                samples=["a" * int(v) for v in 50 + trend * np.arange(6) * 10 + random.integers(0, 9, 6)],
                gold=(0.1 * trend * np.arange(6) + random.normal(0, 0.05, 6)).tolist(),
                scores={},
                rm_pick={},
            )
            for k in range(40)
        ]

    sorted_ = recorded.order(read([write(tmp_path, *made(1), name="s.jsonl")]), seed=0)
    assert not sorted_.exchangeable
    assert sorted_.gold.ci95_low > 0
    assert recorded.order(read([write(tmp_path, *made(0), name="r.jsonl")]), seed=0).exchangeable


def test_picks_are_held_against_the_mean_of_the_judged(tmp_path):
    rows = read([write(tmp_path, row(0), row(1, rm_pick={"picker": 3}))])
    pick = recorded.picks(rows, seed=0)[0]
    assert (pick.model, pick.n, pick.judged) == ("picker", 1, 0.5)
    assert pick.gain.value == pytest.approx(0.9 - np.mean([0.1, 0.9, 0.4]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": []}, "'samples' must be a list"),
        ({"gold": [1, 2]}, "one number for each of the 4 samples"),
        ({"gold": [1, 2, 3, float("nan")]}, "not a finite number"),
        ({"scores": {"rm": [1, 2, None, 4]}}, "scores of rm"),
        ({"rm_pick": {"p": 4}}, "is not the number of one of 4 samples"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, words):
    with pytest.raises(DataError, match=r"line 2") as e:
        read([write(tmp_path, row(0), row(1, **change))])
    assert words in str(e.value)


def test_no_gold_means_no_curve(tmp_path):
    with pytest.raises(DataError, match="gold is missing everywhere"):
        recorded.curves(read([write(tmp_path, row(0, gold=[None] * 4))]), seed=0)
    with pytest.raises(DataError, match="a curve needs two"):
        recorded.curves(read([write(tmp_path, row(0), row(1, gold=[1, None, None, None]))]), seed=0)
    with pytest.raises(DataError, match="occurs twice"):
        read([write(tmp_path, row(0), row(0))])


@pytest.mark.skipif(not REAL.is_file(), reason=f"recorded samples are not here ({REAL})")
def test_the_real_recording_gives_the_published_rates_and_a_warning_about_its_order():
    from farm.report.overoptimization import findings, page
    from farm.report.page import render
    from farm.report.recorded import numbers

    rows = read([REAL])
    assert len(rows) == 378
    assert np.mean([r.gold[0] for r in rows]) == pytest.approx(0.247, abs=0.001)
    assert np.mean([r.gold[10] for r in rows]) == pytest.approx(0.349, abs=0.001)
    curves = recorded.curves(rows, seed=0)
    assert curves["gold itself"].curve.points[-1].x == 11
    assert curves["gold itself"].curve.points[-1].gold == pytest.approx(0.587, abs=0.001)
    assert curves["length"].curve.points[-1].gold < 0.45
    found = numbers(rows, "recorded", seed=0)
    assert any("not exchangeable" in note for note in found.notes)
    assert len(found.picks) == 6
    assert findings(found)
    assert "<svg" in render(page(found))
