"""How good a reward model is on held-out preferences, and whether its margins mean what they say. Needs no torch.

A Bradley-Terry model states a chance for every pair, P(first preferred) = s(r_1 - r_2) with raw rewards. Calibration
asks whether pairs with a stated chance of 80% are decided that way in 80% of cases (docs/rewards.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farm.records import Estimate, Record
from farm.seeds import rng

BINS = 10  # of equal width over the stated chance of the favoured response, 0.5 to 1
_Z = 1.959964
_NOTHING_HELD = "no decided pair was held out"
Array = npt.NDArray[np.float64]


class Reliability(Record):
    """Held-out pairs whose favoured response has a stated chance in (``low``, ``high``]: the mean of these chances and
    the share of pairs in which the label agrees."""

    low: float
    high: float
    stated: float
    right: Estimate


class RewardReport(Record):
    """How well a reward model predicts held-out labels (ties left out; equal lengths count half).

    ``over_longer`` is accuracy minus that of "the longer one wins" on the same pairs. ``calibration_error`` is the
    expected calibration error, ``calibration_scale`` what raw differences must be multiplied by to be calibrated
    (below 1: overconfident). ``agrees_with_gold`` and ``labels_agree_with_gold`` are shares of held-out pairs that the
    model and the labels order as gold does. ``member`` numbers the members of an ensemble, whose own rows follow it.
    """

    n_train: int
    n_validation: int
    accuracy: Estimate
    longer_wins: Estimate
    over_longer: Estimate | None = None
    validation_loss: float | None
    train_loss: float
    reward_mean: float
    reward_sd: float
    train_tokens: int
    updates: int
    calibration: tuple[Reliability, ...] = ()
    calibration_error: Estimate | None = None
    calibration_scale: Estimate | None = None
    agrees_with_gold: Estimate | None = None
    labels_agree_with_gold: Estimate | None = None
    combine: str = ""
    member: int | None = None
    too_long: int = 0


def measured(
    differences: Sequence[float],
    targets: Sequence[float],
    longer: Sequence[float],
    gold: Sequence[float] | None,
    seed: int,
) -> RewardReport:
    """A report with what held-out pairs tell, the rest zero.

    ``differences`` are raw r_1 - r_2, ``targets`` P(first preferred), ``longer`` how many tokens longer the first is,
    ``gold`` differences of true rewards, pair by pair.
    """
    d, t, more = (np.asarray(x, dtype=float) for x in (differences, targets, longer))
    decided = t != 0.5
    right = _agreement(d[decided], t[decided] - 0.5)
    by_length = _agreement(more[decided], t[decided] - 0.5)
    loss = float(np.mean(t * np.logaddexp(0, -d) + (1 - t) * np.logaddexp(0, d))) if len(d) else None
    known: dict[str, Estimate] = {}
    if gold is not None:
        true = np.asarray(gold, dtype=float)
        known["agrees_with_gold"] = share(list(_agreement(d[true != 0], true[true != 0])))
        both = decided & (true != 0)
        known["labels_agree_with_gold"] = share(list(_agreement(t[both] - 0.5, true[both])))
    # Soft labels of held-out pairs count with their chance; a hard one is right or wrong.
    favoured, agrees = np.abs(d[decided]), np.where(d[decided] >= 0, t[decided], 1 - t[decided])
    return RewardReport(
        n_train=0,
        n_validation=len(d),
        accuracy=share(list(right)),
        longer_wins=share(list(by_length)),
        over_longer=_difference(right, by_length),
        validation_loss=loss,
        train_loss=0.0,
        reward_mean=0.0,
        reward_sd=1.0,
        train_tokens=0,
        updates=0,
        calibration=reliability(_sigmoid(favoured), agrees),
        calibration_error=calibration_error(_sigmoid(favoured), agrees, seed),
        calibration_scale=calibration_scale(d[decided], t[decided]),
        **known,
    )


def share(hits: Sequence[float]) -> Estimate:
    """Mean of values in [0, 1] with its Wilson 95% interval."""
    n = len(hits)
    if n == 0:
        return Estimate(value=None, n=0, note=_NOTHING_HELD)
    p = float(sum(hits) / n)
    centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
    return Estimate(value=p, ci95_low=centre - half, ci95_high=centre + half, n=n)


def reliability(stated: Array, agrees: Array) -> tuple[Reliability, ...]:
    """The reliability table: non-empty bins of the favoured response's stated chance (0.5 to 1) against the share of
    labels that agree (DeGroot & Fienberg 1983)."""
    place, edges = _bins(stated), np.linspace(0.5, 1, BINS + 1)
    return tuple(
        Reliability(
            low=round(float(edges[b]), 6),
            high=round(float(edges[b + 1]), 6),
            stated=float(stated[place == b].mean()),
            right=share(list(map(float, agrees[place == b]))),
        )
        for b in sorted(set(place.tolist()))
    )


def calibration_error(stated: Array, agrees: Array, seed: int, resamples: int = 500) -> Estimate:
    """Expected calibration error: sum over bins of n_b / n |stated - agreeing| (Naeini et al. 2015; Guo et al. 2017,
    arXiv 1706.04599), with a bootstrap interval over pairs. Noise alone makes it positive when bins hold few pairs."""
    n = len(stated)
    if n == 0:
        return Estimate(value=None, n=0, note=_NOTHING_HELD)
    place, gap = _bins(stated), stated - agrees
    draws = rng(seed, "calibration error").integers(0, n, size=(resamples, n))
    values = [float(np.abs(np.bincount(place[k], gap[k], BINS)).sum() / n) for k in draws]
    low, high = np.quantile(values, (0.025, 0.975))
    value = float(np.abs(np.bincount(place, gap, BINS)).sum() / n)
    return Estimate(value=value, ci95_low=min(float(low), value), ci95_high=max(float(high), value), n=n)


def _bins(stated: Array) -> npt.NDArray[np.int64]:
    place: npt.NDArray[np.int64] = np.clip(np.ceil((stated - 0.5) * 2 * BINS - 1e-9) - 1, 0, BINS - 1).astype(np.int64)
    return place


def calibration_scale(differences: Array, targets: Array) -> Estimate:
    """The c that makes s(c (r_1 - r_2)) most likely (one over the temperature of Guo et al. 2017), by bisection,
    with the interval of its Fisher information. None where all pairs are ordered right: no c is large enough."""
    d, t = differences, targets
    if not len(d) or not np.any(d):
        return Estimate(value=None, n=len(d), note=_NOTHING_HELD if not len(d) else "all rewards are equal")
    if np.all((t - 0.5) * d > 0) and np.all(np.isin(t, (0.0, 1.0))):
        return Estimate(value=None, n=len(d), note="every held-out pair is ordered right, so no scale is large enough")
    if np.all((t - 0.5) * d < 0) and np.all(np.isin(t, (0.0, 1.0))):
        return Estimate(value=None, n=len(d), note="every held-out pair is ordered wrong")
    # The log-likelihood is concave in c, so its slope changes sign once.
    low, high = -1.0, 1.0
    while _slope(low, d, t) < 0 and low > -1e6:
        low *= 2
    while _slope(high, d, t) > 0 and high < 1e6:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(middle, d, t) > 0 else (low, middle)
    value = (low + high) / 2
    p = _sigmoid(value * d)
    half = _Z / math.sqrt(max(float(np.sum(d * d * p * (1 - p))), 1e-12))
    return Estimate(value=value, ci95_low=value - half, ci95_high=value + half, n=len(d))


def _slope(c: float, d: Array, t: Array) -> float:
    return float(np.sum(d * (t - _sigmoid(c * d))))


def _difference(right: Array, other: Array) -> Estimate:
    """Mean of paired differences with its normal 95% interval."""
    n = len(right)
    if n < 2:
        return Estimate(value=None, n=n, note="fewer than two decided pairs were held out")
    each = right - other
    value, half = float(each.mean()), _Z * float(each.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=value, ci95_low=value - half, ci95_high=value + half, n=n)


def _agreement(one: Array, other: Array) -> Array:
    """1 where signs agree, 0 where they differ, half where ``one`` has none."""
    agreement: Array = 0.5 + 0.5 * np.sign(one) * np.sign(other)
    return agreement


def _sigmoid(x: Array) -> Array:
    value: Array = 1 / (1 + np.exp(-np.clip(x, -35, 35)))
    return value
