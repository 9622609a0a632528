from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from farm.study.correlation import from_errors
from farm.study.ranking import expected_right, leave_one_out, pair_rankings
from farm.study.validity import unit_of, validity
from farm.study.widths import _crossing

METHODS = ["a", "b", "c", "d", "e"]
VALUES = np.array([[60.0, 50, 40, 30, 20], [55.0, 58, 33, 20, 25]])
ERRORS = np.array([[1.0, 2, 1, 1, 1], [3.0, 4, 1, 1, 2]])


def made(errors=ERRORS, values=VALUES):
    return from_errors(METHODS, values, errors, names=("simulated", "human"), seed=0)


def test_leave_one_out_equals_leaving_it_out():
    rows = {r.method: r for r in leave_one_out(made())}
    for k, m in enumerate(METHODS):
        kept = [j for j in range(5) if j != k]
        expected = spearmanr(VALUES[0, kept], VALUES[1, kept]).statistic
        assert rows[m].without["spearman"] == pytest.approx(expected)
        assert rows[m].change["spearman"] == pytest.approx(expected - spearmanr(*VALUES).statistic)
    influence = [abs(r.change["spearman"]) for r in leave_one_out(made())]
    assert influence == sorted(influence, reverse=True)


def test_chance_of_a_pair_by_hand():
    rows = {(r.above, r.below): r for r in pair_rankings(made())}
    assert len(rows) == 10
    a_b = rows["a", "b"]
    assert (a_b.first_gap, a_b.second_gap) == (10, -3)
    assert a_b.first_sure == pytest.approx(norm.cdf(10 / np.sqrt(5)), abs=0.02)
    assert a_b.second_agrees == pytest.approx(norm.cdf(-3 / 5), abs=0.02)
    assert pair_rankings(made())[0] == rows["d", "e"]  # the least certain comes first
    assert expected_right(list(rows.values())) == pytest.approx(np.mean([r.second_agrees for r in rows.values()]))


def test_pairs_without_errors_or_without_an_order_are_unknown():
    assert expected_right(pair_rankings(made(None))) is None
    tied = VALUES.copy()
    tied[0, 1] = 60
    row = next(r for r in pair_rankings(made(values=tied)) if {r.above, r.below} == {"a", "b"})
    assert row.first_sure is row.second_agrees is None


def test_exact_scores_decide():
    assert {r.second_agrees for r in pair_rankings(made(np.zeros((2, 5))))} == {0.0, 1.0}


def test_units():
    assert unit_of([[0.1, 1.0], [0.5, 0.2]]) == ("share", "")
    assert unit_of([[0.1, 45.0], [50.0, 2.0]]) == ("percent", "")
    assert unit_of([[1100.0], [900.0]]) == ("points", "")
    assert "different units" in unit_of([[0.1], [1100.0]])[1]


def test_more_labels_narrow_and_the_plan_says_how_many():
    result = validity(made(4 * ERRORS), {"all": METHODS}, target=0.2, labels=100, seed=0)
    widths = [w for _, _, w in result.plan.expected]
    assert widths[0] > widths[4] > widths[-1]
    human, both = result.plan.human_factor, result.plan.both_factor
    assert both is not None
    assert human is None or human >= both
    assert result.plan.methods > 5
    wide = validity(made(), {"all": METHODS}, target=1.9, seed=0)
    assert wide.plan.human_factor == 1.0


def test_crossing_interpolates_on_the_logarithm():
    assert _crossing([(1, 0.4), (2, 0.3), (4, 0.1)], 0.2) == pytest.approx(2 * 2**0.5)
    assert _crossing([(1, 0.1)], 0.2) == 1
    assert _crossing([(1, 0.4), (2, 0.3)], 0.2) is None


def test_a_subset_comes_first_and_the_rest_beside_it():
    result = validity(made(), {"some": ["a", "b"], "all": METHODS}, target=0.1, seed=0)
    first, second = result.associations
    assert first.these.spearman.value is None
    assert "2 methods" in first.these.spearman.note
    assert second.these.spearman.value is not None
    assert [s.method for s in result.scores] == ["a", "b"]
