"""Do two judges rank the methods alike? Rank correlation of two sets of method scores, both of them uncertain.

Two intervals answer two questions. *These methods*: how would the true scores of exactly these methods correlate, were
there no measurement error (``true_scores``). *Methods like these*: how do scores measured this way correlate in the
population from which the methods were drawn (``over_methods``). The first can be narrow with four methods, the second
cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from farm.errors import DataError
from farm.evaluate.intervals import RESAMPLES, Array, Scores, percentiles, table, weights
from farm.records import Estimate, RankCorrelation, Record
from farm.seeds import rng
from farm.study.over_methods import mean_interval, pearson_interval, rank_interval
from farm.study.true_scores import true_gaps, true_scores

FEWEST = 3
THESE = "the true scores of these methods, given the measurement error of both sides"
CERTAIN = "every draw ranks both sides alike; with few methods that leans on the model, so look at the pairs too"
LIKE_THESE = "methods drawn from the same population as these, measured as precisely"


@dataclass(frozen=True)
class Measured:
    """Scores of K methods by two judges. ``errors`` (B, 2, K) are draws of the measurement error, None = unknown.

    ``source`` says where the errors come from, or why there are none. ``unlike`` says why the two sides cannot be
    subtracted (different units); empty when they can.
    """

    names: tuple[str, str]
    methods: tuple[str, ...]
    values: Array  # (2, K)
    errors: Array | None
    source: str = ""
    unlike: str = ""

    def only(self, methods: Sequence[str]) -> Measured:
        """The same measurements of some of the methods, in their order here."""
        keep = [k for k, m in enumerate(self.methods) if m in set(methods)]
        errors = None if self.errors is None else self.errors[:, :, keep]
        kept = tuple(self.methods[k] for k in keep)
        return Measured(self.names, kept, self.values[:, keep], errors, self.source, self.unlike)


class Association(Record):
    """Two RankCorrelations with the same values and different intervals: these methods, and methods like these.

    ``without_noise`` holds the medians over the draws of the true scores: what the values would probably be, had
    every method been measured without error.
    """

    label: str
    these: RankCorrelation
    like_these: RankCorrelation
    without_noise: dict[str, float]
    source: str


def from_scores(
    first: Mapping[str, Scores], second: Mapping[str, Scores], *, names: tuple[str, str], seed: int
) -> Measured:
    """Measured scores from tables method -> instruction id -> score; a method's score is the mean of its table.

    Errors come from a bootstrap over instructions, resampled once for both sides and all methods, so that they carry
    what the sides and the methods share. Methods without scores on a side are left out.
    """
    methods = tuple(m for m in first if m in second and first[m] and second[m])
    tables = [*(first[m] for m in methods), *(second[m] for m in methods)]
    data = table(tables)
    present = ~np.isnan(data)
    counts = present.sum(axis=1)
    if not methods:
        return Measured(names, (), np.zeros((2, 0)), None, "no method has scores on both sides")
    means = np.nansum(data, axis=1) / counts
    values = means.reshape(2, -1)
    if counts.min() < 2:
        thin = methods[int(counts.argmin()) % len(methods)]
        return Measured(names, methods, values, None, f"{thin} was scored on one instruction")
    n = data.shape[1]
    # Linear in the resampling weights, so that a resample which misses a sparse method altogether does no harm.
    gap = (
        np.where(present, data - means[:, None], 0.0) * np.sqrt(counts / (counts - 1))[:, None] * (n / counts)[:, None]
    )
    errors = (weights(n, seed) @ gap.T).reshape(-1, 2, len(methods))
    return Measured(names, methods, values, errors, f"bootstrap over {n:,} instructions, shared by both sides")


def from_errors(
    methods: Sequence[str],
    values: Array,
    standard_errors: Array | None,
    *,
    names: tuple[str, str],
    seed: int,
    source: str = "",
    unlike: str = "",
) -> Measured:
    """Measured scores (2, K) with their standard errors (2, K), independent between methods and sides, or without.

    Raises DataError on duplicate methods, shapes that do not match, values that are not finite, or negative errors.
    """
    if len(set(methods)) != len(methods):
        raise DataError(f"method {max(methods, key=list(methods).count)!r} is given twice")
    if values.shape != (2, len(methods)) or not np.isfinite(values).all():
        raise DataError(f"scores need shape (2, {len(methods)}) and finite values, got {values.shape}")
    if standard_errors is None:
        return Measured(names, tuple(methods), values, None, source or "no standard errors were given", unlike)
    if standard_errors.shape != values.shape or not (
        np.isfinite(standard_errors).all() and (standard_errors >= 0).all()
    ):
        raise DataError(f"standard errors need shape {values.shape}, finite and not negative")
    normal = rng(seed, "measurement error", len(methods)).normal(size=(RESAMPLES // 2, *values.shape))
    normal = np.concatenate([normal, -normal])  # antithetic: mean 0 exactly
    normal /= np.sqrt(np.square(normal).mean(axis=0))
    return Measured(names, tuple(methods), values, normal * standard_errors, source or "standard errors", unlike)


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
    different instructions. Intervals are about the true scores of these methods and carry the uncertainty of both
    sides; they say nothing about methods that were not run. Fewer than three methods, or one side without any
    differences: not estimable.
    """
    return associate(from_scores(first, second, names=names, seed=seed), seed=seed).these


