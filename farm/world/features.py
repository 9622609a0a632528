"""What a rater can see in a response: counts against the task for text of the world, surface cues for real text.

On real text nothing is known about right and wrong but a known answer, when there is one: coverage is then the overlap
with it, and without one the overlap with the instruction.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from farm.world import grammar
from farm.world import words as lexicon
from farm.world.reading import read

WORLD_SCALE = 12  # tokens of a typical response, the unit of ``Features.length``
REAL_SCALE = 60
T = TypeVar("T")
_LONGEST = 20_000  # characters of a real text that are looked at
_COMMON = """
the and for are was with that this from have has had you your not but can will would what which who how why when where
there their they them its his her she him our out about into than then also any all some each one two use please
following given make write give list name tell create generate provide describe explain find
"""
_STOP = frozenset(_COMMON.split())
_POLITE = lexicon.POLITE | frozenset(("please", "thank", "pleasure", "sorry"))
_CONFIDENT = lexicon.CONFIDENT | frozenset(("certain", "obviously", "surely", "undoubtedly", "must", "always"))


@dataclass(frozen=True, slots=True)
class Features:
    """What can be seen in one response.

    ``coverage``, ``form``, ``addressed`` in [0, 1]; ``correct`` 0 or 1 (always 0 on real text, where nobody can tell).
    ``length`` in typical responses (1 = 12 tokens in the world, 60 in real text). The other fields are counts; on real
    text they are per 60 words where the text is longer, ``repeats`` counts repeated three-word runs, and ``off_topic``
    is 4 for a text that shares nothing with what was asked, falling to 0.
    """

    coverage: float
    correct: float
    form: float
    addressed: float
    polite: int
    confident: int
    fillers: int
    repeats: float
    off_topic: float
    over_length: float
    bullets: int
    length: float
    tokens: int

    @property
    def empty(self) -> bool:
        return self.tokens == 0


@lru_cache(maxsize=65536)
def features(full_text: str, text: str, answer: str | None = None) -> Features:
    """What a rater sees in ``text`` as a response to the instruction ``full_text``. Any text is accepted."""
    task = grammar.parse(full_text)
    if task is None:
        return _real(full_text, text, answer)
    r = read(task, grammar.words(text[:_LONGEST]))
    return Features(
        coverage=r.coverage,
        correct=float(r.correct),
        form=float(r.form),
        addressed=float(r.addressed),
        polite=r.polite,
        confident=r.confident,
        fillers=r.fillers,
        repeats=r.repeats,
        off_topic=r.off_topic,
        over_length=r.over_length,
        bullets=r.bullets,
        length=r.tokens / WORLD_SCALE,
        tokens=r.tokens,
    )


@lru_cache(maxsize=8192)
def _content(text: str) -> tuple[tuple[str, ...], Counter[str]]:
    """All words of a real text, and its content words with counts."""
    tokens = tuple(t for t in grammar.words(text[:_LONGEST]) if t[0].isalnum())
    return tokens, Counter(t for t in tokens if (len(t) > 2 or t.isdigit()) and t not in _STOP)


def _real(full_text: str, text: str, answer: str | None) -> Features:
    tokens, content = _content(text)
    n = len(tokens)
    _, asked = _content(full_text)
    relevance = min(1.0, 2 * sum(1 for t in asked if t in content) / len(asked)) if asked else 0.5
    similarity, expected = relevance, 0
    if answer and answer.strip():
        answer_tokens, known = _content(answer)
        expected = len(answer_tokens)
        in_order = _overlap(_pairs(tokens), _pairs(answer_tokens))
        similarity = math.sqrt(0.75 * _overlap(content, known) + 0.25 * in_order) if known else float(in_order)
        if tokens == answer_tokens:
            similarity = 1.0
    on_topic = max(relevance, similarity)
    runs = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    per_60 = REAL_SCALE / max(n, REAL_SCALE)  # a long text may say a thing more often
    return Features(
        coverage=similarity,
        correct=0.0,
        form=_fluency(text, tokens),
        addressed=relevance,
        polite=round(per_60 * sum(t in _POLITE for t in tokens)),
        confident=round(per_60 * sum(t in _CONFIDENT for t in tokens)),
        fillers=round(per_60 * sum(t in lexicon.FILLERS for t in tokens)),
        repeats=per_60 * (sum(runs.values()) - len(runs)),
        off_topic=4 * max(0.0, 1 - 2 * on_topic) if n else 4.0,
        over_length=max(0.0, (n - 60 - 2 * max(expected, 60)) / 30),
        bullets=sum(line.lstrip()[:2] in ("- ", "* ") or line.lstrip()[:1].isdigit() for line in text.splitlines()),
        length=n / REAL_SCALE,
        tokens=n,
    )


def _pairs(tokens: tuple[str, ...]) -> Counter[tuple[str, str]]:
    return Counter(pairwise(tokens))


def _overlap(a: Counter[T], b: Counter[T]) -> float:
    """F1 of two bags, in [0, 1]."""
    common = sum((a & b).values())
    return 2 * common / (sum(a.values()) + sum(b.values())) if common else 0.0


def _fluency(text: str, tokens: tuple[str, ...]) -> float:
    """Share of three marks of sane prose: closed by a mark, varied words, words of natural length."""
    if not tokens:
        return 0.0
    closed = text.rstrip()[-1:] in ".!?:)\"'`}"
    varied = len(set(tokens)) >= 0.9 * min(len(tokens), 8 * math.sqrt(len(tokens))) * 0.75
    natural = 2.5 <= sum(map(len, tokens)) / len(tokens) <= 8 and max(map(len, tokens)) <= 30
    return (closed + varied + natural) / 3
