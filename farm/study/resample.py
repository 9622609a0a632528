"""Bootstrap over instructions and training seeds of any statistic of curves, not only of means.

A statistic is computed for every seed from its resampled mean curve and averaged over the resampled seeds, with the
two corrections for few seeds that ``farm.evaluate.intervals.two_way`` makes. All curves on the same instructions share
their resamples, so the difference of two draws is the draw of a paired difference.
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

    def minus(self, other: Draws) -> Draws:
        """The paired difference; both must rest on the same instructions and seeds."""
        if self.draws.shape != other.draws.shape or (self.n, self.seeds) != (other.n, other.seeds):
            raise DataError("a paired difference needs curves on the same instructions and seeds")
        return Draws(self.value - other.value, self.draws - other.draws, self.n, self.seeds)


def bootstrap(values: Sequence[Array], prompts: Sequence[Sequence[str]], statistic: Statistic, *, seed: int) -> Draws:
    """Resample the instructions of ``values`` (per seed an array (points, instructions)) and the seeds themselves.

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
    value, drawn = combine(np.array(points), np.array(draws), seed)
    return Draws(value, drawn, len(ids), len(values))


def combine(points: Array, draws: Array, seed: int) -> tuple[Array, Array]:
    """Means over seeds of ``points`` (seeds, numbers), and draws of them from ``draws`` (seeds, numbers, B).

    The population variance of S resampled seeds is too small by (S - 1)/S, and a percentile interval ignores that a
    variance from S seeds is itself uncertain; both are made good as in ``intervals.two_way``.
    """
    from scipy.stats import norm, t

    seeds = len(points)
    value: Array = points.mean(axis=0)
    if seeds == 1:
        return value, draws[0]
    by_seed = intervals.weights(seeds, seed, draws.shape[2], "bootstrap seeds")
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.einsum("bs,skb->kb", by_seed, draws) - value[:, None]
        away += (np.sqrt(seeds / (seeds - 1)) - 1) * (by_seed @ (points - value)).T
        between = points.var(axis=0, ddof=1) / seeds
        for k in range(len(value)):
            if np.isfinite(between[k]) and between[k] > 0:
                spread = float(away[k][np.isfinite(away[k])].var()) if np.isfinite(away[k]).any() else 0.0
                freedom = max(seeds - 1, (seeds - 1) * (spread / between[k]) ** 2)
                away[k] *= float(t.ppf(0.975, freedom) / norm.ppf(0.975))
        return value, value[:, None] + away
