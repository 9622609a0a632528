from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from farm.evaluate import length_control as lc
from farm.evaluate.win_rate import Act, Comparison
from farm.records import Outcome


def simulated(n: int, policies: int, effect: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts, length differences and the true controlled win rates of planted policies; later ones write longer."""
    r = np.random.default_rng(seed)
    difficulty, quality = r.normal(0, 1.2, n), np.linspace(-1, 1, policies)
    delta = np.round(r.normal(0, 60, (policies, n)) + np.linspace(-20, 120, policies)[:, None])
    scale = np.sqrt(np.square(delta).mean())
    chance = lc._sigmoid(quality[:, None] + difficulty + effect * np.tanh(delta / scale))
    truth = lc._sigmoid(quality[:, None] + difficulty).mean(axis=1)
    return (r.random((policies, n)) < chance).astype(float), delta, truth


def as_comparisons(y: np.ndarray, delta: np.ndarray) -> list[Comparison]:
    return [
        Comparison(
            f"policy-{p}",
            "ref",
            "pool",
            tuple(Act(f"i{i:04d}", Outcome.DECIDED, y[p, i], int(delta[p, i])) for i in range(y.shape[1])),
        )
        for p in range(len(y))
    ]


def test_recovers_planted_win_rates_that_length_had_inflated():
    y, delta, truth = simulated(1500, 6, effect=1.5)
    result = lc.lc_win_rates(as_comparisons(y, delta), seed=0, resamples=0)
    found = np.array([e.value for e in result.values()])
    assert np.abs(found - truth).max() < 0.05
    assert np.abs(y.mean(axis=1) - truth).max() > 0.12  # the raw rates are off


def test_without_a_length_effect_it_changes_little():
    y, delta, _ = simulated(1500, 4, effect=0.0)
    result = lc.lc_win_rates(as_comparisons(y, delta), seed=0, resamples=0)
    assert [e.value for e in result.values()] == pytest.approx(list(y.mean(axis=1)), abs=0.06)  # 2 SE


def test_equals_a_second_optimiser():
    y, delta, _ = simulated(120, 3, effect=1.0)
    y[0, 5] = np.nan
    model = lc.fit(y, delta)
    t, mask = np.tanh(delta / model.scale), ~np.isnan(y)
    k, full = 3, np.nan_to_num(y)
    ridge = np.r_[np.full(k, lc.INTERCEPT), lc.LENGTH, np.full(k, lc.LENGTH_OF_POLICY)]

    def loss(x: np.ndarray) -> float:
        b, d = x[: 2 * k + 1], x[2 * k + 1 :]
        z = b[:k, None] + (b[k] + b[k + 1 :, None]) * t + d
        return float((mask * (np.logaddexp(0, z) - full * z)).sum() + 0.5 * (ridge @ b**2 + lc.DIFFICULTY * d @ d))

    other = minimize(loss, np.zeros(2 * k + 1 + 120), method="BFGS", options={"gtol": 1e-6})
    assert loss(np.r_[model.beta, model.difficulty]) == pytest.approx(other.fun, abs=1e-6)
    assert model.intercept == pytest.approx(other.x[:k], abs=1e-3)


def test_weights_repeat_instructions():
    y, delta, _ = simulated(60, 3, effect=1.0)
    once = lc.fit(y, delta)
    start = replace(once, difficulty=np.r_[once.difficulty, once.difficulty[:20]])
    twice = lc.fit(np.hstack([y, y[:, :20]]), np.hstack([delta, delta[:, :20]]), start=start)
    weight = np.r_[np.full(20, 2.0), np.ones(40)]
    weighted = lc.fit(y, delta, weight, start=once)
    assert weighted.intercept == pytest.approx(twice.intercept, abs=1e-4)


def test_interval_holds_the_truth_and_is_seeded():
    y, delta, truth = simulated(400, 4, effect=1.2, seed=3)
    first = lc.lc_win_rates(as_comparisons(y, delta), seed=1, resamples=60)
    assert first == lc.lc_win_rates(as_comparisons(y, delta), seed=1, resamples=60)
    inside = [e.ci95_low - 0.02 <= t <= e.ci95_high + 0.02 for e, t in zip(first.values(), truth)]
    assert all(inside)


def test_not_estimable_cases_say_why():
    y, delta, _ = simulated(30, 3, effect=1.0)
    y[0] = 1.0
    rows = as_comparisons(y, delta)
    few = Comparison("few", "ref", "pool", rows[1].acts[:5])
    result = lc.lc_win_rates([*rows, few], seed=0, resamples=0)
    assert result["policy-0", "pool"].value is None
    assert "same verdict" in result["policy-0", "pool"].note
    assert result["few", "pool"].value is None
    assert "at least 10" in result["few", "pool"].note
    assert result["policy-1", "pool"].value is not None
    flat = lc.lc_win_rates(as_comparisons(y[1:], np.zeros_like(delta[1:])), seed=0)
    assert all(e.value is None and "lengths never differ" in e.note for e in flat.values())


def test_rows_may_come_in_any_order():
    y, delta, _ = simulated(50, 3, effect=1.0)
    rows = as_comparisons(y, delta)
    turned = [Comparison(c.policy, c.reference, c.judge, c.acts[::-1]) for c in rows]
    assert lc.lc_win_rates(rows, seed=0, resamples=5) == lc.lc_win_rates(turned, seed=0, resamples=5)
