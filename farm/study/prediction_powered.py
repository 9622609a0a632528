"""Human win rates from few human and many simulated labels: valid whatever the simulator does, narrower if it is good.

PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453) for a mean, with power tuning. On instruction i the human
score is h_i (known on n of them, chosen at random), the simulated one s_i (known on all). The estimate

    mean(h) - lambda * (mean of s where h is known - mean of s where it is not)

is unbiased for every fixed lambda; the lambda with the smallest variance is estimated from the labelled instructions.
lambda 0 is the human mean alone. At best the variance falls to 1 - rho^2 of it, rho being the correlation of h and s.
Labels chosen by a plan (more of them in some strata) are weighted stratum by stratum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from farm.evaluate.intervals import Array, Scores, finite
from farm.records import Estimate, Record

FEWEST = 3


class PredictionPowered(Record):
    """A mean human score (a win rate in [0, 1]) with the help of simulated labels, beside the human labels alone.

    ``weight`` is lambda, ``correlation`` that of human and simulated scores within strata on the labelled
    instructions. ``gain`` is how many times as many human labels alone would be needed for the same standard error.
    ``n_human`` and ``n_simulated`` count instructions; ``n_unmatched`` had a human but no simulated score (left out).
    """

    method: str
    estimate: Estimate
    human_only: Estimate
    simulated_only: float | None
    weight: float | None = None
    correlation: float | None = None
    gain: float | None = None
    n_human: int
    n_simulated: int
    n_unmatched: int = 0


@dataclass(frozen=True)
class _Stratum:
    share: float  # of all instructions
    human: Array  # (n,) labelled
    simulated: Array  # (n,) on the same instructions
    rest: Array  # (N,) simulated on the others


def prediction_powered(
    human: Scores, simulated: Scores, *, strata: Mapping[str, str] | None = None, method: str = ""
) -> PredictionPowered:
    """Mean human score over all instructions in ``simulated``, in the unit of the scores.

    ``human`` and ``simulated`` map instruction id -> score, one value per instruction (average votes and draws first:
    an instruction is a cluster). The labelled instructions must be a random sample, within each stratum where
    ``strata`` (instruction id -> name) is given; choose them before looking at human labels. Intervals: Student's t,
    with the residual variance on n - 2 degrees of freedom (Satterthwaite over strata). Not estimable with fewer than
    three labelled instructions in a stratum. Raises DataError on scores that are not finite.
    """
    parts, total = _strata(human, simulated, strata), len(simulated)
    for table, what in ((human, "human scores"), (simulated, "simulated scores")):
        finite(np.array(list(table.values()), dtype=float), what)
    n = sum(len(p.human) for p in parts)
    counts = {"n_human": n, "n_simulated": total, "n_unmatched": len(human) - n, "method": method}
    thin = min((len(p.human) for p in parts), default=0)
    average = float(np.mean(list(simulated.values()))) if simulated else None
    if thin < FEWEST:
        note = f"not estimable: {thin} instructions with both labels, at least {FEWEST} are needed"
        note += " in each stratum" if len(parts) > 1 else ""
        nothing = Estimate(value=None, n=n, note=note)
        return PredictionPowered(estimate=nothing, human_only=nothing, simulated_only=average, **counts)
    alone, alone_se, freedom = _combine(parts, 0.0)
    weight = _power_tuned(parts)
    value, error, _ = _combine(parts, weight)
    return PredictionPowered(
        estimate=_estimate(value, error, freedom - 1 if weight else freedom, n),
        human_only=_estimate(alone, alone_se, freedom, n),
        simulated_only=average,
        weight=weight,
        correlation=_correlation(parts),
        gain=(alone_se / error) ** 2 if error > 0 else None,
        **counts,
    )


def _strata(human: Scores, simulated: Scores, strata: Mapping[str, str] | None) -> list[_Stratum]:
    groups: dict[str, list[str]] = {}
    for i in sorted(simulated):
        groups.setdefault(strata.get(i, "") if strata else "", []).append(i)
    parts = []
    for name in sorted(groups):
        ids = groups[name]
        known = [i for i in ids if i in human]
        rest = np.array([simulated[i] for i in ids if i not in human], dtype=float)
        h, s = (np.array([side[i] for i in known], dtype=float) for side in (human, simulated))
        parts.append(_Stratum(len(ids) / len(simulated), h, s, rest))
    return parts


def _power_tuned(parts: list[_Stratum]) -> float:
    """The lambda that minimises the estimated variance, the same in all strata (few labels each give it away)."""
    top = bottom = 0.0
    for p in parts:
        if len(p.rest):
            n, rest = len(p.human), len(p.rest)
            everything = np.concatenate([p.simulated, p.rest])
            top += p.share**2 * float(np.cov(p.human, p.simulated)[0, 1]) / n
            bottom += p.share**2 * float(everything.var(ddof=1)) * (1 / n + 1 / rest)
    return top / bottom if bottom > 0 else 0.0


def _combine(parts: list[_Stratum], weight: float) -> tuple[float, float, float]:
    """Value, standard error and degrees of freedom of the stratified estimate."""
    value = variance = squares = 0.0
    for p in parts:
        n, rest = len(p.human), len(p.rest)
        w = weight if rest else 0.0
        fitted = 1 if w else 0  # a degree of freedom goes into lambda
        gap = p.human - w * p.simulated
        piece = float(gap.var(ddof=1)) * (n - 1) / (n - 1 - fitted) / n
        value += p.share * float(gap.mean())
        variance += p.share**2 * piece
        squares += p.share**4 * piece**2 / (n - 1)
        if w:
            value += p.share * w * float(p.rest.mean())
            variance += p.share**2 * w**2 * (float(p.rest.var(ddof=1)) if rest > 1 else 0.0) / rest
    labels = sum(len(p.human) for p in parts)
    freedom = min(variance**2 / squares, labels - 1.0) if squares else labels - 1.0
    return value, float(np.sqrt(variance)), max(freedom, 2.0)


def _correlation(parts: list[_Stratum]) -> float | None:
    h = np.concatenate([p.human - p.human.mean() for p in parts])
    s = np.concatenate([p.simulated - p.simulated.mean() for p in parts])
    scale = float(np.sqrt((h @ h) * (s @ s)))
    return float(h @ s) / scale if scale > 0 else None


def _estimate(value: float, error: float, freedom: float, n: int) -> Estimate:
    from scipy.stats import t

    if error == 0:
        return Estimate(value=value, n=n, note="no interval: all human labels are equal")
    half = float(t.ppf(0.975, freedom)) * error
    return Estimate(value=value, ci95_low=value - half, ci95_high=value + half, n=n)
