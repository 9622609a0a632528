"""Intervals for the correlation in the population that methods were drawn from: for tables without standard errors.

Resampling few methods fails: the percentile interval for a rank correlation of four methods covers 66% in the offline
world (``benchmarks/coverage.py``), and a perfect ranking gives it no width at all. Here the interval of a rank
statistic holds every rho of a Gaussian copula under which the observed value lies in neither 2.5% tail, found by
simulation with the same number of methods and mid-p (half of the ties count); rho is translated into the population's
Spearman, 6/pi asin(rho/2), or Kendall, 2/pi asin(rho) (Kruskal 1958). Beyond 20 methods the classical approximations
on Fisher's z agree with it: variance (1 + r^2/2) / (n - 3) for Spearman (Bonett and Wright, Psychometrika 2000) and
0.437 / (n - 4) for Kendall (Fieller, Hartley and Pearson, Biometrika 1957). Pearson's interval is Fisher's exact
fiducial one for normal scores. The population is that of scores *measured as precisely as these*: noise is part of
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np

from farm.evaluate.intervals import LEVELS, Array
from farm.seeds import rng

SIMULATED_UP_TO = 20
SIMULATIONS = 4000
Interval = tuple[float, float]
RankStatistic = Literal["spearman", "kendall"]


@lru_cache(maxsize=4096)
def rank_interval(statistic: RankStatistic, value: float, methods: int, seed: int) -> Interval:
    """95% interval of a population rank correlation from its ``value`` over at least 3 methods."""
    if methods > SIMULATED_UP_TO:
        return _classical(statistic, value, methods)
    low = _solve(lambda rho: _above(statistic, value, methods, rho, seed) - LEVELS[0])
    high = _solve(lambda rho: _above(statistic, value, methods, rho, seed) - LEVELS[1])
    return _population(statistic, low), _population(statistic, high)


def _population(statistic: RankStatistic, rho: float) -> float:
    return 6 / math.pi * math.asin(rho / 2) if statistic == "spearman" else 2 / math.pi * math.asin(rho)


def _classical(statistic: RankStatistic, value: float, methods: int) -> Interval:
    variance = (1 + value**2 / 2) / (methods - 3) if statistic == "spearman" else 0.437 / (methods - 4)
    z, half = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value))), 1.959964 * math.sqrt(variance)
    return math.tanh(z - half), math.tanh(z + half)


def _solve(excess: Callable[[float], float]) -> float:
    """Root of an increasing step function on (-1, 1) by bisection; an end of the range where it has none."""
    low, high = -1.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    if high == 1.0:
        return 1.0
    return -1.0 if low == -1.0 else (low + high) / 2


@lru_cache(maxsize=64)
def _normals(methods: int, seed: int) -> tuple[Array, Array, Array]:
    """First sides sorted (only the pairing matters), the independent part of the second sides, signs of all pairs."""
    r = rng(seed, "methods at random", methods)
    first = np.sort(r.normal(size=(SIMULATIONS, methods)), axis=1)
    above = np.triu_indices(methods, 1)
    return first, r.normal(size=(SIMULATIONS, methods)), np.array(above)


def _above(statistic: RankStatistic, value: float, methods: int, rho: float, seed: int) -> float:
    """Chance of a larger statistic plus half that of the same, when the copula's correlation is ``rho``."""
    first, own, pairs = _normals(methods, seed)
    second = rho * first + math.sqrt(1 - rho * rho) * own
    if statistic == "spearman":
        ranks = second.argsort(axis=1).argsort(axis=1)
        squares = np.square(ranks - np.arange(methods)).sum(axis=1)
        sample = 1 - 6 * squares / (methods * (methods * methods - 1))
    else:
        concordant = (second[:, pairs[0]] < second[:, pairs[1]]).sum(axis=1)
        sample = 4 * concordant / (methods * (methods - 1)) - 1
    return float((sample > value + 1e-9).mean() + 0.5 * (np.abs(sample - value) <= 1e-9).mean())


@lru_cache(maxsize=256)
def pearson_interval(value: float, methods: int, seed: int) -> Interval:
    """95% interval of a population Pearson correlation, exact for bivariate normal scores, from 3 methods on."""
    if abs(value) >= 1 - 1e-12:
        return value, value
    r = rng(seed, "fiducial correlation", methods)
    size = 50_000
    slope = value / math.sqrt(1 - value * value)
    top = np.sqrt(r.chisquare(methods - 2, size)) * slope - r.normal(size=size)
    y = top / np.sqrt(r.chisquare(methods - 1, size))
    low, high = np.quantile(y / np.sqrt(1 + y * y), LEVELS)
    return float(low), float(high)


def mean_interval(values: Array) -> Interval:
    """Student's t interval of a mean over methods of something that is not negative."""
    from scipy.stats import t

    half = float(t.ppf(LEVELS[1], len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return max(0.0, float(values.mean()) - half), float(values.mean()) + half


def methods_for_width(value: float, target: float, *, seed: int, most: int = 2000) -> int | None:
    """Smallest number of methods whose Spearman interval at ``value`` is at most ``target`` wide; None beyond ``most``.

    Supposes that further methods are drawn like these and correlate as these do.
    """

    def wide(n: int) -> bool:
        low, high = rank_interval("spearman", _attainable(value, n), n, seed)
        return high - low > target

    low, high = 3, 4
    while wide(high):
        if high > most:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high if high <= most else None


def _attainable(value: float, methods: int) -> float:
    """The value that a Spearman correlation of so many methods can take nearest to ``value``, 1 only where it is 1."""
    if methods > SIMULATED_UP_TO:
        return min(value, 1 - 1e-6)
    step = 12 / (methods * (methods * methods - 1))
    return 1 - step * round((1 - value) / step)
