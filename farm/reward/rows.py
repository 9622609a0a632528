"""Any text as rows to score: read whole and checked before a model is loaded, written whole with a reward each.

Read are JSON lines (also gzipped) or one JSON list of objects with ``instruction``, ``output`` and where there are any
``input`` and ``finished`` (False: the length limit cut the text, so it has no end); AlpacaEval's ``model_outputs.json``
is such a list. A run's ``responses.jsonl`` names instructions by id: these are looked up. Needs no torch.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm import records
from farm.errors import DataError
from farm.records import Instruction, Response

STANDARD = Path("-")
SHOWN = 5  # mistakes of a file that are shown; all are counted


@dataclass(frozen=True)
class Rows:
    """Rows as they were read, ``as_list`` or as lines, and what is scored of each."""

    given: list[dict[str, Any]]
    instructions: list[Instruction]
    responses: list[Response]
    as_list: bool


def read(path: Path, field: str = "reward", instructions: Mapping[str, Instruction] | None = None) -> Rows:
    """The rows of a file, or of standard input for ``-``. ``instructions`` by id are for rows that only name theirs.

    Raises DataError naming file, line (or item) and field of what cannot be scored, or when there is no row; every row
    is looked at first.
    """
    name = "standard input" if path == STANDARD else str(path)
    whole = _text(path, name)
    as_list = whole.lstrip()[:1] == "["
    mistakes: list[str] = []
    numbered = _items(whole, name) if as_list else _lines(whole, mistakes)
    word = "item" if as_list else "line"
    known = instructions if instructions is not None else _beside(path, numbered)
    given, asked, responses = [], [], []
    for number, row in numbered:
        try:
            i, text, finished = _checked(row, field, known)
        except ValueError as e:
            mistakes.append(f"{word} {number}: {e}")
            continue
        given.append(row)
        asked.append(i)
        place = f"{name}, {word} {number}"
        responses.append(Response(id=place, instruction_id=i.id, text=text, policy="", n_tokens=0, finished=finished))
    if mistakes:
        more = f"; and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        raise DataError(f"{name}, {'; '.join(mistakes[:SHOWN])}{more}. Nothing was scored; mend or remove these rows")
    if not given:
        raise DataError(f"{name}: no row to score")
    return Rows(given, asked, responses, as_list)


def write(path: Path, rows: Rows, rewards: Sequence[float], field: str = "reward") -> None:
    """The rows with their reward as ``field``, in the form and order in which they came; a file is replaced whole.

    Raises DataError when it cannot be written.
    """
    scored = [{**row, field: reward} for row, reward in zip(rows.given, rewards, strict=True)]
    if rows.as_list:
        text = json.dumps(scored, ensure_ascii=False, indent=1) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored)
    if path == STANDARD:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
        os.replace(partial, path)
    except OSError as e:
        raise DataError(f"{path}: cannot be written ({e.strerror}); choose another --out") from None


def _text(path: Path, name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if path == STANDARD else path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise DataError(f"{name}: cannot be read ({e})") from None


def _items(text: str, name: str) -> list[tuple[int, Any]]:
    try:
        return list(enumerate(json.loads(text), 1))
    except json.JSONDecodeError as e:
        raise DataError(f"{name}, line {e.lineno}: not a JSON list ({e.msg} at column {e.colno})") from None


def _lines(text: str, mistakes: list[str]) -> list[tuple[int, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except json.JSONDecodeError as e:
            mistakes.append(f"line {number}: not JSON ({e.msg} at column {e.colno})")
    return rows


def _checked(row: Any, field: str, known: Mapping[str, Instruction]) -> tuple[Instruction, str, bool]:
    """Instruction, text and whether it is finished. Raises ValueError saying which field is wrong."""
    if not isinstance(row, dict):
        raise ValueError(f"a row must be a JSON object, got {type(row).__name__}")
    if field in row:
        raise ValueError(f"{field}: the row has this field already; name another with --field")
    finished = row.get("finished", True)
    if not isinstance(finished, bool):
        raise ValueError(f"finished: must be true or false (got {_shown(finished)})")
    if "output" not in row and "instruction_id" in row and "text" in row:
        if row["instruction_id"] not in known:
            raise ValueError(
                f"instruction_id: {_shown(row['instruction_id'])} is not among the instructions known; name their file "
                "with --instructions"
            )
        return known[row["instruction_id"]], _string(row, "text"), finished
    asked, more = _string(row, "instruction"), row.get("input")
    if not asked:
        raise ValueError("instruction: must not be empty")
    given = "" if more is None else _string(row, "input")
    return Instruction.make(asked, given, split="eval"), _string(row, "output"), finished


def _string(row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise ValueError(f"{name}: missing")
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a text (got {_shown(value)})")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: not valid Unicode (half of a surrogate pair)") from None
    return value


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _beside(path: Path, rows: Sequence[tuple[int, Any]]) -> dict[str, Instruction]:
    """The instructions of the run that a file lies in, where some row names its instruction by id."""
    if path == STANDARD or not any(isinstance(row, dict) and "output" not in row for _, row in rows):
        return {}
    data = next((p / "0-data" for p in path.resolve().parents if (p / "0-data").is_dir()), None)
    if data is None:
        return {}
    return records.by_id([i for file in sorted(data.glob("*.jsonl")) for i in records.read(file, Instruction)])


def summary(rewards: Sequence[float], too_long: int) -> str:
    """One line: n, mean, standard deviation, smallest and largest reward, texts over a limit."""
    n = len(rewards)
    mean = sum(rewards) / n
    sd = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (n - 1)) if n > 1 else 0.0
    return (
        f"n {n}, mean {mean:.3f}, sd {sd:.3f}, min {min(rewards):.3f}, max {max(rewards):.3f}, "
        f"longer than the model's limits: {too_long}"
    )
