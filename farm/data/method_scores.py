"""Tables of method scores by two judges: one CSV with both, two CSVs to be joined by name, or one row per instruction.

Columns are found by their names and can always be named instead. A row that lacks a score is left out and reported;
a row that contradicts itself (a method given twice, a number that is none) is an error that names file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from farm.data.judged import Rejected
from farm.errors import DataError

METHOD = ("method", "model", "name", "policy", "system", "generator", "model_name", "model_id")
INSTRUCTION = ("instruction_id", "instruction", "item", "item_id", "prompt_id", "question_id", "example_id")
SCORE = ("win_rate", "winrate", "score", "rating", "elo", "value", "mean")
LABELS = ("n", "n_total", "n_human", "human_n", "num_battles")
_SIDES = ({"simulated", "simulator", "sim", "judge", "auto", "llm"}, {"human", "humans", "people", "crowd", "gold"})
_NOT_SCORES = frozenset(
    "se stderr sem sd std error low high lower upper q025 q975 n chars length tokens count total ci".split()  # noqa: SIM905
)
_MISSING = {"", "na", "n/a", "nan", "none", "null", "-", "\u2013"}
_SUFFIX = re.compile(r"_?(win_?rate|score|rating|value|mean)$")


@dataclass(frozen=True)
class Columns:
    """Names given by the user; None = find it. ``*_rows`` are (column, value) that select rows of a side."""

    method: str | None = None
    simulated: str | None = None
    human: str | None = None
    simulated_se: str | None = None
    human_se: str | None = None
    simulated_rows: tuple[str, str] | None = None
    human_rows: tuple[str, str] | None = None


@dataclass(frozen=True)
class Side:
    """One judge's scores: method -> value, standard error (None = not given), labels; ``used`` names the columns."""

    values: dict[str, float]
    errors: dict[str, float | None]
    labels: dict[str, float]
    used: str


@dataclass(frozen=True)
class ScoreTable:
    """Both sides, for the methods that have both scores, in the order of the first file. ``cells`` holds every row's
    text by method and column, so that rows can be selected by it."""

    methods: tuple[str, ...]
    simulated: Side
    human: Side
    cells: dict[str, dict[str, str]]
    left_out: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class LongTable:
    """One score per method and instruction, either of which may be missing: side -> method -> instruction -> score."""

    simulated: dict[str, dict[str, float]]
    human: dict[str, dict[str, float]]
    used: str


@dataclass(frozen=True)
class _File:
    path: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]

    def find(self, wanted: Sequence[str]) -> str | None:
        """The first column whose plain name is among ``wanted``, in the order of ``wanted``."""
        plain = {_plain(c): c for c in reversed(self.columns)}
        return next((plain[w] for w in wanted if w in plain), None)

    def named(self, column: str) -> str:
        """``column`` as the file spells it. Raises DataError with what there is."""
        if column in self.columns:
            return column
        near = get_close_matches(_plain(column), [_plain(c) for c in self.columns], 1)
        hint = f" (did you mean {self.find(near)!r}?)" if near else ""
        raise DataError(f"{self.path}: no column {column!r}{hint}; its columns are {', '.join(self.columns)}")

    def numeric(self, column: str) -> bool:
        """Whether a column holds numbers, for the most part at least: a slip in one row is reported where it is."""
        texts = [row[column] for _, row in self.rows if not _missing(row[column])]
        return bool(texts) and 2 * sum(_is_number(t) for t in texts) > len(texts)


def read(path: Path, second: Path | None = None, columns: Columns | None = None) -> ScoreTable | LongTable:
    """The scores of one file, or of two joined by method name (the first is the simulated side).

    A single file with an instruction column is a LongTable. Raises DataError naming file and line: no such file, no
    such column, a method given twice, a value that is not a finite number, a negative standard error.
    """
    c = columns or Columns()
    first = _open(path)
    if second is None and first.find(INSTRUCTION) and not c.simulated_rows:
        return _long(first, c)
    other = first if second is None else _open(second)
    if other is first and not (c.simulated_rows and c.human_rows):
        names = _two_sides(first, c)
    else:
        names = (_score(first, c.simulated, "--simulated"), _score(other, c.human, "--human"))
    left_out: list[Rejected] = []
    sides, cells = [], dict[str, dict[str, str]]()
    for n, (file, column, error, rows) in enumerate(
        ((first, names[0], c.simulated_se, c.simulated_rows), (other, names[1], c.human_se, c.human_rows))
    ):
        side = _side(file, c.method, column, error, rows, left_out, cells if n == 0 else {})
        sides.append(side)
    simulated, human = sides
    both = tuple(m for m in simulated.values if m in human.values)
    if second is not None or c.human_rows:
        for side, missing in ((simulated, human), (human, simulated)):
            alone = [m for m in side.values if m not in missing.values]
            if alone:
                left_out.append(Rejected(0, f"only in {side.used.partition(':')[0]}: {', '.join(alone)}"))
    return ScoreTable(
        both, simulated, human, {m: cells[m] for m in both}, sorted(set(left_out), key=lambda r: (r.line, r.reason))
    )


