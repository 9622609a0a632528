"""Choosing pairs: exact probabilities, a spread sample, and estimates that are right on average."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import study

from farm.errors import DataError
from farm.label import select
from farm.label.select import Unit
from farm.records import Estimate
from farm.seeds import rng
from farm.study import survey

CHANCES = st.lists(st.floats(0.05, 0.95), min_size=2, max_size=60)


@given(CHANCES, st.data())
def test_probabilities_sum_to_the_count_and_rise_with_doubt(chances, data):
    chance = np.array(chances)
    count = data.draw(st.integers(1, len(chance)))
    q = select.probabilities(chance, count)
    assert q.sum() == pytest.approx(count)
    assert ((q > 0) & (q <= 1)).all()
    order = np.argsort(np.abs(chance - 0.5))
    assert (np.diff(q[order]) <= 1e-9).all()


@given(CHANCES, st.data(), st.floats(0, 0.999))
def test_a_systematic_sample_has_the_count_and_no_pair_twice(chances, data, start):
    count = data.draw(st.integers(1, len(chances)))
    taken = select.systematic(select.probabilities(np.array(chances), count), start)
    assert len(taken) == len(set(taken)) == count
    assert all(0 <= k < len(chances) for k in taken)


def test_rounding_draws_nothing_twice():
    chances = np.array([0.5, 0.5, 0.5, 0.5, 0.875, 0.25, 0.25, 0.25, 0.125])
    assert select.systematic(select.probabilities(chances, 8), 0.0) == sorted(
        set(select.systematic(select.probabilities(chances, 8), 0.0))
    )


def test_every_pair_is_drawn_as_often_as_its_probability_says():
    q = select.probabilities(np.array([0.5, 0.1, 0.9, 0.5, 0.3]), 2)
    starts = (np.arange(20_000) + 0.5) / 20_000
    hits = np.zeros(5)
    for start in starts:
        hits[select.systematic(q, start)] += 1
    assert hits / len(starts) == pytest.approx(q, abs=2e-4)


def test_units_see_the_policy_against_the_reference_whatever_the_ids():
    found = study(9)
    for u in select.units(found):
        pair = next(p for p in found.pairs if p.id == u.pair_id)
        mine = next(r for i in (pair.a, pair.b) if (r := found.responses[i]).policy == u.policy)
        (said,) = [j for j in found.judgements if j.pair_id == u.pair_id]
        assert u.reference == "reference"
        assert (u.wins, u.verdicts) == (said.winner_id == mine.id, 1)
        assert u.chance == pytest.approx((2 + u.wins) / 5)
        assert (u.longer > 0) == (len(mine.text) > len("Thing 1 is blue and far away."))


def test_choices_are_repeatable_and_weighted_only_where_needed():
    found = study(40)
    assert select.random(found, 10, 3) == select.random(replace(found, pairs=found.pairs[::-1]), 10, 3)
    assert {q for _, q in select.random(found, 10, 3)} == {None}
    chosen = select.informative(found, 10, 3)
    assert chosen == select.informative(replace(found, pairs=found.pairs[::-1]), 10, 3)
    assert len({p.id for p, _ in chosen}) == 10
    by_policy = [next(iter(found.policies(p) - {"reference"})) for p, _ in chosen]
    assert abs(by_policy.count(by_policy[0]) - 5) <= 1


def test_without_verdicts_or_a_reference_there_is_nothing_to_choose_by():
    with pytest.raises(DataError, match="simulated verdicts"):
        select.informative(study(4, judged=False), 2, 0)
    found = study(4)
    alike = {i: r.model_copy(update={"policy": "same"}) for i, r in found.responses.items()}
    with pytest.raises(DataError, match="one reference"):
        select.informative(replace(found, responses=alike), 2, 0)


# -- estimates --------------------------------------------------------------------------------------------------------


def frame(n: int = 400, useful: bool = True) -> tuple[list[Unit], np.ndarray]:
    """Units of two policies and the true chance of every one; ``useful``: the simulator knows it."""
    draw = rng(0, "frame", useful)
    truth = np.clip(draw.normal(0.45, 0.28, n), 0.02, 0.98)
    seen = np.clip(truth + draw.normal(0, 0.05, n), 0.05, 0.95) if useful else draw.uniform(0.05, 0.95, n)
    units = [Unit(f"p{k}", f"policy-{k % 2}", "reference", float(1000 * seen[k]), 1000, 0.0) for k in range(n)]
    return units, truth


def sampled(units, truth, count, repetition, clever):
    draw = rng(1, "repetition", repetition)
    if clever:
        order = sorted(range(len(units)), key=lambda k: (units[k].policy, units[k].chance))
        q = select.probabilities(np.array([units[k].chance for k in order]), count)
        taken = select.systematic(q, draw.random())
        drawn = {units[order[k]].pair_id: float(q[k]) for k in taken}
        picks = [order[k] for k in taken]
    else:
        picks, drawn = [int(k) for k in draw.choice(len(units), count, replace=False)], {}
    return {units[k].pair_id: float(draw.random() < truth[k]) for k in picks}, drawn


@pytest.mark.parametrize("useful", [True, False])
def test_estimates_are_right_on_average_and_intervals_cover(useful):
    units, truth = frame(useful=useful)
    true = [truth[k::2].mean() for k in range(2)]
    values, inside = [], []
    for repetition in range(250):
        rates = survey.win_rates(units, *sampled(units, truth, 80, repetition, clever=True))
        for row, rate in enumerate(rates):
            for e in (rate.people, rate.helped):
                inside.append(e.ci95_low <= true[row] <= e.ci95_high)
            values.append((rate.people.value - true[row], rate.helped.value - true[row]))
    errors = np.array(values)
    assert np.abs(errors.mean(axis=0)).max() < 4 * errors.std(axis=0).max() / np.sqrt(len(errors))
    assert np.mean(inside) > 0.92


def test_choosing_beats_chance_where_the_simulator_knows_something():
    units, truth = frame()
    true = np.array([truth[k::2].mean() for k in range(2)])
    errors = {}
    for clever in (True, False):
        rows = [survey.win_rates(units, *sampled(units, truth, 80, r, clever)) for r in range(250)]
        values = [[(r.helped if clever else r.people).value for r in row] for row in rows]
        errors[clever] = np.square(np.array(values) - true).mean()
    assert errors[False] / errors[True] > 1.2


def test_too_few_labels_are_not_estimated():
    units, truth = frame(20)
    labelled, drawn = sampled(units, truth, 4, 0, clever=False)
    for rate in survey.win_rates(units, labelled, drawn):
        assert rate.people.value is None
        assert "fewer than 5" in rate.people.note
        assert rate.simulator.value is not None


def test_all_pairs_labelled_give_the_plain_mean():
    units, truth = frame(60)
    labelled = {u.pair_id: float(t > 0.5) for u, t in zip(units, truth, strict=True)}
    for k, rate in enumerate(survey.win_rates(units, labelled, {})):
        mean = np.mean([labelled[u.pair_id] for u in units[k::2]])
        assert rate.people.value == pytest.approx(mean)
        assert rate.helped.value == pytest.approx(mean)
        assert isinstance(rate.simulator, Estimate)
