"""Methods at equal generation budget: each row's best checkpoint among those it could afford.

Checkpoints are chosen by judges on some prompts of ``val`` and shown on the others, so the choice does not flatter what
is shown. The budget is the number of responses drawn for training; labels are the same for all rows of a recipe, and
what a row spent of everything stands in its ``Budget``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from farm.evaluate import intervals
from farm.records import Estimate, Record, WinRate
from farm.study.overoptimization import PromptCurve

SHARES = (0.25, 0.5, 1.0)


class Choice(Record):
    """One candidate of a row: the policy at ``x`` of its curve, after ``sequences`` drawn responses, against the SFT
    policy on the first ``prompts`` prompts of ``val``. ``win_rate`` None: the only candidate, so nobody was asked."""

    method: str
    seed: int
    x: float
    sequences: int
    prompts: int
    comparisons: int = 0
    usd: float = 0.0
    win_rate: WinRate | None = None
    chosen: bool = False


class Affordable(Record):
    """``method`` with at most ``sequences`` responses drawn for training (``share`` of what every row reaches).

    ``win_rate`` against the SFT policy over seeds, on the prompts that chose; ``gold`` and ``proxy``: gain over the SFT
    policy on the other prompts; ``xs``: where each seed's choice lies on its curve.
    """

    method: str
    share: float
    sequences: int
    seeds: tuple[int, ...]
    xs: tuple[float, ...]
    win_rate: float | None
    gold: Estimate | None
    proxy: Estimate


def best(choices: Sequence[Choice]) -> Choice | None:
    """The candidate with the highest win rate, of equal ones the earlier; a single one without being judged."""
    if not choices:
        return None
    return max(choices, key=lambda c: (_rate(c), -c.x))


def _rate(choice: Choice) -> float:
    value = choice.win_rate.value if choice.win_rate else None
    return -1.0 if value is None else value


def affordable(
    choices: Sequence[Choice], curves: Mapping[tuple[str, int], PromptCurve], *, seed: int
) -> list[Affordable]:
    """Every row that has a curve, at each of ``SHARES`` of the responses that all generating rows draw.

    A row that draws none stands at every budget with its best checkpoint; a row without a checkpoint within a budget
    is left out there. Empty when no row draws anything.
    """
    drawn = {m: max(c.sequences for c in choices if c.method == m) for m in dict.fromkeys(c.method for c in choices)}
    common = min((n for n in drawn.values() if n), default=0)
    out = []
    for share in SHARES if common else ():
        for method in drawn:
            mine = [c for c in choices if c.method == method]
            seeds = tuple(dict.fromkeys(c.seed for c in mine))
            within = [[c for c in mine if c.seed == s and c.sequences <= share * common] for s in seeds]
            taken = [c for c in map(best, within) if c is not None]
            if len(taken) == len(seeds):
                out.append(_shown(method, share, int(share * common), taken, curves, seed))
    return out


def _shown(
    method: str,
    share: float,
    sequences: int,
    taken: Sequence[Choice],
    curves: Mapping[tuple[str, int], PromptCurve],
    seed: int,
) -> Affordable:
    rates = [c.win_rate.value for c in taken if c.win_rate is not None and c.win_rate.value is not None]
    each = [(curves[method, c.seed], c) for c in taken]
    known = all(curve.gold is not None for curve, _ in each)
    return Affordable(
        method=method,
        share=share,
        sequences=sequences,
        seeds=tuple(c.seed for c in taken),
        xs=tuple(c.x for c in taken),
        win_rate=sum(rates) / len(rates) if len(rates) == len(taken) else None,
        gold=_gain([_moved(curve, curve.gold, c) for curve, c in each if curve.gold is not None], seed)
        if known
        else None,
        proxy=_gain([_moved(curve, curve.proxy, c) for curve, c in each], seed),
    )


def _moved(curve: PromptCurve, values: np.ndarray, choice: Choice) -> dict[str, float]:
    """Gain over the start of the curve on the prompts that did not choose, by prompt."""
    at = [p.x for p in curve.curve.points].index(choice.x)
    gains = values[at] - values[0]
    return dict(zip(curve.prompts[choice.prompts :], gains[choice.prompts :].tolist(), strict=True))


def _gain(tables: Sequence[dict[str, float]], seed: int) -> Estimate:
    if not all(tables):
        return Estimate(value=None, n=0, note="not estimable: all prompts of the curve were used to choose")
    return intervals.over_seeds(tables, seed=seed)
