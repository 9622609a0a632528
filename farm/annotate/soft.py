"""Soft preferences: P(first shown is better) from the alternatives of the label's token.

The label's token is found by asking the parser: it is where putting the other label in its place turns the verdict
around, wherever a rationale or a remark may mention labels, too. At that token all spellings of a label (" A", "A",
"a", "(A") are summed. A label of several tokens is read at the first token that tells the two labels apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.annotate.parsing import Parser
from farm.records import Outcome

LOW_MASS = 0.5  # with less than this on the two labels, their ratio says little about the judge
_AROUND = " \t\n()[]{}<>\"'“”‘’`*_.,:;ĠĊ▁"
_MOST = 400  # occurrences of a label tried in one answer


@dataclass(frozen=True)
class Soft:
    """``first`` is P(first shown is better) among the two labels, ``mass`` what both hold together, each in [0, 1]."""

    first: float
    mass: float


def soft(parser: Parser, text: str, top_logprobs: Sequence[Mapping[str, float]] | None) -> Soft | None:
    """The soft verdict of an answer about one pair; ``top_logprobs`` are in nats, one mapping per generated token.

    None without a verdict, without alternatives, or where the tokens do not spell the text, so that the label's token
    cannot be told. Where one label is not among the alternatives it gets the most it can have: no more than the least
    likely alternative listed, nor than what all of them leave. So a soft verdict is never exactly 0 or 1.
    """
    if not top_logprobs:
        return None
    place = _place(parser, text)
    if place is None:
        return None
    at, labels = place
    spans = _spans(text, top_logprobs)
    if spans is None:
        return None
    apart = next((i for i, (a, b) in enumerate(zip(*labels, strict=False)) if a != b), min(map(len, labels)))
    index = next((i for i, (start, end) in enumerate(spans) if start <= at + apart < end), None)
    if index is None:
        return None
    said = max(0, spans[index][0] - at)  # characters of the label that earlier tokens have said already
    return _shares(top_logprobs[index], (labels[0][said:], labels[1][said:]), parser.grammar.case_matters)


def _place(parser: Parser, text: str) -> tuple[int, tuple[str, str]] | None:
    """Where the deciding label stands, and the two labels that could stand there."""
    verdict = parser.read(text)[0]
    if verdict.outcome is not Outcome.DECIDED:
        return None
    labels = parser.grammar.cores
    flags = 0 if parser.grammar.case_matters else re.IGNORECASE
    mine = labels[0] if verdict.first else labels[1]
    rival = labels[1] if verdict.first else labels[0]
    changed = None
    for k, m in enumerate(re.finditer(rf"(?<!\w){re.escape(mine)}(?!\w)", text, flags)):
        if k == _MOST:
            break
        other = parser.read(text[: m.start()] + rival + text[m.end() :])[0]
        if other.first is (not verdict.first):
            return m.start(), labels
        if changed is None and other != verdict:
            changed = m.start(), labels  # the label is said more than once; the first time decided
    return changed


def _spans(text: str, top_logprobs: Sequence[Mapping[str, float]]) -> list[tuple[int, int]] | None:
    """Start and end in the text of every token, among whose alternatives must be the token that was chosen.

    Several alternatives may fit at a place (" (" and " (a"), so all ways of spelling the text are followed. White
    space that a server trims from the ends may be missing from the text.
    """
    end = len(text.rstrip())
    ways: list[dict[int, int]] = [{0: 0}]  # per token: end in the text -> start
    for tokens in top_logprobs:
        if max(ways[-1], default=0) >= end:
            break
        new: dict[int, int] = {}
        for start in ways[-1]:
            for token in tokens:
                for shown in (token, token.lstrip()) if start == 0 else (token,):
                    if text.startswith(shown, start) and token:
                        new.setdefault(start + len(shown), start)
                    elif text[start:] and shown.startswith(text[start:]):
                        new.setdefault(len(text), start)
        ways.append(new)
    at = max(ways[-1], default=0)
    if at < end:
        return None
    spans: list[tuple[int, int]] = []
    for way in reversed(ways[1:]):
        spans.append((way[at], at))
        at = way[at]
    return spans[::-1]


def _shares(alternatives: Mapping[str, float], labels: tuple[str, str], case_matters: bool) -> Soft | None:
    mass, listed, least = [0.0, 0.0], 0.0, 1.0
    one, two = labels if case_matters else (labels[0].casefold(), labels[1].casefold())
    for token, value in alternatives.items():
        if not value <= 1e-6:  # not a log-probability
            return None
        p = math.exp(min(value, 0.0))
        listed, least = listed + p, min(least, p)
        said = token.strip(_AROUND) if case_matters else token.strip(_AROUND).casefold()
        is_one, is_two = (bool(said) and label.startswith(said) for label in (one, two))
        if is_one != is_two:
            mass[is_two] += p
    total = sum(mass)
    if total == 0:
        return None
    if min(mass) == 0:
        unseen = max(min(least, 1 - listed), 1e-12)
        mass[mass.index(0.0)] = min(unseen, max(mass))
    return Soft(mass[0] / sum(mass), min(total, 1.0))
