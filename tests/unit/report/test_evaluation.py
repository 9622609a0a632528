from __future__ import annotations

from itertools import pairwise

import numpy as np

from farm.data.judged import Rejected
from farm.data.verdicts import Verdicts
from farm.evaluate import bradley_terry, paired, table
from farm.report import evaluation

N = 60


def verdicts(model: str, skill: float, seed: int, *, constant: bool = False) -> Verdicts:
    r = np.random.default_rng(seed)
    names = tuple(f"i{k:02d}" for k in range(N))
    texts = {i: "Sure!" if constant else f"answer {i}" for i in names}
    score, longer = (r.random(N) < skill).astype(float), r.normal(20, 60, N).round()
    return Verdicts(
        "judge", "ref", model, names, score, longer, np.full(N, np.nan), ("judge",) * N, (0,) * N, (), texts
    )


def page(*models: Verdicts, rejected: tuple[Rejected, ...] = ()) -> str:
    rows = table.rows(models, seed=0, lengths=True)
    sources = table.by_source(models, {f"i{k:02d}": "ab"[k % 2] for k in range(N)}, seed=0)
    pairs = [paired.compare(a, b, seed=0) for a, b in pairwise(models)]
    ratings = {"judge": bradley_terry.ratings(bradley_terry.contests(models), seed=0, resamples=100)}
    return evaluation.render(rows, sources, pairs, ratings, rejected, about="a.csv; seed 0")


def test_everything_is_on_the_page() -> None:
    text = page(
        verdicts("good", 0.8, 0),
        verdicts("fair", 0.45, 1),
        verdicts("null", 0.4, 2, constant=True),
        rejected=(Rejected(7, "preference '9' is neither"),),
    )
    for heading in (
        "judge, against ref",
        "Paired comparisons",
        "Ratings by judge",
        "By sub-distribution",
        "Rows not used",
    ):
        assert heading in text
    assert "good beats fair by judge" in text
    assert "fair and null are not separated by judge" in text
    assert "Something looks wrong about null" in text
    assert "the same output for 100%" in text
    assert "length-controlled, %" in text
    assert text.count("<svg") == 1
    assert "preference &#39;9&#39; is neither" in text


def test_hostile_names_are_text() -> None:
    text = page(verdicts("<script>alert(1)</script>", 0.5, 0), verdicts("b\u202e", 0.5, 1))
    assert "<script" not in text
    assert "\u202e" not in text
    assert "http://" not in text


def test_what_is_not_estimable_is_a_dash() -> None:
    text = page(verdicts("always", 1.1, 0), verdicts("never", -0.1, 1))
    assert "not measured or not estimable" in text
    assert "no interval: all values are equal" in text
