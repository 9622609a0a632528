"""Bootstrap over instructions and training seeds of any statistic of curves, not only of means.

A statistic is computed for every seed from its resampled mean curve (:class:`BySeed`) and averaged over the resampled
seeds (:class:`Draws`). All curves on the same instructions share their resamples, so the difference of two
:class:`BySeed` is that of paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from farm.errors import DataError
from farm.evaluate import intervals
from farm.evaluate.intervals import Array
from farm.records import Estimate

Statistic = Callable[[int, Array], Array]
"""``statistic(k, means)``: the k-th seed's mean curves, shape (points, draws), to values of shape (numbers, draws)."""


@dataclass(frozen=True)
class Draws:
    """A statistic on ``n`` instructions and ``seeds`` training seeds: ``value`` [numbers], ``draws`` [numbers, B]."""

    value: Array
    draws: Array
    n: int
    seeds: int

    def estimate(self, k: int) -> Estimate:
        """The k-th number with its percentile interval. Draws that are infinite leave that side of it open."""
        value = float(self.value[k])
        if not np.isfinite(value):
            return Estimate(value=None, n=self.n, note="not estimable")
        ranked = np.sort(self.draws[k])
        low, high = (float(ranked[round(q * (len(ranked) - 1))]) for q in intervals.LEVELS)
        note = f"over instructions and {self.seeds} seeds" if self.seeds > 1 else "over instructions, one seed"
        return Estimate(
            value=value,
            ci95_low=low if np.isfinite(low) else None,
            ci95_high=high if np.isfinite(high) else None,
            n=self.n,
            note=note,
        )

    def at_least(self, floor: float) -> Draws:
        """Draws stretched for few seeds can leave the range of what they are draws of; this takes them back."""
        return Draws(self.value, np.maximum(self.draws, floor), self.n, self.seeds)


@dataclass(frozen=True)
class BySeed:
    """A statistic of every training seed on ``n`` instructions: ``points`` [seeds, numbers] and, over instructions
    alone, ``draws`` [seeds, numbers, B]. ``seed`` keys the resampling of the seeds."""

    points: Array
    draws: Array
    n: int
    seed: int

    def minus(self, other: BySeed) -> BySeed:
        """The difference paired by seed, and by instruction where both have the same instructions. Raises DataError
        when the seeds differ in number."""
        if self.draws.shape != other.draws.shape:
            raise DataError("a paired difference needs the same number of training seeds")
        with np.errstate(invalid="ignore"):
            points, draws = self.points - other.points, self.draws - other.draws
        return BySeed(points, draws, min(self.n, other.n), self.seed)

    def together(self) -> Draws:
        """The mean over seeds, calibrated as in ``intervals.two_way``."""
        value = self.points.mean(axis=0)
        seeds = len(self.points)
        if seeds == 1:
            return Draws(value, self.draws[0], self.n, 1)
        draws = [
            intervals.mean_over_seeds(self.points[:, k], self.draws[:, k], seed=self.seed) for k in range(len(value))
        ]
        return Draws(value, np.array(draws), self.n, seeds)


def bootstrap(values: Sequence[Array], prompts: Sequence[Sequence[str]], statistic: Statistic, *, seed: int) -> BySeed:
    """Resample the instructions of ``values`` (per seed an array (points, instructions)).

    ``prompts`` are the instruction ids of the columns. Raises DataError without instructions, or when a value is not
    finite.
    """
    if not values or any(
        v.ndim != 2 or v.shape[1] != len(p) or not len(p) for v, p in zip(values, prompts, strict=True)
    ):
        raise DataError("a bootstrap over instructions needs one column per instruction, and at least one")
    for v in values:
        intervals.finite(v, "curve values")
    ids = sorted({i for p in prompts for i in p})
    column = {i: k for k, i in enumerate(ids)}
    weights = intervals.weights(len(ids), seed)
    points, draws = [], []
    for k, (v, p) in enumerate(zip(values, prompts, strict=True)):
        w = weights[:, [column[i] for i in p]]
        means = v @ w.T / np.maximum(w.sum(axis=1), 1e-12)
        points.append(statistic(k, v.mean(axis=1)[:, None])[:, 0])
        draws.append(statistic(k, means))
    return BySeed(np.array(points), np.array(draws), len(ids), seed)
