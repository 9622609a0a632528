import numpy as np
import pytest
from scipy import stats

from farm.study.correlation import kendall, pearson, rank_correlation, spearman

R = np.random.default_rng(0)


def side(levels: list[float], n: int = 200, noise: float = 0.4) -> dict[str, dict[str, float]]:
    return {f"m{k}": {f"i{i}": v + R.normal(0, noise) for i in range(n)} for k, v in enumerate(levels)}


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scipy(ties: bool):
    x, y = R.normal(size=(30, 8)), R.normal(size=(30, 8))
    if ties:
        x, y = np.round(x), np.round(y)
    for ours, theirs in ((spearman, stats.spearmanr), (kendall, stats.kendalltau), (pearson, stats.pearsonr)):
        expected = [theirs(a, b).statistic for a, b in zip(x, y)]
        assert ours(x, y) == pytest.approx(expected, nan_ok=True)


def test_same_ranking_and_offset():
    c = rank_correlation(side([0.3, 0.5, 0.7, 0.9]), side([0.4, 0.6, 0.8, 1.0]), seed=0)
    assert c.spearman.value == c.kendall.value == 1
    assert c.mean_absolute_error.value == pytest.approx(0.1, abs=0.05)
    assert c.spearman.ci95_low is not None
    assert c.spearman.n == 4
    assert (c.first, c.second) == ("simulated", "human")


def test_interval_of_the_error_holds_the_error():
    e = rank_correlation(side([0.5, 0.5, 0.5], n=30), side([0.5, 0.5, 0.5], n=30), seed=0).mean_absolute_error
    assert e.ci95_low <= e.value <= e.ci95_high
    assert e.ci95_low >= 0


def test_close_methods_give_a_wide_interval_and_a_reversed_side_a_negative_one():
    wide = rank_correlation(side([0.5, 0.51, 0.52, 0.53], n=40), side([0.5, 0.51, 0.52, 0.53], n=40), seed=0)
    assert wide.spearman.ci95_high - wide.spearman.ci95_low > 0.5
    assert rank_correlation(side([0.1, 0.5, 0.9]), side([0.9, 0.5, 0.1]), seed=0).kendall.value == -1


def test_sides_may_cover_different_instructions():
    human = {m: {i: v for i, v in s.items() if int(i[1:]) < 50} for m, s in side([0.3, 0.5, 0.7]).items()}
    c = rank_correlation(side([0.3, 0.5, 0.7]), human, seed=0)
    assert c.pearson.value > 0.9
    assert c.pearson.ci95_low is not None


def test_not_estimable():
    two = rank_correlation(side([0.1, 0.2]), side([0.1, 0.2]), seed=0)
    assert two.spearman.value is None
    assert two.spearman.n == 2
    assert "at least 3" in two.spearman.note
    flat = {f"m{k}": {"i0": 0.5, "i1": 0.5} for k in range(4)}
    assert rank_correlation(flat, side([0.1, 0.2, 0.3, 0.4], n=2), seed=0).kendall.value is None
    assert rank_correlation({}, {}, seed=0).methods == ()
    one = {f"m{k}": {"i0": k / 4} for k in range(4)}
    assert "one instruction" in rank_correlation(one, one, seed=0).spearman.note


def test_methods_without_scores_are_left_out():
    first = side([0.1, 0.2, 0.3]) | {"empty": {}}
    second = side([0.1, 0.2, 0.3]) | {"empty": {"i0": 1.0}, "other": {"i0": 1.0}}
    assert rank_correlation(first, second, seed=0).methods == ("m0", "m1", "m2")
