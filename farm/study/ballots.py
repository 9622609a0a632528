"""Verdicts as arrays: what agreement, reliability and calibration count with.

Every verdict is a sign on its pair, +1 the smaller response id wins, -1 the larger one, 0 a tie, so that verdicts of
people and judges on one pair can be compared whatever order each was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from farm.data.collect import UNORDERED
from farm.data.looks import looks_like_list
from farm.errors import DataError
from farm.evaluate import intervals
from farm.evaluate.intervals import Array
from farm.records import Estimate, Judgement, Response
from farm.seeds import rng

Ints = npt.NDArray[np.int64]
Ties = Literal["half", "exact", "decided"]
SIGNS = np.array([-1, 0, 1])
MANY = 20_000  # clusters whose resampling weights are not kept in memory all at once


@dataclass(frozen=True)
class Items:
    """The pairs, shape (n,) each: ``cluster`` numbers the instruction; ``longer`` and ``lists`` point at the longer
    text and the only list with the sign of a verdict; ``known`` is False where neither text is known."""

    ids: tuple[str, ...]
    cluster: Ints
    longer: Ints
    lists: Ints
    known: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Ballots:
    """Acts with a verdict, shape (m,) each: the pair's number, the annotator's number in ``names``, the verdict, and
    the sign of the response shown first (0 where the order is not known)."""

    names: tuple[str, ...]
    item: Ints
    annotator: Ints
    verdict: Ints
    first: Ints

    def __len__(self) -> int:
        return len(self.item)

    def where(self, keep: npt.NDArray[np.bool_]) -> Ballots:
        return Ballots(self.names, self.item[keep], self.annotator[keep], self.verdict[keep], self.first[keep])

    def of(self, name: str) -> Ballots:
        """Those of one annotator."""
        return self.where(self.annotator == self.names.index(name))

    def counts(self, n: int) -> Array:
        """Votes for -1, 0 and +1 per pair, shape (n, 3)."""
        flat = np.bincount(self.item * 3 + self.verdict + 1, minlength=3 * n)
        return flat.reshape(n, 3).astype(float)


def items_of(
    judgements: Iterable[Judgement],
    responses: Mapping[str, Response],
    *,
    longer_by: int = 0,
    has_list: Callable[[str], bool] = looks_like_list,
) -> Items:
    """All pairs that the judgements are about, in order of appearance.

    A text counts as longer when it has more than ``longer_by`` characters more.
    Raises DataError when a judgement names an unknown response.
    """
    seen: dict[str, Judgement] = {}
    for j in judgements:
        seen.setdefault(j.pair_id, j)
    looks: dict[str, tuple[int, bool]] = {}

    def look(judgement: Judgement, response_id: str) -> tuple[int, bool]:
        if response_id not in looks:
            if response_id not in responses:
                raise DataError(
                    f"judgement on pair {judgement.pair_id} by {judgement.annotator} names response {response_id}, "
                    f"which is not among the {len(responses)} responses given"
                )
            text = responses[response_id].text
            looks[response_id] = (len(text), has_list(text))
        return looks[response_id]

    rows = []
    for j in seen.values():
        (length_a, list_a), (length_b, list_b) = (look(j, i) for i in sorted(j.shown))
        gap = length_a - length_b
        rows.append(((gap > longer_by) - (gap < -longer_by), int(list_a) - int(list_b), length_a + length_b > 0))
    numbers: dict[str, int] = {}
    cluster = [numbers.setdefault(j.instruction_id, len(numbers)) for j in seen.values()]
    longer, lists, known = (np.array([r[k] for r in rows], dtype=np.int64) for k in range(3))
    return Items(tuple(seen), np.array(cluster, dtype=np.int64), longer, lists, known.astype(bool))


def ballots_of(judgements: Sequence[Judgement], items: Items) -> Ballots:
    """The acts with a verdict, in the order given. Raises DataError when one act (pair, annotator, draw) is given
    twice, or is about a pair that is not among ``items``."""
    number = {pair: k for k, pair in enumerate(items.ids)}
    names = tuple(sorted({j.annotator for j in judgements}))
    index = {name: k for k, name in enumerate(names)}
    acts: set[tuple[str, str, int]] = set()
    rows = []
    for j in judgements:
        act = (j.pair_id, j.annotator, j.draw)
        if act in acts:
            raise DataError(
                f"the judgement of pair {j.pair_id} by {j.annotator}, draw {j.draw}, is given twice: give repeated "
                "acts different draw numbers"
            )
        acts.add(act)
        if not j.outcome.judged:
            continue
        if j.pair_id not in number:
            raise DataError(f"judgement of pair {j.pair_id} by {j.annotator}: that pair is not among those given")
        a = min(j.shown)
        verdict = 0 if j.winner_id is None else 1 if j.winner_id == a else -1
        first = 0 if j.fingerprint == UNORDERED else 1 if j.shown[0] == a else -1
        rows.append((number[j.pair_id], index[j.annotator], verdict, first))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Ballots(names, *columns)


def first_of_each(ballots: Ballots) -> Ballots:
    """The first act of every annotator on every pair: a person asked twice has one vote."""
    _, keep = np.unique(ballots.item * (len(ballots.names) + 1) + ballots.annotator, return_index=True)
    chosen = np.zeros(len(ballots), dtype=bool)
    chosen[keep] = True
    return ballots.where(chosen)


# -- majorities -------------------------------------------------------------------------------------------------------


def majority(counts: Array, ties: Ties) -> Array:
    """The majority of votes as chances of being -1, 0 and +1, shape (n, 3); zeros where nobody voted.

    ``half``: the sign of the sum, so that an even vote is a tie. ``exact``: the most frequent of the three answers;
    of several equally frequent ones each has the same chance. ``decided``: as exact, among the decided votes.
    """
    if ties == "half":
        sign = np.sign(counts[:, 2] - counts[:, 0])
        chance = (sign[:, None] == SIGNS[None, :]).astype(float)
        return np.asarray(chance * (counts.sum(1, keepdims=True) > 0))
    if ties == "decided":
        counts = counts * (SIGNS != 0)
    top = counts.max(axis=1, keepdims=True)
    modes = ((counts == top) & (counts > 0)).astype(float)
    return np.asarray(modes / np.maximum(modes.sum(1, keepdims=True), 1))


def credit(ties: Ties) -> Array:
    """What a verdict (row) earns against a majority (column): 1 the same, 0 the opposite; under ``half`` a tie on
    either side earns a half."""
    return np.array(0.5 + 0.5 * np.outer(SIGNS, SIGNS), dtype=float) if ties == "half" else np.eye(3)


def left_out(counts: Array, ties: Ties) -> tuple[Array, Array]:
    """Majority of the others when one vote is left out. Returns it for each answer that may be the one left out, shape
    (3, n, 3), and averaged over the votes of the pair, shape (n, 3), which is zero where a pair has fewer than two."""
    one_less = np.stack([majority(np.maximum(counts - np.eye(3)[k], 0), ties) for k in range(3)])
    usable = counts * (SIGNS != 0) if ties == "decided" else counts
    total = usable.sum(1)
    average = np.einsum("nk,knm->nm", usable, one_less) / np.maximum(total, 1)[:, None]
    return one_less, average * (total > 1)[:, None]


# -- estimates --------------------------------------------------------------------------------------------------------


def per_item(item: Ints, value: Array, n: int) -> Array:
    """Sums of ``value`` per pair, shape (n,)."""
    return np.asarray(np.bincount(item, value, n), dtype=float)


@dataclass(frozen=True)
class Share:
    """A share to be estimated: ``top`` / ``bottom`` summed over pairs, shape (n,) each."""

    top: Array
    bottom: Array
    none: str = "no data"

    @classmethod
    def per_act(cls, item: Ints, value: Array, n: int, none: str = "no data") -> Share:
        return cls(per_item(item, value, n), per_item(item, np.ones(len(item)), n), none)

    @property
    def complement(self) -> Share:
        return Share(self.bottom - self.top, self.bottom, self.none)


def estimate(shares: Sequence[Share], cluster: Ints, *, seed: int) -> list[Estimate]:
    """Every share with its bootstrap interval over clusters; every verdict counts the same. n = the bottom's sum.

    All shares use the same resamples, which are those of :func:`farm.evaluate.intervals.weights`.
    """
    if not shares:
        return []
    n = int(cluster.max()) + 1 if len(cluster) else 0
    columns = np.array([[s.top, s.bottom] for s in shares]).reshape(2 * len(shares), -1)
    sums = np.array([np.bincount(cluster, column, n) for column in columns])
    used = sums.any(axis=0)
    sums = sums[:, used]
    draws = resampled(sums.T, seed) if sums.shape[1] > 1 else np.zeros((0, len(columns)))
    return [
        _ratio(sums[2 * k], sums[2 * k + 1], draws[:, 2 * k], draws[:, 2 * k + 1], s.none) for k, s in enumerate(shares)
    ]


def resampled(sums: Array, seed: int) -> Array:
    """Bootstrap draws of the column means of ``sums`` (clusters, k), shape (resamples, k).

    Of many clusters the weights are made anew a few resamples at a time, which keeps memory bounded.
    """
    n = len(sums)
    if n <= MANY:
        return np.asarray(intervals.weights(n, seed) @ sums)
    draws = np.empty((intervals.RESAMPLES, sums.shape[1]))
    for k in range(intervals.RESAMPLES):
        drawn = rng(seed, "bootstrap instructions", n, k).integers(0, n, n)
        draws[k] = np.bincount(drawn, minlength=n) @ sums / n
    return draws


def _ratio(top: Array, bottom: Array, tops: Array, bottoms: Array, none: str) -> Estimate:
    total = float(bottom.sum())
    n = round(total)
    if total <= 0:
        return Estimate(value=None, n=0, note=f"not estimable: {none}")
    value = float(top.sum()) / total
    present = bottom > 0
    if present.sum() == 1:
        return Estimate(value=value, n=n, note="no interval: one instruction")
    each = top[present] / bottom[present]
    if np.ptp(each) < 1e-12:
        return Estimate(value=value, n=n, note="no interval: all values are equal")
    some = bottoms > 1e-12
    low, high = intervals.percentiles(tops[some] / bottoms[some])
    return Estimate(value=value, ci95_low=low, ci95_high=high, n=n)
