"""What a labelling study shows so far: how far people agree with each other and with the simulator, and where not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from farm.evaluate import intervals
from farm.label import checks
from farm.label.store import Store
from farm.records import Agreement, Estimate, Judgement, Response
from farm.study import survey
from farm.study.agreement import agreement
from farm.study.ballots import ballots_of, first_of_each, items_of
from farm.study.reliability import krippendorff_alpha

MOST_DISPUTES = 25


def figures(store: Store) -> dict[str, Any]:
    """Everything the admin page shows, from one label store. Pairs of known answer and repeats count for the checks
    only."""
    seed = int(store.meta("seed") or 0)
    votes = [j for j in store.judgements() if j.draw == 0]
    pool, responses = store.pool_judgements(), store.responses()
    rows = _judges(agreement(pool, votes, responses, seed=seed)) if votes else []
    found = checks.checks(store)
    disputes = _disputes(store, votes, pool)
    return {
        "acts": store.count(),
        "n_pairs": len(store.pairs(known=False)),
        "n_known": len(store.answers()),
        "checks": found,
        "done": sum(c.done for c in found),
        "total": sum(c.total for c in found),
        "too_fast": checks.TOO_FAST,
        "raw": raw_agreement(votes, seed=seed),
        "alpha": _alpha(votes, responses, seed),
        "rows": rows,
        "human": _agreement_of(rows, "human"),
        "pool": _agreement_of(rows, "pool", *{j.annotator for j in pool}),
        "rates": _rates(store, votes, responses),
        "disputes": disputes[:MOST_DISPUTES],
        "n_disputed": len(disputes),
    }


def raw_agreement(votes: Sequence[Judgement], *, seed: int) -> Estimate:
    """Share of pairs of verdicts on one pair that are the same, ties being a third answer; every pair with at least two
    verdicts weighs the same. Interval: bootstrap over instructions. n = such pairs."""
    by_pair: dict[str, list[Judgement]] = defaultdict(list)
    for j in votes:
        if j.outcome.judged:
            by_pair[j.pair_id].append(j)
    by_instruction: dict[str, list[float]] = defaultdict(list)
    for group in by_pair.values():
        if len(group) > 1:
            counts = [sum(j.winner_id == w for j in group) for w in {j.winner_id for j in group}]
            n = len(group)
            by_instruction[group[0].instruction_id].append(sum(c * (c - 1) for c in counts) / (n * (n - 1)))
    means = [sum(values) / len(values) for _, values in sorted(by_instruction.items())]
    return intervals.mean(means, seed=seed).model_copy(update={"n": sum(map(len, by_instruction.values()))})


def _alpha(votes: Sequence[Judgement], responses: Mapping[str, Response], seed: int) -> Estimate:
    """Krippendorff's alpha, a tie being the middle between the two sides."""
    if not votes:
        return Estimate(value=None, n=0, note="not estimable: no labels yet")
    items = items_of(votes, responses)
    counts = first_of_each(ballots_of(votes, items)).counts(len(items))
    return krippendorff_alpha(counts, items.cluster, seed=seed, metric="interval")


def _rates(store: Store, votes: Sequence[Judgement], responses: Mapping[str, Response]) -> list[survey.Rate]:
    frame = store.frame()
    if not frame or not votes:
        return []
    labelled = survey.labels(votes, {i: r.policy for i, r in responses.items()}, frame[0].reference)
    return survey.win_rates(frame, labelled, store.probabilities())


def _judges(rows: Sequence[Agreement]) -> list[Agreement]:
    """People, the pool and the yardsticks first, then the pool's annotators."""
    first = {name: k for k, name in enumerate(("human", "pool", "longest", "first", "random"))}
    return sorted(rows, key=lambda r: (first.get(r.annotator, len(first)), r.annotator))


def _agreement_of(rows: Sequence[Agreement], *names: str) -> Estimate | None:
    """That of the first of several names that has a row: a pool of one annotator has no row of its own."""
    found = {r.annotator: r.agreement for r in rows}
    return next((found[name] for name in names if name in found), None)


def _disputes(store: Store, votes: Sequence[Judgement], pool: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Pairs on which people chose both sides, the most evenly divided first. ``a`` and ``b`` count the votes for the
    two responses, in the order of their ids, which says nothing about who wrote them."""
    instructions, responses = store.instructions(), store.responses()
    said: dict[str, list[Judgement]] = defaultdict(list)
    for j in votes:
        if j.outcome.judged:
            said[j.pair_id].append(j)
    simulated: dict[str, list[float]] = defaultdict(list)
    for j in pool:
        if j.outcome.judged:
            simulated[j.pair_id].append(0.5 if j.winner_id is None else float(j.winner_id == min(j.shown)))
    found = []
    for pair in store.pairs(known=False):
        names = {pair.a: "A", pair.b: "B", None: "tie"}
        verdicts = [(j.annotator, names[j.winner_id]) for j in said[pair.id]]
        a, b = (sum(v == side for _, v in verdicts) for side in "AB")
        if a and b:
            chances = simulated[pair.id]
            found.append(
                {
                    "a": a,
                    "b": b,
                    "ties": len(verdicts) - a - b,
                    "said": verdicts,
                    "pool": sum(chances) / len(chances) if chances else None,
                    "instruction": instructions[pair.instruction_id].full_text,
                    "text_a": responses[pair.a].text,
                    "text_b": responses[pair.b].text,
                }
            )
    return sorted(found, key=lambda d: (abs(d["a"] - d["b"]) / (d["a"] + d["b"]), -d["a"] - d["b"]))
