"""Judges' acts and people's votes on the same pairs, as arrays: what calibration is fitted to and measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from farm.annotate.calibrated import log_odds
from farm.data.collect import UNORDERED
from farm.data.looks import looks_like_list, relative_length
from farm.errors import DataError
from farm.evaluate.intervals import Array
from farm.records import Judgement, Outcome, Response
from farm.seeds import key
from farm.study.ballots import Ints


@dataclass(frozen=True)
class Data:
    """Acts of judges and votes of people on the pairs that both judged, as arrays.

    Per pair: ``cluster`` (instruction), ``length``, ``lists``. Per act, sorted by pair: ``item``, ``who``, ``verdict``,
    ``odds``, ``order``. Per vote: ``vote_item``, ``person``, ``vote`` (1 for ``a``, 0 for ``b``, 0.5 a tie),
    ``vote_order``.
    """

    pairs: tuple[str, ...]
    names: tuple[str, ...]
    cluster: Ints
    length: Array
    lists: Array
    item: Ints
    who: Ints
    verdict: Array
    odds: Array
    order: Array
    vote_item: Ints
    person: Ints
    vote: Array
    vote_order: Array

    @property
    def acts(self) -> Array:
        """Number of acts per pair, shape (pairs,)."""
        return np.bincount(self.item, minlength=len(self.pairs)).astype(float)

    def on(self, keep: npt.NDArray[np.bool_]) -> Data:
        """With the votes on some pairs only; acts and pairs stay numbered as they are."""
        some = keep[self.vote_item]
        return replace(
            self,
            vote_item=self.vote_item[some],
            person=self.person[some],
            vote=self.vote[some],
            vote_order=self.vote_order[some],
        )


def assemble(judgements: Sequence[Judgement], votes: Sequence[Judgement], responses: Mapping[str, Response]) -> Data:
    """The data of all pairs that a judge and a person decided. Identical texts have nothing to calibrate.

    Raises DataError when there is no such pair, or a judgement names an unknown response.
    """
    usable = [
        [j for j in acts if j.outcome.judged and j.outcome is not Outcome.IDENTICAL] for acts in (judgements, votes)
    ]
    both = {j.pair_id for j in usable[0]} & {j.pair_id for j in usable[1]}
    if not both:
        raise DataError("nothing to calibrate: judges and people have no pair with verdicts in common")
    machine, human = ([j for j in acts if j.pair_id in both] for acts in usable)
    shown = {j.pair_id: j for j in machine}
    pairs = tuple(sorted(shown))
    number = {pair: k for k, pair in enumerate(pairs)}
    clusters: dict[str, int] = {}
    texts = []
    for pair in pairs:
        if missing := [i for i in shown[pair].shown if i not in responses]:
            raise DataError(f"judgement on pair {pair} names response {missing[0]}, which is not among those given")
        texts.append([responses[i].text for i in sorted(shown[pair].shown)])
    names, people = (tuple(sorted({j.annotator for j in acts})) for acts in (machine, human))
    machine.sort(key=lambda j: (number[j.pair_id], j.annotator, j.draw))
    return Data(
        pairs=pairs,
        names=names,
        cluster=np.array([clusters.setdefault(shown[p].instruction_id, len(clusters)) for p in pairs], dtype=np.int64),
        length=np.array([relative_length(*t) for t in texts]),
        lists=np.array([float(looks_like_list(t[0])) - float(looks_like_list(t[1])) for t in texts]),
        item=np.array([number[j.pair_id] for j in machine], dtype=np.int64),
        who=np.array([names.index(j.annotator) for j in machine], dtype=np.int64),
        verdict=np.array([_side(j) for j in machine]),
        odds=np.array([log_odds(j.probability) for j in machine]),
        order=np.array([_order(j) for j in machine]),
        vote_item=np.array([number[j.pair_id] for j in human], dtype=np.int64),
        person=np.array([people.index(j.annotator) for j in human], dtype=np.int64),
        vote=np.array([0.5 + 0.5 * _side(j) for j in human]),
        vote_order=np.array([_order(j) for j in human]),
    )


def _side(j: Judgement) -> float:
    return 0.0 if j.winner_id is None else 1.0 if j.winner_id == min(j.shown) else -1.0


def _order(j: Judgement) -> float:
    return 0.0 if j.fingerprint == UNORDERED else 1.0 if j.shown[0] == min(j.shown) else -1.0


def halves(data: Data, seed: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Masks of the pairs to fit on and to report on: half of the instructions each, drawn by keyed hash."""
    first_pair: dict[int, str] = {}
    for cluster, pair in zip(data.cluster, data.pairs, strict=True):
        first_pair.setdefault(int(cluster), pair)
    drawn = sorted(first_pair, key=lambda c: key(seed, "calibration half", first_pair[c]))
    fit = np.isin(data.cluster, drawn[: (len(drawn) + 1) // 2])
    return fit, ~fit


def couples(data: Data) -> tuple[Ints, Ints]:
    """Every act with every vote on the same pair: indices of acts and of votes."""
    counts = data.acts.astype(np.int64)
    start = np.concatenate([[0], np.cumsum(counts)[:-1]])
    repeats = counts[data.vote_item]
    vote = np.repeat(np.arange(len(data.vote)), repeats)
    within = np.arange(len(vote)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return start[data.vote_item][vote] + within, vote
