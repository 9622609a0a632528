"""Replay: recorded judgements as the judge, so that a published run can be had again when its judge is retired.

A question is the annotator, the instruction and the two texts. What was recorded about it is the answer, whichever way
round the texts were shown then. A question that was never asked has no answer: its act fails and says so, since
anything else would be a guess. Raw answers are parsed with the pool's parsers, so a replay can also show what another
parser makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from farm import records
from farm.annotate.plan import assign, shown_order
from farm.annotate.pool import Annotator, Pool
from farm.data import alpaca_eval, collect, human
from farm.data.collect import UNORDERED
from farm.data.judged import Judged
from farm.errors import DataError
from farm.records import Instruction, Judgement, Outcome, Pair, Record, Response

Question = tuple[str, str, frozenset[str]]  # annotator, instruction's full text, the two texts


class RawAnswer(Record):
    """One row of a file of raw answers: who was asked what, shown in this order, and what came back."""

    annotator: str
    instruction: str
    input: str = ""
    first: str
    second: str
    raw: str
    finish_reason: str = "stop"
    model: str = ""
    draw: int = Field(0, ge=0)


@dataclass(frozen=True)
class Act:
    """One recorded act: ``first`` and ``winner`` are texts, ``probability`` is that of ``first``; ``ordered`` is False
    where nobody knows in which order they were shown. Without ``outcome`` the raw answer is still to be parsed."""

    outcome: Outcome | None
    first: str
    ordered: bool = True
    winner: str | None = None
    probability: float | None = None
    mass: float | None = None
    raw: str = ""
    finish_reason: str = "stop"
    model: str = ""
    fingerprint: str = ""
    draw: int = 0
    use: str = ""
    pair: str = ""


@dataclass
class Recorded:
    """Recorded acts by question."""

    acts: dict[Question, list[Act]] = field(default_factory=dict)

    @classmethod
    def of(cls, *parts: Judged) -> Recorded:
        """From importers' results. Raises DataError when one act was recorded twice with different verdicts."""
        found = cls()
        for judged in parts:
            found.take(judged)
        return found

    def take(self, judged: Judged, use: str = "") -> None:
        """Add what an importer read; ``use`` is what it was judged for (see :func:`use_of`)."""
        for j in judged.judgements:
            task = judged.instructions[j.instruction_id]
            one, two = (judged.responses[i].text for i in j.shown)
            texts = dict(zip(j.shown, (one, two), strict=True))
            p = j.probability
            act = Act(
                outcome=j.outcome,
                first=one,
                ordered=j.fingerprint != UNORDERED,
                winner=texts.get(j.winner_id or ""),
                probability=p if p is None or j.shown[0] < j.shown[1] else 1 - p,
                mass=j.mass,
                raw=j.raw,
                model=j.model,
                fingerprint=j.fingerprint,
                draw=j.draw,
                use=use,
                pair=j.pair_id,
            )
            self.add((j.annotator, task.full_text, frozenset((one, two))), act)

    @classmethod
    def raw(cls, path: Path) -> Recorded:
        """From a JSON-lines file of raw answers. Raises DataError naming file, line and field."""
        found = cls()
        for number, row in records.json_rows(path):
            try:
                r = RawAnswer.model_validate(row)
            except ValidationError as e:
                raise DataError(f"{path}, line {number}: {records.problems(e)}") from None
            task = f"{r.instruction}\n\n{r.input}" if r.input else r.instruction
            act = Act(None, r.first, raw=r.raw, finish_reason=r.finish_reason, model=r.model, draw=r.draw)
            found.add((r.annotator, task, frozenset((r.first, r.second))), act)
        return found

    def add(self, question: Question, act: Act) -> None:
        known = self.acts.setdefault(question, [])
        for other in known:
            if (other.first, other.draw, other.use, other.pair) == (act.first, act.draw, act.use, act.pair):
                if (other.outcome, other.winner, other.raw) == (act.outcome, act.winner, act.raw):
                    return
                raise DataError(
                    f"{question[0]} is recorded twice, with different answers, on one question "
                    f"({question[1][:60]!r}): give repeated acts different draw numbers"
                )
        known.append(act)

    def find(self, question: Question, first: str, draw: int, use: str, pair: str) -> Act | None:
        """The act to replay. Of several on one question, one on this pair, for this use and with this draw number goes
        before others. A second act must have been asked in this order; a first one may have been in the other."""
        known = self.acts.get(question, [])
        same = [a for a in known if a.ordered and a.first == first]
        if draw and not same:
            return None
        return max(
            known if not draw else same,
            key=lambda a: (a.pair == pair, a.use == use, a.ordered and a.first == first, a.draw == draw),
            default=None,
        )


def use_of(purpose: str, seed: int) -> str:
    """What acts are for: the same pair may be judged for training and for the cross-annotation, by every seed."""
    return f"{purpose}/seed-{seed}"


