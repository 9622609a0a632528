"""Intervals over training seeds and instructions have the width that they need, and hardly more."""

from __future__ import annotations

import numpy as np
import pytest

from farm.evaluate import intervals
from farm.study.resample import BySeed, bootstrap

N = 64


def simulated(seeds: int, spread: tuple[float, float, float], times: int = 250) -> tuple[float, float]:
    """Coverage of zero and mean half width over the ideal 1.96 standard errors; ``spread`` = standard deviations of
    seeds, of instructions, and of what is peculiar to a seed on an instruction."""
    random = np.random.default_rng(11)
    by_seed, by_instruction, own = spread
    hits, half = 0, 0.0
    for k in range(times):
        x = random.normal(0, by_seed, (seeds, 1)) + random.normal(0, by_instruction, (1, N))
        e = intervals.two_way(x + random.normal(0, own, (seeds, N)), seed=k % 3, resamples=400)
        hits += e.ci95_low <= 0 <= e.ci95_high
        half += (e.ci95_high - e.ci95_low) / 2 / times
    ideal = 1.96 * np.sqrt(by_seed**2 / seeds + by_instruction**2 / N + own**2 / N / seeds)
    return hits / times, half / ideal


@pytest.mark.parametrize("seeds", [8, 16])
def test_what_is_peculiar_to_one_seed_on_one_instruction_is_not_counted_three_times(seeds):
    covered, wide = simulated(seeds, (0.0, 0.0, 1.0))
    assert covered >= 0.93
    assert wide < 1.4  # a plain bootstrap of both: 1.7


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.84), (3, 0.88), (5, 0.91), (16, 0.91)])
@pytest.mark.parametrize(
    "spread", [(0.0, 0.0, 1.0), (0.12, 0.3, 1.0), (0.25, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.3)]
)
def test_intervals_cover_whatever_the_noise_comes_from(seeds, least, spread):
    assert simulated(seeds, spread)[0] >= least


def test_a_difference_is_calibrated_as_a_difference():
    """Two curves that differ by little, each with much noise in common: their difference needs its own degrees of
    freedom, not theirs."""
    random = np.random.default_rng(12)
    ids = [[f"i{k:02d}" for k in range(N)]] * 5
    shared = random.normal(0, 2, (5, 1)) + random.normal(0, 1, (5, N))
    one = shared + random.normal(0, 0.1, (5, N))

    def drawn(values: np.ndarray) -> BySeed:
        return bootstrap([row[None] for row in values], ids, lambda k, means: means, seed=0)

    moved = drawn(one + 0.5).minus(drawn(shared)).together().estimate(0)
    direct = intervals.two_way(one + 0.5 - shared, seed=0)
    assert (moved.value, moved.ci95_low, moved.ci95_high) == pytest.approx(
        (direct.value, direct.ci95_low, direct.ci95_high), abs=1e-4
    )
    assert moved.ci95_low > 0.4
