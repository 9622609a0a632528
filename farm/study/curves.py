"""Curves of several training seeds together: their mean with intervals, where gold peaks, and what KL a gain costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from farm.errors import DataError
from farm.evaluate.intervals import Array, over_seeds
from farm.records import Estimate, Record
from farm.study.overoptimization import PromptCurve, cross_fitted
from farm.study.resample import BySeed, bootstrap
from farm.study.words import above_zero, below_zero, shown_sign

TOP = 0.1  # the top of a curve: gold within this share of its gain of the highest


class Band(Record):
    """One point of the mean curve: proxy and gold with intervals over instructions and seeds; KL averaged over seeds,
    in nats per sequence, ``kl_bound`` the formula log n - (n - 1)/n for best-of-n, an upper bound and nothing more."""

    method: str
    x_name: str
    x: float
    kl: float | None
    kl_bound: float | None = None
    proxy: Estimate
    gold: Estimate
    tokens: float | None = None
    seeds: int


class Peak(Record):
    """Where the gold of one method peaks, over its seeds.

    ``x`` and ``kl`` are those of the highest point of every seed's mean curve, averaged; ``middle_kl`` is the KL of the
    middle of the top (:func:`middles`), which is less noisy where the curve is flat, ``arc_kl`` that of the turn of a
    parabola fitted to the curve (:func:`arcs`), less noisy still where the peak lies well inside; ``gain`` and
    ``fall`` (gold at the peak minus at the start, and minus at the end) are cross-fitted: the peak is chosen on other
    instructions than it is measured on, so that noise is not mistaken for a peak. ``proxy_gain`` is end minus start.
    """

    method: str
    seeds: tuple[int, ...]
    x_name: str
    x: Estimate
    kl: Estimate
    middle_kl: Estimate
    arc_kl: Estimate
    gain: Estimate
    fall: Estimate
    proxy_gain: Estimate


class Shift(Record):
    """What a change does to the peak: ``name`` minus ``against``, paired by seed and instruction.

    Seeds can differ so much in size that an interval over few of them says nothing; ``in_each`` therefore says by
    measure whether every seed's own interval (over instructions) lies above (1) or below (-1) zero, else 0.
    """

    name: str
    against: str
    question: str
    peak_kl: Estimate
    middle_kl: Estimate
    arc_kl: Estimate
    peak_gold: Estimate
    end_gold: Estimate
    fall: Estimate
    in_each: dict[str, int] = Field(default_factory=dict)

    def moves(self, what: str) -> int:
        """Whether a measure rises (1) or falls (-1), by its interval or in every seed, else 0. A bound that is shown
        as 0.00 is no difference: KL at the same n differs a little from reward to reward."""
        e: Estimate = getattr(self, what)
        return shown_sign(e) or (self.in_each.get(what, 0) if abs(e.value or 0.0) >= 0.005 else 0)

    def only_in_each(self, what: str) -> bool:
        """Whether it moves in every seed, although the interval over seeds holds zero."""
        return self.moves(what) != shown_sign(getattr(self, what))


def averaged(curves: Sequence[PromptCurve]) -> PromptCurve:
    """The mean of one seed's curves on the same instructions and points (replicates); standard errors are over
    instructions. Raises DataError when they differ in these."""
    first = curves[0]
    if len(curves) == 1:
        return first
    if any(c.prompts != first.prompts or c.proxy.shape != first.proxy.shape for c in curves):
        raise DataError(f"replicates of {first.curve.method} were measured on different instructions or points")
    proxy = np.mean([c.proxy for c in curves], axis=0)
    golds = [c.gold for c in curves if c.gold is not None]
    gold = np.mean(golds, axis=0) if len(golds) == len(curves) else None
    points = []
    for k, same in enumerate(zip(*(c.curve.points for c in curves), strict=True)):
        means = {}
        for what in ("kl", "kl_se", "mean_tokens"):
            known = [getattr(p, what) for p in same]
            means[what] = None if None in known else float(np.mean(known))
        if gold is not None:
            means |= {"gold": float(gold[k].mean()), "gold_se": _error(gold[k])}
        means |= {"proxy": float(proxy[k].mean()), "proxy_se": _error(proxy[k])}
        points.append(same[0].model_copy(update=means))
    return PromptCurve(first.curve.model_copy(update={"points": tuple(points)}), first.prompts, proxy, gold)


def _error(values: Array) -> float | None:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def bands(curves: Sequence[PromptCurve], *, seed: int) -> list[Band]:
    """The mean of one method's curves, point by point; points that not every seed reached are left out."""
    from farm.study.best_of_n import kl_upper_bound

    common = sorted(set.intersection(*({p.x for p in c.curve.points} for c in curves)))
    out = []
    for x in common:
        rows = [next(k for k, p in enumerate(c.curve.points) if p.x == x) for c in curves]
        points = [c.curve.points[k] for c, k in zip(curves, rows, strict=True)]
        first = curves[0].curve
        kls = [p.kl for p in points if p.kl is not None]
        tokens = [p.mean_tokens for p in points if p.mean_tokens is not None]
        out.append(
            Band(
                method=first.method,
                x_name=first.x_name,
                x=x,
                kl=max(0.0, float(np.mean(kls))) if len(kls) == len(points) else None,
                kl_bound=kl_upper_bound(x) if first.x_name == "n" else None,
                proxy=over_seeds([_table(c, c.proxy[k]) for c, k in zip(curves, rows, strict=True)], seed=seed),
                gold=_gold(curves, rows, seed),
                tokens=float(np.mean(tokens)) if tokens else None,
                seeds=len(curves),
            )
        )
    return out


