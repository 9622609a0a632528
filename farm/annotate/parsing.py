"""From a judge's raw text to verdicts: anchored, unique, and never guessing.

The reply format stated in an annotator's template is also what its parser is built from, so the two cannot drift
apart. A verdict counts only where it is anchored: right after the delimiter where the format has one, else in the first
or the last line of what is said about a pair, after the pair's number where a prompt holds several. Two different
verdicts for one pair, or none, are not a verdict: the act is then refused, truncated, filtered or unparseable, and is
counted as such. Nothing in this file raises on any text a judge can send. docs/annotators.md has the rules by format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from farm.annotate import objects
from farm.annotate.grammar import Grammar, answer_only, bare, clean, lines
from farm.annotate.refusals import is_refusal
from farm.records import Outcome

REVISION = 2  # part of every annotator's fingerprint: raise it when the same answer may be read otherwise
MARK = "Reply format:"
_LABEL = r'"[^"\s]+"|\w+ \(\w+\)|\(\w+\)|\[\w+\]|\w+'
_CHOICE = re.compile(rf"({_LABEL}) or ({_LABEL})")
_WORD = (
    r"(?:pair|example|item|case|question|comparison|entry|task|number|no\.?|nr\.?|verdict|answer|decision|choice"
    r"|result)"
)
_NUMBER = re.compile(
    rf"(?P<word>{_WORD}\s*\#?|\#|№)?\s*(?P<open>[(\[])?(?P<n>[0-9]{{1,3}})(?![0-9])"
    r"(?P<mark>\s*(?:[)\]]\s*[.:=|]?|[.:=|]|[-–—]))?\s*",
    re.IGNORECASE,
)
_START = re.compile(rf"(?<![\w(\[])(?:{_WORD}\s*)?\#?[(\[]?[0-9]{{1,3}}[)\]]?\s*[.:)=-]", re.IGNORECASE)


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
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        votes = self._json(text, count) if self.kind == "json" else self._words(clean(text), count)
        if finish_reason == "length":
            missing = Outcome.TRUNCATED
        elif not any(votes) and is_refusal(answer_only(text)):
            missing = Outcome.REFUSED
        else:
            missing = Outcome.UNPARSEABLE
        # A cut answer with two different verdicts is contradictory, not merely short.
        return [
            Verdict(Outcome.DECIDED, next(iter(v))) if len(v) == 1 else Verdict(Outcome.UNPARSEABLE if v else missing)
            for v in votes
        ]

    def clashes(self) -> bool:
        """Whether a label could mean both sides or neither (a pool must not load then)."""
        sides = [(label, 0) for label in (self.form.first, *self.also_first)]
        sides += [(label, 1) for label in (self.form.second, *self.also_second)]
        return any(self.grammar.side(label) != (wanted == 0, wanted == 1) for label, wanted in sides)

    @cached_property
    def grammar(self) -> Grammar:
        return Grammar(self.form.first, self.form.second, self.also_first, self.also_second)

    # -- what is said about one pair ----------------------------------------------------------------------------

    @cached_property
    def _delimiter(self) -> re.Pattern[str] | None:
        words = self.form.delimiter.split()
        if not words:
            return None
        pattern = r"\s+".join(map(re.escape, words))
        return re.compile(rf"(?<!\w){pattern.removesuffix(':')}\s*:" if words[-1].endswith(":") else pattern, re.I)

    def _passage(self, text: str) -> set[bool]:
        """Verdicts of a passage: none when nothing is anchored, two when it contradicts itself."""
        parts = self._delimiter.split(text) if self._delimiter else [text]
        if len(parts) == 1:
            return self._anchored(lines(text))
        # After the delimiter the verdict comes at once. Every delimiter counts, so "Verdict: m. No: Verdict: M" is
        # a contradiction and not a verdict.
        heads = [self.grammar.statement(found[0]) if (found := lines(p)) else None for p in parts[1:]]
        last = heads[-1]
        if last is None:
            return set()
        after = "\n".join([last.remark, *lines(parts[-1])[1:]])
        return {s.first for s in heads if s is not None} | self.grammar.against(after)

    def _anchored(self, said: list[str]) -> set[bool]:
        found = [self.grammar.statement(line) for line in said]
        loose = {s.first for s in found if s and not s.strong}
        if len(loose) == 2:  # remarks on one response after the other are no verdicts
            found = [s if s and s.strong else None for s in found]
        if not found or (found[0] is None and found[-1] is None):
            return set()
        verdicts = {s.first for s in found if s is not None}
        head, tail = found[0], found[-1]
        if tail is not None:
            after = tail.remark
        else:
            assert head is not None
            after = "\n".join([head.remark, *said[1:]])
        return verdicts | (self.grammar.against(after) if after else set())

    # -- several pairs ------------------------------------------------------------------------------------------

    def _words(self, text: str, count: int) -> list[set[bool]]:
        if not self.form.numbered:
            return [self._single(text)] + [set() for _ in range(count - 1)]
        votes: list[tuple[int, bool]] = []
        passages: dict[int, list[str]] = {}
        current, nested = 0, False
        for line in _split_rows(text, self._row):
            number, rest = self._number(line)
            said = self._passage(rest) if number is not None else set()
            if number is None:
                if current:
                    passages[current].append(line)
            elif (number in passages and number <= current) or not 0 < number <= count:
                # A pair answered once more agrees, or makes the pair undecided; a list inside a reason says nothing.
                votes += [(number, v) for v in said]
                if current and not said:
                    passages[current].append(line)
                    nested = True
            elif nested and not said and not self._passage("\n".join(passages[current])):
                passages[current].append(line)  # the list inside the reason goes on
            else:
                current, nested = number, False
                passages[number] = [rest]
        for number, passage in passages.items():
            votes += [(number, v) for v in self._passage("\n".join(passage))]
        if count == 1 and not votes and not passages:
            return [self._passage(text)]
        return _by_pair(votes, count)

    def _single(self, text: str) -> set[bool]:
        """One pair was asked about; a judge that numbers it all the same ("1. A") means this one."""
        if not self._digits and (found := lines(text)):
            number, rest = self._number(found[0])
            if number == 1 and rest and self.grammar.statement(bare(rest)) is not None:
                text = "\n".join([rest, *found[1:]])
        return self._passage(text)

    @property
    def _digits(self) -> bool:
        return self.grammar.cores[0].isdigit() or self.grammar.cores[1].isdigit()

    def _number(self, line: str) -> tuple[int | None, str]:
        """Pair number at the start of a line and what follows; None when there is none."""
        line = bare(line)
        m = _NUMBER.match(line)
        if m is None or (self._digits and m["open"] and not m["word"]):  # "[1]" is a label there, not a pair
            return None, line
        rest = line[m.end() :].lstrip(" \t:-–—")
        if m["mark"] or (m["word"] and not rest):
            return int(m["n"]), rest
        label = self.grammar.statement(rest) is not None and not (self._digits and rest[:1].isdigit())
        return (int(m["n"]), rest) if label else (None, line)

    def _row(self, text: str) -> bool:
        number, rest = self._number(text)
        return number is not None and (said := self.grammar.statement(bare(rest))) is not None and said.strong

    # -- JSON ---------------------------------------------------------------------------------------------------

    @cached_property
    def _keys(self) -> tuple[str, str]:
        """(verdict key, pair number key or '') of a JSON format."""
        row = json.loads(self.form.fill(True, "", 1))
        verdict = next(k for k, v in row.items() if v is True)
        return verdict, next((k for k, v in row.items() if v == 1 and v is not True), "")

    def _json(self, text: str, count: int) -> list[set[bool]]:
        return _by_pair(objects.votes(answer_only(text), *self._keys, count), count)


def _split_rows(text: str, is_row: Callable[[str], bool]) -> list[str]:
    """Lines, and where a line is nothing but several numbered verdicts ("1: A, 2: B"), its parts."""
    found: list[str] = []
    for line in text.splitlines():
        starts = [m.start() for m in _START.finditer(line)] if len(line) <= 1000 else []
        ends = [*starts[1:], len(line)]
        parts = [line[start:end].rstrip(" \t,;|") for start, end in zip(starts, ends, strict=bool(starts))]
        found += parts if len(parts) > 1 and bare(line)[:1] == parts[0][:1] and all(map(is_row, parts)) else [line]
    return found


def _by_pair(votes: Sequence[tuple[int, bool]], count: int) -> list[set[bool]]:
    """Votes by pair. A judge that counts from 0, or goes past the last pair without having begun at 1, has numbered
    the pairs in a way of its own: then no number can be trusted."""
    numbers: Iterable[int] = {n for n, _ in votes}
    if 0 in numbers or (1 not in numbers and any(n > count for n in numbers)):
        return [set() for _ in range(count)]
    return [{v for n, v in votes if n == number} for number in range(1, count + 1)]