def associate(measured: Measured, *, label: str = "", seed: int) -> Association:
    """All four statistics over the methods of ``measured`` with both intervals, noise taken into account."""
    note, x, y = _problem(measured), *measured.values
    observed = {} if note else {name: float(f(x[None], y[None])[0]) for name, f in STATISTICS.items()}
    if measured.unlike:
        observed.pop("mean_absolute_error", None)
    draws = {} if note or measured.errors is None else _draws(measured, measured.errors, seed)
    over = {} if note else {name: _over_methods(name, v, x - y, seed) for name, v in observed.items()}

    def estimate(name: str, interval: tuple[float, float] | None, remark: str) -> Estimate:
        n = len(measured.methods)
        if name not in observed:
            return Estimate(value=None, n=n, note=note or f"not estimable: {measured.unlike}")
        if interval is None:
            return Estimate(value=observed[name], n=n, note=remark)
        low, high = interval
        outside = not low - 1e-9 <= observed[name] <= high + 1e-9
        said = "measurement error moves the value itself; the interval is for the true scores" if outside else remark
        if high - low < 1e-9 and measured.errors is not None and measured.errors.any():
            said = said or CERTAIN
        return Estimate(value=observed[name], ci95_low=low, ci95_high=high, n=n, note=said)

    def correlation(about: str, found: Mapping[str, tuple[float, float]], remark: str) -> RankCorrelation:
        return RankCorrelation(
            about=about,
            first=measured.names[0],
            second=measured.names[1],
            methods=measured.methods,
            **{name: estimate(name, found.get(name), remark) for name in STATISTICS},
        )

    within = {name: percentiles(sample) for name, sample in draws.items() if name in observed}
    missing = f"no interval for these methods: {measured.source}" if measured.errors is None else ""
    buried = ""
    if observed and measured.errors is not None and "spearman" not in within:
        within |= dict.fromkeys(("spearman", "kendall", "pearson"), (-1.0, 1.0))
        buried = "the methods of one side differ by no more than their noise"
    return Association(
        label=label,
        these=correlation(THESE, within, missing or buried),
        like_these=correlation(LIKE_THESE, over, ""),
        without_noise={name: float(np.median(draws[name])) for name in within if name in draws},
        source=measured.source,
    )


def _problem(measured: Measured) -> str:
    methods = len(measured.methods)
    if methods < FEWEST:
        return f"not estimable: {methods} methods, at least {FEWEST} are needed"
    if "scored on one instruction" in measured.source:
        return "not estimable: one instruction"
    constant = [name for name, row in zip(measured.names, measured.values, strict=True) if np.ptp(row) == 0]
    return f"not estimable: all methods have the same {constant[0]} score" if constant else ""


def _draws(measured: Measured, errors: Array, seed: int) -> dict[str, Array]:
    """Statistic -> its draws over the true scores of these methods."""
    draws: dict[str, Array] = {}
    if (true := true_scores(measured.values, errors, seed=seed)) is not None:
        for name in ("spearman", "kendall", "pearson"):
            sample = STATISTICS[name](true[:, 0], true[:, 1])
            draws[name] = sample[~np.isnan(sample)]
    gaps = true_gaps(measured.values[0] - measured.values[1], errors[:, 0] - errors[:, 1], seed=seed)
    draws["mean_absolute_error"] = np.abs(gaps).mean(axis=1)
    return {name: sample for name, sample in draws.items() if len(sample)}


def _over_methods(name: str, value: float, gaps: Array, seed: int) -> tuple[float, float]:
    if name == "spearman" or name == "kendall":
        return rank_interval(name, round(value, 12), len(gaps), seed)
    return pearson_interval(round(value, 12), len(gaps), seed) if name == "pearson" else mean_interval(np.abs(gaps))


def pearson(x: Array, y: Array) -> Array:
    """Pearson correlation of each row, shape (B, K) -> (B,); NaN where a row is constant."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    result: Array = np.divide((a * b).sum(axis=1), scale, out=np.full(len(x), np.nan), where=scale > 1e-15)
    return result


def ranks(x: Array) -> Array:
    """Ranks within each row from 1, ties averaged."""
    ordered = np.sort(x, axis=1)
    if (ordered[:, 1:] > ordered[:, :-1]).all():
        simple: Array = x.argsort(axis=1).argsort(axis=1).astype(float) + 1
        return simple
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
    first, second = np.triu_indices(x.shape[1], 1)
    a, b = np.sign(x[:, first] - x[:, second]), np.sign(y[:, first] - y[:, second])
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    both = (a * b).sum(axis=1)
    result: Array = np.divide(both, scale, out=np.full(len(x), np.nan), where=scale > 0)
    return result


def mean_absolute_error(x: Array, y: Array) -> Array:
    """Mean over methods of the absolute difference of each row, shape (B, K) -> (B,)."""
    result: Array = np.abs(x - y).mean(axis=1)
    return result


STATISTICS: dict[str, Callable[[Array, Array], Array]] = {
    "spearman": spearman,
    "kendall": kendall,
    "pearson": pearson,
    "mean_absolute_error": mean_absolute_error,
}
