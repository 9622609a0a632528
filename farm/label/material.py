"""What people are to label: the pairs of a run folder, or those of a file; and pairs whose answer is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from farm import records
from farm.errors import DataError
from farm.records import Instruction, Judgement, Pair, Response
from farm.seeds import key

Source = Literal["evaluate", "annotate", "cross"]
_STEPS: dict[Source, str] = {"evaluate": "6-evaluate", "annotate": "3-annotate", "cross": "7-study/cross"}
LONGEST = 200_000  # characters of one text; a page that shows more is of no use to a reader
_COLUMNS = ("instruction", "input", "first", "second", "answer", "first_policy", "second_policy", "source")


@dataclass(frozen=True)
class Material:
    """Pairs with their texts, keyed by id. ``judgements`` are a pool's verdicts on them, if it gave any; ``answers``
    maps a pair whose better response is known to that response's id."""

    instructions: dict[str, Instruction]
    responses: dict[str, Response]
    pairs: list[Pair]
    judgements: list[Judgement]
    answers: dict[str, str]

    def policies(self, pair: Pair) -> frozenset[str]:
        """The two policies whose responses a pair compares."""
        return frozenset((self.responses[pair.a].policy, self.responses[pair.b].policy))


def from_run(folder: Path, source: Source = "evaluate") -> Material:
    """The pairs that a run's pool judged, in a fixed order: policies against the reference model (``evaluate``), two
    samples of the SFT policy (``annotate``, which training learns from), or those of them that every annotator judged
    (``cross``). Raises DataError when the run has none."""
    where = folder / _STEPS[source]
    steps = sorted(p.parent for p in where.rglob("judgements.jsonl") if not p.parent.name.endswith(".partial"))
    if not steps:
        wanted = {"cross": "a run whose study.agreement_pairs is above 0"}.get(source, f"a run up to 'farm {source}'")
        raise DataError(f"{folder}: no judged pairs under {where}; give {wanted}, or --pairs-file")
    split = "eval" if source == "evaluate" else "preference"
    instructions = records.by_id(records.read(folder / "0-data" / f"{split}.jsonl", Instruction))
    responses: dict[str, Response] = {}
    judgements: list[Judgement] = []
    for step in steps:
        judgements += records.read(step / "judgements.jsonl", Judgement)
        files = ("responses.jsonl", "reference.jsonl")
        texts = [step / f for f in files] if source == "evaluate" else [folder / "2-sample" / step.name / files[0]]
        responses |= records.by_id([r for path in texts for r in records.read(path, Response)])
    judged = {j.pair_id: j for j in judgements}
    if strange := [j for j in judged.values() if not set(j.shown) <= set(responses)]:
        raise DataError(
            f"{where}: {len(strange)} judged pairs are about texts that the run did not sample, such as labels "
            "by people of another study; label those with --pairs-file"
        )
    pairs = [_pair(id, j) for id, j in sorted(judged.items()) if len({responses[i].text for i in j.shown}) == 2]
    return _only_needed(instructions, responses, pairs, judgements)


def _pair(id: str, judgement: Judgement) -> Pair:
    a, b = sorted(judgement.shown)
    return Pair(id=id, instruction_id=judgement.instruction_id, a=a, b=b)


def _only_needed(
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    pairs: Sequence[Pair],
    judgements: Iterable[Judgement],
) -> Material:
    asked = {p.id for p in pairs}
    return Material(
        {p.instruction_id: instructions[p.instruction_id] for p in pairs},
        {i: responses[i] for p in pairs for i in (p.a, p.b)},
        list(pairs),
        [j for j in judgements if j.pair_id in asked],
        {},
    )


