"""Labels on their way out: preference rows for trainers, and the long table of single judgements."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from farm.errors import DataError, MissingExtra
from farm.label.store import Label, Store, judgement
from farm.records import Judgement

Format = Literal["trl", "farm", "csv", "parquet"]
Rule = Literal["majority", "each"]
Row = dict[str, Any]
UNSAID = 2  # how much better a choice without a strength is: clearly, the middle of 1 to 3


def long_table(store: Store, *, checks: bool = False) -> list[Row]:
    """One row per label, in the columns that ``farm/data/human.py`` reads as ``farm``, sorted by pair, annotator and
    draw. Pairs made to check attention are left out unless ``checks``."""
    pairs = {p.id: p for known in (False, True) for p in store.pairs(known)}
    acts = [(judgement(x, pairs[x.task.pair_id]), x.time) for x in store.labels() if checks or not x.known]
    return _rows(store, acts)


def pool_table(store: Store) -> list[Row]:
    """The simulator's verdicts on the chosen pairs in the same columns. An act without a verdict is a skip, its
    outcome the reason."""
    return _rows(store, [(j, "") for j in store.pool_judgements()])


def _rows(store: Store, acts: Sequence[tuple[Judgement, str]]) -> list[Row]:
    instructions, responses = store.instructions(), store.responses()
    rows = []
    for j, time in sorted(acts, key=lambda act: (act[0].pair_id, act[0].annotator, act[0].draw)):
        asked, (first, second) = instructions[j.instruction_id], (responses[i] for i in j.shown)
        said = "tie" if j.outcome.judged else "skip"
        if j.winner_id is not None:
            said = "first" if j.winner_id == first.id else "second"
        rows.append(
            {
                "pair_id": j.pair_id,
                "instruction": asked.text,
                "input": asked.input,
                "first": first.text,
                "second": second.text,
                "annotator": j.annotator,
                "winner": said,
                "strength": j.strength,
                "reason": j.raw if time else str(j.outcome) if said == "skip" else "",
                "seconds": j.cost.seconds,
                "draw": j.draw,
                "time": time,
                "first_id": first.id,
                "second_id": second.id,
                "first_policy": first.policy,
                "second_policy": second.policy,
                "source": asked.source,
                "split": asked.split,
            }
        )
    return rows


def preferences(store: Store, *, rule: Rule = "majority", margin: bool = False) -> tuple[list[Row], int]:
    """Rows with ``prompt``, ``chosen``, ``rejected`` for TRL's trainers, and how many had to be left out as ties.

    ``majority``: one row per pair, the side with more votes; an even vote is a tie. ``each``: one row per decided
    label. A tie never becomes a winner. ``margin`` adds how much better the chosen one is: the mean of the strengths
    (1 to 3, 2 where none was given), votes for the other side counting negative, ties zero, and at least 0. Repeats
    and checks are left out.
    """
    by_pair: dict[str, list[Label]] = defaultdict(list)
    for label in store.labels():
        if label.choice != "skip" and label.task.draw == 0 and not label.known:
            by_pair[label.task.pair_id].append(label)
    instructions, responses = store.instructions(), store.responses()
    rows: list[Row] = []
    ties = 0
    for pair in store.pairs(known=False):
        votes = sorted(by_pair[pair.id], key=lambda x: x.task.annotator)
        for group in [votes] if rule == "majority" and votes else [[v] for v in votes]:
            for_a = sum(v.winner == pair.a for v in group) - sum(v.winner == pair.b for v in group)
            if for_a == 0:
                ties += 1
                continue
            winner = pair.a if for_a > 0 else pair.b
            loser = pair.b if for_a > 0 else pair.a
            row: Row = {
                "prompt": instructions[pair.instruction_id].full_text,
                "chosen": responses[winner].text,
                "rejected": responses[loser].text,
            }
            if margin:
                signed = [_strength(v) * (1 if v.winner == winner else -1) for v in group]
                row["margin"] = max(0.0, sum(signed) / len(signed))
            rows.append(row)
    return rows, ties


def _strength(label: Label) -> int:
    return 0 if label.winner is None else label.strength or UNSAID


def write(rows: Sequence[Row], path: Path, form: Format) -> None:
    """Write rows atomically: JSON lines (``trl``, ``farm``), ``csv`` or ``parquet``.

    Raises DataError when there are no rows or the file cannot be written, MissingExtra when Parquet needs pyarrow.
    """
    if not rows:
        raise DataError("there is nothing to export yet: no label fits")
    writers: dict[Format, Callable[[Sequence[Row], Path], None]] = {
        "trl": _json_lines, "farm": _json_lines, "csv": _csv, "parquet": _parquet
    }  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[form](rows, partial)
        os.replace(partial, path)
    except OSError as e:
        raise DataError(f"{path}: cannot be written ({e.strerror}); choose another --out") from None


def _json_lines(rows: Sequence[Row], path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _csv(rows: Sequence[Row], path: Path) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def _parquet(rows: Sequence[Row], path: Path) -> None:
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra(
            "Parquet needs pyarrow, which comes with the extra: pip install 'rlhf-farm[train]'; or export as "
            "--format farm (JSON lines) or csv"
        ) from None
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
