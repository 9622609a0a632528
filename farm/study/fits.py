"""The laws of over-optimization, fitted to measured curves (Gao, Schulman, Hilton 2023, arXiv 2210.10760, section 3).

    best-of-n   R(d) = d (alpha - beta d)        peak at d = alpha / (2 beta),       alpha^2 / (4 beta) high
    rl          R(d) = d (alpha - beta log d)    peak at d = exp(alpha / beta - 1),  beta exp(alpha / beta - 1) high

d is the square root of the KL from the initial policy, in nats per sequence; R is gold minus gold at the start. Each
method has its own law: best-of-n the first, everything that trains a policy the second. (Both are reported for both,
because on small models the first often describes RL at least as well; see ``r2_other``.) The second has an infinite
slope at 0, so points closer than ``RL_FROM`` are left out of it.

Both laws are linear in alpha and beta: a fit is one projection of the curve, and so is that of every instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from farm.errors import DataError
from farm.evaluate.intervals import Array
from farm.records import CurvePoint, Estimate, Record, RewardCurve
from farm.seeds import rng
from farm.study.overoptimization import PromptCurve
from farm.study.resample import BySeed, Draws, bootstrap
from farm.study.words import above_zero, interval, number, position

Form = Literal["best_of_n", "rl"]
FEWEST = 4  # points with d > 0: two parameters and something left to disagree
RL_FROM = 0.5  # d
FAITHFUL = 0.5  # R2 below which a law does not describe the curve
SPLIT = 0.6  # the extrapolation check fits the points up to this share of the largest d


class Extrapolation(Record):
    """A fit on the ``n_fitted`` points up to ``upto_d``, held against the ``n_held`` beyond: predicted and measured
    gain at the last point, the error (measured - predicted) there, and the peak's KL as foreseen from the first
    part."""

    upto_d: float
    n_fitted: int
    n_held: int
    predicted_last: float
    measured_last: float
    error: Estimate
    peak_kl: Estimate


class CurveFit(Record):
    """One law fitted to the curves of one method. Gains are gold minus gold at the start.

    ``peak_d``, ``peak_kl`` and ``peak_gain`` are the law's own; ``peak_inside`` says whether the peak lies within the
    measured range (else it is extrapolated). ``r2`` is the share of the curve's variation that the law explains,
    ``r2_other`` that of the other law; ``residuals`` are measured - fitted gains of the mean curve, point by point of
    ``d``. ``refused`` says why there is no fit; all numbers are then absent.
    """

    method: str
    form: Form
    seeds: tuple[int, ...]
    alpha: Estimate
    beta: Estimate
    peak_d: Estimate
    peak_kl: Estimate
    peak_gain: Estimate
    peak_inside: bool = False
    r2: float | None = None
    r2_other: float | None = None
    d: tuple[float, ...] = ()
    residuals: tuple[float, ...] = ()
    extrapolation: Extrapolation | None = None
    refused: str = ""
    sentence: str = ""


def design(d: Array, form: Form) -> Array:
    """The law's two columns, shape (points, 2): gains are ``design @ [alpha, beta]``."""
    second = -(d**2) if form == "best_of_n" else -d * np.log(np.maximum(d, 1e-300))
    return np.stack([d, second], axis=1)


def predict(alpha: float, beta: float, d: Array, form: Form) -> Array:
    """Gains at ``d`` under the law."""
    out: Array = design(np.asarray(d, dtype=float), form) @ np.array([alpha, beta])
    return out


def peak(alpha: Array, beta: Array, form: Form) -> Array:
    """Rows d, KL = d^2 and gain of the law's peak, shape (3, ...). Infinite where the law has none (beta <= 0), zero
    where it only falls (alpha <= 0 in the best-of-n law)."""
    alpha, beta = np.asarray(alpha, dtype=float), np.asarray(beta, dtype=float)
    turns = beta > 0
    safe = np.where(turns, beta, 1.0)
    with np.errstate(over="ignore"):
        d = np.maximum(alpha, 0) / (2 * safe) if form == "best_of_n" else np.exp(np.minimum(alpha / safe - 1, 350))
        gain = safe * d * d if form == "best_of_n" else safe * d
        return np.where(turns, np.stack([d, d * d, gain]), np.inf)


def form_of(curve: RewardCurve) -> Form:
    """The law that belongs to a curve: the first for best-of-n (x is n), the second for trained policies."""
    return "best_of_n" if curve.x_name == "n" else "rl"


@dataclass(frozen=True)
class _Points:
    """One seed's points that the law is fitted to: ``d`` [points], gains with values behind them or errors."""

    d: Array
    gain: Array
    by_prompt: Array | None  # (points, instructions)
    prompts: tuple[str, ...]


