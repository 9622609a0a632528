"""From a judge's raw text to verdicts: anchored, unique, and never guessing.

The reply format stated in an annotator's template is also what its parser is built from, so the two cannot drift
apart. A verdict counts only where a whole line (after the last delimiter, after the pair's number) is one allowed
form. Two different verdicts for one pair, or none, are not a verdict: the act is then refused, truncated, filtered or
unparseable, and is counted as such. Nothing in this file raises on any text a judge can send.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from farm.records import Outcome

MARK = "Reply format:"
_LABEL = r'"[^"\s]+"|\w+ \(\w+\)|\(\w+\)|\[\w+\]|\w+'
_CHOICE = re.compile(rf"({_LABEL}) or ({_LABEL})")
_JSON_ATTEMPTS = 200  # positions tried as the start of a JSON object; keeps hostile text from costing quadratic time
_MIN_CAPTURED = 0.9  # label tokens must hold this much probability mass for a soft verdict

_BEFORE = tuple(
    sorted(
        (
            "answer:", "final answer:", "verdict:", "final verdict:", "better:", "winner:", "choice:", "my choice:",
            "preferred:", "preference:", "the answer is", "my answer is", "the final answer is", "i choose", "i pick",
            "i prefer", "the better one is", "the better answer is", "the better output is", "the better response is",
            "the winner is",
        ),
        key=len,
        reverse=True,
    )
)  # fmt: skip
_BEHIND = (
    "is better", "is the better one", "is the better answer", "is the better output", "is the better response",
    "is the better of the two", "is preferred", "wins",
)  # fmt: skip
_REFUSALS = (
    "i'm sorry", "i am sorry", "sorry, ", "sorry but", "i apologize", "i apologise", "i can't", "i cannot", "i can not",
    "i'm unable", "i am unable", "i'm not able", "i am not able", "i won't", "i will not", "i must decline",
    "i'd rather not", "i refuse", "as an ai", "as a language model", "as a large language model",
    "unfortunately, i can", "i do not feel comfortable", "i don't feel comfortable", "my guidelines",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A reply format, taken apart: ``text`` holds one ``first or second``, maybe ``<n>`` and ``<reason>``."""

    text: str
    first: str
    second: str

    @classmethod
    def read(cls, text: str) -> Form:
        """Raises ValueError when the text does not hold exactly one choice of two different labels."""
        choices = _CHOICE.findall(text)
        if len(choices) != 1:
            raise ValueError(f"{MARK} {text!r} must hold exactly one 'X or Y', found {len(choices)}")
        for token in ("<n>", "<reason>"):
            if text.count(token) > 1:
                raise ValueError(f"{MARK} {text!r} holds {token} more than once")
        form = cls(text, *choices[0])
        if form.first == form.second:
            raise ValueError(f"{MARK} {text!r} offers the same label twice")
        if "<n>" in text and not text.index("<n>") < text.index(f"{form.first} or {form.second}"):
            raise ValueError(f"{MARK} {text!r} must put <n> before the choice")
        return form

    @property
    def numbered(self) -> bool:
        return "<n>" in self.text

    @property
    def delimiter(self) -> str:
        """The words right before the choice, for instance ``Verdict:``; empty when the label stands alone."""
        before = self.text[: self.text.index(f"{self.first} or {self.second}")]
        if "<n>" in before:
            before = before.partition("<n>")[2].lstrip(" .:)]-")
        return before.rpartition("<reason>")[2].strip()

    def fill(self, first_is_better: bool, reason: str, number: int) -> str:
        """The reply a perfectly obedient judge gives for one pair."""
        choice = self.first if first_is_better else self.second
        line = self.text.replace(f"{self.first} or {self.second}", choice).replace("<n>", str(number))
        if "<reason>" in line:
            escaped = json.dumps(reason, ensure_ascii=False)[1:-1] if line.lstrip().startswith("{") else reason
            line = line.replace("<reason>", escaped)
        return line


@dataclass(frozen=True)
class Verdict:
    """What one answer says about one pair: DECIDED with ``first`` (the response shown first wins), or why not."""

    outcome: Outcome
    first: bool | None = None


