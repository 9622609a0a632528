"""Recorded best-of-n samples: several responses per instruction with scores or picks of reward models and gold.

One JSON object per line (gzip by suffix), either one instruction:

    {"id": ..., "instruction": "...", "samples": ["...", ...], "gold": [0.3, null, ...],
     "scores": {"my reward model": [1.2, ...]}, "log_probs": [-41.0, ...], "rm_pick": {"another one": 3}}

(``preference_vs_reference``, 1 = reference better to 2 = sample better, may stand for ``gold``), or one response as a
run's ``pool.jsonl`` holds it, with ``scores`` by name, among them ``gold`` and ``log_prob`` where known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farm import records
from farm.errors import DataError
from farm.records import Response
from farm.seeds import rng


@dataclass(frozen=True)
class Recorded:
    """One instruction's samples. ``gold`` and every list of ``scores`` and ``log_probs`` have one value per sample,
    None = unknown; ``picks`` are the numbers of the samples that reward models liked best."""

    id: str
    samples: tuple[str, ...]
    gold: tuple[float | None, ...]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    log_probs: tuple[float, ...] | None = None
    picks: Mapping[str, int] = field(default_factory=dict)

    def shuffled(self, seed: int) -> Recorded:
        """The same samples in an order drawn for this instruction: recorded order often carries information (samplers
        sort by likelihood), so the first n of a file are not n random samples."""
        order = rng(seed, "recorded order", self.id).permutation(len(self.samples)).tolist()
        place = {old: new for new, old in enumerate(order)}
        return Recorded(
            self.id,
            tuple(self.samples[i] for i in order),
            tuple(self.gold[i] for i in order),
            {name: tuple(values[i] for i in order) for name, values in self.scores.items()},
            None if self.log_probs is None else tuple(self.log_probs[i] for i in order),
            {name: place[pick] for name, pick in self.picks.items()},
        )


def read(paths: Sequence[str | Path]) -> list[Recorded]:
    """Recorded samples of one or several files. Raises DataError naming file, line and field, on NaN among others, and
    when an instruction occurs twice or nothing is there."""
    out: list[Recorded] = []
    for path in map(Path, paths):
        rows = list(records.json_rows(path))
        if rows and "instruction_id" in rows[0][1]:
            out += _pool(path)
        else:
            out += [_row(row, f"{path}, line {line}") for line, row in rows]
    seen: set[str] = set()
    for r in out:
        if r.id in seen:
            raise DataError(f"recorded samples: instruction {r.id} occurs twice; merge its samples into one row")
        seen.add(r.id)
    if not out:
        raise DataError(f"{', '.join(map(str, paths))}: no recorded samples")
    return out


def _pool(path: Path) -> list[Recorded]:
    groups: dict[str, list[Response]] = {}
    for r in records.read(path, Response):
        groups.setdefault(r.instruction_id, []).append(r)
    out = []
    for i, group in groups.items():
        names = [n for n in group[0].scores if n not in ("gold", "log_prob") and all(n in r.scores for r in group)]
        logs = [r.scores["log_prob"] for r in group if "log_prob" in r.scores]
        out.append(
            Recorded(
                i,
                tuple(r.text for r in group),
                tuple(r.scores.get("gold") for r in group),
                {n: tuple(r.scores[n] for r in group) for n in names},
                tuple(logs) if len(logs) == len(group) else None,
            )
        )
    return out


def _row(row: dict[str, Any], where: str) -> Recorded:
    samples = row.get("samples")
    if not isinstance(samples, list) or not samples or not all(isinstance(s, str) for s in samples):
        raise DataError(f"{where}: 'samples' must be a list of texts")
    gold = row.get("gold")
    if gold is None and "preference_vs_reference" in row:
        given = _numbers(row["preference_vs_reference"], len(samples), f"{where}, preference_vs_reference", True)
        gold = [None if v is None else v - 1 for v in given]
    values = _numbers(gold, len(samples), f"{where}, gold", True) if gold is not None else [None] * len(samples)
    scores = row.get("scores") or {}
    picks = row.get("rm_pick") or {}
    if not isinstance(scores, dict) or not isinstance(picks, dict):
        raise DataError(f"{where}: 'scores' and 'rm_pick' map names of reward models to values")
    for name, pick in picks.items():
        if not isinstance(pick, int) or not 0 <= pick < len(samples):
            raise DataError(f"{where}, rm_pick of {name}: {pick!r} is not the number of one of {len(samples)} samples")
    logs = row.get("log_probs")
    return Recorded(
        str(row.get("id", where)),
        tuple(samples),
        tuple(values),
        {str(n): _known(v, len(samples), f"{where}, scores of {n}") for n, v in scores.items()},
        None if logs is None else _known(logs, len(samples), f"{where}, log_probs"),
        {str(n): p for n, p in picks.items()},
    )


def _known(values: Any, size: int, where: str) -> tuple[float, ...]:
    return tuple(v for v in _numbers(values, size, where, False) if v is not None)


def _numbers(values: Any, size: int, where: str, gaps: bool) -> list[float | None]:
    if not isinstance(values, list) or len(values) != size:
        raise DataError(f"{where}: needs one number for each of the {size} samples")
    out: list[float | None] = []
    for v in values:
        if v is None and gaps:
            out.append(None)
        elif isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v):
            raise DataError(f"{where}: {v!r} is not a finite number{' (null = unknown)' if gaps else ''}")
        else:
            out.append(float(v))
    return out
