"""Recorded verdicts in AlpacaEval's form: a published result can be read, checked and replayed.

Two shapes are read, as CSV, JSON lines (both also gzipped) or a JSON list. AlpacaEval's own ``annotations.json`` has
``annotator``, ``instruction``, ``generator_1`` (the reference), ``generator_2`` (the model), ``output_1``,
``output_2`` and ``preference``. A table has ``annotator``, ``reference``, ``model``, ``id`` and ``preference``, and may
have ``order`` (``model_first`` or ``ref_first``) and the lengths ``chars_reference`` and ``chars_model``.

``preference`` is read as alpaca_eval 0.6 reads it: 1 the reference is better, 2 the model, 1.5 or 0 a tie, a number
between 1 and 2 is 1 + P(model better); empty, null or NaN is a failed judgement, which is counted and enters no
average. Anything else alpaca_eval drops without a word; here the row is rejected by line.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from farm.data.collect import UNORDERED, Row, Unusable, rows
from farm.data.judged import Judged, Rejected
from farm.data.verdicts import Verdicts
from farm.errors import DataError
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.seeds import digest

Outputs = Mapping[str, Mapping[str, str]]  # model -> instruction id -> text
ORDERS = {"model_first": 1.0, "ref_first": 0.0, "reference_first": 0.0, "": math.nan}
FAILED = ("", "nan", "none", "null")


@dataclass(frozen=True)
class Prompts:
    """Instructions by id, and ids by the text a judge was shown."""

    by_id: Mapping[str, Instruction] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Group:
    ids: list[str] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    longer: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    seen: set[tuple[str, str, str]] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    theirs: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    rejected: int = 0


def rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """Numbered rows of a file in which every row must be readable. Raises DataError naming file and line."""
    for line, row in rows(path):
        if isinstance(row, str):
            raise DataError(f"{path}, line {line}: {row}")
        yield line, row


def read_prompts(path: Path) -> Prompts:
    """Instructions of an evaluation set (``id``, ``instruction`` and ``dataset`` where there is one)."""
    by_id: dict[str, Instruction] = {}
    for line, row in rows_of(path):
        text, name = row.get("instruction"), str(row.get("id", row.get("index", line - 1)))
        if not isinstance(text, str) or not text:
            raise DataError(f"{path}, line {line}: instruction must be a text")
        if name in by_id:
            raise DataError(f"{path}, line {line}: id {name} occurs twice")
        source = str(row.get("dataset", row.get("source", "")))
        by_id[name] = Instruction.make(text, source=source, split="eval")
    return Prompts(by_id, {i.full_text: name for name, i in by_id.items()})


def read_outputs(path: Path, prompts: Prompts | None = None) -> dict[str, dict[str, str]]:
    """Model -> instruction id -> text, from rows ``model, id, output`` or AlpacaEval's ``model_outputs.json``.

    Raises DataError when two texts claim the same place, since nobody could say which of them was judged.
    """
    found: dict[str, dict[str, str]] = {}
    for line, row in rows_of(path):
        try:
            model = _text(row, "model", "generator")
            name, text = _id(row, prompts or Prompts()), row.get("output")
            if not isinstance(text, str):
                raise Unusable("output must be a text")
        except Unusable as e:
            raise DataError(f"{path}, line {line}: {e}") from None
        if found.setdefault(model, {}).setdefault(name, text) != text:
            raise DataError(f"{path}, line {line}: a second output of {model} for instruction {name}, another text")
    return found


def read(
    path: Path, *, outputs: Outputs | None = None, prompts: Prompts | None = None
) -> tuple[list[Verdicts], list[Rejected]]:
    """Verdicts per (annotator, reference, model) in order of first appearance, and the rows that were refused.

    ``outputs`` gives lengths and shows up annotations of another text; ``prompts`` gives ids to rows that name an
    instruction by its text alone. Refused, with line and reason: a field missing, a preference outside its range, an
    instruction judged twice (the same instruction in both orders is one cluster, not a duplicate), a text other than
    the model's output. Raises DataError when no row is left.
    """
    groups: dict[tuple[str, str, str], _Group] = {}
    rejected: list[Rejected] = []
    for line, row in rows(path):
        group = None
        try:
            if isinstance(row, str):
                raise Unusable(row)
            key = (_text(row, "annotator"), _text(row, "reference", "generator_1"), _text(row, "model", "generator_2"))
            group = groups.setdefault(key, _Group())
            _take(row, group, key, outputs or {}, prompts or Prompts())
        except Unusable as e:
            rejected.append(Rejected(line, str(e)))
            if group is not None:
                group.rejected += 1
    if not any(g.ids for g in groups.values()):
        first = f"; the first: line {rejected[0].line}, {rejected[0].reason}" if rejected else ""
        raise DataError(f"{path}: no row could be read as a judgement ({len(rejected)} refused{first})")
    if all(math.isnan(s) for g in groups.values() for s in g.score):
        raise DataError(f"{path}: no row has a preference; the column must be called preference")
    return [_columns(key, group) for key, group in groups.items() if group.ids], rejected


def _take(row: Row, group: _Group, key: tuple[str, str, str], outputs: Outputs, prompts: Prompts) -> None:
    name, score = _id(row, prompts), _score(row.get("preference"))
    order = str(row.get("order") or "")
    if order not in ORDERS:
        raise Unusable(f"order {order!r} is neither model_first nor ref_first")
    draw = str(row.get("draw") or "")
    if (name, order, draw) in group.seen or any((name, o, draw) in group.seen for o in ORDERS if not (o and order)):
        raise Unusable(f"instruction {name} was judged before by {key[0]} for {key[2]}: duplicate")
    mine = _length(row, "chars_model", "output_2", outputs.get(key[2], {}).get(name), f"{key[2]}'s output")
    # The outputs file may hold a later version of the reference's texts: what the row says goes before it.
    stated, kept = _stated(row, "chars_reference", "output_1"), outputs.get(key[1], {}).get(name)
    theirs = stated if stated is not None else math.nan if kept is None else len(kept)
    group.seen.add((name, order, draw))
    group.ids.append(name)
    group.score.append(score)
    group.longer.append(mine - theirs)
    group.first.append(ORDERS[order])
    known = outputs.get(key[2], {}).get(name, row.get("output_2"))
    for store, text in (
        (group.texts, known),
        (group.theirs, row.get("output_1")),
        (group.asked, row.get("instruction")),
    ):
        if isinstance(text, str):
            store[name] = text


def _text(row: Row, *names: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    raise Unusable(f"{' (or '.join(names)}{')' * (len(names) - 1)} is missing or empty")


def _id(row: Row, prompts: Prompts) -> str:
    for name in ("id", "index"):
        value = row.get(name)
        if isinstance(value, int | str) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    text = row.get("instruction")
    if isinstance(text, str) and text:
        return prompts.ids.get(text) or "i" + digest("instruction", text, "")
    raise Unusable("neither id nor instruction names what was judged")


def _score(value: object) -> float:
    """P(model preferred) from a preference; NaN for a failed judgement."""
    if value is None or (isinstance(value, str) and value.strip().lower() in FAILED):
        return math.nan
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.inf
    if math.isnan(number) and not isinstance(value, bool):
        return math.nan
    if number == 0:
        return 0.5
    if not 1 <= number <= 2:
        raise Unusable(f"preference {str(value)[:40]!r} is neither 0 (tie) nor between 1 (reference) and 2 (model)")
    return number - 1


def _stated(row: Row, chars: str, text: str) -> int | None:
    """The length a row states, by its text or by a count."""
    if isinstance(row.get(text), str):
        return len(row[text])
    value = row.get(chars)
    if value is None or value == "":
        return None
    try:
        if float(value) == int(float(value)):
            return int(float(value))
        raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise Unusable(f"{chars} {str(value)[:40]!r} is not a whole number") from None


def _length(row: Row, chars: str, text: str, known: str | None, what: str) -> float:
    stated = _stated(row, chars, text)
    if known is None:
        return math.nan if stated is None else stated
    other = isinstance(row.get(text), str) and row[text] != known
    if other or (stated is not None and stated != len(known)):
        size = "of the same length" if stated == len(known) else f"of {stated} characters, not {len(known)}"
        raise Unusable(f"annotation of another text than {what}: one {size}")
    return len(known)


def _columns(key: tuple[str, str, str], group: _Group) -> Verdicts:
    n = len(group.ids)
    score, longer, first = (np.array(c, dtype=float) for c in (group.score, group.longer, group.first))
    judges, seeds = (key[0],) * n, (0,) * n
    return Verdicts(
        *key,
        tuple(group.ids),
        score,
        longer,
        first,
        judges,
        seeds,
        (),
        group.texts,
        group.rejected,
        group.theirs,
        group.asked,
    )


def judged(
    verdicts: Sequence[Verdicts],
    outputs: Outputs | None = None,
    prompts: Prompts | None = None,
    rejected: Sequence[Rejected] = (),
) -> Judged:
    """The farm's records of the verdicts whose texts are known, for replay, agreement and calibration.

    Texts are those in the rows themselves, where they are (AlpacaEval's own files), else in ``outputs`` and
    ``prompts``. Verdicts on unknown texts are listed as rejected with line 0. Acts whose order of presentation is
    unknown say so in their fingerprint. A number strictly between 1 and 2 keeps its probability; the winner is the
    likelier one.
    """
    refused = list(rejected)
    instructions: dict[str, Instruction] = {}
    responses: dict[str, Response] = {}
    pairs: dict[str, Pair] = {}
    acts: list[Judgement] = []
    known, texts = prompts or Prompts(), outputs or {}
    for v in verdicts:
        drawn: Counter[str] = Counter()
        for k, name in enumerate(v.ids):
            instruction = known.by_id.get(name) or (
                Instruction.make(v.asked[name], split="eval") if v.asked.get(name) else None
            )
            mine = v.outputs.get(name, texts.get(v.model, {}).get(name))
            theirs = v.reference_outputs.get(name, texts.get(v.reference, {}).get(name))
            if instruction is None or mine is None or theirs is None or v.model == v.reference:
                refused.append(Rejected(0, f"{v.model} on instruction {name}: instruction or a text unknown"))
                continue
            sides = [
                Response.make(instruction.id, text, policy, n_tokens=len(text.split()))
                for text, policy in ((mine, v.model), (theirs, v.reference))
            ]
            pair = Pair.of(*sides)
            instructions[instruction.id], pairs[pair.id] = instruction, pair
            responses |= {r.id: r for r in sides}
            acts.append(_judgement(v, k, pair, sides[0], sides[1], drawn[name]))
            drawn[name] += 1
    return Judged(instructions, responses, list(pairs.values()), acts, refused)


def _judgement(v: Verdicts, k: int, pair: Pair, mine: Response, other: Response, draw: int) -> Judgement:
    score = float(v.score[k])
    winner = None if math.isnan(score) or score == 0.5 else mine.id if score > 0.5 else other.id
    failed = math.isnan(score)
    return Judgement(
        pair_id=pair.id,
        instruction_id=pair.instruction_id,
        annotator=v.annotator,
        fingerprint=UNORDERED if math.isnan(v.model_first[k]) else "",
        shown=(mine.id, other.id) if v.model_first[k] == 1 else (other.id, mine.id),
        outcome=Outcome.FAILED if failed else Outcome.DECIDED if winner else Outcome.TIE,
        winner_id=winner,
        probability=score if 0 < score < 1 and pair.a == mine.id else 1 - score if 0 < score < 1 else None,
        draw=draw,
    )