@dataclass(frozen=True)
class Parser:
    """Reads verdicts from raw text: ``label`` formats line by line, ``json`` formats as objects."""

    form: Form
    kind: Literal["label", "json"]
    also_first: tuple[str, ...] = ()
    also_second: tuple[str, ...] = ()

    def read(self, text: str, finish_reason: str = "stop", count: int = 1) -> list[Verdict]:
        """One verdict per pair shown, in order; ``count`` is how many the prompt held."""
        if finish_reason == "content_filter":
            return [Verdict(Outcome.FILTERED)] * count
        votes = self._json(text, count) if self.kind == "json" else self._lines(text, count)
        found = [next(iter(v)) if len(v) == 1 else None for v in votes]
        if finish_reason == "length":
            missing = Outcome.TRUNCATED
        elif not any(votes) and is_refusal(text):
            missing = Outcome.REFUSED
        else:
            missing = Outcome.UNPARSEABLE
        # A cut answer with two different verdicts is contradictory, not merely short.
        return [
            Verdict(Outcome.DECIDED, f) if f is not None else Verdict(Outcome.UNPARSEABLE if v else missing)
            for f, v in zip(found, votes, strict=True)
        ]

    # -- label formats ------------------------------------------------------------------------------------------

    @cached_property
    def _forms(self) -> dict[str, bool]:
        first = [self._key(s) for label in (self.form.first, *self.also_first) for s in surfaces(label)]
        second = [self._key(s) for label in (self.form.second, *self.also_second) for s in surfaces(label)]
        clash = set(first) & set(second)
        return {k: v for k, v in [(k, True) for k in first] + [(k, False) for k in second] if k not in clash}

    @cached_property
    def _case_matters(self) -> bool:
        return self.form.first.casefold() == self.form.second.casefold()

    def _key(self, label: str) -> str:
        return label if self._case_matters else label.casefold()

    def clashes(self) -> bool:
        """Whether an allowed form would mean both sides (a pool must not load then)."""
        return not {True, False} <= set(self._forms.values()) or self._exact(self.form.first) is not True

    def _exact(self, line: str) -> bool | None:
        """The verdict of a line that is nothing but one allowed form, perhaps in a stock phrase."""
        line = _bare(line)
        if (found := self._forms.get(self._key(line))) is not None:
            return found
        low = line.lower()
        if len(low) != len(line) or len(line) > 80:  # odd casing rules, or prose
            return None
        for phrase in _BEFORE:
            if low.startswith(phrase):
                line, low = line[len(phrase) :], low[len(phrase) :]
                break
        for phrase in _BEHIND:
            if low.endswith(" " + phrase):
                line = line[: -len(phrase)]
                break
        return self._forms.get(self._key(_bare(line)))

    def _anchored(self, text: str) -> set[bool]:
        """Verdicts of a passage; counted only when its first or its last line is one."""
        found = [self._exact(line) for line in text.splitlines() if line.strip()]
        if not found or (found[0] is None and found[-1] is None):
            return set()
        return {f for f in found if f is not None}

    def _passage(self, text: str) -> set[bool]:
        """Verdicts of what is said about one pair: after each delimiter where the format has one."""
        parts = _split(text, self.form.delimiter)
        if len(parts) == 1:
            return self._anchored(text)
        last = self._anchored(parts[-1])
        if not last:
            return set()
        # A verdict taken back in the same breath ("Verdict: m. No: Verdict: M") is seen by its first word.
        for part in parts[1:-1]:
            first_word = self._exact("".join(part.split(None, 1)[:1]))
            last |= self._anchored(part) or ({first_word} if first_word is not None else set())
        return last

    def _lines(self, text: str, count: int) -> list[set[bool]]:
        if not self.form.numbered:
            return [self._passage(text)] + [set() for _ in range(count - 1)]
        votes: list[set[bool]] = [set() for _ in range(count)]
        passages: dict[int, list[str]] = {}
        current = 0
        for line in text.splitlines():
            number, rest = self._number(line)
            if current < number <= count:
                current = number
                passages[current] = [rest]
            elif 0 < number <= current and (again := self._passage(rest)):
                votes[number - 1] |= again  # a pair answered once more: agrees, or makes the pair undecided
            elif current:
                passages[current].append(line)
        for number, passage in passages.items():
            votes[number - 1] |= self._passage("\n".join(passage))
        if count == 1 and not passages:
            votes[0] = self._passage(text)
        return votes

    def _number(self, line: str) -> tuple[int, str]:
        """Pair number at the start of a line and what follows; 0 when there is none."""
        rest = line.lstrip(" \t*#([>-")
        for word in ("pair", "example", "item"):
            if rest[: len(word)].lower() == word:
                rest = rest[len(word) :].lstrip(" #")
                break
        size = 0
        while size < min(len(rest), 3) and rest[size] in "0123456789":
            size += 1
        if not size:
            return 0, line
        number, rest = int(rest[:size]), rest[size:].lstrip(" \t*_")
        if rest[:1] and rest[0] in ".:)]-–—":
            return number, rest[1:].lstrip(" \t*_:-")
        return (number, rest) if self._exact(rest) is not None else (0, line)

    # -- JSON formats -------------------------------------------------------------------------------------------

    @cached_property
    def _keys(self) -> tuple[str, str]:
        """(verdict key, pair number key or '') of a JSON format."""
        row = json.loads(self.form.fill(True, "", 1))
        verdict = next(k for k, v in row.items() if v is True)
        return verdict, next((k for k, v in row.items() if v == 1 and v is not True), "")

    def _json(self, text: str, count: int) -> list[set[bool]]:
        votes: list[set[bool]] = [set() for _ in range(count)]
        verdict, pair = self._keys
        for row in _objects(text, verdict):
            number = _whole(row.get(pair)) if pair and pair in row else 1 if count == 1 else 0
            value = _boolean(row[verdict])
            if 1 <= number <= count and value is not None:
                votes[number - 1].add(value)
        # Models often forget to escape quotes inside the reason: read the keys where the object does not parse.
        if not all(votes):
            empty = [not v for v in votes]
            for passage in [text] if count == 1 else text.splitlines():
                number = _whole(_literal(passage, pair)) if pair else 1
                number = 1 if count == 1 and not number else number
                if 1 <= number <= count and empty[number - 1]:
                    votes[number - 1] |= {v for s in _literals(passage, verdict) if (v := _boolean(s)) is not None}
        return votes

    # -- token probabilities ------------------------------------------------------------------------------------

    def soft(self, top_logprobs: Sequence[Mapping[str, float]] | None) -> float | None:
        """P(first shown is better) from the label token's alternatives, where a single pair was asked about.

        None when no position is led by a label token, or the two labels together hold less than 0.9 of the mass
        seen there: an unseen rest that large would make the number a guess.
        """
        first, second = _core(self.form.first), _core(self.form.second)
        result = None
        for tokens in top_logprobs or ():
            mass = [0.0, 0.0]
            best, leader = -math.inf, ""
            for token, value in tokens.items():
                bare = token.strip(" \t\n()[]\"'.*")
                if value > best:
                    best, leader = value, bare
                if bare in (first, second) and value <= 0:
                    mass[bare == second] += math.exp(value)
            total = mass[0] + mass[1]
            if leader in (first, second):
                result = mass[0] / total if total >= _MIN_CAPTURED and min(mass) > 0 else None
        return result


