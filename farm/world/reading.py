"""Reads a response against its task: what was wanted, what was delivered. Gold and raters start from these counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from farm.world import words as lexicon
from farm.world.grammar import BULLET, VERIFIABLE, Task


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task asks for.

    ``groups``: (fitting words, how many distinct ones count, weight of each). ``allowed``: content words that are on
    topic. ``preferred``: tokens up to which a text is not too long. ``sequence``: the numbers in the order asked.
    """

    groups: tuple[tuple[frozenset[str], int, float], ...]
    allowed: frozenset[str]
    preferred: int
    exact: bool
    who: str
    sequence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Counts of one response. ``coverage`` in [0, 1]; the flags are 0 or 1; everything else counts tokens."""

    coverage: float
    correct: bool
    form: bool
    addressed: bool
    bullets: int
    polite: int
    confident: int
    fillers: int
    repeats: int
    off_topic: int
    over_length: int
    tokens: int


@lru_cache(maxsize=65536)
def wanted(task: Task) -> Wanted:
    """What ``task`` asks for; the preferred length is what a complete answer needs plus a margin for manners."""
    kind, n = task.kind, task.n
    groups: list[tuple[frozenset[str], int, float]] = []
    allowed = {task.who, *task.topics}
    sequence: tuple[str, ...] = ()
    if kind == "list":
        groups, preferred = [(frozenset(lexicon.MEMBERS[task.topics[0]]), n, 1.0)], 2 * n + 14
    elif kind == "pick":
        right = frozenset(w for w in task.items if lexicon.TOPIC_OF[w] == task.topics[0])
        groups, preferred = [(right, max(1, len(right)), 1.0)], 2 * n + 14
    elif kind == "sort":
        sequence = tuple(sorted(task.items, key=int, reverse=task.down))
        groups, preferred = [(frozenset(sequence), len(sequence), 1.0)], 2 * len(sequence) + 15
    elif kind == "compare":
        best = (min if task.down else max)(task.items, key=int)
        groups, preferred = [(frozenset([best]), 1, 1.0)], 17
        allowed |= {"big", "small"}
    elif kind == "opposite":
        groups, preferred = [(frozenset([lexicon.OPPOSITES[task.word]]), 1, 1.0)], 17
        allowed.add(task.word)
    elif kind == "describe":
        topic = lexicon.TOPIC_OF[task.word]
        groups = [(frozenset([task.word]), 1, 1.0), (frozenset(lexicon.TRAITS[topic]), 3, 1.0)]
        allowed.add(topic)
        preferred = 21
    elif kind == "about":
        groups = [(frozenset(lexicon.MEMBERS[topic]), n, 1.0) for topic in task.topics]
        preferred = 6 * n + 14
    else:
        topic = task.topics[0]
        groups = [(frozenset(lexicon.MEMBERS[topic]), n, 1.0), (frozenset(lexicon.TRAITS[topic]), n, 0.5)]
        preferred = 5 * n + 13
    for topic in task.topics if kind in ("list", "about", "advise", "pick") else ():
        allowed |= set(lexicon.TRAITS[topic])
    for fitting, _, _ in groups:
        allowed |= fitting
    return Wanted(tuple(groups), frozenset(allowed), preferred, kind in VERIFIABLE, task.who, sequence)


def read(task: Task, tokens: Sequence[str]) -> Reading:
    """Count what ``tokens`` (``grammar.words`` of a response) do with ``task``."""
    want = wanted(task)
    count = dict.fromkeys(_CLASSES, 0)
    content = []
    for token in tokens:
        if token in lexicon.CONTENT:
            content.append(token)
        elif kind := _CLASS_OF.get(token):
            count[kind] += 1
    seen = set(content)
    coverage, surplus = _coverage(want, seen, content)
    off_topic = sum(t not in want.allowed for t in content) + surplus
    repeats = len(content) - len(seen)
    ended = bool(tokens) and tokens[-1] in lexicon.END_MARKS
    return Reading(
        coverage=coverage,
        correct=coverage == 1.0 and not off_topic and not (want.sequence and repeats),
        form=ended and not _run_on(tokens),
        addressed=want.who in seen,
        bullets=count["bullet"],
        polite=count["polite"],
        confident=count["confident"],
        fillers=count["filler"],
        repeats=repeats,
        off_topic=off_topic,
        over_length=max(0, len(tokens) - want.preferred),
        tokens=len(tokens),
    )


_CLASSES = {
    "polite": lexicon.POLITE,
    "confident": lexicon.CONFIDENT,
    "filler": lexicon.FILLERS,
    "bullet": frozenset({BULLET}),
}
_CLASS_OF = {token: kind for kind, tokens in _CLASSES.items() for token in tokens}


def _coverage(want: Wanted, seen: set[str], content: Sequence[str]) -> tuple[float, int]:
    """Share of what was asked that is there, and how many right items go beyond the number asked (exact tasks)."""
    if want.sequence:
        given = [t for t in content if t in lexicon.NUMBERS]
        return sum(a == b for a, b in zip(given, want.sequence, strict=False)) / len(want.sequence), 0
    got = asked = 0.0
    surplus = 0
    for fitting, cap, weight in want.groups:
        hits = len(seen & fitting)
        got += weight * min(hits, cap)
        asked += weight * cap
        if want.exact:
            surplus += max(0, hits - cap)
    return got / asked, surplus


def _run_on(tokens: Sequence[str]) -> bool:
    """Whether it opens with a mark, or two nouns or twice the same token stand side by side."""
    if tokens[0] in lexicon.MARKS and tokens[0] != BULLET:
        return True
    last = ""
    for token in tokens:
        if token == last or (token in lexicon.TOPIC_OF and last in lexicon.TOPIC_OF):
            return True
        last = token
    return False
