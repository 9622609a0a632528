from itertools import combinations
from math import comb, log

import numpy as np
import pytest

from farm.errors import DataError
from farm.study.best_of_n import best_of_n_curve, best_of_n_kl, best_of_n_weights, kl_upper_bound

R = np.random.default_rng(0)
PROXY, GOLD = R.normal(size=(5, 8)), R.normal(size=(5, 8))
PROMPTS = [f"i{k}" for k in range(5)]


@pytest.mark.parametrize("n", range(1, 9))
def test_equals_brute_force_over_all_subsets(n: int):
    curve = best_of_n_curve(PROXY, GOLD, PROMPTS, [n], seed=0)
    for k in range(5):
        picks = [max(subset, key=lambda i: PROXY[k, i]) for subset in combinations(range(8), n)]
        assert curve.proxy[0, k] == pytest.approx(PROXY[k, picks].mean())
        assert curve.gold[0, k] == pytest.approx(GOLD[k, picks].mean())


@pytest.mark.parametrize(("pool", "n"), [(1, 1), (8, 3), (1000, 1), (1000, 1000), (100_000, 2), (100_000, 31_337)])
def test_weights_sum_to_one(pool: int, n: int):
    w = best_of_n_weights(pool, n)
    assert w.sum() == pytest.approx(1, abs=1e-8)
    assert (w >= 0).all()
    assert (w[: n - 1] == 0).all()


def test_weights_equal_exact_binomials():
    exact = [comb(i - 1, 11) / comb(40, 12) for i in range(1, 41)]
    assert best_of_n_weights(40, 12) == pytest.approx(exact, abs=1e-14)


@pytest.mark.parametrize("n", [0, 9])
def test_n_out_of_range(n: int):
    with pytest.raises(DataError, match=r"1\.\.8"):
        best_of_n_weights(8, n)


def test_points_carry_means_errors_and_the_bound():
    curve = best_of_n_curve(PROXY, GOLD, PROMPTS, [4, 1, 8, 4], seed=0, tokens=np.full((5, 8), 7)).curve
    assert [p.x for p in curve.points] == [1, 4, 8]
    first = curve.points[0]
    assert first.proxy == pytest.approx(PROXY.mean())
    assert first.proxy_se == pytest.approx(PROXY.mean(axis=1).std(ddof=1) / 5**0.5)
    assert first.kl == 0
    assert curve.points[1].kl == pytest.approx(log(4) - 0.75)
    assert [p.mean_tokens for p in curve.points] == pytest.approx([7, 7, 7])


def test_ties_do_not_follow_storage_order():
    gold = np.tile(np.arange(8.0), (400, 1))
    curve = best_of_n_curve(np.zeros((400, 8)), gold, [f"i{k}" for k in range(400)], [8], seed=0)
    assert 3 < curve.curve.points[0].gold < 4
    again = best_of_n_curve(np.zeros((400, 8)), gold, [f"i{k}" for k in range(400)], [8], seed=0)
    assert np.array_equal(curve.gold, again.gold)


def test_gold_may_be_missing_and_one_prompt_has_no_error():
    curve = best_of_n_curve(PROXY[:1], None, ["i0"], [2], seed=0)
    assert curve.gold is None
    assert curve.curve.points[0].gold is None
    assert curve.curve.points[0].proxy_se is None


@pytest.mark.parametrize(
    ("proxy", "gold", "prompts", "message"),
    [
        (PROXY[0], None, PROMPTS, "shape"),
        (PROXY, GOLD[:, :4], PROMPTS, "same samples"),
        (PROXY, GOLD * np.nan, PROMPTS, "finite"),
        (PROXY, None, ["i0"] * 5, "'i0' occurs twice"),
        (np.zeros((0, 4)), None, [], "shape"),
    ],
)
def test_bad_pools(proxy: np.ndarray, gold: np.ndarray | None, prompts: list[str], message: str):
    with pytest.raises(DataError, match=message):
        best_of_n_curve(proxy, gold, prompts, [1], seed=0)


def exact_kl(p: np.ndarray, n: int) -> float:
    """Exact KL of best-of-n for outputs with probabilities p, sorted by a reward without ties."""
    upper = np.cumsum(p)
    q = upper**n - (upper - p) ** n
    q = np.where(q > 0, q, 1e-300)
    return float((q * np.log(q / p)).sum())


@pytest.mark.parametrize(("outputs", "n", "reference"), [(100, 256, 4.31), (100, 1024, 4.61), (10_000, 256, 4.54)])
def test_kl_estimator_beats_the_bound_on_few_outputs(outputs: int, n: int, reference: float):
    p = np.full(outputs, 1 / outputs)
    exact = exact_kl(p, n)
    assert exact == pytest.approx(reference, abs=0.02)
    assert best_of_n_kl(np.log(p), n).mean() == pytest.approx(exact, rel=0.01)
    assert kl_upper_bound(n) >= exact - 1e-9


def test_kl_estimator_at_the_edges():
    assert best_of_n_kl(np.array([0.0]), 16) == pytest.approx([0.0], abs=1e-9)  # one possible text
    assert best_of_n_kl(np.array([-900.0]), 16) == pytest.approx([kl_upper_bound(16)])
    assert best_of_n_kl(np.array([-3.0]), 1) == pytest.approx([0.0], abs=1e-12)
    with pytest.raises(DataError):
        kl_upper_bound(0)