def fit(curves: Sequence[RewardCurve | PromptCurve], *, seed: int, form: Form | None = None) -> CurveFit:
    """Fit the law (by default the method's own) to the curves of one method, one per training seed.

    With :class:`PromptCurve` gains are differences to the first point, instruction by instruction, and intervals come
    from a bootstrap over instructions and seeds. Bare curves have points with independent errors, so their start is
    fitted too, and intervals are those of least squares (and of the spread over seeds). A curve that cannot carry a
    fit is refused in words: fewer than ``FEWEST`` points, gold or KL missing, not finite, or KL that falls.
    Raises DataError without curves or with those of several methods.
    """
    plain = [c.curve if isinstance(c, PromptCurve) else c for c in curves]
    if not plain or len({(c.method, c.x_name) for c in plain}) != 1:
        raise DataError(f"a fit needs the curves of one method, got {[(c.method, c.x_name) for c in plain]}")
    form = form or form_of(plain[0])
    if problem := next(filter(None, (unfit(c, form) for c in plain)), ""):
        return _refused(plain, form, problem)
    points = [_points(c, form) for c in curves]
    fitted = _fitted(points, form, seed)
    r2 = _r2(points, form)
    if r2 < FAITHFUL:
        return _refused(
            plain, form, f"the law explains only {max(r2, 0.0):.0%} of the variation of gold along the curve"
        )
    other: Form = "rl" if form == "best_of_n" else "best_of_n"
    d = np.mean([p.d for p in points], axis=0) if len({len(p.d) for p in points}) == 1 else points[0].d
    top = _top(fitted, form)
    last = float(min(p.d[-1] for p in points))
    inside = top.value[0] <= last
    made = CurveFit(
        method=plain[0].method,
        form=form,
        seeds=tuple(c.seed for c in plain),
        alpha=fitted.estimate(0),
        beta=fitted.estimate(1),
        peak_d=top.estimate(0),
        peak_kl=top.estimate(1),
        peak_gain=top.estimate(2),
        peak_inside=bool(inside),
        r2=r2,
        r2_other=_r2(points, other),
        d=tuple(float(x) for x in d),
        residuals=tuple(float(x) for x in _residuals(points, form)),
        extrapolation=_extrapolated(points, form, seed),
    )
    return made.model_copy(update={"sentence": _sentence(made)})


def unfit(curve: RewardCurve, form: Form) -> str:
    """Why no law can be fitted to a curve, or ''."""
    points, where = curve.points, f"{curve.method}, seed {curve.seed}"
    for p in points:
        at = f"{where}, {curve.x_name} = {position(p.x)}"
        if p.gold is None:
            return f"{at}: gold was not measured"
        if p.kl is None:
            return f"{at}: KL was not measured"
        if not all(np.isfinite(v) for v in (p.gold, p.kl, p.proxy)):
            return f"{at}: proxy, gold or KL is not a finite number"
    used = [p for p in points[1:] if p.kl is not None and p.kl >= (RL_FROM**2 if form == "rl" else 1e-9)]
    if len(used) < FEWEST:
        return f"{where}: {len(used)} points away from the start, a fit needs at least {FEWEST}"
    return _falling_kl(curve, points)


def _falling_kl(curve: RewardCurve, points: Sequence[CurvePoint]) -> str:
    """KL that falls by more than its sampling error (3 SE): gold is then no function of it."""
    highest = points[0]
    for p in points[1:]:
        assert p.kl is not None
        assert highest.kl is not None
        noise = 3 * float(np.hypot(p.kl_se or 0.0, highest.kl_se or 0.0))
        if p.kl < highest.kl - max(noise, 0.02 * highest.kl):
            return (
                f"{curve.method}, seed {curve.seed}: KL falls from {number(highest.kl)} at {curve.x_name} = "
                f"{position(highest.x)} to {number(p.kl)} at {position(p.x)}, so gold is not a function of KL here"
            )
        highest = max(highest, p, key=lambda q: q.kl or 0.0)
    return ""


def _points(c: RewardCurve | PromptCurve, form: Form) -> _Points:
    curve = c.curve if isinstance(c, PromptCurve) else c
    d = np.sqrt(np.maximum([p.kl or 0.0 for p in curve.points], 0.0))
    keep = d >= (RL_FROM if form == "rl" else 1e-6)
    keep[0] = False
    if isinstance(c, PromptCurve) and c.gold is not None:
        gains = c.gold[keep] - c.gold[0]
        return _Points(d[keep], gains.mean(axis=1), gains, c.prompts)
    keep[0] = True
    return _Points(d[keep], np.array([p.gold for p in curve.points], dtype=float)[keep], None, ())


def _fitted(points: Sequence[_Points], form: Form, seed: int) -> Draws:
    """alpha and beta with their draws."""
    if all(p.by_prompt is not None for p in points):
        inverse = [np.linalg.pinv(design(p.d, form)) for p in points]
        return bootstrap(
            [p.by_prompt for p in points if p.by_prompt is not None],
            [p.prompts for p in points],
            lambda k, means: inverse[k] @ means,
            seed=seed,
        ).together()
    return _least_squares(points, form, seed)


