"""Reads rows of foreign files one by one, and collects the acts found in them as the farm's records."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from farm.data.judged import Judged, Rejected
from farm.errors import DataError, MissingExtra
from farm.records import Cost, Instruction, Judgement, Outcome, Pair, Response, lines

UNORDERED = "order unknown"  # fingerprint of an imported act whose order of presentation the file does not tell

Row = Mapping[str, Any]


class Unusable(ValueError):
    """A row that cannot be read as an act; the message says why."""


def rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Numbered rows of a JSON-lines file, a JSON list, a CSV file with a header (all gzipped by suffix), or Parquet.

    A row that cannot be read at all comes as a text saying why. Rows of a list or of Parquet are numbered from 1.
    Raises DataError when the file cannot be read, MissingExtra when Parquet needs pyarrow.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        yield from _csv_rows(path)
    elif name.endswith(".parquet"):
        yield from _parquet_rows(path)
    elif name.endswith(".json"):
        text = "".join(line for _, line in lines(path))
        try:
            data = json.loads(text)
        except ValueError as e:
            raise DataError(f"{path}: not a JSON list ({e}); JSON lines need the suffix .jsonl or .jsonl.gz") from None
        if not isinstance(data, list):
            raise DataError(f"{path}: must hold a list of objects, got {type(data).__name__}")
        for number, row in enumerate(data, 1):
            yield number, row if isinstance(row, dict) else f"a row must be a JSON object, got {type(row).__name__}"
    else:
        for number, line in lines(path):
            try:
                row = json.loads(line)
            except ValueError as e:
                yield number, f"not JSON ({e})"
                continue
            yield number, row if isinstance(row, dict) else f"a row must be a JSON object, got {type(row).__name__}"


def _csv_rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    csv.field_size_limit(10_000_000)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
        for row in reader:
            if None in row or None in row.values():
                yield reader.line_num, f"the row does not have the header's {len(reader.fieldnames or ())} columns"
            else:
                yield reader.line_num, {key: value for key, value in row.items() if value != ""}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path}: cannot be read as CSV ({e})") from e


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as e:
        raise MissingExtra("Parquet needs the extra: pip install 'rlhf-farm[train]'") from e
    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read as Parquet ({e})") from e


class Collector:
    """Turns acts into records. Ids are hashes of texts and policies, so the same pair in two files is the same pair."""

    def __init__(self) -> None:
        self.instructions: dict[str, Instruction] = {}
        self.responses: dict[str, Response] = {}
        self.pairs: dict[str, Pair] = {}
        self.judgements: list[Judgement] = []
        self.rejected: list[Rejected] = []
        self._lines: dict[tuple[str, str, int], int] = {}

    def instruction(self, text: str, input: str = "", source: str = "", split: str = "eval") -> Instruction:
        made = Instruction.make(text, input, source=source, split=split)  # type: ignore[arg-type]
        return self.instructions.setdefault(made.id, made)

    def pair(
        self,
        instruction: Instruction,
        texts: tuple[str, str],
        policies: tuple[str, str] = ("", ""),
        ids: tuple[str, str] | None = None,
        pair_id: str | None = None,
    ) -> tuple[Pair, tuple[str, str]]:
        """The pair of two responses and their ids in the order given. Responses that nothing tells apart (same text,
        same policy) count as two draws."""
        same = texts[0] == texts[1] and policies[0] == policies[1]
        made = [
            Response.make(instruction.id, text, policy, draw, n_tokens=len(text.split()))
            for text, policy, draw in zip(texts, policies, (0, int(same)), strict=True)
        ]
        if ids:
            made = [r.model_copy(update={"id": i}) for r, i in zip(made, ids, strict=True)]
        for r in made:
            known = self.responses.setdefault(r.id, r)
            if known.text != r.text or known.instruction_id != r.instruction_id:
                raise Unusable(f"response {r.id} was given before with another text or instruction")
        pair = Pair.of(*made)
        if pair_id:
            pair = pair.model_copy(update={"id": pair_id})
        known_pair = self.pairs.setdefault(pair.id, pair)
        if known_pair != pair:
            raise Unusable(f"pair {pair.id} was given before with other responses")
        return pair, (made[0].id, made[1].id)

    def act(
        self,
        line: int,
        pair: Pair,
        shown: tuple[str, str],
        annotator: str,
        outcome: Outcome,
        winner: int | None = None,
        *,
        probability_first: float | None = None,
        draw: int = 0,
        ordered: bool = True,
        raw: str = "",
        seconds: float = 0.0,
        strength: float | None = None,
    ) -> None:
        """One act; ``winner`` 0 or 1 indexes ``shown``. Raises Unusable when this act was given before."""
        key = (pair.id, annotator, draw)
        if key in self._lines:
            raise Unusable(
                f"{annotator} judged this pair before, in line {self._lines[key]} (draw {draw}); repeated acts need "
                "different draw numbers"
            )
        texts = [self.responses[i].text for i in shown]
        if outcome is Outcome.TIE and texts[0] == texts[1] != "":
            outcome = Outcome.IDENTICAL
        probability = probability_first if shown[0] == pair.a or probability_first is None else 1 - probability_first
        judgement = Judgement(
            pair_id=pair.id,
            instruction_id=pair.instruction_id,
            annotator=annotator,
            fingerprint="" if ordered else UNORDERED,
            shown=shown,
            outcome=outcome,
            winner_id=None if winner is None else shown[winner],
            probability=probability,
            raw=raw,
            draw=draw,
            cost=Cost(seconds=seconds),
            strength=strength,
        )
        self._lines[key] = line
        self.judgements.append(judgement)

    def reject(self, line: int, reason: str) -> None:
        self.rejected.append(Rejected(line, reason))

    def result(self) -> Judged:
        """What was collected; pairs and texts that no act names (their rows were rejected) are left out."""
        named = {j.pair_id for j in self.judgements}
        pairs = [p for p in self.pairs.values() if p.id in named]
        shown = {i for j in self.judgements for i in j.shown}
        tasks = {p.instruction_id for p in pairs}
        return Judged(
            {k: v for k, v in self.instructions.items() if k in tasks},
            {k: v for k, v in self.responses.items() if k in shown},
            pairs,
            self.judgements,
            self.rejected,
        )


# -- fields -----------------------------------------------------------------------------------------------------------


def text(row: Row, *names: str, default: str | None = None) -> str:
    """The first of several columns that is there, as text. Raises Unusable when none is and no default is given."""
    for name in names:
        if name in row and row[name] is not None:
            value = row[name]
            if not isinstance(value, str):
                raise Unusable(f"{name}: a text is needed, got {_shown(value)}")
            return value
    if default is None:
        raise Unusable(f"{names[0]}: missing (columns: {', '.join(map(str, row))})")
    return default


def name(row: Row, *names: str, default: str | None = None) -> str:
    """A column that names somebody: a text, or a whole number."""
    for column in names:
        value = row.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    found = text(row, *names, default=default).strip()
    if not found:
        raise Unusable(f"{names[0]}: empty")
    return found


def number(row: Row, column: str, low: float, high: float = math.inf) -> float | None:
    """A number in [low, high], None when the column is absent or empty."""
    value = row.get(column)
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError):
        raise Unusable(f"{column}: a number is needed, got {_shown(value)}") from None
    if not low <= found <= high:
        raise Unusable(f"{column}: must lie between {low:g} and {high:g}, got {found:g}")
    return found


def whole(row: Row, column: str, default: int | None = None) -> int:
    """A whole number from 0. Raises Unusable when it is missing and no default is given."""
    found = number(row, column, 0)
    if found is None:
        if default is None:
            raise Unusable(f"{column}: missing")
        return default
    if found != int(found):
        raise Unusable(f"{column}: a whole number is needed, got {found:g}")
    return int(found)


def _shown(value: object) -> str:
    return repr(value)[:60]