def _open(path: Path) -> _File:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, EOFError) as e:
        raise DataError(f"{path}: cannot be read as text ({e})") from e
    tabs = ".tsv" in path.suffixes
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",")
    header = tuple(c.strip() for c in next(reader, []))
    if len(header) < 2:
        raise DataError(f"{path}, line 1: a header of two columns or more is needed, got {', '.join(header) or 'none'}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line 1: column {max(header, key=header.count)!r} occurs twice")
    rows = list(_rows(path, reader, header))
    if not rows:
        raise DataError(f"{path}: a header and no rows")
    return _File(path, header, rows)


def _rows(path: Path, reader: Iterator[list[str]], header: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    before = 1
    try:
        for row in reader:
            line, before = before + 1, int(reader.line_num)  # type: ignore[attr-defined]
            if len(row) > len(header):
                raise DataError(f"{path}, line {line}: {len(row)} values under {len(header)} columns (quote commas)")
            if any(value.strip() for value in row):
                padded = [value.strip() for value in row] + [""] * (len(header) - len(row))
                yield line, dict(zip(header, padded, strict=True))
    except csv.Error as e:
        raise DataError(f"{path}, line {before + 1}: {e}") from e


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _missing(text: str) -> bool:
    return text.strip().lower() in _MISSING


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(file: _File, line: int, column: str, text: str) -> float | None:
    if _missing(text):
        return None
    if not _is_number(text):
        raise DataError(f"{file.path}, line {line}, column {column!r}: {text!r} is not a finite number")
    return float(text)


def _score(file: _File, given: str | None, option: str) -> str:
    if given:
        return file.named(given)
    found = file.find(SCORE)
    if found is None:
        raise DataError(f"{file.path}: which column holds the scores? Name it with {option}: {_candidates(file)}")
    return found


def _candidates(file: _File) -> str:
    return ", ".join(_numeric_scores(file)) or f"no numeric column among {', '.join(file.columns)}"


def _numeric_scores(file: _File) -> list[str]:
    return [c for c in file.columns if not set(_plain(c).split("_")) & _NOT_SCORES and file.numeric(c)]


def _two_sides(file: _File, c: Columns) -> tuple[str, str]:
    """The two score columns of one file: named, or told apart by the words in their names, or the only two."""
    scores = [s for s in _numeric_scores(file) if s != c.method]
    found = []
    for given, words in zip((c.simulated, c.human), _SIDES, strict=True):
        matching = [s for s in scores if set(_plain(s).split("_")) & words]
        found.append(file.named(given) if given else matching[0] if matching else None)
    if found == [None, None] and len(scores) == 2:
        return scores[0], scores[1]
    if None in found or found[0] == found[1]:
        raise DataError(
            f"{file.path}: which columns hold the two sets of scores? Name them with --simulated and --human; "
            f"candidates: {_candidates(file)}. Two judges in one column: --simulated-rows and --human-rows COLUMN=VALUE"
        )
    return str(found[0]), str(found[1])


def _error_columns(file: _File, column: str) -> tuple[str, ...]:
    """The column of standard errors that goes with a score column, or the two that bound its 95% interval."""
    plain = _plain(column)
    base = _SUFFIX.sub("", plain)
    generic = plain in SCORE
    stems = [plain, *([base] if base else [])]
    ends = ("se", "standard_error", "stderr", "std_error", "sem")
    names = [f"{stem}_{end}" for stem in stems for end in ends] + [f"se_{stem}" for stem in stems]
    if base in ("length_controlled", "lc"):
        names += ["lc_se", "lc_standard_error"]
    names += [*ends, "standard_error"] if generic else []
    if found := file.find(names):
        return (found,)
    bounds = [("ci95_low", "ci95_high"), ("low", "high"), ("lower", "upper"), ("q025", "q975")]
    for low, high in bounds:
        for stem in [*(f"{s}_" for s in stems), *([""] if generic else [])]:
            pair = file.find([stem + low]), file.find([stem + high])
            if pair[0] and pair[1]:
                return pair[0], pair[1]
        ends_in = [[c for c in file.columns if _plain(c).endswith("_" + end)] for end in (low, high)]
        if generic and len(ends_in[0]) == len(ends_in[1]) == 1:
            return ends_in[0][0], ends_in[1][0]
    return ()


def _method_column(file: _File, given: str | None) -> str:
    if given:
        return file.named(given)
    found = file.find(METHOD) or next((c for c in file.columns if not file.numeric(c)), None)
    if found is None:
        raise DataError(f"{file.path}: which column names the methods? Say --method: {', '.join(file.columns)}")
    return found


def _side(
    file: _File,
    method_column: str | None,
    column: str,
    error: str | None,
    rows: tuple[str, str] | None,
    left_out: list[Rejected],
    cells: dict[str, dict[str, str]],
) -> Side:
    name_column = _method_column(file, method_column)
    errors_from = (file.named(error),) if error else _error_columns(file, column)
    labels_from = file.find(LABELS)
    selected = file.named(rows[0]) if rows else None
    values: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    labels: dict[str, float] = {}
    seen: dict[str, int] = {}
    for line, row in file.rows:
        if rows and selected and row[selected] != rows[1]:
            continue
        name = row[name_column]
        if not name:
            left_out.append(Rejected(line, f"no name in column {name_column!r}"))
            continue
        if name in seen:
            raise DataError(
                f"{file.path}, line {line}: method {name!r} was given on line {seen[name]} already; keep one row, or "
                "select rows of one judge with --simulated-rows COLUMN=VALUE and --human-rows COLUMN=VALUE"
            )
        seen[name] = line
        value = _number(file, line, column, row[column])
        if value is None:
            left_out.append(Rejected(line, f"{name}: no value in column {column!r}"))
            continue
        values[name], cells[name] = value, row
        errors[name] = _standard_error(file, line, errors_from, row)
        if labels_from and (count := _number(file, line, labels_from, row[labels_from])):
            labels[name] = count
    if not seen:
        raise DataError(f"{file.path}: no row has {rows[0]} = {rows[1]!r}" if rows else f"{file.path}: no named row")
    where = f"{column} +- {' to '.join(errors_from)}" if errors_from else f"{column} (no standard errors)"
    chosen = f" where {rows[0]} = {rows[1]}" if rows else ""
    return Side(values, errors, labels, f"{file.path.name}: {where}{chosen}")


def _standard_error(file: _File, line: int, columns: tuple[str, ...], row: Mapping[str, str]) -> float | None:
    found = [_number(file, line, c, row[c]) for c in columns]
    if not found or any(v is None for v in found):
        return None
    numbers = [v for v in found if v is not None]
    error = numbers[0] if len(numbers) == 1 else (numbers[1] - numbers[0]) / (2 * 1.959964)
    if error < 0:
        raise DataError(f"{file.path}, line {line}, column {columns[0]!r}: a negative standard error ({error:g})")
    return error


def _long(file: _File, c: Columns) -> LongTable:
    name_column, item = _method_column(file, c.method), str(file.find(INSTRUCTION))
    columns = _two_sides(file, c)
    sides: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] = ({}, {})
    seen: dict[tuple[str, str], int] = {}
    for line, row in file.rows:
        name, where = row[name_column], (row[name_column], row[item])
        if not all(where):
            raise DataError(f"{file.path}, line {line}: a method and an instruction are needed, got {where}")
        if where in seen:
            raise DataError(f"{file.path}, line {line}: {where} was given on line {seen[where]} already")
        seen[where] = line
        for side, column in zip(sides, columns, strict=True):
            value = _number(file, line, column, row[column])
            if value is not None:
                side.setdefault(name, {})[row[item]] = value
    return LongTable(*sides, f"{file.path.name}: {columns[0]} and {columns[1]} per {item}")
