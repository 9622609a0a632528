"""Writers: a human-like author of adjustable skill. More skill means more right items, better form and fewer slips;
it also brings politeness, confidence and length along, which is what a reward model can mistake for quality."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from farm.errors import DataError
from farm.records import Instruction
from farm.world import grammar
from farm.world import words as lexicon
from farm.world.draws import pick, some, stream
from farm.world.grammar import Task

DEMONSTRATION_SKILL = 0.75  # the best of the mixture that wrote the training demonstrations
REFERENCE_SKILL = 0.80  # the fixed reference writer every policy is compared with
BULLET_RATE = 0.25  # answers of several items written as a list; a habit that has nothing to do with skill
WEAK_SKILL = 0.15  # fixed writers that serve as policies to rank besides trained ones
STRONG_SKILL = 0.97
FIXED_WRITERS = {"weak-writer": WEAK_SKILL, "reference": REFERENCE_SKILL, "strong-writer": STRONG_SKILL}


def write(instruction: Instruction, skill: float, seed: int, purpose: str) -> str:
    """A response to ``instruction`` by a writer of ``skill`` in [0, 1], keyed by (seed, purpose, instruction id).

    Raises DataError for an instruction that is not of this world.
    """
    task = grammar.parse(instruction.full_text)
    if task is None:
        raise DataError(f"the world's writers cannot answer {instruction.full_text[:80]!r}: not of the offline world")
    return answer(task, skill, stream(seed, purpose, instruction.id))


def demonstration(task: Task, r: Random) -> str:
    """A response by the mixture behind the training demonstrations, skill uniform in [0, DEMONSTRATION_SKILL]."""
    return answer(task, DEMONSTRATION_SKILL * r.random(), r)


def answer(task: Task, skill: float, r: Random) -> str:
    """A response to ``task`` by a writer of ``skill`` in [0, 1] with the randomness of ``r``."""
    body = _BODIES[task.kind](task, skill, r)
    if r.random() < 0.30 * (1 - skill):
        body = ["well", ",", *body]
    if r.random() < 0.10 + 0.50 * skill:
        body = [*pick(r, lexicon.OPENERS), *body]
    if r.random() < 0.03 + 0.15 * skill:
        body += pick(r, lexicon.ASSURANCES)
    if r.random() < 0.03 + 0.22 * skill:
        body += pick(r, lexicon.CLOSINGS)
    if len(body) > 4 and r.random() < 0.24 * (1 - skill):
        body = body[: -1 - int(r.random() * 3)]
    return grammar.join(body)


def _deliver(right: tuple[str, ...], n: int, skill: float, r: Random) -> list[str]:
    """Up to ``n`` items: some left out, some wrong, some said twice; rarer with skill. Never empty."""
    pool = list(right)
    out: list[str] = []
    for i in range(n):
        if r.random() > 0.22 + 0.77 * skill and (out or i < n - 1):
            continue
        u = r.random()
        if u < 0.70 + 0.29 * skill and pool:
            out.append(pool.pop(int(r.random() * len(pool))))
        elif u > 0.88 + 0.11 * skill and out:
            out.append(pick(r, out))
        else:
            out.append(pick(r, lexicon.NOUNS))
    if r.random() < 0.08 * (1 - skill):
        out.append(pick(r, lexicon.NOUNS))
    return out or [pick(r, right)]


def _series(items: list[str], article: bool = False) -> list[str]:
    """``a , b and c``, with 'the' before every item when ``article``."""
    out: list[str] = []
    for i, item in enumerate(items):
        if i:
            out.append("and" if i == len(items) - 1 else ",")
        if article:
            out.append("the")
        out.append(item)
    return out


def _be(plural: bool, skill: float, r: Random) -> list[str]:
    """'is' or 'are', with a confident word more often from skilled writers, a filler from unskilled ones."""
    verb = ["are" if plural else "is"]
    if r.random() < 0.08 + 0.35 * skill:
        verb.append(pick(r, lexicon.CONFIDENT_INSIDE))
    elif r.random() < 0.45 * (1 - skill):
        verb.append(pick(r, ("just", "really", "maybe", "basically", "somehow")))
    return verb


def _for(task: Task, skill: float, r: Random) -> list[str]:
    return ["for", "a", task.who] if r.random() < 0.15 + 0.45 * skill else []


def _lead(what: str, task: Task, skill: float, r: Random) -> list[str]:
    return ["here", "are", "some", what, *_for(task, skill, r), ":"] if r.random() < 0.5 else []


def _enumerate(task: Task, items: list[str], skill: float, r: Random) -> list[str]:
    """Items as a bulleted list, a bare series, or a sentence."""
    topic = task.topics[0]
    if len(items) > 1 and r.random() < BULLET_RATE:
        return [*_lead(topic, task, skill, r), *(t for item in items for t in ("-", item)), "."]
    series = _series(items)
    if r.random() < 0.25 + 0.40 * skill:
        plural = len(items) > 1
        audience = _for(task, skill, r)
        tail = ["good", *audience] if audience else [topic] if plural else ["good"]
        return [*series, *_be(plural, skill, r), *tail, "."]
    return [*series, "."]


def _list(task: Task, skill: float, r: Random) -> list[str]:
    return _enumerate(task, _deliver(lexicon.MEMBERS[task.topics[0]], task.n, skill, r), skill, r)


def _pick(task: Task, skill: float, r: Random) -> list[str]:
    right = tuple(w for w in task.items if lexicon.TOPIC_OF[w] == task.topics[0])
    items = [w for w in right if r.random() < 0.40 + 0.58 * skill]
    wrong = [w for w in task.items if w not in right]
    items += [w for w in wrong if r.random() < 0.5 * (1 - skill)]
    return _enumerate(task, items or [pick(r, task.items)], skill, r)


def _sort(task: Task, skill: float, r: Random) -> list[str]:
    items = sorted(task.items, key=int, reverse=task.down)
    while len(items) > 1 and r.random() < 0.75 * (1 - skill):
        i = int(r.random() * (len(items) - 1))
        items[i], items[i + 1] = items[i + 1], items[i]
    if len(items) > 2 and r.random() < 0.25 * (1 - skill):
        items.pop(int(r.random() * len(items)))
    said = r.random() < 0.2 + 0.4 * skill
    lead = ["the", "numbers", *_for(task, skill, r), *_be(True, skill, r), ":"] if said else []
    return [*lead, *(t for i, item in enumerate(items) for t in ((",", item) if i else (item,))), "."]


def _compare(task: Task, skill: float, r: Random) -> list[str]:
    right = (min if task.down else max)(task.items, key=int)
    number = right if r.random() < 0.30 + 0.68 * skill else pick(r, task.items)
    if r.random() < 0.30 * (1 - skill):
        return [number, "."]
    end = "smallest" if task.down else "biggest"
    return ["the", end, "number", *_for(task, skill, r), *_be(False, skill, r), number, "."]


def _opposite(task: Task, skill: float, r: Random) -> list[str]:
    right = lexicon.OPPOSITES[task.word]
    word = right if r.random() < 0.30 + 0.68 * skill else pick(r, tuple(lexicon.OPPOSITES))
    if r.random() < 0.30 * (1 - skill):
        return [word, "."]
    return ["the", "opposite", "of", task.word, *_be(False, skill, r), word, *_for(task, skill, r), "."]


def _traits(topic: str, n: int, skill: float, r: Random) -> list[str]:
    fitting = some(r, lexicon.TRAITS[topic], n)
    return [t if r.random() < 0.55 + 0.43 * skill else pick(r, tuple(lexicon.OPPOSITES)) for t in fitting]


def _describe(task: Task, skill: float, r: Random) -> list[str]:
    topic = lexicon.TOPIC_OF[task.word]
    noun = task.word if r.random() < 0.62 + 0.37 * skill else pick(r, lexicon.NOUNS)
    n = 1 + (r.random() < 0.20 + 0.75 * skill) + (r.random() < 0.08 + 0.82 * skill)
    traits = _traits(topic, n, skill, r)
    if len(traits) == 3 and r.random() < 0.5:
        first, last = traits[:2], traits[2:]
        text = ["the", noun, *_be(False, skill, r), *_series(first), ".", "it", "is", "also", *last]
    else:
        text = ["the", noun, *_be(False, skill, r), *_series(traits)]
    return [*text, *_for(task, skill, r), "."]


def _about(task: Task, skill: float, r: Random) -> list[str]:
    out: list[str] = []
    for topic in task.topics:
        if out and r.random() < 0.45 * (1 - skill):
            continue
        items = _deliver(lexicon.MEMBERS[topic], task.n, skill, r)
        trait = _traits(topic, 1, skill, r)
        out += [*_series(items, article=True), *_be(len(items) > 1, skill, r), *trait, *_for(task, skill * 0.4, r), "."]
    return out


def _advise(task: Task, skill: float, r: Random) -> list[str]:
    topic = task.topics[0]
    items = _deliver(lexicon.MEMBERS[topic], task.n, skill, r)
    traits = _traits(topic, len(items), skill, r)
    bullets = len(items) > 1 and r.random() < BULLET_RATE
    out: list[str] = []
    for i, item in enumerate(items):
        trait = traits[i : i + 1] if r.random() < 0.35 + 0.6 * skill else []
        tip = [pick(r, lexicon.ADVICE), "the", *trait, item]
        out += ["-", *tip] if bullets else [*tip, "."]
    return [*_lead("tips", task, skill, r), *out, "."] if bullets else out


_BODIES: dict[str, Callable[[Task, float, Random], list[str]]] = {
    "list": _list,
    "pick": _pick,
    "sort": _sort,
    "compare": _compare,
    "opposite": _opposite,
    "describe": _describe,
    "about": _about,
    "advise": _advise,
}
