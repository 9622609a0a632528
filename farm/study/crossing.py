"""Two training judges crossed with two evaluation judges: does noise make the downturn, or the change of judge?

AlpacaFarm (Dubois et al. 2023) saw a downturn with its noisy population of annotators and none with one judge, but the
population was noisy in training only, and one judge both trained and evaluated. Here all four cells are filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

from farm.errors import DataError
from farm.evaluate.intervals import Array, over_seeds
from farm.records import Estimate, Record
from farm.study.overoptimization import PromptCurve, Verdict, cross_fitted, verdict
from farm.study.words import above_zero, below_zero, interval

Trained = Literal["population", "single"]
Evaluated = Literal["same", "independent"]
TRAINED: tuple[Trained, ...] = ("population", "single")
EVALUATED: tuple[Evaluated, ...] = ("same", "independent")


class Cell(Record):
    """One training judge under one evaluation judge: gold is that judge's win rate against the reference, in [0, 1].
    ``judge`` names who evaluated."""

    trained: Trained
    evaluated: Evaluated
    judge: str
    verdict: Verdict


class Crossing(Record):
    """The four cells of one method. ``noise`` is the fall with the population as training judge minus that with the
    single one, averaged over evaluation judges; ``change`` the fall under the independent judge minus that under the
    same one, averaged over training judges. Both are paired by seed and instruction."""

    method: str
    cells: tuple[Cell, ...]
    noise: Estimate
    change: Estimate
    sentence: str


def crossed(
    curves: Mapping[tuple[Trained, Evaluated], Sequence[PromptCurve]],
    judges: Mapping[tuple[Trained, Evaluated], str],
    *,
    method: str,
    seed: int,
) -> Crossing:
    """Fill the table. Every cell holds curves of the same seeds on the same instructions, ``gold`` being win scores.

    Raises DataError when a cell is missing or the cells' seeds or instructions differ.
    """
    keys = list(product(TRAINED, EVALUATED))
    missing = [k for k in keys if not curves.get(k)]
    if missing:
        raise DataError(f"the 2x2 of {method} lacks {missing[0][0]} judged by the {missing[0][1]} judge")
    first = [(c.curve.seed, c.prompts) for c in curves[keys[0]]]
    if any([(c.curve.seed, c.prompts) for c in curves[k]] != first for k in keys):
        raise DataError(f"the 2x2 of {method}: all cells need the same seeds and instructions")
    falls = {k: [cross_fitted(c, seed)[1] for c in curves[k]] for k in keys}

    def contrast(weight: Mapping[tuple[Trained, Evaluated], float]) -> Estimate:
        rows: list[Array] = [
            sum((weight[k] * falls[k][s] for k in keys), 0 * falls[keys[0]][s]) for s in range(len(first))
        ]
        return over_seeds(
            [dict(zip(p, r.tolist(), strict=True)) for (_, p), r in zip(first, rows, strict=True)], seed=seed
        )

    noise = contrast({k: 0.5 if k[0] == "population" else -0.5 for k in keys})
    change = contrast({k: 0.5 if k[1] == "independent" else -0.5 for k in keys})
    cells = tuple(
        Cell(trained=k[0], evaluated=k[1], judge=judges[k], verdict=verdict(list(curves[k]), seed=seed)) for k in keys
    )
    return Crossing(
        method=method, cells=cells, noise=noise, change=change, sentence=_cause(method, cells, noise, change)
    )


def _cause(method: str, cells: Sequence[Cell], noise: Estimate, change: Estimate) -> str:
    down = {(c.trained, c.evaluated) for c in cells if c.verdict.gold_falls}
    of_change = {(t, "independent") for t in TRAINED}
    of_noise = {("population", e) for e in EVALUATED}
    if not down:
        found = "the win rate falls in none of the four cells, so nothing is explained"
    elif down == of_change:
        found = (
            "the downturn appears whenever another judge evaluates than trained, with and without noise in the labels"
        )
    elif down == of_noise:
        found = "the downturn appears whenever the labels are noisy, whoever evaluates"
    elif down == {("population", "independent")}:
        found = "the downturn needs both: noisy labels and another judge"
    elif len(down) == 4:
        found = "the win rate falls in all four cells: neither noise nor a change of judge is needed for a downturn"
    else:
        shown = ", ".join(f"{t} under the {e} judge" for t, e in sorted(down))
        found = f"the win rate falls in {len(down)} of four cells ({shown})"
    return f"{method}: {found}. {_effect('Noisy labels', noise)}; {_effect('another judge', change)}."


def _effect(what: str, effect: Estimate) -> str:
    points = f"{interval(effect, 100, 1)} points"
    if above_zero(effect):
        return f"{what} deepens the fall by {points}" if what[0].islower() else f"{what} deepen the fall by {points}"
    if below_zero(effect):
        return (
            f"{what} makes the fall shallower ({points})"
            if what[0].islower()
            else f"{what} make it shallower ({points})"
        )
    return f"{what} {'does' if what[0].islower() else 'do'} not change the fall measurably ({points})"