def _gold(curves: Sequence[PromptCurve], rows: Sequence[int], seed: int) -> Estimate:
    tables = [_table(c, c.gold[k]) for c, k in zip(curves, rows, strict=True) if c.gold is not None]
    if len(tables) < len(curves):
        return Estimate(value=None, n=0, note="gold was not measured")
    return over_seeds(tables, seed=seed)


def _table(curve: PromptCurve, values: Array) -> dict[str, float]:
    return dict(zip(curve.prompts, values.tolist(), strict=True))


def middles(gain: Array, d: Array) -> Array:
    """The middle of the top of curves: of the stretches of ``d`` on which the gain is within a tenth (``TOP``) of the
    highest. ``gain`` has shape (points, curves), ``d`` (points,) rises; between points curves are straight. A curve
    that never gains has its top at the start.

    The highest point of a flat curve is a matter of noise, the middle of its top much less so: over planted curves with
    the noise of a shipped run its error was smaller by a fifth to a half, except where the peak lies beyond the last
    point, where every estimator is too low and this one most (tests/unit/study/test_curves.py).
    """
    top = gain.max(axis=0)
    floor = (1 - TOP) * np.maximum(top, 0.0)
    length, moment = np.zeros(gain.shape[1]), np.zeros(gain.shape[1])
    for a, b, low, high in zip(gain[:-1], gain[1:], d[:-1], d[1:], strict=True):
        rise = np.where(a == b, 1.0, b - a)
        cut = np.clip((floor - a) / rise, 0.0, 1.0)  # where the piece crosses the floor, as a share of it
        start, end = np.where(a >= floor, 0.0, cut), np.where(b >= floor, 1.0, cut)
        share = np.where((a < floor) & (b < floor), 0.0, end - start)
        length += share * (high - low)
        moment += share * (high - low) * (low + (high - low) * (start + end) / 2)
    at_top = d[gain.argmax(axis=0)]
    out: Array = np.where(top <= 0, d[0], np.where(length > 0, moment / np.maximum(length, 1e-300), at_top))
    return out


