"""Whether a simulator's ranking of methods can be believed: everything that ``farm correlate`` says, in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from farm.records import Record
from farm.study.correlation import Association, Measured, associate
from farm.study.prediction_powered import PredictionPowered
from farm.study.ranking import Influence, PairRanking, expected_right, leave_one_out, pair_rankings
from farm.study.true_scores import top_of
from farm.study.widths import WidthPlan
from farm.study.widths import plan as width_plan


class MethodScore(Record):
    """One method's scores on both sides with their standard errors; None = not given."""

    method: str
    first: float
    first_se: float | None
    second: float
    second_se: float | None


class Validity(Record):
    """Two sets of method scores compared. ``associations`` begins with the one everything else here is about; the
    others are the same comparison on other rows. ``inputs`` says what was read, ``left_out`` what was not."""

    names: tuple[str, str]
    seed: int
    inputs: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    unit: str
    scores: tuple[MethodScore, ...]
    associations: tuple[Association, ...]
    influence: tuple[Influence, ...]
    pairs: tuple[PairRanking, ...]
    expected_right: float | None
    plan: WidthPlan
    prediction_powered: tuple[PredictionPowered, ...] = ()


def validity(
    measured: Measured,
    subsets: Mapping[str, Sequence[str]],
    *,
    target: float,
    labels: float | None = None,
    inputs: Sequence[str] = (),
    left_out: Sequence[str] = (),
    notes: Sequence[str] = (),
    unit: str = "",
    powered: Sequence[PredictionPowered] = (),
    seed: int,
) -> Validity:
    """Compare both sides over the first of ``subsets`` (label -> methods), and again over each of the others.

    ``target`` is the width of Spearman's interval to plan for, ``labels`` the human labels per method, ``unit`` that
    of the scores ("share", "percent" or anything).
    """
    parts = {label: measured.only(methods) for label, methods in subsets.items()}
    associations = [associate(part, label=label, seed=seed) for label, part in parts.items()]
    main = next(iter(parts.values()))
    pairs = pair_rankings(main)
    return Validity(
        names=measured.names,
        seed=seed,
        inputs=tuple(inputs),
        left_out=tuple(left_out),
        notes=tuple(notes),
        unit=unit,
        scores=tuple(_scores(main)),
        associations=tuple(associations),
        influence=tuple(leave_one_out(main)),
        pairs=tuple(pairs),
        expected_right=expected_right(pairs),
        plan=width_plan(main, associations[0], target, labels=labels, seed=seed),
        prediction_powered=tuple(powered),
    )


def _scores(measured: Measured) -> list[MethodScore]:
    errors = None if measured.errors is None else np.sqrt(np.square(measured.errors).mean(axis=0))
    return [
        MethodScore(
            method=m,
            first=float(measured.values[0, k]),
            first_se=None if errors is None else float(errors[0, k]),
            second=float(measured.values[1, k]),
            second_se=None if errors is None else float(errors[1, k]),
        )
        for k, m in enumerate(measured.methods)
    ]


def unit_of(values: Sequence[Sequence[float]]) -> tuple[str, str]:
    """(unit of both sides, why they cannot be subtracted): "share" in 0..1, "percent" in 0..100, else "points".

    Sides in different units have ranks to compare but no differences.
    """
    names = {1.0: "share", 100.0: "percent", 0.0: "points"}
    kinds = [names[top_of(np.asarray(side, dtype=float))] for side in values]
    if len(set(kinds)) > 1:
        words = {"share": "shares of 1", "percent": "on a scale of 100", "points": "beyond 100 or negative"}
        return "", f"the sides are in different units ({' and '.join(words[k] for k in kinds)})"
    return kinds[0], ""
