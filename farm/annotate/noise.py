"""From judgements to preferences: votes become a label, and noise is put on it.

Uniform noise is AlpacaFarm's, in the mixture form in which it was implemented: with probability ``2 * flip`` an act's
label is replaced by a fair coin, so a share ``flip`` of labels is wrong. It is keyed per pair and annotator and knows
nothing of the answer, so the calls it overwrites need not be paid (``overwritten``): labels are the same whether these
were skipped or asked. A calibrated pool has noise of its own instead (``calibrated.py``): much on contested pairs,
little on clear ones. The un-noised acts stay in the judgements, reachable by ``Preference.judgements``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from farm.annotate import calibrated
from farm.annotate.calibrated import ActNoise, PoolNoise
from farm.annotate.soft import LOW_MASS
from farm.errors import DataError
from farm.records import Judgement, Outcome, Pair, Preference, Response
from farm.seeds import uniform


@dataclass(frozen=True)
class Calibration:
    """The fitted noise of a pool: by annotator id, and of the whole."""

    annotators: Mapping[str, ActNoise]
    pool: PoolNoise


def overwritten(flip: float, seed: int) -> Callable[[str, str], bool]:
    """For ``engine.annotate(skip=...)``: whether noise decides the label of (pair id, annotator id).

    ``flip`` in [0, 0.5] is the share of labels that end up wrong. Raises DataError outside that range.
    """
    share = 2 * _checked(flip)
    return lambda pair_id, annotator: share > 0 and uniform(seed, "noise", pair_id, annotator) < share


def settle(
    judgements: Iterable[Judgement],
    pairs: Sequence[Pair],
    *,
    flip: float = 0.0,
    seed: int,
    soft: bool = False,
    calibration: Calibration | None = None,
    responses: Mapping[str, Response] | None = None,
) -> list[Preference]:
    """One preference per pair that has a vote, in the order of ``pairs``; an even vote is a tie (probability 0.5).

    An act without verdict casts no vote, and a pair without votes has no preference: the difference in length is the
    number of pairs lost. ``flipped`` marks labels that differ from what the same acts say without noise, where they say
    anything (a skipped act does not).

    Uniform noise (``flip``): acts that it overwrites vote with a coin whatever they said (the coin was drawn before the
    call), except on identical texts, which have nothing to prefer. With ``calibration`` every act votes with a draw
    from the fitted chances; this needs ``responses`` by id and excludes ``flip``.

    With ``soft`` the preference's probability is the mean over the acts instead of 1: an act counts with the
    probability its judge revealed, where the label tokens held at least ``LOW_MASS``, else with its verdict; under
    ``calibration`` with its fitted chance, undrawn. Strengths that people gave become the preference's.

    Raises DataError on a judgement of an unknown pair, an unknown response, or ``flip`` out of [0, 0.5].
    """
    if calibration is not None and (flip or responses is None):
        raise DataError("a calibrated pool brings its own noise: give responses, and no flip")
    noisy = overwritten(flip, seed)
    acts: dict[str, list[Judgement]] = {p.id: [] for p in pairs}
    for j in judgements:
        if j.pair_id not in acts:
            raise DataError(f"judgement {j.id} is about pair {j.pair_id}, which is not among the pairs given")
        acts[j.pair_id].append(j)
    preferences = []
    for pair in pairs:
        group = acts[pair.id]
        clean = [_vote(j, pair, soft) for j in group]
        if calibration is not None:
            noised = _calibrated(group, pair, calibration, _texts(pair, responses or {}), seed, soft)
        else:
            noised = [
                _coin(seed, j) if j.outcome is not Outcome.IDENTICAL and noisy(pair.id, j.annotator) else vote
                for j, vote in zip(group, clean, strict=True)
            ]
        used = [(j.id, vote) for j, vote in zip(group, noised, strict=True) if vote is not None]
        if not used:
            continue
        total = sum(vote for _, vote in used)
        winner, before = _winner(pair, total), _winner(pair, sum(vote or 0.0 for vote in clean))
        share = 0.5 + abs(total) / (2 * len(used)) if soft else 1.0
        preferences.append(
            Preference(
                pair_id=pair.id,
                instruction_id=pair.instruction_id,
                responses=(pair.a, pair.b),
                winner_id=winner,
                probability=0.5 if winner is None else min(share, 1.0),
                origin="simulated",
                judgements=tuple(id for id, _ in used),
                flipped=before is not None and winner != before,
                strength=_strength(group, winner),
            )
        )
    return preferences


def _strength(acts: Sequence[Judgement], winner: str | None) -> float | None:
    """Mean of the strengths that people gave, at least 0: votes for the other side count negative, ties zero, a choice
    of which nobody said how clear it is as 2. None where no act has one."""
    votes = [j for j in acts if j.outcome.judged]
    if winner is None or all(j.strength is None for j in votes):
        return None
    clear = [2.0 if j.strength is None else j.strength for j in votes]
    signs = [0 if j.winner_id is None else 1 if j.winner_id == winner else -1 for j in votes]
    return max(0.0, sum(s * c for s, c in zip(signs, clear, strict=True)) / len(votes))


def _vote(judgement: Judgement, pair: Pair, soft: bool) -> float | None:
    """From +1 for ``pair.a`` to -1 for ``pair.b``, 0 for a tie, None without a verdict."""
    if not judgement.outcome.judged:
        return None
    if judgement.winner_id is None:
        return 0.0
    if soft and judgement.probability is not None and (judgement.mass is None or judgement.mass >= LOW_MASS):
        return 2 * judgement.probability - 1
    return 1.0 if judgement.winner_id == pair.a else -1.0


def _coin(seed: int, judgement: Judgement) -> float:
    return 1.0 if uniform(seed, "coin", judgement.pair_id, judgement.annotator) < 0.5 else -1.0


def _calibrated(
    acts: Sequence[Judgement], pair: Pair, fitted: Calibration, texts: tuple[str, str], seed: int, soft: bool
) -> Sequence[float | None]:
    if not soft:
        return calibrated.labels(acts, pair, texts, fitted.annotators, fitted.pool, seed)
    chances = calibrated.chances(acts, pair, texts, fitted.annotators, fitted.pool)
    alike = [0.0 if j.outcome is Outcome.IDENTICAL else None for j in acts]
    return [same if p is None else 2 * p - 1 for p, same in zip(chances, alike, strict=True)]


def _texts(pair: Pair, responses: Mapping[str, Response]) -> tuple[str, str]:
    for id in (pair.a, pair.b):
        if id not in responses:
            raise DataError(f"pair {pair.id} holds response {id}, which is not given")
    return responses[pair.a].text, responses[pair.b].text


def _winner(pair: Pair, votes: float) -> str | None:
    return pair.a if votes > 0 else pair.b if votes < 0 else None


def _checked(flip: float) -> float:
    if not 0 <= flip <= 0.5:
        raise DataError(f"flip is the share of wrong labels, from 0 to 0.5 (a coin); got {flip}")
    return flip
