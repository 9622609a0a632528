"""Do two judges rank the methods alike? Rank correlation of two sets of method scores, both of them uncertain."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from farm.evaluate.intervals import Array, Scores, percentiles, table, weights
from farm.records import Estimate, RankCorrelation

FEWEST = 3


def rank_correlation(
    first: Mapping[str, Scores],
    second: Mapping[str, Scores],
    *,
    names: tuple[str, str] = ("simulated", "human"),
    seed: int,
) -> RankCorrelation:
    """Spearman, Kendall (tau-b), Pearson and mean absolute error over the methods that both sides scored.

    ``first`` and ``second`` map a method to instruction id -> score (for several training seeds, average them first
    with ``evaluate.scores.average``). A method's score is the mean over its instructions; the sides may cover
    different instructions. Intervals come from a bootstrap over instructions, resampled once for both sides, so that
    they carry the uncertainty of both; they say nothing about methods that were not run. Fewer than three methods,
    or one side without any differences: not estimable.
    """
    methods = tuple(m for m in first if m in second and first[m] and second[m])
    x, y = [first[m] for m in methods], [second[m] for m in methods]
    too_few = len(methods) < FEWEST
    note = f"not estimable: {len(methods)} methods, at least {FEWEST} are needed" if too_few else ""
    if not note and len({i for one in (*x, *y) for i in one}) < 2:
        note = "not estimable: one instruction"
    points, draws = (np.zeros((2, 0)), np.zeros((2, 0, 0))) if note else _means(x, y, seed)
    if not note and (np.ptp(points[0]) == 0 or np.ptp(points[1]) == 0):
        note = "not estimable: all methods have the same score"

    def estimate(statistic: Callable[[Array, Array], Array]) -> Estimate:
        if note:
            return Estimate(value=None, n=len(methods), note=note)
        value = float(statistic(points[0][None], points[1][None])[0])
        sample = statistic(draws[0], draws[1])
        defined = sample[~np.isnan(sample)]
        lost = len(sample) - len(defined)
        remark = f"{lost} of {len(sample)} resamples had no ranking" if lost else ""
        low, high = percentiles(defined) if len(defined) else (None, None)
        return Estimate(value=value, ci95_low=low, ci95_high=high, n=len(methods), note=remark)

    return RankCorrelation(
        first=names[0],
        second=names[1],
        methods=methods,
        spearman=estimate(spearman),
        kendall=estimate(kendall),
        pearson=estimate(pearson),
        mean_absolute_error=_around(estimate(lambda a, b: np.abs(a - b).mean(axis=1))),
    )


def _around(error: Estimate) -> Estimate:
    """Widen the interval of a mean absolute error downwards, symmetrically about the value, not below zero.

    Noise only ever adds to an absolute error, so bootstrap draws lie above the value, sometimes all of them.
    """
    if error.value is None or error.ci95_high is None:
        return error
    high = max(error.ci95_high, error.value)
    return error.model_copy(update={"ci95_low": max(0.0, 2 * error.value - high), "ci95_high": high})


def _means(x: list[Scores], y: list[Scores], seed: int) -> tuple[Array, Array]:
    """Method means (2, K) and their bootstrap draws (2, B, K)."""
    k = len(x)
    data = table([*x, *y])
    present = (~np.isnan(data)).astype(float)
    filled = np.nan_to_num(data)
    w = weights(data.shape[1], seed)
    with np.errstate(invalid="ignore"):  # a resample may miss a method altogether: NaN, counted by the caller
        draws = (w @ filled.T) / (w @ present.T)
    means = filled.sum(1) / present.sum(1)
    return means.reshape(2, k), np.stack([draws[:, :k], draws[:, k:]])


def pearson(x: Array, y: Array) -> Array:
    """Pearson correlation of each row, shape (B, K) -> (B,); NaN where a row is constant."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    result: Array = np.divide((a * b).sum(axis=1), scale, out=np.full(len(x), np.nan), where=scale > 1e-15)
    return result


def ranks(x: Array) -> Array:
    """Ranks within each row from 1, ties averaged."""
    below = (x[:, None, :] < x[:, :, None]).sum(axis=2)
    equal = (x[:, None, :] == x[:, :, None]).sum(axis=2)
    result: Array = below + (equal + 1) / 2
    return result


def spearman(x: Array, y: Array) -> Array:
    """Spearman correlation of each row, shape (B, K) -> (B,); NaN where a row is constant."""
    missing = np.isnan(x).any(axis=1) | np.isnan(y).any(axis=1)
    return np.where(missing, np.nan, pearson(ranks(x), ranks(y)))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b of each row, shape (B, K) -> (B,); NaN where a row is constant."""
    a = np.sign(x[:, :, None] - x[:, None, :])
    b = np.sign(y[:, :, None] - y[:, None, :])
    scale = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    both = (a * b).sum(axis=(1, 2))
    result: Array = np.divide(both, scale, out=np.full(len(x), np.nan), where=scale > 0)
    return result
