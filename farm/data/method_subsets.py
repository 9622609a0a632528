"""Which methods of a table were trained in the farm: by a column of the table, or by what they are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.errors import DataError

TRAINED, PREFERENCE = "trained", "preference-trained"
MARKS = {
    TRAINED: ("trained", "farm_trained", "trained_in_farm", "in_farm"),
    PREFERENCE: ("preference_trained", "trained_on_preferences"),
}
_YES = {"1", "1.0", "true", "yes", "y", "x", "trained", "farm"}
_PREFIX = re.compile(r"^(alpaca ?farm|farm) ")
_SFT = re.compile(r"^sft\b|^sft ?\d+k\b|^supervised fine ?tun")
_PREFERENCE = re.compile(
    r"^(ppo|dpo|online dpo|rloo|grpo|remax|kto|ipo|quark|best of (n|\d+)|bon\b|exp(ert)? ?iter(ation)?"
    r"|(binary )?(feedme|reward condition(ing)?))\b"
)


@dataclass(frozen=True)
class Subset:
    """Methods chosen by a rule, in the table's order; ``rule`` says in words how."""

    label: str
    rule: str
    methods: tuple[str, ...]


def choose(methods: Sequence[str], cells: Mapping[str, Mapping[str, str]], only: str) -> Subset:
    """The methods that ``only`` names: 'trained', 'preference-trained', COLUMN, COLUMN=VALUE, or a list A,B,C.

    A column chooses the rows that say yes in it (1, true, yes, y, x, trained). 'trained' uses a column of that name
    (also farm_trained, trained_in_farm, in_farm) and 'preference-trained' one called preference_trained, where the
    table has it; else the methods' names: those that begin like a method of the farm or of AlpacaFarm (SFT 10k, PPO,
    Best-of-n, Binary FeedME, ...).
    Raises DataError naming what the table does not have.
    """
    columns = list(next(iter(cells.values()), {}))
    mark = _mark(columns, MARKS[only]) if only in MARKS else ""
    label = {TRAINED: "trained in the farm", PREFERENCE: "trained on preferences in the farm"}.get(only)
    if label and not mark:
        kinds = (_PREFERENCE,) if only == PREFERENCE else (_SFT, _PREFERENCE)
        return Subset(label, "by name", tuple(m for m in methods if any(k.search(_plain(m)) for k in kinds)))
    column, _, value = only.partition("=")
    column = mark or column
    if column in columns:
        wanted = {value.strip().lower()} if value else _YES
        kept = tuple(m for m in methods if cells[m][column].strip().lower() in wanted)
        return Subset(label or (f"{column} = {value}" if value else column), f"by column {column!r}", kept)
    names = [n.strip() for n in only.split(",") if n.strip()]
    unknown = [n for n in names if n not in methods]
    if unknown or not names:
        raise DataError(
            f"--only {only}: no column, and no method is called {', '.join(map(repr, unknown)) or 'that'}. "
            f"Methods: {', '.join(methods)}. Columns: {', '.join(columns) or 'none'}"
        )
    return Subset("methods named", "by list", tuple(m for m in methods if m in names))


def _mark(columns: Sequence[str], names: Sequence[str]) -> str:
    plain = {re.sub(r"[^a-z]+", "_", c.lower()).strip("_"): c for c in columns}
    return next((plain[m] for m in names if m in plain), "")


def _plain(name: str) -> str:
    """A method's name in lower case, without what stands in brackets and without marks between words."""
    words = re.sub(r"[^a-z0-9]+", " ", re.sub(r"\([^)]*\)", " ", name.lower())).strip()
    return _PREFIX.sub("", words)
