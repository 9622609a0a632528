"""Verdicts in JSON: objects wherever they stand, and where a model broke the JSON, the bare keys.

The key is the anchor: ``"first_is_better": true`` counts, a word inside a reason does not.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator

_ATTEMPTS = 200  # positions tried as the start of an object; keeps hostile text from costing quadratic time
_ID = re.compile(r"(?:pair\s*)?#?(\d{1,3})", re.IGNORECASE | re.ASCII)
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‟": '"', "＂": '"', "‘": "'", "’": "'", "：": ":", "，": ","})


def votes(text: str, verdict: str, pair: str, count: int) -> list[tuple[int, bool]]:
    """(pair number, whether the first is better) for every verdict in the text, repeated and contradictory ones too.

    ``verdict`` and ``pair`` are the keys; without ``pair``, or where a single pair was asked about and no number is
    given, the number is 1. Values other than true and false are no verdicts; a key given twice with different values
    gives both.
    """
    found: list[tuple[int, bool]] = []
    for row in _objects(text, verdict):
        number = _whole(row[pair]) if pair and pair in row else 1 if count == 1 or not pair else None
        given = row[verdict]
        if number is not None:
            values = map(_boolean, given if isinstance(given, _Twice) else [given])
            found += [(number, v) for v in values if v is not None]
    known = {number for number, _ in found}
    # Models forget to escape quotes inside the reason, or write Python: read the keys where no object parses.
    return found + [(n, v) for n, v in _loose(text.translate(_QUOTES), verdict, pair, count) if n not in known]


class _Twice(list[object]):
    """The values of a key that an object holds more than once."""


def _objects(text: str, key: str) -> Iterator[dict[str, object]]:
    """Every JSON object in the text, however wrapped, that has the key."""
    decoder = json.JSONDecoder(object_pairs_hook=_row)
    at = text.find("{")
    for _ in range(_ATTEMPTS):
        if at < 0:
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        stack: list[object] = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, dict):
                if key in item:
                    yield item
                stack.extend(reversed(item.values()))
            elif isinstance(item, list) and not isinstance(item, _Twice):
                stack.extend(reversed(item))
        at = text.find("{", end)


def _row(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row: dict[str, object] = {}
    for key, value in pairs:
        if key in row and row[key] != value:
            old = row[key]
            row[key] = _Twice([*(old if isinstance(old, _Twice) else [old]), value])
        else:
            row[key] = value
    return row


def _boolean(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        m = _ID.fullmatch(value.strip())
        return int(m[1]) if m else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _loose(text: str, verdict: str, pair: str, count: int) -> Iterator[tuple[int, bool]]:
    """Verdict keys outside any object that parses. A verdict belongs to the pair number before it; where a verdict
    comes before the first number, the order of the keys is unknown and nothing is read."""
    value = re.compile(
        rf"(?<![\w\\]){re.escape(verdict)}[\"']?\s*:\s*[\"']?(true|false)(?=[\"']?\s*(?:[,}}\]\n]|$))", re.I
    )
    verdicts = [(m.start(), m[1].lower() == "true") for m in value.finditer(text)]
    numbers: list[tuple[int, int]] = []
    if pair:
        given = re.compile(rf"(?<![\w\\]){re.escape(pair)}[\"']?\s*:\s*[\"']?(\d{{1,3}})(?!\d)", re.I | re.A)
        numbers = [(m.start(), int(m[1])) for m in given.finditer(text)]
    if not numbers:
        if count == 1:
            yield from ((1, v) for _, v in verdicts)
        return
    if verdicts and verdicts[0][0] < numbers[0][0]:
        return
    starts = [start for start, _ in numbers]
    for at, v in verdicts:
        yield numbers[bisect_left(starts, at) - 1][1], v