def from_file(path: Path) -> Material:
    """Pairs of a JSON-lines file: ``instruction``, ``first``, ``second``, and optionally ``input``, ``answer`` ("first"
    or "second": which is known to be better), ``first_policy``, ``second_policy``, ``source``.

    Raises DataError naming file, line and field; a pair given twice, or one with two equal texts, is an error too.
    """
    found = Material({}, {}, [], [], {})
    seen: dict[str, int] = {}
    for number, row in records.json_rows(path):
        where = f"{path}, line {number}"
        if unknown := set(row) - set(_COLUMNS):
            raise DataError(f"{where}: unknown field {sorted(unknown)[0]!r} (fields: {', '.join(_COLUMNS)})")
        text = {name: _text(row, name, where) for name in _COLUMNS}
        if text["answer"] not in ("", "first", "second"):
            raise DataError(f"{where}, field 'answer': first or second, got {text['answer'][:40]!r}")
        asked = Instruction.make(text["instruction"], text["input"], source=text["source"] or path.name)
        two = [
            Response.make(asked.id, text[side], text[f"{side}_policy"] or side, n_tokens=len(text[side].split()))
            for side in ("first", "second")
        ]
        if two[0].text == two[1].text:
            raise DataError(f"{where}: 'first' and 'second' are the same text, so there is nothing to choose")
        pair = Pair.of(*two)
        if pair.id in seen:
            raise DataError(f"{where}: this pair was given on line {seen[pair.id]} already")
        seen[pair.id] = number
        found.instructions[asked.id] = asked
        found.responses.update(records.by_id(two))
        found.pairs.append(pair)
        if text["answer"]:
            found.answers[pair.id] = two[text["answer"] == "second"].id
    if not found.pairs:
        raise DataError(f"{path}: no pairs; a line is {{'instruction': ..., 'first': ..., 'second': ...}}")
    return found


def _text(row: Mapping[str, object], name: str, where: str) -> str:
    needed = name in ("instruction", "first", "second")
    value = row.get(name, None if needed else "")
    if not isinstance(value, str) or (name == "instruction" and not value.strip()):
        raise DataError(f"{where}, field '{name}': a text is needed, got {str(value)[:60]!r}")
    if len(value) > LONGEST:
        raise DataError(f"{where}, field '{name}': {len(value):,} characters, at most {LONGEST:,} can be shown")
    return value


def mismatched(material: Material, pairs: Sequence[Pair], count: int, seed: int) -> Material:
    """``count`` pairs with a known answer: a response beside the same policy's response to another instruction.

    Of a keyed handful of other instructions the one that shares the fewest words is taken, so that the stray response
    is wrong on its face; both texts have one policy, so that the pair says nothing about any.
    """
    made = Material({}, {}, [], [], {})
    by_policy: dict[str, list[Response]] = {}
    for response in sorted(material.responses.values(), key=lambda r: r.id):
        by_policy.setdefault(response.policy, []).append(response)
    for pair in sorted(pairs, key=lambda p: key(seed, "known answer", p.id)):
        if len(made.pairs) == count:
            break
        asked, right = material.instructions[pair.instruction_id], material.responses[pair.a]
        others = [r for r in by_policy[right.policy] if r.instruction_id != asked.id and r.text != right.text]
        others = sorted(others, key=lambda r: key(seed, "stray response", pair.id, r.id))[:25]
        if not others or not right.text.strip():
            continue
        stray = min(others, key=lambda r: _shared(asked, material.instructions[r.instruction_id]))
        wrong = Response.make(asked.id, stray.text, stray.policy, stray.draw, n_tokens=stray.n_tokens)
        both = Pair.of(right, wrong)
        made.instructions[asked.id] = asked
        made.responses.update(records.by_id([right, wrong]))
        made.pairs.append(both)
        made.answers[both.id] = right.id
    return made


def _shared(first: Instruction, second: Instruction) -> float:
    """Jaccard overlap of two instructions' words."""
    a, b = (set(re.findall(r"\w+", i.full_text.lower())) for i in (first, second))
    return len(a & b) / len(a | b) if a | b else 0.0
