"""What calls cost: a dated price table, and how much a call can cost at most.

Prices are data (``annotators/prices.yaml``): USD per million tokens by model pattern, each with the day and the place
it was read. A recipe may add rows, which go first. Nothing is fetched, and a price that is not known stays unknown:
a run with a budget refuses to start then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from farm import resources
from farm.errors import DataError
from farm.lm.endpoints import Request

BATCH_SHARE = 0.5  # what the Batch API charges of the list price (OpenAI and those who copy its interface)
_MESSAGE_TOKENS = 16  # role and separators of one message, with room to spare
BYTES_PER_TOKEN = (5.5, 4.0, 2.5)  # of judge prompts in English: few, usual, many tokens


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    prompt: float
    completion: float

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6

    def at_most(self, request: Request) -> float:
        """The worst case of one call: every byte of the prompt a token, every token of the answer used."""
        return self.usd(prompt_bytes(request), request.max_tokens)

    def __mul__(self, share: float) -> Price:
        return Price(self.prompt * share, self.completion * share)


FREE = Price(0.0, 0.0)


def prompt_bytes(request: Request) -> int:
    """UTF-8 bytes of a prompt and its envelope: never fewer than its tokens under any byte-level tokenizer."""
    if request.messages is None:
        return _MESSAGE_TOKENS + len((request.prompt or "").encode(errors="replace"))
    return sum(_MESSAGE_TOKENS + len(text.encode(errors="replace")) for _, text in request.messages)


def usual_tokens(request: Request) -> int:
    """Tokens a call is likely to count against a limit per minute."""
    return int(prompt_bytes(request) / BYTES_PER_TOKEN[1]) + request.max_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a price table: ``model`` is a pattern (``*`` for any text)."""

    model: str
    price: Price


class Prices:
    """The price of a model, by the first row whose pattern matches.

    ``extra`` (pattern to USD per million prompt and completion tokens) goes before the shipped table, or before the
    file ``table``. On this machine (``local``) a model without a row costs nothing.
    """

    def __init__(
        self, extra: Mapping[str, Sequence[float]] | None = None, table: Path | None = None, *, local: bool = False
    ) -> None:
        given = [_row("prices", i, {"model": m, "usd": list(p)}) for i, (m, p) in enumerate((extra or {}).items(), 1)]
        self._rows = (*given, *_read(table or resources.find("annotators", "prices.yaml")))
        self._local = local

    def find(self, model: str) -> Price | None:
        """None when no row matches and the model is not a local one."""
        for row in self._rows:
            if fnmatchcase(model, row.model):
                return row.price
        return FREE if self._local else None


@cache
def _read(path: Path) -> tuple[Row, ...]:
    """Raises DataError naming file, row and field."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise DataError(f"{path}: the price table cannot be read ({' '.join(str(e).split())})") from None
    rows = raw.get("prices") if isinstance(raw, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path}: a price table is a mapping with a list 'prices'")
    return tuple(_row(str(path), number, row) for number, row in enumerate(rows, 1))


def _row(where: str, number: int, row: Any) -> Row:
    if not isinstance(row, dict) or not {"model", "usd"} <= set(row) <= {"model", "usd", "as_of", "source"}:
        raise DataError(f"{where}, row {number}: a row has model, usd: [prompt, completion], as_of and source")
    usd = row["usd"]
    fine = isinstance(usd, list) and len(usd) == 2 and all(isinstance(x, int | float) for x in usd)
    if not fine or not all(0 <= x < math.inf for x in usd):
        raise DataError(
            f"{where}, row {number} ({row['model']}): usd is two numbers from 0, USD per million prompt and "
            f"completion tokens, got {usd!r}"
        )
    return Row(str(row["model"]), Price(float(usd[0]), float(usd[1])))
