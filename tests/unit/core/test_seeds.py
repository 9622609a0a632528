"""Keyed randomness: fixed on every machine, uniform, independent of neighbours."""

from __future__ import annotations

import numpy as np

from farm import seeds


def test_draws_are_the_same_everywhere():
    # Written down once: a change here changes every number of every study.
    assert seeds.digest("a", "b") == "235870420603e322"
    assert seeds.key(0, "order", "p1") == seeds.key(0, "order", "p1") != seeds.key(1, "order", "p1")


def test_parts_are_not_confused():
    assert seeds.digest("ab", "c") != seeds.digest("a", "bc") != seeds.digest("abc")


def test_uniform_is_uniform():
    draws = np.array([seeds.uniform(0, "test", i) for i in range(20_000)])
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 43.8  # 0.1% quantile of chi-square with 19 degrees of freedom


def test_generators_have_their_own_streams():
    first, again, other = (seeds.rng(0, "x", i).random(4).tolist() for i in (1, 1, 2))
    assert first == again != other
