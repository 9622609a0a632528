"""Intervals hold the truth about as often as they say: a few studies here, 500 in ``tests/slow/test_many_studies.py``.

Everything is seeded, so that these numbers are the same on every machine; the bounds leave room for chance (four
standard errors) for the day when a seed changes.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from farm.world.features import features
from farm.world.instructions import evaluation
from farm.world.raters import humans
from farm.world.writers import REFERENCE_SKILL, write

PATH = Path(__file__).parents[3] / "benchmarks" / "coverage.py"
SPEC = importlib.util.spec_from_file_location("farm_coverage_benchmark", PATH)
coverage = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = coverage
SPEC.loader.exec_module(coverage)

STUDIES = 60
ROOM = 4 * math.sqrt(0.95 * 0.05 / STUDIES)


@pytest.fixture(scope="module")
def world():
    return coverage.world(40)


def test_the_truth_is_the_raters_own_formula(world):
    rows = evaluation()[:: 805 // 40][:40]
    i, person = rows[3], humans()[5]
    mine = features(i.full_text, write(i, 0.25, 0, "writer 0.25"))
    other = features(i.full_text, write(i, REFERENCE_SKILL, 0, "reference"))
    expected = (person.prefers_first(mine, other) + 1 - person.prefers_first(other, mine)) / 2
    assert world.people[3, 3, 5] == pytest.approx(expected)


def test_votes_have_the_mean_they_should(world):
    r = np.random.default_rng(0)
    mix = coverage.mixtures(r, 3, len(world.people))
    votes = coverage.vote(r, world.people, mix, r.integers(0, 40, 4000), 2)
    assert votes.mean(axis=1) == pytest.approx(coverage.truth(world.people, mix), abs=0.03)


def test_win_rate(world):
    row = coverage.win_rates(STUDIES, 80, 0, world, side="people", votes=2)
    assert row.coverage >= 0.95 - ROOM


def test_agreement(world):
    assert coverage.agreements(STUDIES, 80, 0, world).coverage >= 0.95 - ROOM


def test_rank_correlation_of_these_methods_and_why_the_naive_bootstrap_is_not_used(world):
    rows = {(r.quantity, r.interval): r for r in coverage.correlations(STUDIES, 10, 60, 0, world)}
    naive = rows.pop(("spearman", "naive bootstrap (for comparison)"))
    assert min(r.coverage for r in rows.values()) >= 0.95 - ROOM
    assert naive.coverage < 0.85


def test_rank_correlation_of_methods_like_these(world):
    rows = coverage.over_methods(STUDIES, 6, 0, world)
    assert min(r.coverage for r in rows if r.interval == "methods like these") >= 0.95 - ROOM


def test_prediction_powered_is_valid_and_narrower(world):
    rows = {r.interval: r for r in coverage.powered(STUDIES, 40, 200, 0, world)}
    assert min(r.coverage for r in rows.values()) >= 0.95 - ROOM
    assert rows["prediction-powered"].width < 0.95 * rows["human labels alone"].width
    blind = {r.interval: r for r in coverage.powered(STUDIES, 40, 200, 0, world, informative=False)}
    assert blind["prediction-powered"].coverage >= 0.95 - ROOM
    assert blind["prediction-powered"].width < 1.06 * blind["human labels alone"].width
