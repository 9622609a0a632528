"""Published AlpacaEval results recomputed from the recorded judgements beside this checkout, where they are there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from farm.data import alpaca_eval, length_control
from farm.data.length_control import Material
from farm.evaluate import alpaca_lc, table

SHARED = Path(__file__).parents[4] / "shared" / "data"
DEV, LC = SHARED / "alpaca_eval_dev", SHARED / "length_control"
BOARD = SHARED / "method_level" / "dev_leaderboards" / "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
pytestmark = pytest.mark.skipif(not DEV.is_dir(), reason="the public AlpacaEval files are not beside this checkout")

WEIGHTED = "weighted_alpaca_eval_gpt4_turbo"
# liblinear itself misses this value at the published penalty: the file's row was fitted on other verdicts or settings.
OFF_AT_PUBLISHED_C = {"gpt4_gamed": 0.02}
# Fewer than 805 rows: the published value takes difficulty by row position, ours by instruction.
SHIFTED = (
    "text_davinci_001",
    "gpt35_turbo_instruct",
    "minotaur-13b",
    "alpaca-7b_verbose",
    "alpaca-7b_concise",
    "phi-2",
)
BY_ID = {"text_davinci_001": 6.58, "gpt35_turbo_instruct": 14.96, "minotaur-13b": 9.10}
BY_ID |= {"alpaca-7b_verbose": 5.19, "alpaca-7b_concise": 4.56, "phi-2": 3.89}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def verdicts():
    found, rejected = alpaca_eval.read(DEV / "annotations.csv.gz")
    assert rejected == []
    return {v.name: v for v in found}


@pytest.fixture(scope="module")
def published():
    return {(m["annotator"], m["reference"], m["model"]): m for m in read(DEV / "models.csv")}


@pytest.fixture(scope="module")
def weighted(verdicts):
    return {name[2]: v for name, v in verdicts.items() if name[0] == WEIGHTED}


def test_every_win_rate_and_count(verdicts, published):
    assert verdicts.keys() == published.keys()
    for name, v in verdicts.items():
        estimate, error = table.estimate(v, seed=0)
        m = published[name]
        assert 100 * estimate.value == pytest.approx(float(m["win_rate_recomputed"]), abs=5.1e-4), name
        assert len(v.ids) == int(m["n_annotations"])
        assert np.isnan(v.score).sum() == int(m["n_null"])
        assert error == pytest.approx(np.nanstd(v.score, ddof=1) / np.sqrt(np.isfinite(v.score).sum()), rel=1e-12)


def test_published_standard_errors(weighted):
    board = {row["model"]: row for row in read(BOARD)}
    seen = 0
    for model, v in weighted.items():
        if model in board:
            _, error = table.estimate(v, seed=0)
            assert 100 * error == pytest.approx(float(board[model]["standard_error"]), abs=1e-4), model
            seen += 1
    assert seen >= 20


def test_published_length_control_at_the_published_penalty(weighted, published):
    material = length_control.read(LC)
    seen = 0
    for model, v in weighted.items():
        official = published[v.name]["official_lc_win_rate"]
        found = alpaca_lc.lc_compat(v, material)
        if official and found.chosen == "published":
            limit = OFF_AT_PUBLISHED_C.get(model, 0.001)
            assert 100 * found.value == pytest.approx(float(official), abs=limit + 5e-4), model
            seen += 1
    assert seen == 28


def test_published_length_control_with_the_penalty_cross_validated(weighted, published):
    known = length_control.read(LC)
    material = Material(known.difficulty, known.regulariser)
    for model, v in weighted.items():
        official = published[v.name]["official_lc_win_rate"]
        if official:
            found = alpaca_lc.lc_compat(v, material)
            assert found.chosen == "cross-validated"
            assert 100 * found.value == pytest.approx(float(official), abs=0.2), model


def test_recommended_length_control(weighted, published):
    """Within 0.1 of the published value where every instruction was judged; by instruction where rows are missing."""
    material = length_control.read(LC)
    for model, v in weighted.items():
        official = published[v.name]["official_lc_win_rate"]
        if not official:
            continue
        found = 100 * alpaca_lc.lc(v, material, seed=0, resamples=0).estimate.value
        if model in SHIFTED:
            assert found == pytest.approx(BY_ID[model], abs=0.15), model
        else:
            assert found == pytest.approx(float(official), abs=0.1), model


@pytest.mark.parametrize(
    ("model", "low", "high", "error"),
    [
        ("FuseChat-Gemma-2-9B-Instruct", 67.5, 72.8, 1.37),
        ("FuseChat-Llama-3.2-1B-Instruct", 22.4, 27.9, 1.37),
        ("claude-2", 24.7, 31.5, 1.69),
        ("alpaca-7b", 4.2, 7.8, 0.96),
        ("gpt4_gamed", 8.3, 16.2, 2.03),
    ],
)
def test_bootstrap_of_length_control(weighted, model: str, low: float, high: float, error: float):
    """Against another program's bootstrap, printed to one decimal."""
    found = alpaca_lc.lc(weighted[model], length_control.read(LC), seed=0)
    assert 100 * found.standard_error == pytest.approx(error, rel=0.08)
    assert 100 * found.estimate.ci95_low == pytest.approx(low, abs=0.35)
    assert 100 * found.estimate.ci95_high == pytest.approx(high, abs=0.35)


def test_a_lone_model_and_shuffled_rows_give_the_same_numbers(weighted):
    material = length_control.read(LC)
    v = weighted["claude-2"]
    order = np.random.default_rng(0).permutation(len(v.ids))
    turned = v.take(np.ones(len(v.ids), dtype=bool))
    turned = type(v)(
        *v.name,
        tuple(v.ids[i] for i in order),
        *(c[order] for c in (v.score, v.longer_by, v.model_first)),
        v.judges,
        v.seeds,
    )
    a, b = (table.rows([x], seed=0, lengths=True, material=material)[0] for x in (v, turned))
    assert (a.win_rate, a.lc, a.lc_compat) == pytest.approx((b.win_rate, b.lc, b.lc_compat), abs=1e-9)
    assert (a.lc_ci95_low, a.ci95_high) == pytest.approx((b.lc_ci95_low, b.ci95_high), abs=1e-9)
