from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from farm.errors import DataError
from farm.study.prediction_powered import prediction_powered


def labels(n, rho, seed=0, known=None):
    """Human and simulated 0/1 scores on n instructions; humans are known on the first ``known`` of them."""
    r = np.random.default_rng(seed)
    s = r.random(n)
    h = np.where(r.random(n) < rho, s, r.random(n))
    ids = [f"i{i:04d}" for i in range(n)]
    return dict(zip(ids[:known], h[:known], strict=False)), dict(zip(ids, s, strict=True))


def test_equals_ppi_plus_plus_by_hand():
    human, simulated = labels(200, 0.8, known=40)
    h, s = np.array(list(human.values())), np.array(list(simulated.values()))
    weight = np.cov(h, s[:40])[0, 1] / s.var(ddof=1) / (1 + 40 / 160)  # Angelopoulos et al. 2023, example 6.1
    value = h.mean() - weight * (s[:40].mean() - s[40:].mean())
    variance = (h - weight * s[:40]).var(ddof=1) * 39 / 38 / 40 + weight**2 * s[40:].var(ddof=1) / 160
    p = prediction_powered(human, simulated, method="ppo")
    assert (p.method, p.n_human, p.n_simulated) == ("ppo", 40, 200)
    assert p.weight == pytest.approx(weight)
    assert p.estimate.value == pytest.approx(value)
    half = (p.estimate.ci95_high - p.estimate.ci95_low) / 2
    assert stats.t.ppf(0.975, 38) * np.sqrt(variance) == pytest.approx(half, rel=0.03)
    assert p.correlation == pytest.approx(np.corrcoef(h, s[:40])[0, 1])
    assert p.human_only.value == pytest.approx(h.mean())
    alone = stats.t.interval(0.95, 39, loc=h.mean(), scale=stats.sem(h))
    assert (p.human_only.ci95_low, p.human_only.ci95_high) == pytest.approx(alone)


def test_a_good_simulator_narrows_and_a_blind_one_does_no_harm():
    good, blind = (prediction_powered(*labels(500, rho, known=60)) for rho in (0.9, 0.0))
    width = lambda e: e.ci95_high - e.ci95_low  # noqa: E731
    assert width(good.estimate) < 0.65 * width(good.human_only)
    assert good.gain > 2
    assert width(blind.estimate) < 1.1 * width(blind.human_only)


def test_nothing_unlabelled_is_the_human_mean():
    human, simulated = labels(50, 0.9)
    p = prediction_powered(human, simulated)
    assert p.weight == 0
    assert p.estimate == p.human_only


def test_a_wrong_simulator_is_corrected():
    """Simulated scores 0.3 too high everywhere: the estimate does not care."""
    human, simulated = labels(400, 0.95, known=80)
    shifted = {i: v + 0.3 for i, v in simulated.items()}
    one, two = prediction_powered(human, simulated), prediction_powered(human, shifted)
    assert two.estimate.value == pytest.approx(one.estimate.value)
    assert two.simulated_only == pytest.approx(one.simulated_only + 0.3)


def test_strata_are_weighted_by_their_size():
    simulated = {f"i{i}": float(i >= 90) for i in range(100)}
    strata = {i: "top" if v else "rest" for i, v in simulated.items()}
    human = {f"i{i}": float(i % 2) for i in range(10)} | {f"i{i}": 1.0 - (i == 90) for i in range(90, 96)}
    p = prediction_powered(human, simulated, strata=strata)
    assert p.estimate.value == pytest.approx(0.9 * 0.5 + 0.1 * 5 / 6)
    assert prediction_powered(human, simulated).human_only.value == pytest.approx(10 / 16)


def test_not_estimable_and_refused():
    human, simulated = labels(20, 0.5, known=2)
    p = prediction_powered(human, simulated)
    assert p.estimate.value is None
    assert "at least 3" in p.estimate.note
    assert prediction_powered({}, {}).estimate.value is None
    same = prediction_powered(dict.fromkeys(("a", "b", "c"), 1.0), dict.fromkeys("abcdef", 1.0))
    assert same.estimate.note == "no interval: all human labels are equal"
    with pytest.raises(DataError, match="human scores"):
        prediction_powered({"a": float("nan")}, {"a": 1.0})
    assert prediction_powered({"x": 1.0, **human}, simulated).n_unmatched == 1
