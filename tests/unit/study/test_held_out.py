"""Held-out comparisons: each measure against a calculation of its own on the same votes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from crowds import crowd

from farm.study import populations
from farm.study.ballots import left_out
from farm.study.calibration import Calibration, evidence_of, fit, sigmoid
from farm.study.calibration_data import Data, assemble, halves
from farm.study.held_out import HeldOut, compare


@cache
def study() -> tuple[Data, Calibration, HeldOut]:
    judges, people = crowd(160, 5)
    data = assemble(judges.judgements, people.judgements, judges.responses)
    one, other = halves(data, 0)
    fitted = fit(data.on(one))
    return data.on(other), fitted, compare(data.on(other), fitted, seed=0)


def predictions() -> tuple[np.ndarray, np.ndarray]:
    data, fitted, _ = study()
    weights = np.array(
        [[getattr(fitted.annotators[n], k) for k in ("verdict", "confidence", "position", "length", "lists")]
         for n in data.names]
    )  # fmt: skip
    evidence = evidence_of(data, weights, fitted.pool.dependence, fitted.pool.fading)
    ours = sigmoid(evidence[data.vote_item] + fitted.common.first * data.vote_order)
    share = np.array([data.verdict[data.item == k].mean() for k in range(len(data.pairs))])
    return ours, (0.5 + 0.25 * share)[data.vote_item]


def test_log_loss_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    data, _, held = study()
    got = held.score("log loss, all acts")
    ours, uniform = predictions()
    assert got.calibrated.value == pytest.approx(metrics.log_loss(data.vote, ours))
    assert got.uniform.value == pytest.approx(metrics.log_loss(data.vote, uniform))
    assert got.gain.value == pytest.approx(got.uniform.value - got.calibrated.value)


def test_one_act_averages_over_acts_with_every_vote_counted_once():
    data, _, held = study()
    total = 0.0
    for item, vote in zip(data.vote_item, data.vote, strict=True):
        verdicts = data.verdict[data.item == item]
        p = 0.5 + 0.25 * verdicts
        total += -np.log(p if vote == 1 else 1 - p).mean()
    assert held.score("log loss, one act").uniform.value == pytest.approx(total / len(data.vote))


def test_calibration_error_by_its_definition():
    data, _, held = study()
    p, _ = predictions()
    favoured = np.maximum(p, 1 - p)
    came = np.where(p >= 0.5, data.vote, 1 - data.vote)
    edges = np.unique(np.quantile(favoured, np.arange(1, 10) / 10))
    where = np.array([sum(x > e for e in edges) for x in favoured])
    error = sum(abs((favoured - came)[where == k].sum()) for k in set(where)) / len(p)
    assert held.score("calibration error").calibrated.value == pytest.approx(error)
    assert sum(b.n for b in held.reliability_calibrated) == len(p)
    for b in held.reliability_calibrated:
        assert 0.5 <= b.predicted <= 1


def test_people_as_they_are():
    data, _, held = study()
    side = np.where(data.vote == 1, 1, -1)
    longer = np.sign(data.length[data.vote_item])
    some = longer != 0
    assert held.score("prefers longer").people.value == pytest.approx((side[some] == longer[some]).mean())
    assert held.score("prefers first").people.value == pytest.approx((side == data.vote_order).mean())
    counts = populations.counts_of(data, side)
    less, _ = left_out(counts, "half")
    right = 0.5 + 0.5 * side * (less[side + 1, data.vote_item] @ np.array([-1, 0, 1]))
    assert held.score("variance").people.value == pytest.approx(1 - right.mean())
    assert held.score("agreement with the majority of others").people.value == pytest.approx(right.mean())


def test_uniform_flips_make_the_populations_they_should():
    """Where all annotators say the same, a quarter of the uniform labels is against them, independently."""
    data, fitted, _ = study()
    agreed = replace(data, verdict=np.ones_like(data.verdict))
    seats = populations.simulate(agreed, np.zeros(len(data.pairs)), fitted, seed=0)
    assert (seats.uniform == 1).mean() == pytest.approx(0.75, abs=0.01)
    minority = populations.averaged(seats.uniform, lambda x: populations.cells(data, x))
    used = np.unique(data.vote_item)
    expected = [0.75**4 + 0.25**4, 4 * (0.75**3 * 0.25 + 0.75 * 0.25**3), 6 * 0.75**2 * 0.25**2]
    assert minority[used].mean(axis=0) == pytest.approx(expected, abs=0.015)


def test_calibrated_labels_have_their_chances():
    data, fitted, _ = study()
    still = {n: a.model_copy(update={"first": 0.0, "longer": 0.0}) for n, a in fitted.annotators.items()}
    flat = fitted.model_copy(update={"annotators": still})
    for odds in (-1.0, 0.5):
        seats = populations.simulate(data, np.full(len(data.pairs), odds), flat, seed=0)
        assert (seats.calibrated == 1).mean() == pytest.approx(1 / (1 + np.exp(-odds)), abs=0.01)


def test_vote_splits_add_up_and_their_distance_is_total_variation():
    data, _, held = study()
    pairs = len(np.unique(data.vote_item))
    for column in ("people", "calibrated", "uniform"):
        assert sum(getattr(s, column) for s in held.splits) == pytest.approx(pairs, abs=0.01)
    for column in ("calibrated", "uniform"):
        distance = sum(abs(s.people - getattr(s, column)) for s in held.splits) / 2 / pairs
        assert getattr(held.score("distance of vote splits"), column).value == pytest.approx(distance, abs=1e-3)


def test_contested_pairs_is_a_pearson_correlation():
    data, _, held = study()
    p, _ = predictions()
    items = np.unique(data.vote_item)
    predicted = [2 * p[data.vote_item == k].mean() * (1 - p[data.vote_item == k].mean()) for k in items]
    observed = []
    for k in items:
        a = data.vote[data.vote_item == k].sum()
        n = (data.vote_item == k).sum()
        observed.append(2 * a * (n - a) / (n * (n - 1)))
    expected = np.corrcoef(predicted, observed)[0, 1]
    assert held.score("finds the contested pairs").calibrated.value == pytest.approx(expected)


def test_same_input_same_numbers():
    data, fitted, held = study()
    assert compare(data, fitted, seed=0) == held
    assert compare(data, fitted, seed=1) != held


def test_tied_votes_count_half_and_leave_the_splits():
    data, fitted, _ = study()
    some = data.vote.copy()
    some[::5] = 0.5
    got = compare(replace(data, vote=some), fitted, seed=0)
    ours, _ = predictions()
    expected = -(some * np.log(ours) + (1 - some) * np.log(1 - ours)).mean()
    assert got.score("log loss, all acts").calibrated.value == pytest.approx(expected)
    assert got.score("prefers first").gain.n == int((some != 0.5).sum())
