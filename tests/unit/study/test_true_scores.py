"""The draws of true scores: exact where there is no noise, right where there is much, never silent."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from farm.errors import DataError
from farm.study.correlation import associate, from_errors, from_scores, spearman
from farm.study.over_methods import mean_interval, methods_for_width, pearson_interval, rank_interval
from farm.study.true_scores import true_gaps, true_scores

NAMES = ("simulated", "human")


def measured(values, errors, seed=0):
    names = [f"m{k}" for k in range(len(values[0]))]
    return from_errors(names, np.array(values), None if errors is None else np.array(errors), names=NAMES, seed=seed)


def test_without_error_the_true_scores_are_the_measured_ones():
    values = np.array([[0.1, 0.3, 0.5, 0.6], [0.2, 0.1, 0.6, 0.7]])
    draws = true_scores(values, np.zeros((200, 2, 4)), seed=0)
    assert draws == pytest.approx(np.broadcast_to(values, draws.shape), abs=1e-9)
    assert true_gaps(values[0] - values[1], np.zeros((200, 4)), seed=0) == pytest.approx(
        np.broadcast_to(values[0] - values[1], (200, 4)), abs=1e-9
    )


def test_shrinkage_is_that_of_the_normal_model():
    """Equal noise, many methods: a true score is S (S + V)^-1 times the measured deviation on average."""
    r = np.random.default_rng(0)
    covariance = np.array([[4.0, 3], [3, 4]])
    true = r.multivariate_normal([0, 0], covariance, size=300).T
    values = true + r.normal(size=true.shape) * 1.5 - 200  # below 0: no logits
    m = measured(values, np.full(values.shape, 1.5))
    middle = true_scores(m.values, m.errors, seed=0).mean(axis=0)
    centred = values - values.mean(axis=1, keepdims=True)
    expected = covariance @ np.linalg.inv(covariance + 2.25 * np.eye(2)) @ centred
    assert np.corrcoef(middle.ravel(), expected.ravel())[0, 1] > 0.99
    assert middle - middle.mean(axis=1, keepdims=True) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_noise_is_taken_off_the_correlation(shift):
    """Measured scores correlate 0.5 because of noise alone; their true ones correlate 0.9."""
    r = np.random.default_rng(1)
    rho, noise, methods = 0.9, 0.1, 60
    true = 0.5 + 0.11 * np.array(r.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=methods)).T + shift
    values = true + noise * r.normal(size=true.shape)
    a = associate(measured(values, np.full(values.shape, noise)), seed=0)
    assert a.these.pearson.value < 0.6
    assert a.these.pearson.ci95_low < np.corrcoef(true)[0, 1] < a.these.pearson.ci95_high
    assert a.without_noise["pearson"] > a.these.pearson.value + 0.1
    assert "measurement error" in a.these.about


def test_methods_that_differ_by_no_more_than_noise_say_nothing():
    a = associate(measured([[0.50, 0.501, 0.502, 0.503]] * 2, np.full((2, 4), 0.2)), seed=0)
    assert (a.these.spearman.ci95_low, a.these.spearman.ci95_high) == pytest.approx((-1, 1), abs=0.01)


def test_same_input_same_interval_and_unit_does_not_matter():
    values, errors = [[40.0, 50, 60, 45, 30], [42.0, 47, 66, 40, 35]], np.full((2, 5), 2.0)
    one, two = (associate(measured(values, errors), seed=3) for _ in range(2))
    assert one == two
    shares = associate(measured(np.array(values) / 100, errors / 100), seed=3)
    assert shares.these.spearman == one.these.spearman
    assert shares.these.mean_absolute_error.ci95_high == pytest.approx(one.these.mean_absolute_error.ci95_high / 100)


def test_scores_per_instruction_share_their_noise():
    """A difficulty common to all methods does not blur their ranking."""
    r = np.random.default_rng(2)
    hard = r.normal(0, 1, 300)
    levels = (0.0, 0.1, 0.2, 0.3, 0.4)
    side = {f"m{k}": {f"i{i}": v + hard[i] + r.normal(0, 0.3) for i in range(300)} for k, v in enumerate(levels)}
    m = from_scores(side, side, names=NAMES, seed=0)
    assert m.errors.std(axis=0).max() > 0.05
    assert associate(m, seed=0).these.spearman.ci95_low > 0.85


def test_one_instruction_for_a_method_gives_no_interval():
    side = {f"m{k}": {f"i{i}": k / 4 + i / 50 for i in range(5)} for k in range(4)}
    a = associate(from_scores(side, side | {"m2": {"i0": 0.5}}, names=NAMES, seed=0), seed=0)
    assert a.these.spearman.ci95_low is None
    assert "m2" in a.source


@pytest.mark.parametrize(
    ("values", "errors", "match"),
    [
        ([[1.0, np.nan, 2.0]] * 2, None, "finite"),
        ([[1.0, 2.0, 3.0]] * 2, [[0.1, -0.1, 0.1]] * 2, "not negative"),
    ],
)
def test_bad_numbers_are_refused(values, errors, match):
    with pytest.raises(DataError, match=match):
        measured(values, errors)


def test_duplicate_methods_are_refused():
    with pytest.raises(DataError, match="'a' is given twice"):
        from_errors(["a", "b", "a"], np.zeros((2, 3)), None, names=NAMES, seed=0)


def test_constant_side_is_not_estimable():
    a = associate(measured([[0.5, 0.5, 0.5], [0.1, 0.2, 0.3]], np.full((2, 3), 0.01)), seed=0)
    assert a.these.pearson.value is None
    assert a.these.pearson.note == "not estimable: all methods have the same simulated score"


# -- methods like these -----------------------------------------------------------------------------------------------


def test_pearson_interval_is_fishers():
    for n in (25, 100):
        low, high = pearson_interval(0.6, n, 0)
        half = 1.959964 / np.sqrt(n - 3)
        assert low == pytest.approx(np.tanh(np.arctanh(0.6) - half), abs=0.03)
        assert high == pytest.approx(np.tanh(np.arctanh(0.6) + half), abs=0.02)


@pytest.mark.parametrize("statistic", ["spearman", "kendall"])
def test_simulated_and_classical_rank_intervals_meet(statistic):
    simulated, classical = rank_interval(statistic, 0.6, 20, 0), rank_interval(statistic, 0.6, 21, 0)
    assert simulated == pytest.approx(classical, abs=0.07)


def test_a_perfect_ranking_of_few_methods_proves_little():
    low, high = rank_interval("spearman", 1.0, 4, 0)
    assert high == 1
    assert -0.1 < low < 0.2  # P(perfect order of 4 by chance) = 1/24, half of it counted
    assert rank_interval("spearman", 1.0, 10, 0)[0] > 0.7
    assert rank_interval("kendall", -1.0, 6, 0)[0] == -1


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_rank_interval_covers(rho):
    """600 samples of 8 methods: between 92 and 98% (three standard errors) hold the population's Spearman."""
    r = np.random.default_rng(5)
    x = r.normal(size=(600, 8))
    y = rho * x + np.sqrt(1 - rho**2) * r.normal(size=x.shape)
    true = 6 / np.pi * np.arcsin(rho / 2)
    bounds = [rank_interval("spearman", round(float(v), 12), 8, 0) for v in spearman(x, y)]
    assert 0.92 <= np.mean([low <= true <= high for low, high in bounds]) <= 0.98


def test_mean_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 3.0])
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


def test_more_methods_narrow_the_interval():
    few, many = methods_for_width(0.9, 0.4, seed=0), methods_for_width(0.9, 0.1, seed=0)
    assert few < many
    low, high = rank_interval("spearman", 0.9, many, 0)
    assert high - low <= 0.1
    assert methods_for_width(0.0, 0.001, seed=0) is None
