"""The reward model's report: every number against its definition on material where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farm.reward.report import BINS, calibration_error, calibration_scale, measured, reliability, share

RANDOM = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def test_accuracy_longer_wins_and_their_difference_leave_ties_out():
    report = measured([1, 2, -1, 3, 0, 5], [1, 0, 0, 1, 1, 0.5], [4, -1, -2, 0, 3, 9], None, seed=0)
    assert report.n_validation == 6
    assert (report.accuracy.value, report.accuracy.n) == (3.5 / 5, 5)  # equal rewards count half
    assert (report.longer_wins.value, report.longer_wins.n) == (4.5 / 5, 5)  # so do equal lengths
    assert report.over_longer is not None
    assert report.over_longer.value == pytest.approx(-1 / 5)
    assert report.over_longer.ci95_low < -1 / 5 < report.over_longer.ci95_high
    chances = sigmoid([1, 2, -1, 3, 0, 5])
    targets = np.array([1, 0, 0, 1, 1, 0.5])
    loss = -np.mean(targets * np.log(chances) + (1 - targets) * np.log(1 - chances))
    assert report.validation_loss == pytest.approx(loss)


def test_gold_orders_pairs_that_it_does_not_tie():
    report = measured([1, 1, -1, 2], [1, 0, 1, 0.5], [0] * 4, [2.0, 1.0, -3.0, 0.0], seed=0)
    assert (report.agrees_with_gold.value, report.agrees_with_gold.n) == (1.0, 3)
    assert (report.labels_agree_with_gold.value, report.labels_agree_with_gold.n) == (pytest.approx(1 / 3), 3)
    assert measured([1], [1], [0], None, seed=0).agrees_with_gold is None


def test_reliability_puts_pairs_into_bins_by_the_stated_chance():
    stated = np.array([0.5, 0.55, 0.551, 0.9, 0.97, 1.0])
    agrees = np.array([1.0, 0, 1, 1, 0, 1])
    rows = reliability(stated, agrees)
    assert [(b.low, b.high, b.right.n) for b in rows] == [
        (0.5, 0.55, 2),
        (0.55, 0.6, 1),
        (0.85, 0.9, 1),
        (0.95, 1.0, 2),
    ]
    assert [b.right.value for b in rows] == [0.5, 1.0, 1.0, 0.5]
    assert rows[0].stated == pytest.approx(0.525)
    error = calibration_error(stated, agrees, seed=0)
    by_hand = (abs(1.05 - 1) + abs(0.551 - 1) + abs(0.9 - 1) + abs(1.97 - 1)) / 6
    assert error.value == pytest.approx(by_hand)
    assert error.ci95_low <= error.value <= error.ci95_high
    assert len(reliability(np.linspace(0.5, 1, 400), np.ones(400))) == BINS


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_scale_of_a_model_that_is_over_or_underconfident_is_found(scale):
    d = RANDOM.normal(size=4000)
    t = (RANDOM.random(4000) < sigmoid(scale * d)).astype(float)
    found = calibration_scale(d, t)
    assert found.ci95_low < scale < found.ci95_high
    assert found.ci95_high - found.ci95_low < 0.4
    report = measured(list(d), list(t), [0.0] * 4000, None, seed=0)
    assert (report.calibration_error.value < 0.03) == (scale == 1.0)


def test_soft_labels_count_with_their_chance():
    d = RANDOM.normal(size=500)
    report = measured(list(d), list(sigmoid(d)), [0.0] * 500, None, seed=0)
    assert report.calibration_scale.value == pytest.approx(1.0, abs=1e-6)
    assert report.calibration_error.value < 1e-9
    assert report.accuracy.value == 1.0


def test_what_cannot_be_estimated_is_none_with_a_reason():
    nothing = measured([], [], [], None, seed=0)
    for e in (nothing.accuracy, nothing.over_longer, nothing.calibration_error, nothing.calibration_scale):
        assert (e.value, bool(e.note)) == (None, True)
    assert (nothing.validation_loss, nothing.calibration) == (None, ())
    assert "no scale" in calibration_scale(np.array([1.0, -2]), np.array([1.0, 0])).note
    assert "wrong" in calibration_scale(np.array([1.0, -2]), np.array([0.0, 1])).note
    assert "equal" in calibration_scale(np.zeros(3), np.array([0.0, 1, 1])).note
    huge = measured([800.0, -900.0], [1, 1], [0, 0], None, seed=0)
    assert huge.validation_loss == pytest.approx(450)
    assert math.isfinite(huge.calibration_error.value)


def test_wilson_interval_contains_the_share():
    e = share([1.0] * 30 + [0.0] * 10)
    assert e.value == 0.75
    assert (round(e.ci95_low or 0, 3), round(e.ci95_high or 0, 3)) == (0.598, 0.858)
    assert share([]).value is None
