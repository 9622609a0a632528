"""Krippendorff's alpha and the alternative annotator test, against other implementations and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from farm.errors import DataError
from farm.study import reliability
from farm.study.ballots import Ballots, Items
from farm.study.reliability import alternative_annotator_test, benjamini_yekutieli, krippendorff_alpha

RNG = np.random.default_rng(4)


def ballots(table: np.ndarray) -> Ballots:
    """From verdicts of shape (pairs, annotators); NaN = did not judge."""
    item, who = np.nonzero(~np.isnan(table))
    names = tuple(f"p{k}" for k in range(table.shape[1]))
    return Ballots(names, item, who, table[item, who].astype(np.int64), np.ones(len(item), dtype=np.int64))


def items(n: int) -> Items:
    zeros = np.zeros(n, dtype=np.int64)
    return Items(tuple(map(str, range(n))), np.arange(n), zeros, zeros, zeros.astype(bool))


@pytest.mark.parametrize("metric", ["nominal", "interval"])
def test_alpha_matches_the_krippendorff_package(metric):
    package = pytest.importorskip("krippendorff")
    for n in (3, 40, 200):
        counts = RNG.multinomial(4, [0.3, 0.2, 0.5], size=n) * RNG.integers(0, 2, size=(n, 1))
        if (counts.sum(1) > 1).sum() < 2:
            counts[:2] = [[2, 1, 1], [0, 0, 4]]
        theirs = package.alpha(value_counts=counts, value_domain=[-1, 0, 1], level_of_measurement=metric)
        ours = krippendorff_alpha(counts.astype(float), np.arange(n), seed=0, metric=metric)
        assert ours.value == pytest.approx(theirs)
        assert ours.ci95_low <= ours.value <= ours.ci95_high


def test_alpha_by_hand():
    # four pairs, two votes each: a a, a a, b b, a b. Coincidences: aa 4, bb 2, ab 1, ba 1; n = 8.
    counts = np.array([[0, 0, 2], [0, 0, 2], [2, 0, 0], [1, 0, 1]], dtype=float)
    observed, expected = 2 / 8, 2 * 5 * 3 / (8 * 7)
    assert krippendorff_alpha(counts, np.arange(4), seed=0).value == pytest.approx(1 - observed / expected)


def test_alpha_that_cannot_be_estimated_says_so():
    one_class = krippendorff_alpha(np.array([[0, 0, 3.0], [0, 0, 2.0]]), np.arange(2), seed=0)
    assert (one_class.value, one_class.n) == (None, 5)
    assert "all votes are the same" in one_class.note
    assert "no pair has two votes" in krippendorff_alpha(np.eye(3), np.arange(3), seed=0).note
    single = krippendorff_alpha(np.array([[1.0, 0, 2.0]]), np.zeros(1, dtype=np.int64), seed=0)
    assert single.ci95_low is None
    assert "one instruction" in single.note


def test_alternative_annotator_by_hand():
    # Three people, 40 pairs. People 0 and 1 always say +1, person 2 says -1 on the last ten pairs; the judge says -1
    # on the first five.
    table = np.ones((40, 3))
    table[30:, 2] = -1
    judge = np.ones((40, 1))
    judge[:5] = -1
    found = alternative_annotator_test(
        ballots(judge), ballots(table), items(40), name="j", seed=0, epsilon=0.2, least=30
    )
    gaps = {p.person: p.gap for p in found.people}
    # without person 0 (or 1): equal but for the five pairs lost by the judge; on the last ten both meet half the others
    assert gaps["p0"] == gaps["p1"] == pytest.approx(5 / 40)
    # without person 2: the judge loses five pairs and wins ten
    assert gaps["p2"] == pytest.approx((5 - 10) / 40)
    assert found.advantage.value == pytest.approx((35 / 40 + 35 / 40 + 35 / 40) / 3)
    d = np.array([1.0] * 5 + [0.0] * 35)
    t = (d.mean() - 0.2) / (d.std(ddof=1) / np.sqrt(40))
    from scipy import stats

    assert found.people[0].p == pytest.approx(stats.t.cdf(t, 39))
    assert [p.judge_wins for p in found.people] == [False, False, True]
    assert found.winning_rate == pytest.approx(1 / 3)
    assert found.passes is False


def test_a_judge_as_good_as_people_passes_and_a_coin_does_not():
    truth = RNG.choice([-1, 1], size=(150, 1))
    table = truth * np.where(RNG.random((150, 4)) < 0.85, 1, -1)
    good, coin = (truth * np.where(RNG.random((150, 1)) < p, 1, -1) for p in (0.85, 0.5))
    passes = {
        name: alternative_annotator_test(
            ballots(j.astype(float)), ballots(table.astype(float)), items(150), name=name, seed=0, epsilon=0.15
        ).passes
        for name, j in (("good", good), ("coin", coin))
    }
    assert passes == {"good": True, "coin": False}


def test_few_pairs_use_ranks_or_are_left_out():
    table = np.where(RNG.random((20, 3)) < 0.8, 1.0, -1.0)
    judge = np.where(RNG.random((20, 1)) < 0.8, 1.0, -1.0)
    out = alternative_annotator_test(ballots(judge), ballots(table), items(20), name="j", seed=0)
    assert (out.winning_rate, out.passes, out.n_people_left_out) == (None, None, 3)
    assert "nobody shares 30" in out.note
    ranks = alternative_annotator_test(ballots(judge), ballots(table), items(20), name="j", seed=0, least=10)
    assert len(ranks.people) == 3
    with pytest.raises(DataError, match="epsilon"):
        alternative_annotator_test(ballots(judge), ballots(table), items(20), name="j", seed=0, epsilon=1.5)


def test_constant_gap_needs_no_test():
    assert reliability._p_value(np.zeros(40), 0.1) == 0.0
    assert reliability._p_value(np.ones(40), 0.1) == 1.0


def test_benjamini_yekutieli_matches_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for m in (1, 2, 7, 40):
        p = RNG.random(m) ** 4
        theirs = multitest.multipletests(p, alpha=0.05, method="fdr_by")[0]
        assert (benjamini_yekutieli(p, 0.05) == theirs).all()
