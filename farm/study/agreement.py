"""Agreement of annotators with the human majority, and what each of them prefers.

The rows 'human', 'longest', 'first' and 'random' stand beside the annotators: an annotator that agrees with people
less than 'longest' does has taught us little, whatever its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from farm.errors import DataError
from farm.evaluate import intervals
from farm.records import Agreement, Estimate, Judgement, Outcome, Response
from farm.seeds import uniform

_MARKER = re.compile(r"(?:^|\s)(?:[-*\u2022]|\(?\d{1,2}\s?[.)])(?=\s)")


def looks_like_list(text: str) -> bool:
    """Whether a text holds at least two list markers (bullets or numbers such as ``1.`` or ``2)``)."""
    return len(_MARKER.findall(text)) >= 2


@dataclass(frozen=True)
class _Vote:
    """A verdict on a pair as a sign: +1 the smaller id wins, -1 the larger, 0 a tie.

    ``first``, ``longer`` and ``lists`` point the same way at the response shown first, longer, alone in being a list.
    """

    pair: str
    instruction: str
    annotator: str
    verdict: int
    first: int
    longer: int
    lists: int


def agreement(
    judgements: Iterable[Judgement],
    votes: Iterable[Judgement],
    responses: Mapping[str, Response],
    *,
    group: str = "human",
    seed: int,
    has_list: Callable[[str], bool] = looks_like_list,
) -> list[Agreement]:
    """One row per annotator, then 'pool' (all of them), 'human', 'longest', 'first' and 'random'.

    ``votes`` are the humans' judgements; pairs need at least two human verdicts to count. Agreement is leave-one-out
    for every row alike: each human in turn is left out, and the verdict (the left-out human's own in row 'human') is
    compared with the majority of the others, so that all rows face majorities of the same size. A tied majority or
    a tied verdict counts half. Preferences (longer in characters, the only list, first shown) are shares of decided
    verdicts on pairs where they apply. Intervals: bootstrap over instructions. Annotators sorted by id. Without any
    human verdict only the annotators' preferences are known: the rows from 'human' on are left out.
    Raises DataError when a judgement names an unknown response.
    """
    acts, human_acts = list(judgements), list(votes)
    cache: dict[str, tuple[int, bool]] = {}

    def looks(judgement: Judgement, response_id: str) -> tuple[int, bool]:
        if response_id not in cache:
            if response_id not in responses:
                raise DataError(
                    f"judgement on pair {judgement.pair_id} by {judgement.annotator} names response {response_id}, "
                    f"which is not among the {len(responses)} responses given"
                )
            text = responses[response_id].text
            cache[response_id] = (len(text), has_list(text))
        return cache[response_id]

    def vote(judgement: Judgement) -> _Vote:
        a, b = sorted(judgement.shown)
        (length_a, list_a), (length_b, list_b) = looks(judgement, a), looks(judgement, b)
        won = 0 if judgement.winner_id is None else (1 if judgement.winner_id == a else -1)
        return _Vote(
            judgement.pair_id,
            judgement.instruction_id,
            judgement.annotator,
            won,
            1 if judgement.shown[0] == a else -1,
            (length_a > length_b) - (length_a < length_b),
            int(list_a) - int(list_b),
        )

    verdicts = [vote(j) for j in acts if j.outcome.judged]
    human = [vote(j) for j in human_acts if j.outcome.judged]
    majorities = _majorities(human)
    rows: dict[str, tuple[list[_Vote], dict[str, int]]] = {}
    for annotator in sorted({j.annotator for j in acts}):
        mine = [v for v in verdicts if v.annotator == annotator]
        rows[annotator] = (mine, _outcomes(j for j in acts if j.annotator == annotator))
    if len(rows) > 1:
        rows["pool"] = (verdicts, _outcomes(acts))
    table = [_row(name, group, mine, majorities, counts, seed) for name, (mine, counts) in rows.items()]
    if not human:
        return table
    table.append(_human_row(group, human, majorities, _outcomes(human_acts), seed))
    return table + [
        _row(name, group, _as_if(human, name, seed), majorities, {}, seed) for name in ("longest", "first", "random")
    ]


def _outcomes(acts: Iterable[Judgement]) -> dict[str, int]:
    counts = Counter(j.outcome for j in acts)
    return {str(o): counts[o] for o in Outcome if counts[o]}


def _majorities(human: Sequence[_Vote]) -> dict[str, list[int]]:
    """Pair -> one majority per left-out human verdict: the sign of the sum of the others."""
    groups: dict[str, list[int]] = {}
    for v in human:
        groups.setdefault(v.pair, []).append(v.verdict)
    return {pair: [_sign(sum(g) - one) for one in g] for pair, g in groups.items() if len(g) > 1}


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _credit(verdict: int, majority: int) -> float:
    return 0.5 + 0.5 * verdict * majority


def _as_if(human: Sequence[_Vote], rule: str, seed: int) -> list[_Vote]:
    """What someone following a rule would have said once on every pair; orders and coins are keyed by the pair."""
    result = []
    for pair, v in {v.pair: v for v in human}.items():
        first = 1 if uniform(seed, "baseline order", pair) < 0.5 else -1
        coin = 1 if uniform(seed, "baseline coin", pair) < 0.5 else -1
        verdict = {"longest": v.longer, "first": first, "random": coin}[rule]
        result.append(_Vote(pair, v.instruction, rule, verdict, first, v.longer, v.lists))
    return result


def _row(
    name: str,
    group: str,
    verdicts: Sequence[_Vote],
    majorities: Mapping[str, list[int]],
    outcomes: dict[str, int],
    seed: int,
) -> Agreement:
    pieces = [
        (v.instruction, sum(_credit(v.verdict, m) for m in majorities[v.pair]) / len(majorities[v.pair]))
        for v in verdicts
        if v.pair in majorities
    ]
    return _assemble(name, group, pieces, verdicts, outcomes, seed)


def _human_row(
    group: str, human: Sequence[_Vote], majorities: Mapping[str, list[int]], outcomes: dict[str, int], seed: int
) -> Agreement:
    left = {pair: iter(m) for pair, m in majorities.items()}
    pieces = [(v.instruction, _credit(v.verdict, next(left[v.pair]))) for v in human if v.pair in left]
    return _assemble("human", group, pieces, human, outcomes, seed)


def _assemble(
    name: str,
    group: str,
    pieces: list[tuple[str, float]],
    verdicts: Sequence[_Vote],
    outcomes: dict[str, int],
    seed: int,
) -> Agreement:
    decided = [v for v in verdicts if v.verdict]
    longer = [(v.instruction, float(v.verdict == v.longer)) for v in decided if v.longer]
    lists = [(v.instruction, float(v.verdict == v.lists)) for v in decided if v.lists]
    first = [(v.instruction, float(v.verdict == v.first)) for v in decided]
    return Agreement(
        annotator=name,
        group=group,
        agreement=_clustered(pieces, seed),
        prefers_longer=_clustered(longer, seed),
        prefers_list=_clustered(lists, seed),
        prefers_first=_clustered(first, seed),
        outcomes=outcomes,
    )


def _clustered(pieces: Sequence[tuple[str, float]], seed: int) -> Estimate:
    """Mean over instructions of the mean within each; n = number of verdicts."""
    groups: dict[str, list[float]] = {}
    for instruction, value in pieces:
        groups.setdefault(instruction, []).append(value)
    estimate = intervals.mean([sum(groups[i]) / len(groups[i]) for i in sorted(groups)], seed=seed)
    return estimate.model_copy(update={"n": len(pieces)})
