"""Judgements with their texts from files of any kind: the farm's own, a folder of a run, or a foreign format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from farm import records
from farm.data import human
from farm.data.judged import Rejected
from farm.errors import DataError
from farm.records import Instruction, Judgement, Response


@dataclass(frozen=True)
class Study:
    """Judgements, the responses they name, the instructions as far as they are known, and the training seed."""

    judgements: list[Judgement]
    responses: dict[str, Response]
    instructions: dict[str, Instruction] = field(default_factory=dict)
    seed: int = 0


def read(
    path: Path, format: str, *, judges: bool = False, texts: Path | None = None
) -> tuple[list[Study], list[Rejected]]:
    """Read ``path``: a file of ``format``, or (``farm`` only) a folder in which a run keeps judgements.

    A file of the farm's records is read together with ``responses.jsonl`` and ``reference.jsonl`` beside it; of a
    folder, every ``judgements.jsonl`` in it. The training seed is told by the step's folder, ``seed-3``.
    Raises DataError naming file and line.
    """
    if format == "farm" and path.is_dir():
        files = [p for p in sorted(path.rglob("judgements.jsonl")) if not p.parent.name.endswith(".partial")]
        studies = [_step(p) for p in files if (p.parent / "responses.jsonl").is_file()]
        if not studies:
            raise DataError(f"{path}: no judgements.jsonl with responses.jsonl beside it; name a run's 6-evaluate")
        return studies, []
    if format == "farm" and (path.parent / "responses.jsonl").is_file():
        return [_step(path)], []
    found = human.read(path, format, judges=judges, texts=texts)
    return [Study(found.judgements, found.responses, found.instructions)], found.rejected


def _step(path: Path) -> Study:
    beside = [path.parent / name for name in ("responses.jsonl", "reference.jsonl")]
    responses = [r for p in beside if p.is_file() for r in records.read(p, Response)]
    name = path.parent.name.removeprefix("seed-")
    return Study(records.read(path, Judgement), records.by_id(responses), seed=int(name) if name.isdecimal() else 0)