def _least_squares(points: Sequence[_Points], form: Form, seed: int, draws: int = 2000) -> Draws:
    """Per seed: start, alpha and beta by least squares, drawn from their t distribution; averaged over seeds."""
    values, drawn = [], []
    for k, p in enumerate(points):
        a = np.column_stack([np.ones(len(p.d)), design(p.d, form)])
        coefficients, *_ = np.linalg.lstsq(a, p.gain, rcond=None)
        freedom = len(p.d) - 3
        variance = float(((p.gain - a @ coefficients) ** 2).sum()) / freedom
        root = np.linalg.cholesky(np.linalg.inv(a.T @ a) + 1e-15 * np.eye(3)) * np.sqrt(variance)
        random = rng(seed, "least squares", k)
        scale = np.sqrt(freedom / random.chisquare(freedom, draws))
        values.append(coefficients[1:])
        drawn.append((coefficients[:, None] + root @ random.normal(size=(3, draws)) * scale)[1:])
    return BySeed(np.array(values), np.array(drawn), min(len(p.d) for p in points), seed).together()


def _top(fitted: Draws, form: Form) -> Draws:
    return Draws(
        peak(fitted.value[0], fitted.value[1], form),
        peak(fitted.draws[0], fitted.draws[1], form),
        fitted.n,
        fitted.seeds,
    )


def _r2(points: Sequence[_Points], form: Form) -> float:
    """Share of the sum of squares around the mean that seed-wise fits explain, seeds together."""
    left = total = 0.0
    for p in points:
        error = _residuals([p], form)
        left += float((error**2).sum())
        total += float(((p.gain - p.gain.mean()) ** 2).sum())
    return 1 - left / total if total > 0 else 0.0


def _residuals(points: Sequence[_Points], form: Form) -> Array:
    """Measured - fitted gains, averaged over seeds where all have the same number of points."""
    rows = []
    for p in points:
        a = design(p.d, form)
        a = a if p.by_prompt is not None else np.column_stack([np.ones(len(p.d)), a])
        rows.append(p.gain - a @ np.linalg.lstsq(a, p.gain, rcond=None)[0])
    return np.mean(rows, axis=0) if len({len(r) for r in rows}) == 1 else rows[0]


def _extrapolated(points: Sequence[_Points], form: Form, seed: int) -> Extrapolation | None:
    """The check, where every seed leaves ``FEWEST`` points to fit and one to predict; needs values by instruction."""
    upto = SPLIT * float(min(p.d[-1] for p in points))
    counts = [int((p.d <= upto).sum()) for p in points]
    if min(counts) < FEWEST - 1 or any(p.by_prompt is None for p in points):
        return None
    first = [
        _Points(p.d[:c], p.gain[:c], p.by_prompt[:c], p.prompts)
        for p, c in zip(points, counts, strict=True)
        if p.by_prompt is not None
    ]
    inverse = [np.linalg.pinv(design(p.d, form)) for p in first]
    ahead = [design(p.d[-1:], form) for p in points]

    def statistic(k: int, means: Array) -> Array:
        predicted = ahead[k] @ (inverse[k] @ means[: counts[k]])
        return np.concatenate([predicted, means[-1:], means[-1:] - predicted])

    found = bootstrap(
        [p.by_prompt for p in points if p.by_prompt is not None], [p.prompts for p in points], statistic, seed=seed
    ).together()
    return Extrapolation(
        upto_d=upto,
        n_fitted=min(counts),
        n_held=min(len(p.d) - c for p, c in zip(points, counts, strict=True)),
        predicted_last=float(found.value[0]),
        measured_last=float(found.value[1]),
        error=found.estimate(2),
        peak_kl=_top(_fitted(first, form, seed), form).estimate(1),
    )


def _refused(plain: Sequence[RewardCurve], form: Form, problem: str) -> CurveFit:
    nothing = Estimate(value=None, n=0, note=f"no fit: {problem}")
    return CurveFit(
        method=plain[0].method,
        form=form,
        seeds=tuple(c.seed for c in plain),
        alpha=nothing,
        beta=nothing,
        peak_d=nothing,
        peak_kl=nothing,
        peak_gain=nothing,
        refused=problem,
        sentence=f"{plain[0].method}: no fit, {problem}.",
    )


def _sentence(f: CurveFit) -> str:
    law = "d (\u03b1 \u2212 \u03b2 d)" if f.form == "best_of_n" else "d (\u03b1 \u2212 \u03b2 log d)"
    found = f"\u03b1 = {interval(f.alpha)}, \u03b2 = {interval(f.beta)} (R\u00b2 {number(f.r2)})"
    text = f"{f.method}: gold gain = {law} with {found}"
    if not above_zero(f.beta):
        return f"{text}; \u03b2 is not distinguishable from zero, so the law foresees no peak."
    where = "" if f.peak_inside else ", beyond what was measured"
    return f"{text}; its peak is {interval(f.peak_gain)} at KL {interval(f.peak_kl)}{where}."