def arcs(gain: Array, d: Array) -> Array:
    """Where curves turn: the peak of the parabola d (alpha - beta d) through their start, fitted to the stretch from
    there until gold has fallen as far below it as it had risen above. Shapes as in :func:`middles`.

    That is Gao et al.'s law of best-of-n, which describes short curves of small policies as well as their law of RL
    does, and is taken for all methods here, so that they compare; never beyond the last point that it was fitted to.
    It uses every point of the stretch. Over planted curves its error is down to half of the middle's where the peak
    lies well inside, as on those of trained policies, and about the same elsewhere (tests/unit/study/test_curves.py).
    """
    top = np.maximum(gain.max(axis=0), 0.0)
    used = (np.cumsum(gain < -top, axis=0) == 0).astype(float)
    x = d[:, None]
    xx, xz, zz = ((used * x**k).sum(axis=0) for k in (2, 3, 4))
    xy, zy = (used * x * gain).sum(axis=0), (used * x**2 * gain).sum(axis=0)
    determinant = xx * zz - xz * xz
    known = determinant > 1e-9 * np.maximum(xx * zz, 1e-300)
    alpha = np.where(known, xy * zz - zy * xz, 0.0)
    beta = np.where(known, xz * xy - zy * xx, 0.0)
    last = (used * x).max(axis=0)
    turn = np.where(beta > 0, np.maximum(alpha, 0.0) / (2 * np.where(beta > 0, beta, 1.0)), last)
    out: Array = np.where(top <= 0, d[0], np.where(known, np.minimum(turn, last), d[gain.argmax(axis=0)]))
    return out


def peak_draws(curves: Sequence[PromptCurve], *, seed: int) -> BySeed:
    """x and KL of the highest gold, KL of the middle of the top, and KL of the arc's turn, by seed with draws. Raises
    DataError where gold or KL was not measured."""
    places = []
    for c in curves:
        kls = [p.kl for p in c.curve.points]
        if c.gold is None or any(k is None for k in kls):
            raise DataError(f"{c.curve.method}, seed {c.curve.seed}: gold or KL was not measured, so no peak is known")
        places.append(np.array([[p.x, max(p.kl or 0.0, 0.0)] for p in c.curve.points]))

    def statistic(k: int, means: Array) -> Array:
        d = np.maximum.accumulate(np.sqrt(places[k][:, 1]))
        gain = means - means[0]
        return np.vstack([places[k][means.argmax(axis=0)].T, middles(gain, d) ** 2, arcs(gain, d) ** 2])

    return bootstrap([c.gold for c in curves if c.gold is not None], [c.prompts for c in curves], statistic, seed=seed)


def peak(curves: Sequence[PromptCurve], *, seed: int) -> Peak:
    """The peak of one method. Raises DataError where gold or KL was not measured."""
    at = peak_draws(curves, seed=seed).together().at_least(0.0)
    moves = [cross_fitted(c, seed) for c in curves]
    rise, fall = (over_seeds([_table(c, m[k]) for c, m in zip(curves, moves, strict=True)], seed=seed) for k in (0, 1))
    return Peak(
        method=curves[0].curve.method,
        seeds=tuple(c.curve.seed for c in curves),
        x_name=curves[0].curve.x_name,
        x=at.estimate(0),
        kl=at.estimate(1),
        middle_kl=at.estimate(2),
        arc_kl=at.estimate(3),
        gain=rise,
        fall=fall,
        proxy_gain=over_seeds([_table(c, c.proxy[-1] - c.proxy[0]) for c in curves], seed=seed),
    )


def shift(
    changed: Sequence[PromptCurve], base: Sequence[PromptCurve], *, seed: int, name: str, against: str, question: str
) -> Shift:
    """How the peak of ``changed`` differs from that of ``base``, curves of the same seeds in the same order.

    Raises DataError when seeds or instructions differ, or gold was not measured.
    """
    if [c.curve.seed for c in changed] != [c.curve.seed for c in base]:
        raise DataError(f"{name} and {against} have different seeds, so their shift cannot be paired")
    if any(a.prompts != b.prompts for a, b in zip(changed, base, strict=True)):
        raise DataError(f"{name} and {against} were measured on different instructions")
    moved = _moves(changed, base, seed)
    each = [_moves([a], [b], seed) for a, b in zip(changed, base, strict=True)]
    in_each = {what: _sign([one[what] for one in each]) for what in moved}
    return Shift(name=name, against=against, question=question, in_each=in_each, **moved)