def load(path: Path) -> Recorded:
    """What a run's folder or a file has on record: raw answers (:class:`RawAnswer`, JSON lines), AlpacaEval's
    annotations, or any format of :mod:`farm.data.human`. Raises DataError when there is nothing usable."""
    if path.is_dir():
        return _of_run(path)
    row = next((row for _, row in collect.rows(path)), None)
    columns = set(row) if isinstance(row, dict) else set()
    if {"raw", "first", "second"} <= columns:
        return Recorded.raw(path)
    if "generator_2" in columns:
        verdicts, rejected = alpaca_eval.read(path)
        return Recorded.of(alpaca_eval.judged(verdicts, rejected=rejected))
    return Recorded.of(human.read(path, judges=True))


_STEPS = {
    "3-annotate/seed-*": "train",
    "7-study/cross/seed-*": "cross",
    "6-evaluate/canaries/seed-*": "canaries",
    "6-evaluate/*/seed-*": "evaluate",
}


def _of_run(folder: Path) -> Recorded:
    """Every judgement of a run's pool, with its texts."""
    tasks = {i.id: i for p in sorted(folder.glob("0-data/*.jsonl")) for i in records.read(p, Instruction)}
    found, seen = Recorded(), set[Path]()
    for where, purpose in _STEPS.items():
        for step in sorted(p for p in folder.glob(where) if (p / "judgements.jsonl").is_file() and p not in seen):
            seen.add(step)
            sampled = folder / "2-sample" / step.name / "responses.jsonl"
            files = [step / "responses.jsonl", step / "reference.jsonl", sampled]
            texts = {r.id: r for p in files if p.is_file() for r in records.read(p, Response)}
            acts = records.read(step / "judgements.jsonl", Judgement)
            if any(j.instruction_id not in tasks or not texts.keys() >= set(j.shown) for j in acts):
                raise DataError(f"{step}: judgements name instructions or responses that the run does not hold")
            found.take(Judged(tasks, texts, [], acts, []), f"{purpose}/{step.name}")
    if not seen:
        raise DataError(f"{folder}: no judgements.jsonl under 3-annotate, 6-evaluate or 7-study; is it a run's folder?")
    return found


def replay(
    pairs: Sequence[Pair],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    pool: Pool,
    recorded: Recorded,
    *,
    per_pair: int = 1,
    seed: int,
    purpose: str,
    draw: int = 0,
    reverse: bool = False,
) -> list[Judgement]:
    """``engine.annotate`` with a record for a judge: the same questions to the same annotators in the same order.

    Replayed acts cost nothing. An act on a question that is not on record is ``failed``, and its ``raw`` says which.
    """
    result = []
    for pair in pairs:
        for annotator in assign(pool, pair.id, per_pair, seed, purpose):
            shown = shown_order(pair, annotator.id, seed, purpose)
            ids = shown[::-1] if reverse else shown
            one, two = responses[ids[0]], responses[ids[1]]
            task = instructions[pair.instruction_id]
            question = (annotator.id, task.full_text, frozenset((one.text, two.text)))
            act = recorded.find(question, one.text, draw, use_of(purpose, seed), pair.id)
            result.append(_judgement(pair, annotator, task, one, two, act, draw))
    return result


def _judgement(
    pair: Pair, annotator: Annotator, task: Instruction, one: Response, two: Response, act: Act | None, draw: int
) -> Judgement:
    def made(outcome: Outcome, winner: str | None = None, act: Act | None = None, raw: str = "") -> Judgement:
        p = act.probability if act is not None and outcome is Outcome.DECIDED else None
        if act is not None and p is not None and act.first != one.text:
            p = 1 - p
        return Judgement(
            pair_id=pair.id,
            instruction_id=pair.instruction_id,
            annotator=annotator.id,
            fingerprint=act.fingerprint if act is not None else "",
            model=act.model if act is not None else "",
            shown=(one.id, two.id),
            outcome=outcome,
            winner_id=winner,
            probability=p if p is None or one.id == pair.a else 1 - p,
            mass=act.mass if act is not None and p is not None else None,
            raw=act.raw if act is not None else raw,
            draw=draw,
        )

    if one.text == two.text:
        return made(Outcome.IDENTICAL)
    if act is None:
        asked = f"{task.full_text[:80]!r}, {one.text[:40]!r} against {two.text[:40]!r}"
        return made(Outcome.FAILED, raw=f"not on record: {annotator.id} on {asked}")
    if act.outcome is None:
        verdict = annotator.reader.read(act.raw, act.finish_reason)[0]
        outcome = verdict.outcome
        winner = None if verdict.first is None else act.first if verdict.first else _other(act.first, one, two)
    else:
        outcome, winner = act.outcome, act.winner
    return made(outcome, None if winner is None else one.id if winner == one.text else two.id, act)


def _other(first: str, one: Response, two: Response) -> str:
    return two.text if first == one.text else one.text


def missing(judgements: Iterable[Judgement]) -> Iterator[str]:
    """How many questions of each annotator were not on record, in words."""
    counts = Counter(j.annotator for j in judgements if j.outcome is Outcome.FAILED)
    yield from (f"{name}: {count}" for name, count in sorted(counts.items()))
