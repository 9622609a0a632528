"""How many more human labels, or methods, would narrow the interval of a rank correlation to a target."""

from __future__ import annotations

import math

import numpy as np

from farm.evaluate.intervals import Array, percentiles
from farm.records import Record
from farm.study.correlation import Association, Measured, spearman
from farm.study.over_methods import methods_for_width
from farm.study.true_scores import true_scores

FACTORS = tuple(2.0**k for k in range(9))
TRUTHS = 16
DRAWS = 400


class WidthPlan(Record):
    """What would make Spearman's 95% interval ``target`` wide.

    ``human_factor`` times as many human labels per method (1 = enough already) for the interval of these methods, the
    simulated side staying as it is; ``both_factor`` the same on both sides; None = more than 256 times, or unknown
    without errors. ``expected`` lists (factor, width with more human labels, width with more on both sides).
    ``labels_now`` counts human labels per method where known. ``methods`` is the number of methods like these that
    would bring the interval over methods to the target, None = more than 2,000.
    """

    target: float
    width: float | None
    width_over_methods: float | None
    human_factor: float | None = None
    both_factor: float | None = None
    expected: tuple[tuple[float, float, float], ...] = ()
    labels_now: float | None = None
    methods: int | None = None


def plan(
    measured: Measured, association: Association, target: float, *, labels: float | None = None, seed: int
) -> WidthPlan:
    """What more labels or methods would do for Spearman's interval; expectations are averages over likely truths.

    Likely truths are drawn as in :func:`farm.study.true_scores.true_scores`; each is measured again with errors
    divided by the root of the factor, and its interval taken. ``labels`` is the number of human labels per method now.
    """
    these, over = association.these.spearman, association.like_these.spearman
    value = these.value
    now = _width(these.ci95_low, these.ci95_high)
    wide = _width(over.ci95_low, over.ci95_high)
    unplanned = WidthPlan(target=target, width=now, width_over_methods=wide, labels_now=labels)
    if value is None:
        return unplanned
    changes: dict[str, object] = {"methods": methods_for_width(value, target, seed=seed)}
    if measured.errors is not None and now is not None:
        if now <= target:
            changes |= {"human_factor": 1.0, "both_factor": 1.0}
        elif (truths := true_scores(measured.values, measured.errors, seed=seed)) is not None:
            rows = _expected(truths, measured.errors, seed)
            human, both = ([(f, w[k]) for f, *w in rows] for k in (0, 1))
            changes |= {"expected": tuple(rows), "human_factor": _crossing(human, target)}
            changes |= {"both_factor": _crossing(both, target)}
    return unplanned.model_copy(update=changes)


def _width(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else high - low


def _expected(truths: Array, errors: Array, seed: int) -> list[tuple[float, float, float]]:
    """(factor, width with that many times the human labels, width with that many on both sides)."""
    chosen = truths[:: max(1, len(truths) // TRUTHS)][:TRUTHS]
    noise = errors[:: max(1, len(errors) // TRUTHS)][:TRUTHS]
    few = errors[:DRAWS] - errors[:DRAWS].mean(axis=0)
    rows = []
    for factor in FACTORS:
        less = 1 / math.sqrt(factor)
        widths = [
            np.mean([_interval_width(t + e * scale, few * scale, seed) for t, e in zip(chosen, noise, strict=True)])
            for scale in (np.array([[1.0], [less]]), np.array([[less], [less]]))
        ]
        rows.append((factor, float(widths[0]), float(widths[1])))
    return rows


def _interval_width(values: Array, errors: Array, seed: int) -> float:
    draws = true_scores(values, errors, seed=seed)
    if draws is None:
        return 2.0
    low, high = percentiles(spearman(draws[:, 0], draws[:, 1]))
    return high - low


def _crossing(points: list[tuple[float, float]], target: float) -> float | None:
    """Where falling widths reach the target, interpolated on the logarithm of the factor."""
    best = math.inf
    for k, (factor, width) in enumerate(points):
        if width <= target:
            if k == 0:
                return factor
            before, wide = points[k - 1][0], max(best, width)
            share = (wide - target) / (wide - width) if wide > width else 1.0
            return before * math.pow(factor / before, min(1.0, max(0.0, share)))
        best = min(best, width)
    return None