def is_refusal(text: str) -> bool:
    """Whether an answer without verdict reads as a refusal to judge: a stock phrase in its first words."""
    head = text[:400].strip().lower().replace("’", "'")
    return any(head.startswith(p) or f". {p}" in head[:160] for p in _REFUSALS)


def surfaces(label: str) -> tuple[str, ...]:
    """The ways a label is commonly written: with and without brackets, and its bare core."""
    word, core = label.rpartition(" ")[0], _core(label)
    forms = [label, core, f"({core})", f"[{core}]"]
    if word:
        forms += [f"{word} {core}", f"{word} ({core})", f"{word} [{core}]"]
    return tuple(dict.fromkeys(forms))


def _bare(line: str) -> str:
    """A line without emphasis, quotes and closing punctuation."""
    return line.replace("**", "").strip(" \t\r\n`\"'*_“”").rstrip(".!,;:").strip(" \t`\"'*_“”")


def _split(text: str, delimiter: str) -> list[str]:
    """Split at a delimiter in any case, with emphasis around it allowed."""
    if not delimiter:
        return [text]
    low, needle = text.lower(), delimiter.lower()
    if len(low) != len(text):
        return text.split(delimiter)
    parts, start = [], 0
    while (at := low.find(needle, start)) >= 0:
        parts.append(text[start:at])
        start = at + len(needle)
    return [*parts, text[start:]]


def _core(label: str) -> str:
    """What tells two labels apart: the last word without brackets and quotes."""
    return label.rpartition(" ")[2].strip("()[]\"'")


def _objects(text: str, key: str) -> Iterator[dict[str, object]]:
    """Every JSON object in the text, however wrapped, that has the key."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    at = text.find("{")
    for _ in range(_JSON_ATTEMPTS):
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
                stack.extend(item.values())
            elif isinstance(item, list):
                stack.extend(item)
        at = text.find("{", end)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object in which a key given twice with different values has no value."""
    row: dict[str, object] = {}
    for key, value in pairs:
        row[key] = value if key not in row or row[key] == value else None
    return row


def _boolean(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None


def _whole(value: object) -> int:
    """A pair number, 0 when it is not one."""
    if isinstance(value, str):
        return int(value) if len(value) <= 3 and value.isascii() and value.isdigit() else 0
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _literals(text: str, key: str) -> Iterator[str]:
    """The bare values that follow ``"key":`` and are closed by a comma, a brace or the line's end."""
    for part in text.split(f'"{key}"')[1:]:
        part = part.lstrip()
        if part.startswith(":"):
            word = part[1:40].lstrip()
            size = next((i for i, c in enumerate(word) if c in ",}\n"), len(word))
            yield word[:size].strip().strip('"')


def _literal(text: str, key: str) -> str:
    return next(_literals(text, key), "")
