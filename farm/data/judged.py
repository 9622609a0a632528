"""What every importer of recorded judgements returns: the farm's own records, and the rows it had to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farm import records
from farm.errors import DataError
from farm.records import Instruction, Judgement, Pair, Response


@dataclass(frozen=True)
class Rejected:
    """A row that was not imported: its line in the file (from 1), and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Judged:
    """Judgements of any source, people's or judges', with the texts they are about.

    Mappings are keyed by id. Every judgement names a pair in ``pairs``, an instruction in ``instructions`` and two
    responses in ``responses``. Judgements without a verdict (failed, refused, ...) are among ``judgements``; only rows
    that cannot be read as a judgement at all are in ``rejected``.
    """

    instructions: dict[str, Instruction]
    responses: dict[str, Response]
    pairs: list[Pair]
    judgements: list[Judgement]
    rejected: list[Rejected]


def of_run(folder: Path) -> tuple[Judged, Judged | None]:
    """What a run's pool said in the cross-annotation, and what the simulated humans said there, if there were any.

    A run without cross-annotation gives the judgements of its training pairs. Raises DataError when there is neither.
    """
    for where in ("7-study/cross", "3-annotate"):
        found = (p.parent for p in sorted((folder / where).glob("seed-*/judgements.jsonl")))
        steps = [step for step in found if not step.name.endswith(".partial")]
        if steps:
            break
    else:
        raise DataError(f"{folder}: no judgements under 7-study/cross or 3-annotate; is this the folder of a run?")
    tasks = records.by_id(records.read(folder / "0-data/preference.jsonl", Instruction))
    texts: dict[str, Response] = {}
    for step in steps:
        texts |= records.by_id(records.read(folder / "2-sample" / step.name / "responses.jsonl", Response))
    acts = [j for step in steps for j in records.read(step / "judgements.jsonl", Judgement)]
    cast = [step / "votes.jsonl" for step in steps if (step / "votes.jsonl").is_file()]
    votes = [j for path in cast for j in records.read(path, Judgement)]
    return _needed(acts, tasks, texts), _needed(votes, tasks, texts) if votes else None


def _needed(acts: list[Judgement], tasks: Mapping[str, Instruction], texts: Mapping[str, Response]) -> Judged:
    pairs = {
        j.pair_id: Pair(id=j.pair_id, instruction_id=j.instruction_id, a=min(j.shown), b=max(j.shown)) for j in acts
    }
    try:
        return Judged(
            {p.instruction_id: tasks[p.instruction_id] for p in pairs.values()},
            {i: texts[i] for p in pairs.values() for i in (p.a, p.b)},
            list(pairs.values()),
            acts,
            [],
        )
    except KeyError as e:
        raise DataError(
            f"the run's judgements name {e.args[0]}, which is not among its instructions and responses"
        ) from None


def on_pairs_of(people: Judged, judges: Judged) -> Judged:
    """People's judgements in the ids of the judges' pairs, so that both are about the same pairs.

    Pairs with the same id are the same; others are matched by instruction and texts, whatever their order, policies
    and ids. Pairs of the people alone stay as they are. Raises DataError when one pair id stands for other texts.
    """
    theirs = {p.id: p for p in judges.pairs}
    by_content = {_content(p, judges): p for p in judges.pairs}
    moved: dict[str, tuple[Pair, dict[str, str]]] = {}
    for p in people.pairs:
        content = _content(p, people)
        if p.id in theirs:
            if _content(theirs[p.id], judges) != content:
                raise DataError(f"pair {p.id} has other texts in the judges' file than in the people's file")
            continue
        same = by_content.get(content)
        if same is not None:
            sides = {judges.responses[i].text: i for i in (same.a, same.b)}
            ids = {i: sides[people.responses[i].text] for i in (p.a, p.b)}
            moved[p.id] = same, ids if len(sides) == 2 else {p.a: same.a, p.b: same.b}
    acts = [_moved(j, *moved[j.pair_id]) if j.pair_id in moved else j for j in people.judgements]
    pairs = {p.id: p for p in (moved[q.id][0] if q.id in moved else q for q in people.pairs)}
    asked, known = judges.instructions | people.instructions, people.responses | judges.responses
    tasks = {p.instruction_id: asked[p.instruction_id] for p in pairs.values()}
    texts = {i: known[i] for p in pairs.values() for i in (p.a, p.b)}
    return Judged(tasks, texts, list(pairs.values()), acts, people.rejected)


def _content(pair: Pair, judged: Judged) -> tuple[str, frozenset[str]]:
    texts = frozenset(judged.responses[i].text for i in (pair.a, pair.b))
    return judged.instructions[pair.instruction_id].full_text, texts


def _moved(judgement: Judgement, pair: Pair, ids: Mapping[str, str]) -> Judgement:
    """The same act on another id of the same pair."""
    first, second = (ids[i] for i in judgement.shown)
    winner = None if judgement.winner_id is None else ids[judgement.winner_id]
    probability = judgement.probability
    if probability is not None and (min(judgement.shown) == judgement.shown[0]) != (pair.a == first):
        probability = 1 - probability
    change = {
        "pair_id": pair.id,
        "instruction_id": pair.instruction_id,
        "shown": (first, second),
        "winner_id": winner,
        "probability": probability,
    }
    return judgement.model_copy(update=change)
