from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import DataError
from farm.study.planning import Candidate, allocate, half_width, plan_labels, spread


def test_neyman_by_hand():
    sizes, spreads = {"a": 100, "b": 100, "c": 200}, {"a": 0.5, "b": 0.25, "c": 0.125}
    assert allocate(sizes, spreads, 40) == {"a": 20, "b": 10, "c": 10}
    plan = allocate(sizes, spreads, 40)
    expected = 1.959964 * np.sqrt((0.25 * 0.5) ** 2 / 20 + (0.25 * 0.25) ** 2 / 10 + (0.5 * 0.125) ** 2 / 10)
    assert half_width(sizes, spreads, plan) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 0.5)), min_size=1, max_size=6),
    st.integers(0, 200),
)
def test_allocation_keeps_its_promises(strata, extra):
    sizes = {f"s{k}": n for k, (n, _) in enumerate(strata)}
    spreads = {f"s{k}": v for k, (_, v) in enumerate(strata)}
    budget = sum(min(3, n) for n in sizes.values()) + extra
    plan = allocate(sizes, spreads, budget)
    assert sum(plan.values()) == min(budget, sum(sizes.values()))
    assert all(min(3, sizes[s]) <= n <= sizes[s] for s, n in plan.items())


def test_neyman_is_no_worse_than_even_or_any_neighbour():
    sizes, spreads = {"a": 300, "b": 80, "c": 40}, {"a": 0.2, "b": 0.5, "c": 0.4}
    plan = allocate(sizes, spreads, 60)
    best = half_width(sizes, spreads, plan)
    for one in sizes:
        for other in sizes:
            moved = plan | {one: plan[one] + 1, other: plan[other] - 1} if one != other else plan
            assert half_width(sizes, spreads, moved) >= best * 0.9995


def test_too_small_a_budget_is_refused():
    with pytest.raises(DataError, match="at least 6"):
        allocate({"a": 10, "b": 10}, {"a": 0.5, "b": 0.5}, 5)


def test_spread():
    assert spread(0.5) == 0.5
    assert spread(0.9, accuracy=0.8) == pytest.approx(0.4)
    with pytest.raises(DataError):
        spread(1.2)


def test_plan_labels_prefers_contested_pairs_and_is_stable():
    chances = (0.55, 0.98, 0.45, 0.02)
    candidates = [Candidate(f"p{i}", "clear" if i % 2 else "open", chances[i % 4]) for i in range(200)]
    plan = plan_labels(candidates, 40, seed=1)
    assert plan.allocation["open"] > 2 * plan.allocation["clear"]
    assert len(plan.chosen) == len(set(plan.chosen)) == 40
    assert plan.half_width < plan.half_width_at_random < plan.half_width_alone
    assert plan_labels(candidates[::-1], 40, seed=1) == plan
    assert plan_labels(candidates, 40, seed=2).chosen != plan.chosen
    doubted = plan_labels(candidates, 40, accuracy={"clear": 0.5, "open": 0.95}, seed=1)
    assert doubted.allocation["clear"] > doubted.allocation["open"]
    with pytest.raises(DataError, match="twice"):
        plan_labels([candidates[0], candidates[0]], 2, seed=0)
