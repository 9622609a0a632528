"""Everything that ``farm agree`` says about judges and people who judged the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from farm.errors import DataError
from farm.records import Agreement, Cost, Estimate, Instruction, Judgement, Record, Response
from farm.study import reliability
from farm.study.agreement import agreement
from farm.study.ballots import Ballots, Items, Ties, ballots_of, first_of_each, items_of
from farm.study.reliability import AlternativeTest


class Splits(Record):
    """How many pairs with ``votes`` decided votes have ``minority`` of them against the majority."""

    votes: int
    minority: int
    pairs: int


class AgreementStudy(Record):
    """``rows`` as :func:`farm.study.agreement.agreement` makes them, for all pairs or per part (their ``group``).

    ``alpha_people`` and ``alpha_judges`` are Krippendorff's alpha, nominal over the three answers; ``tests`` are
    alternative annotator tests; ``costs`` are sums per judge. Counts: ``n_pairs`` judged by anyone, ``n_common`` by
    judges and people.
    """

    rows: tuple[Agreement, ...]
    alpha_people: Estimate
    alpha_judges: Estimate
    tests: tuple[AlternativeTest, ...]
    splits: tuple[Splits, ...]
    costs: dict[str, Cost]
    ties: Ties
    n_pairs: int
    n_common: int
    n_instructions: int
    n_people: int
    n_votes: int
    n_failed: int
    n_skipped: int


def study(
    judgements: Sequence[Judgement],
    votes: Sequence[Judgement],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    *,
    seed: int,
    ties: Ties = "half",
    by: str = "annotator",
    longer_by: int = 0,
    epsilon: float = 0.1,
    fdr: float = 0.05,
    least: int = 30,
) -> AgreementStudy:
    """Agreement of judges with people, people's reliability, and whether a judge may stand in for a person.

    ``by`` 'annotator' gives one row per judge; 'split' gives these rows for every part of the instructions
    (``Instruction.source``, or their split where all have one source). ``epsilon``, ``fdr`` and ``least`` belong to
    the alternative annotator test. Raises DataError when judges and people have no pair in common.
    """
    common = {j.pair_id for j in judgements} & {j.pair_id for j in votes}
    if not common:
        raise DataError(
            f"judges and people have no pair in common ({len({j.pair_id for j in judgements})} and "
            f"{len({j.pair_id for j in votes})} pairs): the same instruction and the same two texts must be in both"
        )
    items = items_of([*votes, *judgements], responses, longer_by=longer_by)
    judges, people = ballots_of(judgements, items), ballots_of(votes, items)
    parts = {"human": None} if by == "annotator" else _parts(instructions, [*judgements, *votes])
    rows: list[Agreement] = []
    for part, keep in parts.items():
        chosen, cast = ([j for j in acts if keep is None or j.instruction_id in keep] for acts in (judgements, votes))
        rows += agreement(chosen, cast, responses, group=part, seed=seed, ties=ties, longer_by=longer_by)
    crowd = first_of_each(people).counts(len(items))
    return AgreementStudy(
        rows=tuple(rows),
        alpha_people=reliability.krippendorff_alpha(crowd, items.cluster, seed=seed),
        alpha_judges=reliability.krippendorff_alpha(first_of_each(judges).counts(len(items)), items.cluster, seed=seed),
        tests=tuple(_tests(judges, people, items, seed, epsilon, fdr, least)),
        splits=splits(crowd),
        costs=_costs(judgements),
        ties=ties,
        n_pairs=len(items),
        n_common=len(common),
        n_instructions=len(np.unique(items.cluster)),
        n_people=len({j.annotator for j in votes}),
        n_votes=len(people),
        n_failed=sum(not j.outcome.judged for j in judgements),
        n_skipped=sum(not j.outcome.judged for j in votes),
    )


def _costs(judgements: Sequence[Judgement]) -> dict[str, Cost]:
    total: dict[str, Cost] = {}
    for j in judgements:
        total[j.annotator] = total.get(j.annotator, Cost()) + j.cost
    return dict(sorted(total.items()))


def _parts(instructions: Mapping[str, Instruction], acts: Sequence[Judgement]) -> dict[str, frozenset[str] | None]:
    asked = {j.instruction_id: instructions[j.instruction_id] for j in acts}
    source = len({i.source for i in asked.values()}) > 1
    names = {i.id: (i.source if source else i.split) or "(no source)" for i in asked.values()}
    return {name: frozenset(i for i, n in names.items() if n == name) for name in sorted(set(names.values()))}


def _tests(
    judges: Ballots, people: Ballots, items: Items, seed: int, epsilon: float, fdr: float, least: int
) -> list[AlternativeTest]:
    of = {name: judges.of(name) for name in judges.names}
    if len(of) > 1:
        of["pool"] = judges
    return [
        reliability.alternative_annotator_test(
            own, people, items, name=name, seed=seed, epsilon=epsilon, fdr=fdr, least=least
        )
        for name, own in of.items()
    ]


def splits(counts: np.ndarray) -> tuple[Splits, ...]:
    """The distribution of decided votes over pairs with two or more of them, from counts of shape (pairs, 3)."""
    decided = counts[:, [0, 2]].astype(int)
    seen: dict[tuple[int, int], int] = {}
    for low, high in decided:
        key = (low + high, min(low, high))
        seen[key] = seen.get(key, 0) + 1
    return tuple(Splits(votes=v, minority=m, pairs=n) for (v, m), n in sorted(seen.items()) if v > 1)