def _moves(changed: Sequence[PromptCurve], base: Sequence[PromptCurve], seed: int) -> dict[str, Estimate]:
    """The paired differences by measure."""
    rows: dict[str, list[dict[str, float]]] = {"peak_gold": [], "end_gold": [], "fall": []}
    for a, b in zip(changed, base, strict=True):
        (rise, fall, _), (rise_b, fall_b, _) = cross_fitted(a, seed), cross_fitted(b, seed)
        assert a.gold is not None
        assert b.gold is not None
        rows["peak_gold"].append(_table(a, a.gold[0] + rise - b.gold[0] - rise_b))
        rows["end_gold"].append(_table(a, a.gold[-1] - b.gold[-1]))
        rows["fall"].append(_table(a, fall - fall_b))
    moved = peak_draws(changed, seed=seed).minus(peak_draws(base, seed=seed)).together()
    places = {"peak_kl": moved.estimate(1), "middle_kl": moved.estimate(2), "arc_kl": moved.estimate(3)}
    return {**places, **{what: over_seeds(tables, seed=seed) for what, tables in rows.items()}}


def _sign(each: Sequence[Estimate]) -> int:
    above, below = all(map(above_zero, each)), all(map(below_zero, each))
    return int(above) - int(below)


class Spending(Record):
    """KL in nats that two methods pay for the same proxy gain (in standard deviations of the reward under SFT);
    ``difference`` is what the second pays more, and ``in_each`` whether it pays more (1) or less (-1) in every seed by
    the seed's own interval over instructions, else 0."""

    gain: float
    first: str
    second: str
    first_kl: Estimate
    second_kl: Estimate
    difference: Estimate
    in_each: int = 0


def kl_at_gain(curves: Sequence[PromptCurve], gain: float, *, seed: int) -> BySeed:
    """KL at which the proxy has first risen by ``gain``, between points interpolated; infinite where it never does."""
    kls = [np.array([max(p.kl or 0.0, 0.0) for p in c.curve.points]) for c in curves]

    def statistic(k: int, means: Array) -> Array:
        rise = np.maximum.accumulate(means - means[0], axis=0)
        out = np.full((1, means.shape[1]), np.inf)
        for b in range(means.shape[1]):
            if rise[-1, b] >= gain:
                at = int(np.argmax(rise[:, b] >= gain))
                low, high = rise[max(at - 1, 0), b], rise[at, b]
                share = (gain - low) / (high - low) if high > low else 1.0
                out[0, b] = kls[k][max(at - 1, 0)] + share * (kls[k][at] - kls[k][max(at - 1, 0)])
        return out

    return bootstrap([c.proxy for c in curves], [c.prompts for c in curves], statistic, seed=seed)


def spending(
    first: Sequence[PromptCurve], second: Sequence[PromptCurve], gains: Sequence[float], *, seed: int
) -> list[Spending]:
    """KL of both methods at every proxy gain that all seeds of both reach; they may be measured on other instructions.

    Raises DataError when the seeds differ.
    """
    if [c.curve.seed for c in first] != [c.curve.seed for c in second]:
        raise DataError(f"{first[0].curve.method} and {second[0].curve.method} have different seeds")
    out = []
    for gain in gains:
        a, b = kl_at_gain(first, gain, seed=seed), kl_at_gain(second, gain, seed=seed)
        if not (np.isfinite(a.points).all() and np.isfinite(b.points).all()):
            continue
        each = [
            kl_at_gain([y], gain, seed=seed).minus(kl_at_gain([x], gain, seed=seed)).together().estimate(0)
            for x, y in zip(first, second, strict=True)
        ]
        out.append(
            Spending(
                gain=gain,
                first=first[0].curve.method,
                second=second[0].curve.method,
                first_kl=a.together().at_least(0.0).estimate(0),
                second_kl=b.together().at_least(0.0).estimate(0),
                difference=b.minus(a).together().estimate(0),
                in_each=_sign(each),
            )
        )
    return out
