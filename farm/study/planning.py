"""What more labels would buy: which pairs people should judge, and how much narrower an interval would become.

Everything here works on arrays and on numbers that the caller already has; nothing is read, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from farm.errors import DataError
from farm.records import Record
from farm.seeds import key

NORMAL = 1.959964
FEWEST = 3  # labels per stratum, so that its own variance can be estimated


class LabelPlan(Record):
    """Which items people should label. ``chosen`` are their ids, in an order drawn at random.

    ``allocation`` counts them per stratum, ``sizes`` what there is. ``half_width`` is that of the 95% interval to
    expect for the mean human score over all items (:func:`farm.study.prediction_powered.prediction_powered` with
    these strata); ``half_width_at_random`` that of the same number of labels spread evenly, ``half_width_alone`` also
    without the help of simulated labels.
    """

    chosen: tuple[str, ...]
    sizes: dict[str, int]
    allocation: dict[str, int]
    half_width: float
    half_width_at_random: float
    half_width_alone: float


@dataclass(frozen=True)
class Candidate:
    """An item that could be labelled: a pair's id, the stratum it belongs to (a pair of methods, a band of the
    simulator's confidence, both), and the simulated probability that the first of the two wins, calibrated."""

    id: str
    stratum: str
    probability: float


def spread(probability: float, accuracy: float | None = None) -> float:
    """Standard deviation of a 0/1 human label around its best guess from a simulated one, in [0, 0.5].

    With ``accuracy`` None the simulated ``probability`` is taken to be calibrated: sqrt(p (1 - p)). Otherwise only its
    verdict counts, which people share with that probability: sqrt(a (1 - a)). Raises DataError outside [0, 1].
    """
    p = probability if accuracy is None else accuracy
    if not 0 <= p <= 1:
        raise DataError(f"a probability or an accuracy lies in [0, 1], got {p}")
    return float(np.sqrt(p * (1 - p)))


def allocate(
    sizes: Mapping[str, int], spreads: Mapping[str, float], budget: int, fewest: int = FEWEST
) -> dict[str, int]:
    """Labels per stratum, in proportion to size times spread (Neyman 1934), at least ``fewest``, at most all items.

    A stratum smaller than ``fewest`` is labelled whole. Rounded by largest remainder; sums to ``budget``, or to the
    number of items where that is smaller. Raises DataError when the budget cannot give every stratum its fewest.
    """
    floor = {s: min(fewest, size) for s, size in sizes.items() if size > 0}
    if budget < sum(floor.values()):
        raise DataError(
            f"a budget of {budget} labels cannot cover {len(floor)} strata with at least {fewest} each: "
            f"give at least {sum(floor.values())}, or make fewer strata"
        )
    plan = dict(floor)
    while (left := min(budget, sum(sizes[s] for s in plan)) - sum(plan.values())) > 0:
        pull = {s: sizes[s] * spreads[s] for s in plan if plan[s] < sizes[s]}
        if not any(pull.values()):
            pull = {s: float(sizes[s]) for s in pull}
        aim = _aim(plan, pull, left)
        grown = {s: min(sizes[s] - plan[s], int(aim[s])) for s in pull}
        if not any(grown.values()):
            first = sorted(pull, key=lambda s: (-(aim[s] - int(aim[s])), -pull[s], s))[:left]
            grown = dict.fromkeys(first, 1)
        for s, more in grown.items():
            plan[s] += more
    return {s: plan.get(s, 0) for s in sizes}


def _aim(plan: Mapping[str, int], pull: Mapping[str, float], left: int) -> dict[str, float]:
    """How many of ``left`` further labels each stratum still needs to come to its share of all."""
    total = left + sum(plan[s] for s in pull)
    short = {s: max(0.0, total * p / sum(pull.values()) - plan[s]) for s, p in pull.items()}
    scale = left / sum(short.values()) if sum(short.values()) > 0 else 0.0
    return {s: v * scale for s, v in short.items()}


def half_width(sizes: Mapping[str, int], spreads: Mapping[str, float], allocation: Mapping[str, int]) -> float:
    """Expected half width of the 95% interval of a stratified mean: 1.96 sqrt(sum of (W_h s_h)^2 / n_h).

    W_h is a stratum's share of the items, s_h the spread of human labels around what is predicted, n_h its labels.
    Strata without a label count with all their uncertainty, as if they had one.
    """
    total = sum(sizes.values())
    pieces = [(size / total * spreads[s]) ** 2 / max(1, allocation.get(s, 0)) for s, size in sizes.items() if size]
    return NORMAL * float(np.sqrt(sum(pieces)))


def plan_labels(
    candidates: Sequence[Candidate], budget: int, *, accuracy: Mapping[str, float] | None = None, seed: int
) -> LabelPlan:
    """Which ``budget`` of the candidates people should label, and what interval to expect.

    ``accuracy`` maps a stratum to how often people share the simulated verdict there (from earlier labels); without
    it the simulated probabilities are taken as calibrated. Within a stratum items are drawn by a keyed hash, so that
    the labels stay a random sample and a larger budget contains a smaller one's items of the same allocation.
    Raises DataError on duplicate ids, an empty list, or a budget too small for the strata.
    """
    ids = [c.id for c in candidates]
    if not ids or len(set(ids)) < len(ids):
        again = next((i for i in ids if ids.count(i) > 1), None) if ids else None
        raise DataError(f"items to label: {f'{again!r} is given twice' if again else 'none was given'}")
    groups: dict[str, list[Candidate]] = {}
    for c in candidates:
        groups.setdefault(c.stratum, []).append(c)
    sizes = {s: len(groups[s]) for s in sorted(groups)}
    known = accuracy or {}
    spreads = {s: float(np.sqrt(np.mean([spread(c.probability, known.get(s)) ** 2 for c in groups[s]]))) for s in sizes}
    alone = {s: _alone([c.probability for c in groups[s]], known.get(s)) for s in sizes}
    plan = allocate(sizes, spreads, budget)
    even = allocate(sizes, dict.fromkeys(sizes, 1.0), budget, fewest=0)
    chosen = [
        c.id for s, n in plan.items() for c in sorted(groups[s], key=lambda c: (key(seed, "label", c.id), c.id))[:n]
    ]
    return LabelPlan(
        chosen=tuple(sorted(chosen, key=lambda i: (key(seed, "label order", i), i))),
        sizes=sizes,
        allocation=plan,
        half_width=half_width(sizes, spreads, plan),
        half_width_at_random=half_width(sizes, spreads, even),
        half_width_alone=half_width(sizes, alone, even),
    )


def _alone(probabilities: Sequence[float], accuracy: float | None) -> float:
    """Standard deviation of human labels in a stratum when the simulated ones are not used."""
    p = np.asarray(probabilities, dtype=float)
    share = float(p.mean()) if accuracy is None else float(np.where(p > 0.5, accuracy, 1 - accuracy).mean())
    return spread(share)
