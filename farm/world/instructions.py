"""The instructions of the offline world: 52,000 for training in four splits, 805 for evaluation, the same everywhere.

Training draws phrasings, audiences, counts and topic pairs from fixed sets; each of the five evaluation sources steps
outside one of them. Every row carries an output: training rows a demonstration by the mixture of writers, evaluation
rows the response of the reference writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from random import Random

from farm.records import Instruction, Split
from farm.world import words as lexicon
from farm.world import writers
from farm.world.draws import pick, shuffle, some, stream
from farm.world.grammar import Kind, Task, render, templates

SIZES: dict[Split, int] = {"sft": 10_000, "preference": 20_000, "unlabeled": 20_000, "val": 2_000}
SHARES: dict[Kind, float] = {
    "list": 0.21,
    "pick": 0.05,
    "sort": 0.05,
    "compare": 0.03,
    "opposite": 0.04,
    "describe": 0.21,
    "about": 0.27,
    "advise": 0.14,
}  # 38% verifiable
EVALUATION_SIZES = {"inputs": 252, "phrasings": 188, "pairs": 156, "counts": 129, "audiences": 80}
_INPUT_SHARE = 0.08  # of the training tasks that can be asked either way
_PAIRS = [(a, b) for i, a in enumerate(lexicon.MEMBERS) for b in list(lexicon.MEMBERS)[i + 1 :]]
HELD_OUT_PAIRS = frozenset(frozenset(p) for p in some(Random(805), _PAIRS, 6))


@cache
def training() -> dict[Split, list[Instruction]]:
    """The four training splits (10,000 sft, 20,000 preference, 20,000 unlabeled, 2,000 val), pairwise disjoint.

    Takes one to three seconds the first time; cached, so do not change the lists.
    """
    r = stream(0, "world-training")
    tasks: dict[tuple[str, str], Task] = {}
    total = sum(SIZES.values())
    for kind, share in SHARES.items():
        goal = len(tasks) + round(share * total)
        while len(tasks) < goal:
            task = _training_task(kind, r)
            tasks.setdefault(render(task), task)
    rows = list(tasks.items())
    shuffle(r, rows)
    splits: dict[Split, list[Instruction]] = {}
    start = 0
    for split, size in SIZES.items():
        splits[split] = [_row(task, text, split) for text, task in rows[start : start + size]]
        start += size
    return splits


def _row(task: Task, rendered: tuple[str, str], split: Split) -> Instruction:
    output = writers.demonstration(task, stream(0, "world-demonstration", *rendered))
    return Instruction.make(*rendered, output=output, source=f"world-{task.kind}", split=split)


@cache
def evaluation() -> list[Instruction]:
    """The 805 evaluation instructions in five sources (252/188/156/129/80), none of which occurs in training.

    ``output`` is the reference writer's response. Cached, so do not change the list.
    """
    rows: list[Instruction] = []
    seen: set[tuple[str, str]] = set()
    for source, size in EVALUATION_SIZES.items():
        tasks = _SHIFTED[source](stream(0, "world-evaluation", source))
        goal = len(rows) + size
        while len(rows) < goal:
            task = next(tasks)
            rendered = render(task)
            if rendered in seen:
                continue
            seen.add(rendered)
            output = writers.answer(task, writers.REFERENCE_SKILL, stream(0, "world-reference", *rendered))
            rows.append(Instruction.make(*rendered, output=output, source=f"world-{source}", split="eval"))
    return rows


def _training_task(kind: Kind, r: Random) -> Task:
    with_input = kind in ("pick", "sort", "compare") or (
        kind in ("list", "describe", "about") and r.random() < _INPUT_SHARE
    )
    known = templates(kind, with_input)[1]
    return _task(kind, r, int(r.random() * known), pick(r, lexicon.AUDIENCES), with_input=with_input)


def _task(
    kind: Kind, r: Random, phrasing: int, who: str, *, n: int = 0, held_out_pair: bool = False, with_input: bool = False
) -> Task:
    """A random task of one kind; ``n`` 0 draws it from the counts used in training."""
    if kind == "list":
        return Task(kind, phrasing, who, (_topic(r),), n=n or 2 + int(r.random() * 3), with_input=with_input)
    if kind == "pick":
        return _pick_task(r, phrasing, who, 4 + int(r.random() * 2))
    if kind == "sort":
        n = n or 3 + int(r.random() * 3)
        items = tuple(some(r, lexicon.NUMBERS, n))
        return Task(kind, phrasing, who, n=n, items=items, down=r.random() < 0.5, with_input=True)
    if kind == "compare":
        items = tuple(some(r, lexicon.NUMBERS, 2 + int(r.random() * 3)))
        return Task(kind, phrasing, who, items=items, down=r.random() < 0.5, with_input=True)
    if kind == "opposite":
        return Task(kind, phrasing, who, word=pick(r, tuple(lexicon.OPPOSITES)))
    if kind == "describe":
        return Task(kind, phrasing, who, word=pick(r, lexicon.NOUNS), with_input=with_input)
    if kind == "about":
        pair = _pair(r, held_out_pair)
        return Task(kind, phrasing, who, pair, n=n or 1 + int(r.random() * 2), with_input=with_input)
    return Task(kind, phrasing, who, (_topic(r),), n=n or 1 + int(r.random() * 3))


def _topic(r: Random) -> str:
    return pick(r, tuple(lexicon.MEMBERS))


def _pair(r: Random, held_out: bool) -> tuple[str, str]:
    while True:
        a, b = some(r, tuple(lexicon.MEMBERS), 2)
        if (frozenset((a, b)) in HELD_OUT_PAIRS) == held_out:
            return a, b


def _pick_task(r: Random, phrasing: int, who: str, size: int) -> Task:
    topic, other = _pair(r, False)
    n = 2 + int(r.random() * (size - 2))
    items = some(r, lexicon.MEMBERS[topic], n) + some(r, lexicon.MEMBERS[other], size - n)
    shuffle(r, items)
    return Task("pick", phrasing, who, (topic,), n=n, items=tuple(items), with_input=True)


def _new_phrasing(kind: Kind, r: Random, with_input: bool = False) -> int:
    every, known = templates(kind, with_input)
    return known + int(r.random() * (len(every) - known))


def _inputs(r: Random) -> Iterator[Task]:
    """Tasks with an input, in a phrasing not met in training."""
    kinds: tuple[Kind, ...] = ("describe", "describe", "about", "about", "about", "pick", "sort", "compare")
    while True:
        kind = pick(r, kinds)
        yield _task(kind, r, _new_phrasing(kind, r, True), pick(r, lexicon.AUDIENCES), with_input=True)


def _phrasings(r: Random) -> Iterator[Task]:
    """Phrasings not met in training."""
    kinds: tuple[Kind, ...] = ("list", "list", "describe", "describe", "about", "about", "advise", "opposite")
    while True:
        kind = pick(r, kinds)
        yield _task(kind, r, _new_phrasing(kind, r), pick(r, lexicon.AUDIENCES))


def _pairs(r: Random) -> Iterator[Task]:
    """Two topics that never met in training."""
    while True:
        yield _task("about", r, int(r.random() * templates("about")[1]), pick(r, lexicon.AUDIENCES), held_out_pair=True)


def _counts(r: Random) -> Iterator[Task]:
    """More items than ever asked for in training."""
    more: tuple[tuple[Kind, int], ...] = (("list", 5), ("about", 3), ("advise", 4))
    while True:
        kind, n = pick(r, more)
        yield _task(kind, r, int(r.random() * templates(kind)[1]), pick(r, lexicon.AUDIENCES), n=n)


def _audiences(r: Random) -> Iterator[Task]:
    """Audiences that training never addressed."""
    kinds: tuple[Kind, ...] = ("list", "describe", "about", "advise")
    while True:
        kind = pick(r, kinds)
        yield _task(kind, r, int(r.random() * templates(kind)[1]), pick(r, lexicon.HELD_OUT_AUDIENCES))


_SHIFTED: dict[str, Callable[[Random], Iterator[Task]]] = {
    "inputs": _inputs,
    "phrasings": _phrasings,
    "pairs": _pairs,
    "counts": _counts,
    "audiences": _audiences,
}
