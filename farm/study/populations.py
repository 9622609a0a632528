"""Simulated populations in the seats of people who voted: a calibrated one, and one with uniform flips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from farm.evaluate.intervals import Array
from farm.seeds import rng
from farm.study.ballots import Ints, per_item
from farm.study.calibration import Calibration, sigmoid
from farm.study.calibration_data import Data

FLIP = 0.25
REPEATS = 200  # simulated populations per comparison

Labels = npt.NDArray[np.int8]


def flipped(verdict: Array) -> Array:
    """P(a) after uniform flips of what an act said."""
    return np.asarray(0.5 + (0.5 - FLIP) * verdict)


def decided(data: Data) -> Data:
    """The data without tied votes."""
    some = data.vote != 0.5
    return replace(
        data,
        vote_item=data.vote_item[some],
        person=data.person[some],
        vote=data.vote[some],
        vote_order=data.vote_order[some],
    )


@dataclass(frozen=True)
class Seats:
    """Labels of both populations, +1 for ``a``: shape (repeats, votes)."""

    calibrated: Labels
    uniform: Labels


def simulate(data: Data, evidence: Array, fitted: Calibration, seed: int) -> Seats:
    """Every repeat seats the pair's annotators in a random order, each once before any comes again."""
    from scipy.special import ndtr

    draw = rng(seed, "calibration populations")
    seat = _seat(data)
    lean = np.array([fitted.annotators[n].first for n in data.names])
    taste = np.array([fitted.annotators[n].longer for n in data.names])
    shared, n = fitted.pool.shared, len(data.vote)
    ours, theirs = np.empty((REPEATS, n), dtype=np.int8), np.empty((REPEATS, n), dtype=np.int8)
    for r in range(REPEATS):
        act = np.lexsort((draw.random(len(data.item)), data.item))[seat]
        who = data.who[act]
        odds = evidence[data.vote_item] + lean[who] * data.vote_order + taste[who] * data.length[data.vote_item]
        pair, own = draw.standard_normal(len(data.pairs)), draw.standard_normal(n)
        luck = ndtr(np.sqrt(shared) * pair[data.vote_item] + np.sqrt(1 - shared) * own)
        ours[r] = np.where(luck < sigmoid(odds), 1, -1)
        theirs[r] = np.where(draw.random(n) < flipped(data.verdict[act]), 1, -1)
    return Seats(ours, theirs)


def _seat(data: Data) -> Ints:
    """For every vote the place of an act among all acts in random order within pairs: the pair's first, second, ..."""
    acts = data.acts.astype(np.int64)
    start = np.concatenate([[0], np.cumsum(acts)[:-1]])
    order = np.argsort(data.vote_item, kind="stable")
    items = data.vote_item[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(items, items)
    return np.asarray(start[data.vote_item] + place % acts[data.vote_item])


def counts_of(data: Data, label: Labels | Array) -> Array:
    """Votes for b, none, and a per pair, shape (pairs, 3)."""
    n = len(data.pairs)
    for_a = per_item(data.vote_item, (label > 0).astype(float), n)
    total = per_item(data.vote_item, np.ones(len(label)), n)
    return np.stack([total - for_a, np.zeros(n), for_a], axis=1)


def averaged(labels: Labels, value: Callable[[Labels], Array]) -> Array:
    total = value(labels[0])
    for one in labels[1:]:
        total = total + value(one)
    return np.asarray(total / len(labels))


def cells(data: Data, label: Labels) -> Array:
    """Minority votes per pair as an indicator, shape (pairs, most votes // 2 + 1)."""
    counts = counts_of(data, label)
    minority = counts[:, [0, 2]].min(axis=1).astype(np.int64)
    top = int(counts.sum(1).max()) // 2
    return np.asarray((minority[:, None] == np.arange(top + 1)).astype(float))
