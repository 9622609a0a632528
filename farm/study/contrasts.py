"""Levels of every method and paired differences to a baseline, per training seed and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.errors import DataError
from farm.evaluate import intervals
from farm.evaluate.intervals import Scores
from farm.records import Estimate, Record


@dataclass(frozen=True)
class Arm:
    """One method trained with one seed, measured on the evaluation instructions.

    ``scores`` maps a measure ("win_rate", "gold", "proxy", "human_win_rate", ...) to instruction id -> value. A
    measure that was not taken is absent or empty.
    """

    method: str
    seed: int
    scores: Mapping[str, Scores]


class Contrast(Record):
    """``measure`` of ``method``, minus that of ``baseline`` where one is named.

    ``seed`` None means: over all ``seeds``, the interval being over instructions and seeds.
    """

    method: str
    baseline: str | None = None
    seed: int | None = None
    seeds: tuple[int, ...]
    measure: str
    estimate: Estimate


def levels(arms: Sequence[Arm], *, seed: int) -> list[Contrast]:
    """Mean of every measure for every method over its training seeds, in order of first appearance."""
    groups = _grouped(arms)
    return [
        Contrast(
            method=method,
            seeds=tuple(arm.seed for arm in group),
            measure=measure,
            estimate=intervals.over_seeds([arm.scores[measure] for arm in group], seed=seed),
        )
        for method, group in groups.items()
        for measure in _measures(group)
    ]


def differences(arms: Sequence[Arm], *, baseline: str, seed: int) -> list[Contrast]:
    """Paired differences of every method to ``baseline``: one row per training seed, then one over all of them.

    Both are compared on the instructions that both have, seed by seed. With a single seed there is no row over seeds.
    Raises DataError when the baseline is missing for a seed.
    """
    groups = _grouped(arms)
    base = {arm.seed: arm for arm in groups.get(baseline, [])}
    rows: list[Contrast] = []
    for method, group in groups.items():
        if method == baseline:
            continue
        missing = [arm.seed for arm in group if arm.seed not in base]
        if missing:
            raise DataError(f"{method} cannot be compared with {baseline}: no {baseline} with seed {missing}")
        for measure in _measures(group):
            paired = [(arm, base[arm.seed]) for arm in group if measure in base[arm.seed].scores]
            if paired:
                rows += _rows(method, baseline, measure, paired, seed)
    return rows


def _rows(method: str, baseline: str, measure: str, paired: list[tuple[Arm, Arm]], seed: int) -> list[Contrast]:
    first, second = [a.scores[measure] for a, _ in paired], [b.scores[measure] for _, b in paired]
    seeds = tuple(a.seed for a, _ in paired)

    def row(one: int | None, estimate: Estimate) -> Contrast:
        return Contrast(
            method=method,
            baseline=baseline,
            seed=one,
            seeds=seeds if one is None else (one,),
            measure=measure,
            estimate=estimate,
        )

    rows = [row(s, intervals.difference([a], [b], seed=seed)) for s, a, b in zip(seeds, first, second, strict=True)]
    return rows if len(seeds) == 1 else [*rows, row(None, intervals.difference(first, second, seed=seed))]


def _grouped(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        group = groups.setdefault(arm.method, [])
        if any(other.seed == arm.seed for other in group):
            raise DataError(f"{arm.method} with seed {arm.seed} was given twice")
        group.append(arm)
    return groups


def _measures(group: Sequence[Arm]) -> list[str]:
    """Measures that every arm of the group has, in the order of the first."""
    return [m for m in group[0].scores if all(arm.scores.get(m) for arm in group)]
