"""What a correlation rests on: the influence of each method, and the chance that each pair is ranked right."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from farm.records import Record
from farm.study.correlation import FEWEST, STATISTICS, Measured


class Influence(Record):
    """The four statistics without ``method``, and how much leaving it out changes each; None = not estimable."""

    method: str
    without: dict[str, float | None]
    change: dict[str, float | None]


class PairRanking(Record):
    """Two methods in the order in which the first side (the simulator) ranks them.

    ``first_sure`` is the chance that this is the order of their true scores on the first side, ``second_agrees`` that
    it is the order of their true scores on the second side (the humans): the chance that the simulator's ranking of
    the pair is right. Both from the measured difference and its error, with nothing assumed about methods. None
    without errors, or when the first side does not order the pair.
    """

    above: str
    below: str
    first_gap: float
    second_gap: float
    first_sure: float | None
    second_agrees: float | None


def leave_one_out(measured: Measured) -> list[Influence]:
    """One row per method, the strongest influence on Spearman's correlation first."""
    whole = _values(measured)
    rows = []
    for method in measured.methods:
        left = _values(measured.only([m for m in measured.methods if m != method]))
        change = {name: None if (a := left[name]) is None or (b := whole[name]) is None else a - b for name in whole}
        rows.append(Influence(method=method, without=left, change=change))
    return sorted(rows, key=lambda r: (-abs(r.change["spearman"] or 0.0), -abs(r.change["pearson"] or 0.0)))


def _values(measured: Measured) -> dict[str, float | None]:
    x, y = measured.values
    if len(measured.methods) < FEWEST:
        return dict.fromkeys(STATISTICS)
    values = {name: float(f(x[None], y[None])[0]) for name, f in STATISTICS.items()}
    if measured.unlike:
        values["mean_absolute_error"] = float("nan")
    return {name: None if np.isnan(v) else v for name, v in values.items()}


def pair_rankings(measured: Measured) -> list[PairRanking]:
    """Every pair of methods, the least certain ranking first."""
    x, y = measured.values
    spread = None
    if measured.errors is not None:
        variance = np.einsum("bsk,bsl->skl", measured.errors, measured.errors) / len(measured.errors)
        own = np.diagonal(variance, axis1=1, axis2=2)
        spread = np.sqrt(np.maximum(own[:, :, None] + own[:, None, :] - 2 * variance, 0.0))
    rows = []
    for i, j in combinations(range(len(measured.methods)), 2):
        a, b = (i, j) if x[i] >= x[j] else (j, i)
        tied = x[i] == x[j] or spread is None
        rows.append(
            PairRanking(
                above=measured.methods[a],
                below=measured.methods[b],
                first_gap=float(x[a] - x[b]),
                second_gap=float(y[a] - y[b]),
                first_sure=None if tied or spread is None else _chance(x[a] - x[b], spread[0, a, b]),
                second_agrees=None if tied or spread is None else _chance(y[a] - y[b], spread[1, a, b]),
            )
        )
    return sorted(rows, key=lambda r: (r.second_agrees is None, r.second_agrees or 0.0, r.above, r.below))


def _chance(gap: float, error: float) -> float:
    """Chance that a true difference is positive, given the measured one and its standard error."""
    from scipy.stats import norm

    if error < 1e-12:
        return 0.5 + 0.5 * float(np.sign(gap))
    return float(norm.cdf(gap / error))


def expected_right(rankings: list[PairRanking]) -> float | None:
    """Expected share of pairs that the first side ranks as the true scores of the second side do; ties left out."""
    known = [r.second_agrees for r in rankings if r.second_agrees is not None]
    return float(np.mean(known)) if known else None
