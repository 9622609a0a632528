"""A verdict on a proxy/gold curve: does gold rise, where does it peak, does it fall while the proxy keeps rising?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farm.errors import DataError
from farm.evaluate.intervals import Array, over_seeds
from farm.records import Estimate, Record, RewardCurve
from farm.seeds import key
from farm.study.words import above_zero, interval, number, position

FOLDS = 5
MANY = 5  # seeds whose peaks a sentence still lists one by one


@dataclass(frozen=True)
class PromptCurve:
    """A curve with the values behind it: ``proxy`` and ``gold`` have shape (points, prompts); gold None = unmeasured.

    ``prompts`` are the instruction ids of the columns. Per-prompt values make paired tests along the curve possible.
    """

    curve: RewardCurve
    prompts: tuple[str, ...]
    proxy: Array
    gold: Array | None

    def __post_init__(self) -> None:
        shape = (len(self.curve.points), len(self.prompts))
        for name, array in (("proxy", self.proxy), ("gold", self.gold)):
            if array is not None and array.shape != shape:
                raise DataError(f"curve of {self.curve.method}: {name} has shape {array.shape}, expected {shape}")


class Verdict(Record):
    """What a curve (or the curves of several training seeds) says about over-optimization.

    Points are ordered by x; the first is the start, the last the end. ``rise`` = gold at its peak - at the start,
    ``fall`` = gold at its peak - at the end, ``proxy_after_peak`` = proxy at the end - at the gold peak, all averaged
    over seeds; a flag is true where the 95% interval lies above zero. Seeds often collapse to very different depths,
    which makes the interval over few seeds wide: ``seeds_falling`` counts those whose gold falls by their own interval
    (over prompts), ``seeds_rising`` those whose proxy rises after the peak by theirs, and what all seeds do counts as
    done. ``peaks`` holds each seed's peak x,
    ``peak_x`` and ``peak_kl`` their medians. ``over_optimized`` = gold falls while the proxy keeps rising.
    ``tested`` says where the intervals come from.
    """

    method: str
    seeds: tuple[int, ...]
    x_name: str
    last_x: float | None = None
    peak_x: float | None = None
    peak_kl: float | None = None
    peaks: tuple[float, ...] = ()
    gold_first: float | None = None
    gold_peak: float | None = None
    gold_last: float | None = None
    rise: Estimate
    fall: Estimate
    proxy_after_peak: Estimate
    gold_rises: bool = False
    gold_falls: bool = False
    seeds_falling: int | None = None
    seeds_rising: int | None = None
    proxy_keeps_rising: bool = False
    over_optimized: bool = False
    tested: str = ""
    sentence: str


def verdict(curves: Sequence[RewardCurve | PromptCurve], *, seed: int) -> Verdict:
    """Judge the curves of one method, one per training seed.

    With :class:`PromptCurve` for every seed, differences are paired over prompts, and the peak is cross-fitted: it is
    chosen on four fifths of the prompts and measured on the rest, because a peak picked and measured on the same
    noise always seems to be followed by a fall. With bare curves the tests use the points' standard errors, widened
    (Bonferroni) for the choice of the peak among the points. Raises DataError when methods or x names are mixed.
    """
    plain = [c.curve if isinstance(c, PromptCurve) else c for c in curves]
    if not plain or len({(c.method, c.x_name) for c in plain}) != 1:
        raise DataError(f"a verdict needs the curves of one method, got {[(c.method, c.x_name) for c in plain]}")
    if len({c.seed for c in plain}) != len(plain):
        raise DataError(f"curves of {plain[0].method}: a seed occurs twice in {[c.seed for c in plain]}")
    for c in plain:
        if any(a.x >= b.x for a, b in zip(c.points, c.points[1:], strict=False)):
            raise DataError(f"curve of {c.method}, seed {c.seed}: {c.x_name} must increase from point to point")
    problem = _problem(plain)
    if problem:
        return _unjudged(plain, problem)
    paired = [c for c in curves if isinstance(c, PromptCurve) and c.gold is not None and len(c.prompts) >= FOLDS]
    if len(paired) == len(curves):
        moves, tested = _paired(paired, seed), "paired over prompts, cross-fitted peak"
        alone = [_paired([c], seed) for c in paired]
        falling, rising = (sum(above_zero(m[k]) for m in alone) for k in (1, 2))
        return _conclude(plain, moves, tested, falling, rising)
    return _conclude(plain, _from_errors(plain), "from the points' standard errors, peak allowed for", None, None)


def _problem(curves: list[RewardCurve]) -> str:
    if any(len(c.points) < 2 for c in curves):
        return "too few points for a verdict"
    if any(p.gold is None for c in curves for p in c.points):
        return "gold was not measured at every point, so over-optimization cannot be judged"
    return ""


def _unjudged(curves: list[RewardCurve], problem: str) -> Verdict:
    nothing = Estimate(value=None, n=0, note=f"not estimable: {problem}")
    return Verdict(
        method=curves[0].method,
        seeds=tuple(c.seed for c in curves),
        x_name=curves[0].x_name,
        rise=nothing,
        fall=nothing,
        proxy_after_peak=nothing,
        sentence=f"{curves[0].method}: {problem}.",
    )


Moves = tuple[Estimate, Estimate, Estimate]  # rise, fall, proxy after the peak
MovesByPrompt = tuple[Array, Array, Array]  # the same by prompt


def cross_fitted(curve: PromptCurve, seed: int) -> MovesByPrompt:
    """Rise, fall and proxy after the gold peak of every prompt, each [prompts]: the peak is chosen on the other folds.

    Raises DataError when gold was not measured.
    """
    gold = curve.gold
    if gold is None:
        raise DataError(f"curve of {curve.curve.method}: gold was not measured, so it has no peak")
    fold = np.array([key(seed, "peak fold", p) % FOLDS for p in curve.prompts])
    peak = np.empty(len(curve.prompts), dtype=int)
    for f in range(FOLDS):
        rest = fold != f
        peak[~rest] = int(gold[:, rest].mean(axis=1).argmax()) if rest.any() else 0
    column = np.arange(len(curve.prompts))
    top = gold[peak, column]
    return top - gold[0], top - gold[-1], curve.proxy[-1] - curve.proxy[peak, column]


def _paired(curves: Sequence[PromptCurve], seed: int) -> Moves:
    moves = [cross_fitted(c, seed) for c in curves]
    tables = [
        [dict(zip(c.prompts, m[k].tolist(), strict=True)) for c, m in zip(curves, moves, strict=True)] for k in range(3)
    ]
    rise, fall, after = (over_seeds(rows, seed=seed) for rows in tables)
    return rise, fall, after


def _from_errors(curves: list[RewardCurve]) -> Moves:
    pieces: list[list[tuple[float, float | None]]] = [[], [], []]
    for curve in curves:
        points = curve.points
        top = points[_peak(curve)]
        first, last = points[0], points[-1]
        pieces[0].append(_gap(top.gold, top.gold_se, first.gold, first.gold_se, top is first))
        pieces[1].append(_gap(top.gold, top.gold_se, last.gold, last.gold_se, top is last))
        pieces[2].append(_gap(last.proxy, last.proxy_se, top.proxy, top.proxy_se, top is last))
    n = min(p.n for c in curves for p in c.points)
    choices = max(len(c.points) for c in curves) - 1
    rise, fall, after = (_combined(piece, choices, n) for piece in pieces)
    return rise, fall, after


def _gap(
    a: float | None, a_se: float | None, b: float | None, b_se: float | None, same: bool
) -> tuple[float, float | None]:
    if same or a is None or b is None:
        return 0.0, 0.0
    return a - b, None if a_se is None or b_se is None else float(np.hypot(a_se, b_se))


def _combined(pieces: list[tuple[float, float | None]], choices: int, n: int) -> Estimate:
    from scipy.stats import norm

    gaps = np.array([gap for gap, _ in pieces])
    errors = [error for _, error in pieces if error is not None]
    value, s = float(gaps.mean()), len(gaps)
    if len(errors) < s and s == 1:
        return Estimate(value=value, n=n, note="no interval: the points carry no standard errors")
    within = float(np.mean(np.square(errors))) / s if errors else 0.0
    between = float(gaps.var(ddof=1)) / s if s > 1 else 0.0
    half = float(norm.ppf(1 - 0.025 / choices)) * float(np.sqrt(max(within, between)))
    return Estimate(value=value, ci95_low=value - half, ci95_high=value + half, n=n)


def _peak(curve: RewardCurve) -> int:
    return int(np.argmax([p.gold for p in curve.points if p.gold is not None]))


def _conclude(curves: list[RewardCurve], moves: Moves, tested: str, falling: int | None, rising: int | None) -> Verdict:
    rise, fall, after = moves
    tops = [c.points[_peak(c)] for c in curves]
    kls = [p.kl for p in tops if p.kl is not None]
    several = len(curves) > 1
    rises, falls = above_zero(rise), above_zero(fall) or (several and falling == len(curves))
    proxy_rises = above_zero(after) or (several and rising == len(curves))
    peaks = tuple(p.x for p in tops)
    peak_x = float(np.median(peaks))
    peak_kl = float(np.median(kls)) if len(kls) == len(tops) else None
    last_x = max(c.points[-1].x for c in curves)
    name, x_name = curves[0].method, curves[0].x_name
    where = f"{x_name} = {position(peak_x)}" + (f" (KL {number(peak_kl, 1)})" if peak_kl is not None else "")
    if len(set(peaks)) > 1:
        low, *_, high = places = [position(x) for x in sorted(peaks)]
        each = ", ".join(places) if len(places) <= MANY else f"{low} to {high}"
        where += f" in the median of {len(peaks)} seeds ({each})"
    end = f"{x_name} = {position(last_x)}"
    start = f"gold rises by {interval(rise)}" if rises else "gold does not rise significantly"
    if falls:
        turn = f" to a peak at {where}, then falls" if rises else f" and falls from {where}"
        proxy = "while the proxy keeps rising: over-optimization" if proxy_rises else "but the proxy stops rising too"
        each = "" if above_zero(fall) else f" in each of {len(curves)} seeds, on average"
        rest = f"{turn}{each} by {interval(fall)} until {end} {proxy}"
    elif all(c.points[-1] is top for c, top in zip(curves, tops, strict=True)):
        rest = f" and is highest at the end ({end}): no over-optimization up to there"
    elif fall.ci95_low is None and fall.value:
        rest = f", highest at {where} and {number(fall.value)} lower at {end}; without standard errors that is untested"
    else:
        rest = (
            f", highest at {where}; the fall until {end}, {interval(fall)}, is within noise: no over-optimization seen"
        )
    return Verdict(
        method=name,
        seeds=tuple(c.seed for c in curves),
        x_name=x_name,
        last_x=last_x,
        peak_x=peak_x,
        peak_kl=peak_kl,
        peaks=peaks,
        gold_first=_average([c.points[0].gold for c in curves]),
        gold_peak=_average([p.gold for p in tops]),
        gold_last=_average([c.points[-1].gold for c in curves]),
        rise=rise,
        fall=fall,
        proxy_after_peak=after,
        gold_rises=rises,
        gold_falls=falls,
        seeds_falling=falling,
        seeds_rising=rising,
        proxy_keeps_rising=proxy_rises,
        over_optimized=falls and proxy_rises,
        tested=tested,
        sentence=f"{name}: {start}{rest}.",
    )


def _average(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
