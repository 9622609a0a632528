from itertools import combinations
from math import comb, log

import numpy as np
import pytest

from farm.errors import DataError
from farm.study.best_of_n import (
    best_of_n_curve,
    best_of_n_exact_kl,
    best_of_n_kl,
    best_of_n_law,
    best_of_n_weights,
    kl_upper_bound,
)

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


# Enumerable examples: 100 and 10,000 equally likely outputs, 1,000 with Zipf probabilities; rewards all different.
UNIFORM, LARGE = np.full(100, 0.01), np.full(10_000, 1e-4)
ZIPF = 1 / np.arange(1, 1001)
ZIPF = ZIPF / ZIPF.sum()


def estimated(p: np.ndarray, rewards: np.ndarray, n: int) -> float:
    """The estimator's expectation: averaged over the exact law of what is selected."""
    return float(best_of_n_law(p, rewards, n) @ best_of_n_kl(np.log(p), n))


@pytest.mark.parametrize(
    ("p", "n", "exact", "estimate", "bound"),
    [
        (UNIFORM, 256, 4.31, 4.33, 4.55),
        (UNIFORM, 1024, 4.61, 4.61, 5.93),
        (LARGE, 16, 1.835, 1.835, 1.835),
        (LARGE, 256, 4.549, 4.549, 4.549),
        (LARGE, 1024, 5.932, 5.932, 5.932),
    ],
)
def test_exact_kl_estimator_and_bound_match_the_reference_numbers(p, n, exact, estimate, bound):
    rewards = np.random.default_rng(0).permutation(len(p)).astype(float)
    assert best_of_n_exact_kl(p, rewards, n) == pytest.approx(exact, rel=0.01)
    assert estimated(p, rewards, n) == pytest.approx(estimate, rel=0.01)
    assert kl_upper_bound(n) == pytest.approx(bound, rel=0.01)
    assert best_of_n_exact_kl(p, rewards, n) <= kl_upper_bound(n) + 1e-9


def test_with_unequal_probabilities_kl_depends_on_which_output_is_best():
    ranks = [np.random.default_rng(s).permutation(1000).astype(float) for s in range(101)]
    exact = np.array([best_of_n_exact_kl(ZIPF, r, 1024) for r in ranks])
    assert np.median(exact) == pytest.approx(5.84, rel=0.01)  # the reference, for one ranking drawn at random
    assert exact.max() < kl_upper_bound(1024) < 5.94
    assert exact.min() < 4.5  # the likeliest output is best: little to gain by selection
    assert np.array([estimated(ZIPF, r, 1024) for r in ranks]) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_exact_law_is_what_simulation_shows(n: int):
    random = np.random.default_rng(1)
    p, rewards = np.array([0.5, 0.2, 0.2, 0.1]), np.array([1.0, 3.0, 3.0, 2.0])
    law = best_of_n_law(p, rewards, n)
    assert law.sum() == pytest.approx(1)
    draws = random.choice(4, p=p, size=(40_000, n))
    best = rewards[draws].max(axis=1)[:, None]
    first = np.argmax(rewards[draws] == best, axis=1)
    seen = np.bincount(draws[np.arange(len(draws)), first], minlength=4) / len(draws)
    assert law == pytest.approx(seen, abs=0.012)
    assert law[1] == pytest.approx(law[2])


def test_an_impossible_distribution_is_refused():
    with pytest.raises(DataError, match="sum to 1"):
        best_of_n_law(np.array([0.5, 0.4]), np.array([1.0, 2.0]), 2)
    with pytest.raises(DataError, match="finite"):
        best_of_n_law(np.array([0.5, 0.5]), np.array([1.0, np.nan]), 2)
    with pytest.raises(DataError, match="one of each"):
        best_of_n_law(np.array([1.0]), np.array([1.0, 2.0]), 2)


def test_nan_rewards_are_refused_before_any_curve():
    broken = PROXY.copy()
    broken[2, 3] = np.nan
    with pytest.raises(DataError, match=r"proxy scores: nan at position \(2, 3\)"):
        best_of_n_curve(broken, GOLD, PROMPTS, [2], seed=0)
    with pytest.raises(DataError, match="gold scores"):
        best_of_n_curve(PROXY, broken, PROMPTS, [2], seed=0)
