"""From judgements to preferences: votes become a label, uniform noise may overwrite it.

The noise is AlpacaFarm's, in the mixture form in which it was implemented: with probability ``2 * flip`` an act's
label is replaced by a fair coin, so a share ``flip`` of labels is wrong. It is keyed per pair and annotator and knows
nothing of the answer, so the calls it overwrites need not be paid (``overwritten``): labels are the same whether these
were skipped or asked. The un-noised acts stay in the judgements, reachable by ``Preference.judgements``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from farm.errors import DataError
from farm.records import Judgement, Outcome, Pair, Preference
from farm.seeds import uniform


def overwritten(flip: float, seed: int) -> Callable[[str, str], bool]:
    """For ``engine.annotate(skip=...)``: whether noise decides the label of (pair id, annotator id).

    ``flip`` in [0, 0.5] is the share of labels that end up wrong. Raises DataError outside that range.
    """
    share = 2 * _checked(flip)
    return lambda pair_id, annotator: share > 0 and uniform(seed, "noise", pair_id, annotator) < share


def settle(judgements: Iterable[Judgement], pairs: Sequence[Pair], *, flip: float = 0.0, seed: int) -> list[Preference]:
    """One preference per pair that has a vote, in the order of ``pairs``; an even vote is a tie (probability 0.5).

    An act without verdict casts no vote, and a pair without votes has no preference: the difference in length is the
    number of pairs lost. Acts overwritten by noise vote with the coin whatever they said (the coin was drawn before
    the call), except on identical texts, which have nothing to prefer. ``flipped`` marks labels that differ from what
    the same acts say without noise, where they say anything (a skipped act does not).

    Raises DataError on a judgement of an unknown pair.
    """
    noisy = overwritten(flip, seed)
    acts: dict[str, list[Judgement]] = {p.id: [] for p in pairs}
    for j in judgements:
        if j.pair_id not in acts:
            raise DataError(f"judgement {j.id} is about pair {j.pair_id}, which is not among the pairs given")
        acts[j.pair_id].append(j)
    preferences = []
    for pair in pairs:
        clean, noised = 0.0, 0.0
        used: list[str] = []
        for j in acts[pair.id]:
            vote = _vote(j, pair)
            clean += vote or 0.0
            if j.outcome is not Outcome.IDENTICAL and noisy(pair.id, j.annotator):
                vote = 1.0 if uniform(seed, "coin", pair.id, j.annotator) < 0.5 else -1.0
            if vote is None:
                continue
            noised += vote
            used.append(j.id)
        if not used:
            continue
        winner, before = _winner(pair, noised), _winner(pair, clean)
        preferences.append(
            Preference(
                pair_id=pair.id,
                instruction_id=pair.instruction_id,
                responses=(pair.a, pair.b),
                winner_id=winner,
                probability=0.5 if winner is None else 1.0,
                origin="simulated",
                judgements=tuple(used),
                flipped=before is not None and winner != before,
            )
        )
    return preferences


def _vote(judgement: Judgement, pair: Pair) -> float | None:
    """+1 for ``pair.a``, -1 for ``pair.b``, 0 for a tie, None without a verdict."""
    if not judgement.outcome.judged:
        return None
    if judgement.winner_id is None:
        return 0.0
    return 1.0 if judgement.winner_id == pair.a else -1.0


def _winner(pair: Pair, votes: float) -> str | None:
    return pair.a if votes > 0 else pair.b if votes < 0 else None


def _checked(flip: float) -> float:
    if not 0 <= flip <= 0.5:
        raise DataError(f"flip is the share of wrong labels, from 0 to 0.5 (a coin); got {flip}")
    return flip
