"""Instructions from a file or Hub dataset, split the way AlpacaFarm splits Alpaca's 52k.

The split is a keyed hash of each row's content, so it is the same on every machine and does not depend on the
order of rows. Rows that occur in an evaluation set, and rows given twice, are taken out; the unlabeled split
gives up the difference.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from farm.data.cards import Card
from farm.errors import DataError, MissingExtra
from farm.records import Instruction, Split, json_rows
from farm.seeds import key

SIZES: dict[Split, int] = {"sft": 10_000, "preference": 20_000, "unlabeled": 20_000, "val": 2_000}

Splits = dict[Split, list[Instruction]]


def rows_of(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(where, row)`` of a JSON-lines or JSON-list file (gzip by suffix), or of a Hub dataset id ``org/name``.

    Raises DataError naming file and line.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if ".jsonl" in path.suffixes or path.name.endswith(".jsonl.gz"):
            for number, row in json_rows(path):
                yield f"{path}, line {number}", row
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as e:
            raise DataError(f"{path}: not a JSON list ({e}); JSON lines need the suffix .jsonl or .jsonl.gz") from e
        if not isinstance(data, list) or not all(isinstance(r, dict) for r in data):
            raise DataError(f"{path}: must hold a list of objects")
        for number, row in enumerate(data, 1):
            yield f"{path}, row {number}", row
    elif source.count("/") == 1 and not source.startswith((".", "/")) and not path.suffix:
        yield from _hub_rows(source)
    else:
        raise DataError(
            f"{source}: no such file (give a .json, .jsonl or .jsonl.gz file, or a Hub dataset id org/name)"
        )


def _hub_rows(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError as e:
        raise MissingExtra("Hub datasets need the extra: pip install 'rlhf-farm[train]'") from e
    try:
        data = datasets.load_dataset(name, split="train")
    except Exception as e:
        raise DataError(f"{name}: the Hub dataset cannot be loaded ({type(e).__name__}: {e})") from e
    for number, row in enumerate(data):
        yield f"{name}, row {number}", dict(row)


def _text(row: dict[str, Any], field: str, where: str, *, required: bool = False, empty: bool = True) -> str:
    """A text field. ``required``: it must be there; ``empty`` False: and hold something."""
    value = row.get(field, None if required else "")
    if not isinstance(value, str) or not (empty or value.strip()):
        there = "" if field in row else f" (columns: {', '.join(map(str, row))})"
        raise DataError(f"{where}, field '{field}': a text is needed, got {value!r}{there}")
    return value


def excluded_ids(path: str) -> set[str]:
    """First column of a CSV with a header: ids of rows to keep out of training."""
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8") as f:
            return {row[0] for row in list(csv.reader(f))[1:] if row}
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: the list of excluded rows cannot be read ({e})") from e


def training(
    source: str, exclude: str | None, evaluation: Sequence[Instruction], seed: int, max_prompt_chars: int = 2000
) -> Splits:
    """The four training splits of a file with ``instruction``, ``input``, ``output`` (and ``id``) columns.

    Sizes are :data:`SIZES`, or the same proportions of a smaller file. Prompts longer than ``max_prompt_chars``
    and rows that occur in ``evaluation`` are left out. Rows without an output are never used for sft.
    """
    leave_out = excluded_ids(exclude) if exclude else set()
    taken = {i.id for i in evaluation} | {i.full_text.strip() for i in evaluation}
    rows: dict[str, Instruction] = {}
    for number, (where, row) in enumerate(rows_of(source)):
        item = Instruction.make(
            _text(row, "instruction", where, required=True, empty=False),
            _text(row, "input", where),
            _text(row, "output", where),
            source=Path(source).name,
        )
        listed = str(row.get("id", number)) in leave_out
        known = item.id in taken or item.full_text.strip() in taken
        if not (listed or known or len(item.full_text) > max_prompt_chars):
            rows.setdefault(item.id, item)
    return divide(rows.values(), seed, source)


def divide(rows: Iterable[Instruction], seed: int, source: str) -> Splits:
    """Split rows by keyed hash. Sizes as :data:`SIZES`, scaled down when there are fewer than 40,000 rows."""
    ordered = sorted(rows, key=lambda i: (key(seed, "split", i.id), i.id))
    scale = min(1.0, len(ordered) / 40_000)
    n_sft, n_pref, n_val = (int(SIZES[s] * scale) for s in ("sft", "preference", "val"))
    sft = [i for i in ordered if i.output.strip()][:n_sft]
    chosen = {i.id for i in sft}
    rest = [i for i in ordered if i.id not in chosen]
    cut = n_val + n_pref
    splits: Splits = {
        "sft": sft,
        "preference": rest[n_val:cut],
        "unlabeled": rest[cut : cut + SIZES["unlabeled"]],
        "val": rest[:n_val],
    }
    empty = [name for name, items in splits.items() if not items]
    if empty:
        raise DataError(f"{source}: {len(ordered)} usable rows leave the split(s) {', '.join(empty)} empty")
    return {name: [i.model_copy(update={"split": name}) for i in items] for name, items in splits.items()}


def evaluation(card: Card, path: str) -> tuple[list[Instruction], dict[str, str]]:
    """Evaluation instructions with the reference model's output, and the answers a scripted judge may compare with.

    The card names the columns and the number of instructions. Answers are keyed by ``Instruction.full_text``.
    """
    columns = card.columns
    if columns is None:
        raise DataError(f"eval set {card.name} is made by the package; leave out data.eval_path")
    items: dict[str, Instruction] = {}
    answers: dict[str, str] = {}
    for where, row in rows_of(path):
        item = Instruction.make(
            _text(row, columns.instruction, where, required=True, empty=False),
            _text(row, columns.input, where),
            _text(row, columns.reference, where, required=True),
            source=_text(row, columns.source, where) or card.name,
            split="eval",
        )
        if item.id in items:
            raise DataError(f"{where}: the instruction {item.text[:80]!r} is given more than once")
        items[item.id] = item
        if columns.answers:
            answers[item.full_text] = _text(row, columns.answers, where, required=True)
    if len(items) != card.n:
        raise DataError(f"{path}: {len(items)} instructions, but the card of {card.name} says {card.n}")
    return list(items.values()), answers
