"""What a run's annotators did: outcomes, consistency under exchanged positions, tastes, cost and latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from farm.annotate.soft import LOW_MASS
from farm.records import Estimate, Judgement, Outcome, Record, Response
from farm.study.ballots import Ballots, Items, Share, ballots_of, estimate, items_of


class AnnotatorRow(Record):
    """One annotator over all its acts of a run; shares in [0, 1] with intervals over instructions.

    ``consistent``: of the pairs that it decided in both orders, those on which the same response won. The three
    preferences are shares of decided verdicts where they apply. ``soft`` counts verdicts with a probability,
    ``low_mass`` those of them whose label tokens held less than half of the mass. ``seconds_per_call`` is 0 for a
    judge in this process.
    """

    annotator: str
    models: tuple[str, ...]
    acts: int
    outcomes: dict[str, int]
    consistent: Estimate
    prefers_first: Estimate
    prefers_longer: Estimate
    prefers_list: Estimate
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    seconds_per_call: float | None
    soft: int = 0
    low_mass: int = 0


def annotator_rows(
    judgements: Sequence[Judgement],
    responses: Mapping[str, Response],
    *,
    unread: Sequence[Judgement] = (),
    seed: int,
) -> list[AnnotatorRow]:
    """One row per annotator, sorted by id, then 'pool' where there are several.

    ``unread`` are acts that count for outcomes and cost only, so that their texts need not be at hand. Acts are told
    apart by pair, annotator, draw and order shown; the two orders of a pair are one cluster with its instruction.
    Raises DataError when a judgement names an unknown response.
    """
    items = items_of(judgements, responses)
    ballots = ballots_of(_renumbered(judgements), items)
    everything = [*judgements, *unread]
    names = sorted({j.annotator for j in everything})
    groups = [(name, [j for j in everything if j.annotator == name]) for name in names]
    if len(names) > 1:
        groups.append(("pool", everything))
    shares: list[Share] = []
    for name, _ in groups:
        number = ballots.names.index(name) if name in ballots.names else -1
        own = ballots if name == "pool" else ballots.where(ballots.annotator == number)
        shares += _shares(own, items)
    found = estimate(shares, items.cluster, seed=seed)
    return [_row(name, acts, found[4 * k : 4 * k + 4]) for k, (name, acts) in enumerate(groups)]


def _renumbered(judgements: Iterable[Judgement]) -> list[Judgement]:
    """The same acts with draws numbered per pair and annotator: several parts of a run each begin at 0."""
    seen: Counter[tuple[str, str]] = Counter()
    out = []
    for j in judgements:
        out.append(j.model_copy(update={"draw": seen[j.pair_id, j.annotator]}))
        seen[j.pair_id, j.annotator] += 1
    return out


def _shares(own: Ballots, items: Items) -> list[Share]:
    """Consistent, first, longer, list: in the order of the estimates in ``_row``."""
    n = len(items)
    decided = own.where(own.verdict != 0)
    out = [_consistency(decided, n)]
    for sign in (decided.first, items.longer[decided.item], items.lists[decided.item]):
        some = decided.where(sign != 0)
        out.append(Share.per_act(some.item, (some.verdict == sign[sign != 0]).astype(float), n, "no such verdict"))
    return out


def _consistency(decided: Ballots, n: int) -> Share:
    """Per pair: annotators with a verdict in each order, and those whose verdicts name the same response."""
    width = max(len(decided.names), 1)
    by_order = []
    for order in (1, -1):
        mine = decided.where(decided.first == order)
        # Several acts in one order: their sum decides, and an even one does not.
        by_order.append(np.bincount(mine.item * width + mine.annotator, mine.verdict, n * width).reshape(n, width))
    one, two = np.sign(by_order[0]), np.sign(by_order[1])
    both = (one != 0) & (two != 0)
    return Share(((one == two) & both).sum(1).astype(float), both.sum(1).astype(float), "no pair in both orders")


def _row(name: str, acts: Sequence[Judgement], shares: Sequence[Estimate]) -> AnnotatorRow:
    counts = Counter(j.outcome for j in acts)
    calls = sum(j.cost.calls for j in acts)
    consistent, first, longer, lists = shares
    revealed = [j for j in acts if j.probability is not None]
    return AnnotatorRow(
        annotator=name,
        models=tuple(sorted({j.model for j in acts if j.model})) if name != "pool" else (),
        acts=len(acts),
        outcomes={str(o): counts[o] for o in Outcome if counts[o]},
        consistent=consistent,
        prefers_first=first,
        prefers_longer=longer,
        prefers_list=lists,
        calls=calls,
        prompt_tokens=sum(j.cost.prompt_tokens for j in acts),
        completion_tokens=sum(j.cost.completion_tokens for j in acts),
        usd=sum(j.cost.usd for j in acts),
        seconds_per_call=sum(j.cost.seconds for j in acts) / calls if calls else None,
        soft=len(revealed),
        low_mass=sum(j.mass is not None and j.mass < LOW_MASS for j in revealed),
    )
