"""Who is shown what, in which order, on which side. Everything is keyed, so the plan of one annotator never changes
another's, and a person added later labels the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farm.records import Pair
from farm.seeds import digest, key, uniform


@dataclass(frozen=True)
class Task:
    """One showing of a pair to one annotator. ``id`` is all that leaves the server besides the texts; ``first`` is the
    id of the response on the left; ``draw`` is 1 where the pair is shown again."""

    id: str
    annotator: str
    place: int
    pair_id: str
    first: str
    draw: int = 0


def tasks(
    annotator: str, pairs: Sequence[Pair], known: Sequence[Pair], repeats: int, seed: int, salt: str
) -> list[Task]:
    """The tasks of one annotator: every pair once, pairs of ``known`` answer strewn in, ``repeats`` pairs again with
    sides swapped, at least half the plan later. ``salt`` is a secret of the store that makes ids opaque."""

    def place(pair: Pair) -> float:
        return uniform(seed, "label order", annotator, pair.id)

    once = sorted([*pairs, *known], key=lambda p: (place(p), p.id))
    plain = {p.id for p in pairs}
    early = [p for p in once[: len(once) // 2] if p.id in plain]
    again = sorted(early, key=lambda p: key(seed, "label repeat", annotator, p.id))[:repeats]
    order = [(p, 0, float(k)) for k, p in enumerate(once)]
    for pair in again:
        at = once.index(pair)
        later = at + len(once) / 2
        order.append((pair, 1, later + uniform(seed, "label repeat place", annotator, pair.id) * (len(once) - later)))
    result = []
    for k, (pair, draw, _) in enumerate(sorted(order, key=lambda row: (row[2], row[1]))):
        left = uniform(seed, "label side", annotator, pair.id) < 0.5
        first = pair.a if left == (draw == 0) else pair.b
        result.append(Task(digest(salt, annotator, pair.id, draw, size=9), annotator, k, pair.id, first, draw))
    return result
