"""500 simulated studies with known truth: intervals for win rate, agreement and rank correlation cover 95% +- 2.

The bound is widened by two standard errors of the simulation itself (1 point each).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from farm.study.correlation import associate, from_errors, spearman

pytestmark = pytest.mark.slow

PATH = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
SPEC = importlib.util.spec_from_file_location("farm_coverage_benchmark_slow", PATH)
coverage = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = coverage
SPEC.loader.exec_module(coverage)

STUDIES, TOLERANCE = 500, 0.02


@pytest.fixture(scope="module")
def rows():
    return list(coverage.everything(STUDIES, 0, coverage.world(200)))


def off(rows):
    return [coverage.line(r) for r in rows if abs(r.coverage - 0.95) > TOLERANCE + 2 * r.chance]


@pytest.mark.parametrize("quantity", ["win rate", "agreement", "human win rate"])
def test_covers(rows, quantity):
    some = [r for r in rows if r.quantity == quantity]
    assert len(some) >= 2
    assert all(r.studies >= 0.98 * STUDIES for r in some if "planned" not in r.interval)
    assert off(some) == []


@pytest.mark.parametrize("statistic", ["spearman", "kendall", "pearson", "mean_absolute_error"])
def test_correlation_of_these_methods(rows, statistic):
    some = [r for r in rows if r.quantity == statistic and r.interval == "these methods"]
    assert len(some) == 5
    assert off(some) == []


@pytest.mark.parametrize("statistic", ["spearman", "kendall", "pearson"])
def test_correlation_of_methods_like_these_is_never_too_narrow(rows, statistic):
    """With 4 to 6 methods the possible values are few and the population is not normal: more than 97% is allowed."""
    some = [r for r in rows if r.quantity == statistic and r.interval == "methods like these"]
    assert len(some) == 4
    assert min(r.coverage for r in some) >= 0.95 - TOLERANCE - 2 * some[0].chance


def test_the_naive_bootstrap_misses_the_truth(rows):
    """The reason for all this; were it to cover, the simulation would not test anything."""
    naive = [r for r in rows if r.interval == "naive bootstrap (for comparison)"]
    assert min(r.coverage for r in naive) < 0.7


def test_simulated_labels_help_where_they_are_informative(rows):
    setting = "60 human of 300 simulated labels"
    width = {r.interval: r.width for r in rows if r.setting == setting}
    assert width["prediction-powered"] < 0.9 * width["human labels alone"]


def test_boards_of_many_methods_that_saturate():
    """Two judges of 50 methods, one near 0 and one near 1: bent against each other, which logits straighten."""
    r = np.random.default_rng(3)
    held = 0
    for k in range(100):
        level = r.normal(0.3, 1.2, size=50)
        true = 1 / (1 + np.exp(-np.array([level - 2, level - 0.5 + 0.3 * r.normal(size=50)])))
        won = r.binomial(805, true) / 805
        names = [f"m{j}" for j in range(50)]
        measured = from_errors(names, won, np.sqrt(won * (1 - won) / 804), names=("pool", "people"), seed=k)
        found = associate(measured, seed=k).these.spearman
        held += found.ci95_low <= spearman(true[:1], true[1:])[0] <= found.ci95_high
    assert held >= 88  # 95 less three standard errors
