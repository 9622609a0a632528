"""What can be asked: tasks, their rendering as English, and the way back from text to task.

Text of this world is a sequence of lower-case tokens (words, numbers, the marks . , ! ? : and - which opens a bullet);
``join`` writes it as English and ``words`` reads it back, so ``join(words(t)) == t`` for every text of the world.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from farm.world import words as lexicon

Kind = Literal["list", "pick", "sort", "compare", "opposite", "describe", "about", "advise"]
VERIFIABLE: frozenset[Kind] = frozenset(("list", "pick", "sort", "compare", "opposite"))


@dataclass(frozen=True, slots=True)
class Task:
    """What an instruction asks for.

    ``phrasing`` indexes ``templates(kind, with_input)``. ``n``: items asked (list, pick, sort), items per topic
    (about), tips (advise), else 1. ``word``: the noun described or the word whose opposite is asked. ``items``: the
    words or numbers given as input. ``down``: from big to small (sort), the smallest (compare).
    """

    kind: Kind
    phrasing: int
    who: str
    topics: tuple[str, ...] = ()
    word: str = ""
    n: int = 1
    items: tuple[str, ...] = ()
    down: bool = False
    with_input: bool = False


_LIST = """name {n} {topic} for a {who}. | list {n} {topic} for a {who}. | give a {who} {n} {topic}.
tell a {who} {n} {topic}. | please name {n} {topic} for a {who}. | please list {n} {topic} for a {who}.
which {n} {topic} can a {who} find? | show a {who} {n} {topic}. | find {n} {topic} for a {who}.
choose {n} {topic} for a {who}. | can you name {n} {topic} for a {who}? | can you list {n} {topic} for a {who}?
i need {n} {topic} for a {who}. | what are {n} {topic} for a {who}? | a {who} asks for {n} {topic}.
write {n} {topic} for a {who}."""
_DESCRIBE = """describe the {noun} for a {who}. | tell a {who} about the {noun}. | a {who} asks what the {noun} is like.
please describe the {noun} for a {who}. | write about the {noun} for a {who}. | explain the {noun} to a {who}.
how would you describe the {noun} to a {who}? | show a {who} what the {noun} is like.
can you describe the {noun} to a {who}? | what would you tell a {who} about the {noun}?"""
_ABOUT = """write {size} about {a} and {b} for a {who}. | give a {who} {size} about {a} and {b}.
please write {size} about {a} and {b} for a {who}. | i need {size} about {a} and {b} for a {who}.
a {who} asks for {size} about {a} and {b}. | can you write {size} about {a} and {b} for a {who}?
show a {who} {size} about {a} and {b}. | write a {who} {size} about {a} and {b}."""
_ADVISE = """give a {who} {tips} about {topic}. | write {tips} about {topic} for a {who}.
a {who} asks for {tips} about {topic}. | please give a {who} {tips} about {topic}.
i need {tips} about {topic} for a {who}. | can you give a {who} {tips} about {topic}?
name {tips} about {topic} for a {who}. | what {tips} about {topic} would help a {who}?
tell a {who} {tips} about {topic}. | list {tips} about {topic} for a {who}."""
_OPPOSITE = """tell a {who} the opposite of {word}. | give a {who} the opposite of {word}.
what is the opposite of {word} for a {who}? | a {who} asks for the opposite of {word}.
please tell a {who} the opposite of {word}. | name the opposite of {word} for a {who}.
find the opposite of {word} for a {who}. | write the opposite of {word} for a {who}."""

# (kind, given as input) -> (phrasings met in training, phrasings held out for evaluation)
_PHRASINGS: dict[tuple[Kind, bool], tuple[str, str]] = {
    ("list", False): (
        _LIST,
        "a {who} would like {n} {topic}. | can you find {n} {topic} for a {who}? | please show a {who} {n} {topic}.",
    ),
    ("list", True): ("name {n} of this kind for a {who}. | list {n} of this kind for a {who}.", ""),
    ("pick", True): (
        "which of these are {topic}? tell a {who}. | name the {topic} in this list for a {who}.",
        "find the {topic} in this list for a {who}.",
    ),
    ("sort", True): (
        "sort these {n} numbers from {order} for a {who}. | please sort these {n} numbers from {order} for a {who}.",
        "can you sort these {n} numbers from {order} for a {who}?",
    ),
    ("compare", True): (
        "which of these numbers is the {end} one? tell a {who}. | name the {end} of these numbers for a {who}.",
        "find the {end} of these numbers for a {who}.",
    ),
    ("opposite", False): (
        _OPPOSITE,
        "can you tell a {who} the opposite of {word}? | a {who} would like the opposite of {word}.",
    ),
    ("describe", False): (
        _DESCRIBE,
        "can you tell a {who} about the {noun}? | a {who} asks about the {noun}. "
        "| please explain the {noun} to a {who}.",
    ),
    ("describe", True): (
        "describe this thing for a {who}. | tell a {who} about this thing. | explain this thing to a {who}.",
        "please describe this thing for a {who}.",
    ),
    ("about", False): (
        _ABOUT,
        "a {who} would like {size} about {a} and {b}. | please give a {who} {size} about {a} and {b}.",
    ),
    ("about", True): (
        "write {size} about these topics for a {who}. | give a {who} {size} about these topics.",
        "please write {size} about these topics for a {who}.",
    ),
    ("advise", False): (
        _ADVISE,
        "a {who} would like {tips} about {topic}. | please list {tips} about {topic} for a {who}.",
    ),
}
_SIZES = {1: "a short text", 2: "a text", 3: "a long text"}
_TIPS = {1: "one tip", 2: "two tips", 3: "three tips", 4: "four tips"}
_ORDERS = {False: "small to big", True: "big to small"}
_ENDS = {False: "biggest", True: "smallest"}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for line in text.splitlines() for part in line.split("|") if part.strip())


@cache
def templates(kind: Kind, with_input: bool = False) -> tuple[tuple[str, ...], int]:
    """All phrasings of a kind, and how many of them (the first ones) occur in training."""
    training, held_out = _PHRASINGS[kind, with_input]
    return _split(training) + _split(held_out), len(_split(training))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def render(task: Task) -> tuple[str, str]:
    """The task as ``(text, input)`` in readable English."""
    a, b = (*task.topics, "", "")[:2]
    text = templates(task.kind, task.with_input)[0][task.phrasing].format(
        n=lexicon.COUNTS[task.n],
        topic=a,
        a=a,
        b=b,
        who=task.who,
        noun=task.word,
        word=task.word,
        size=_SIZES.get(task.n, ""),
        tips=_TIPS.get(task.n, ""),
        order=_ORDERS[task.down],
        end=_ENDS[task.down],
    )
    given = ""
    if task.with_input:
        given = _capital(", ".join(task.items or ((task.word,) if task.kind == "describe" else task.topics)))
    return ". ".join(_capital(s) for s in text.split(". ")).replace("? tell", "? Tell"), given


def _slot(name: str) -> str:
    choices: dict[str, Iterable[str]] = {
        "n": lexicon.COUNTS,
        "topic": lexicon.MEMBERS,
        "a": lexicon.MEMBERS,
        "b": lexicon.MEMBERS,
        "who": lexicon.AUDIENCES + lexicon.HELD_OUT_AUDIENCES,
        "noun": lexicon.NOUNS,
        "word": lexicon.OPPOSITES,
        "size": _SIZES.values(),
        "tips": _TIPS.values(),
        "order": _ORDERS.values(),
        "end": _ENDS.values(),
    }
    return f"(?P<{name}>" + "|".join(re.escape(c) for c in choices[name]) + ")"


@cache
def _patterns() -> dict[tuple[str, bool], list[tuple[Kind, int, re.Pattern[str]]]]:
    """Patterns by first word and by whether there is an input, so that parsing tries few."""
    table: dict[tuple[str, bool], list[tuple[Kind, int, re.Pattern[str]]]] = {}
    for kind, with_input in _PHRASINGS:
        for i, template in enumerate(templates(kind, with_input)[0]):
            pattern = re.sub(r"\\{(\w+)\\}", lambda m: _slot(m.group(1)), re.escape(template))
            table.setdefault((template.split()[0], with_input), []).append((kind, i, re.compile(pattern)))
    return table


def _inverse(table: dict[int, str], value: str) -> int:
    return next(k for k, v in table.items() if v == value)


@lru_cache(maxsize=65536)
def parse(full_text: str) -> Task | None:
    """The task of an ``Instruction.full_text``; None when the text is not of this world."""
    text, _, given = full_text.strip().partition("\n\n")
    text, given = text.lower().strip(), given.lower().strip()
    if len(text) > 200 or len(given) > 200:
        return None
    for kind, phrasing, pattern in _patterns().get((text.split(" ")[0], bool(given)), ()):
        if match := pattern.fullmatch(text):
            return _task(kind, phrasing, match.groupdict(), tuple(given.split(", ")) if given else ())
    return None


def _task(kind: Kind, phrasing: int, slots: dict[str, str], given: tuple[str, ...]) -> Task | None:
    topics = tuple(slots[k] for k in ("topic", "a", "b") if k in slots)
    word, n, items = slots.get("noun", slots.get("word", "")), 1, given
    if "n" in slots:
        n = lexicon.COUNTS.index(slots["n"])
    elif "size" in slots:
        n = _inverse(_SIZES, slots["size"])
    elif "tips" in slots:
        n = _inverse(_TIPS, slots["tips"])
    if given and kind in ("list", "about"):
        topics, items = given, ()
        if not all(t in lexicon.MEMBERS for t in topics) or len(topics) != (1 if kind == "list" else 2):
            return None
    elif given and kind == "describe":
        word, items = given[0], ()
        if word not in lexicon.TOPIC_OF or len(given) != 1:
            return None
    elif given:
        known: Iterable[str] = lexicon.TOPIC_OF if kind == "pick" else lexicon.NUMBERS
        if not all(item in known for item in items):
            return None
        if kind == "pick":
            n = sum(lexicon.TOPIC_OF[item] == topics[0] for item in items)
    down = slots.get("order") == _ORDERS[True] or slots.get("end") == _ENDS[True]
    return Task(kind, phrasing, slots["who"], topics, word, n, items, down, bool(given))


BULLET = "-"
_ATTACHED = frozenset(".,!?:")
_CLOSING = frozenset(".!?")
_ALWAYS_CAPITAL = frozenset("i")
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_")


def words(text: str) -> list[str]:
    """The tokens of a text, lower case: words, numbers, marks. Works on any text."""
    return _TOKEN.findall(text.lower())


def join(tokens: list[str]) -> str:
    """Tokens as English: marks attached, sentences and bullets capitalised, every bullet on its own line."""
    out: list[str] = []
    capital = True
    for token in tokens:
        if token in _ATTACHED:
            out.append(token)
            capital = capital or token in _CLOSING
        elif token == BULLET:
            out.append("\n-" if out else "-")
            capital = True
        else:
            if out:
                out.append(" ")
            out.append(token.capitalize() if capital or token in _ALWAYS_CAPITAL else token)
            capital = False
    return "".join(out)


@cache
def vocabulary() -> list[str]:
    """Every token that instructions and responses of this world can contain, sorted."""
    tokens = set(lexicon.CONTENT) | set(lexicon.COUNTS[1:]) | lexicon.POLITE | lexicon.CONFIDENT | lexicon.FILLERS
    tokens |= lexicon.MARKS | set(lexicon.ADVICE) | set(lexicon.HELD_OUT_AUDIENCES)
    for kind, with_input in _PHRASINGS:
        for template in templates(kind, with_input)[0]:
            tokens |= set(words(re.sub(r"{\w+}", " ", template)))
    for phrase in (*_SIZES.values(), *_TIPS.values(), *_ORDERS.values(), *_ENDS.values()):
        tokens |= set(words(phrase))
    for phrase_tokens in (*lexicon.OPENERS, *lexicon.CLOSINGS, *lexicon.ASSURANCES):
        tokens |= set(phrase_tokens)
    tokens |= set(words("here are some is the and it also good number numbers opposite of for a"))
    return sorted(tokens)
