"""What AlpacaEval's length-controlled win rate needs besides the verdicts, from files the user has.

A folder with ``instruction_difficulty.csv`` (index, instruction_difficulty: one fixed number per instruction) and,
where they are known, ``regulariser_rows.csv`` (t, d, target: verdicts on the reference's own longer and shorter texts,
which say what length alone buys) and ``published_C.csv`` (model, C: the penalty behind each published value).
The files hold AlpacaEval's data (CC BY-NC 4.0), so farm ships none of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from farm.data.alpaca_eval import rows_of
from farm.data.collect import Row
from farm.data.verdicts import Array
from farm.errors import DataError


@dataclass(frozen=True)
class Material:
    """``difficulty`` by instruction id, in file order; ``regulariser`` (rows, 3) with columns t, difficulty, target in
    [0, 1]; ``penalties``: model -> C."""

    difficulty: Mapping[str, float] = field(default_factory=dict)
    regulariser: Array = field(default_factory=lambda: np.zeros((0, 3)))
    penalties: Mapping[str, float] = field(default_factory=dict)


def read(folder: Path) -> Material:
    """Read the files of ``folder``. Raises DataError naming file and line; only the difficulties must be there."""
    difficulty: dict[str, float] = {}
    path = folder / "instruction_difficulty.csv"
    for line, row in rows_of(path):
        name = row.get("index", "")
        if name in difficulty:
            raise DataError(f"{path}, line {line}: index {name!r} occurs twice")
        difficulty[name] = _number(row, "instruction_difficulty", path, line)
    rows, penalties = [], {}
    if (path := folder / "regulariser_rows.csv").is_file():
        for line, row in rows_of(path):
            values = [_number(row, name, path, line) for name in ("t", "d", "target")]
            if not 0 <= values[2] <= 1:
                raise DataError(f"{path}, line {line}: target {values[2]} is not between 0 and 1")
            rows.append(values)
    if (path := folder / "published_C.csv").is_file():
        for line, row in rows_of(path):
            c = _number(row, "C", path, line)
            if c <= 0:
                raise DataError(f"{path}, line {line}: C must be above 0, got {c}")
            penalties[row.get("model", "")] = c
    return Material(difficulty, np.array(rows).reshape(-1, 3), penalties)


def _number(row: Row, name: str, path: Path, line: int) -> float:
    try:
        value = float(row[name])
    except KeyError:
        raise DataError(f"{path}, line {line}: no column {name} (columns: {', '.join(row)})") from None
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}, line {line}: {name} {str(row[name])[:40]!r} is not a finite number")
    return value
