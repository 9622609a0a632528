"""Judges and people of the offline world on the same pairs, without training anything: two writers per instruction."""

from __future__ import annotations

from functools import cache

from farm.data.judged import Judged
from farm.records import Judgement, Outcome, Pair, Response
from farm.seeds import uniform
from farm.world import instructions, raters, writers
from farm.world.features import features


@cache
def crowd(n: int, seed: int, votes: int = 4, judges: int = 13, reveal: bool = False) -> tuple[Judged, Judged]:
    """``n`` pairs judged by ``judges`` scripted annotators and voted on by ``votes`` simulated people each.

    With ``reveal`` the annotators tell their probabilities.
    """
    asked = instructions.evaluation()
    tasks = {i.id: i for i in asked[:: len(asked) // n][:n]}
    texts: dict[str, Response] = {}
    pairs = []
    for i in tasks.values():
        two = []
        for side in ("left", "right"):
            skill = uniform(seed, "skill", side, i.id)
            two.append(Response.make(i.id, writers.write(i, skill, seed, side), side, n_tokens=1))
        texts |= {r.id: r for r in two}
        pairs.append(Pair.of(*two))
    acts = [
        _act(who, p, tasks[p.instruction_id].full_text, texts, seed, reveal)
        for p in pairs
        for who in raters.ANNOTATOR_IDS[:judges]
    ]
    people = raters.human_judgements(pairs, tasks, texts, votes, seed)
    return Judged(tasks, texts, pairs, acts, []), Judged(tasks, texts, pairs, people, [])


@cache
def _seen(full_text: str, text: str):
    return features(full_text, text)


def _act(who: str, pair: Pair, full_text: str, texts: dict[str, Response], seed: int, reveal: bool) -> Judgement:
    swapped = uniform(seed, "order", pair.id, who) < 0.5
    first, second = (pair.b, pair.a) if swapped else (pair.a, pair.b)
    alike = texts[first].text == texts[second].text
    p = raters.annotator(who).prefers_first(_seen(full_text, texts[first].text), _seen(full_text, texts[second].text))
    winner = first if uniform(seed, "verdict", pair.id, who) < p else second
    return Judgement(
        pair_id=pair.id,
        instruction_id=pair.instruction_id,
        annotator=who,
        shown=(first, second),
        outcome=Outcome.IDENTICAL if alike else Outcome.DECIDED,
        winner_id=None if alike else winner,
        probability=(p if first == pair.a else 1 - p) if reveal and not alike else None,
    )
