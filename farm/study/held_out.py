"""A calibrated population against uniform flips, on votes that it was not fitted to.

Both populations stand in the people's seats: the same pairs, the same number of votes, the same orders. Uniform flips
are AlpacaFarm's: an annotator of the pool says what it said, and a quarter of the labels is turned round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.errors import DataError
from farm.evaluate import intervals
from farm.evaluate.intervals import Array
from farm.records import Estimate, Record
from farm.study import populations
from farm.study.ballots import Ints, left_out, per_item
from farm.study.calibration import (
    READING,
    Calibration,
    evidence_of,
    fit,
    log_loss,
    sigmoid,
)
from farm.study.calibration_data import Data, couples, halves
from farm.study.populations import Labels, Seats, averaged, cells, counts_of, flipped

BINS = 10


class Score(Record):
    """One comparison. ``people`` is what people do, where there is such a thing. ``gain`` is by how much calibration is
    better than uniform flips: a smaller loss, or a smaller distance to the people."""

    name: str
    people: Estimate | None = None
    calibrated: Estimate
    uniform: Estimate
    gain: Estimate


class Bin(Record):
    """Votes whose favoured side had about the same predicted chance: mean prediction, share that voted so, and n."""

    predicted: float
    observed: float
    n: int


class SplitShare(Record):
    """Pairs with ``votes`` decided votes of which ``minority`` are against the majority: how many there are, and how
    many each population makes on average."""

    votes: int
    minority: int
    people: int
    calibrated: float
    uniform: float


class HeldOut(Record):
    """All comparisons on the reporting half."""

    scores: tuple[Score, ...]
    reliability_calibrated: tuple[Bin, ...]
    reliability_uniform: tuple[Bin, ...]
    splits: tuple[SplitShare, ...]
    n_votes: int
    n_pairs: int
    n_instructions: int

    def score(self, name: str) -> Score:
        return next(s for s in self.scores if s.name == name)


def compare(data: Data, fitted: Calibration, *, seed: int, resamples: int = intervals.RESAMPLES) -> HeldOut:
    """Compare on the votes in ``data``. Intervals: bootstrap over instructions, the fit held fixed."""
    there = np.unique(data.vote_item)
    cluster = _renumbered(data.cluster, there)
    over = _Over(cluster, intervals.weights(int(cluster.max()) + 1, seed, resamples))
    weights = np.array([[getattr(fitted.annotators[n], k) for k in READING] for n in data.names])
    evidence = evidence_of(data, weights, fitted.pool.dependence, fitted.pool.fading)
    calibrated = sigmoid(evidence[data.vote_item] + fitted.common.first * data.vote_order)
    said = per_item(data.item, flipped(data.verdict), len(data.pairs)) / data.acts
    uniform = said[data.vote_item]
    scores = [
        _loss(
            "log loss, all acts", over, data.vote_item, log_loss(calibrated, data.vote), log_loss(uniform, data.vote)
        ),
        _one_act(over, data, weights, fitted),
        _calibration_error(over, data, calibrated, uniform),
    ]
    decided = populations.decided(data)
    seats = populations.simulate(decided, evidence, fitted, seed)
    scores += _shares(over, decided, seats)
    scores += _split_scores(over, decided, seats, calibrated[data.vote != 0.5], uniform[data.vote != 0.5])
    return HeldOut(
        scores=tuple(scores),
        reliability_calibrated=_bins(calibrated, data.vote),
        reliability_uniform=_bins(uniform, data.vote),
        splits=_split_table(decided, seats),
        n_votes=len(data.vote),
        n_pairs=len(there),
        n_instructions=int(cluster.max()) + 1,
    )


def _renumbered(cluster: Ints, items: Ints) -> Ints:
    """Clusters numbered anew among those of ``items``; the other items get cluster 0, and weigh nothing."""
    result = np.zeros(len(cluster), dtype=np.int64)
    result[items] = np.unique(cluster[items], return_inverse=True)[1]
    return result


# -- bootstrap over instructions --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Over:
    """Sums per pair, resampled by instruction."""

    cluster: Ints
    weights: Array

    def sums(self, item: Ints, value: Array) -> tuple[float, Array]:
        """The total, and its bootstrap draws (up to the factor n that cancels in ratios)."""
        per_cluster = np.asarray(np.bincount(self.cluster[item], value, self.weights.shape[1]))
        return float(per_cluster.sum()), self.weights @ per_cluster * self.weights.shape[1]

    def share(self, item: Ints, top: Array, bottom: Array | None = None) -> tuple[float, Array, int]:
        """A ratio of sums with its draws and its n."""
        tops, bottoms = self.sums(item, top), self.sums(item, np.ones(len(item)) if bottom is None else bottom)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = tops[0] / bottoms[0] if bottoms[0] else float("nan")
            return value, tops[1] / bottoms[1], round(bottoms[0])


def _estimate(value: float, draws: Array, n: int) -> Estimate:
    usable = draws[np.isfinite(draws)]
    if not np.isfinite(value):
        return Estimate(value=None, n=n, note="not estimable: no such votes")
    if len(usable) < 2 or np.ptp(usable) == 0:
        return Estimate(value=value, n=n, note="no interval: nothing varies between instructions")
    low, high = intervals.percentiles(usable)
    return Estimate(value=value, ci95_low=low, ci95_high=high, n=n)


def _score(
    name: str,
    ours: tuple[float, Array],
    theirs: tuple[float, Array],
    n: int,
    people: tuple[float, Array] | None = None,
    sign: float = 1.0,
) -> Score:
    """Losses are compared as they are (``sign`` -1 for what should be large), shares by their distance to people's."""
    if people is None:
        gap = sign * (theirs[0] - ours[0]), sign * (theirs[1] - ours[1])
    else:
        gap = (
            abs(theirs[0] - people[0]) - abs(ours[0] - people[0]),
            np.abs(theirs[1] - people[1]) - np.abs(ours[1] - people[1]),
        )
    return Score(
        name=name,
        people=None if people is None else _estimate(*people, n),
        calibrated=_estimate(*ours, n),
        uniform=_estimate(*theirs, n),
        gain=_estimate(*gap, n),
    )


def _loss(name: str, over: _Over, item: Ints, ours: Array, theirs: Array, weight: Array | None = None) -> Score:
    w = np.ones(len(item)) if weight is None else weight
    a, b = over.share(item, ours * w, w), over.share(item, theirs * w, w)
    return _score(name, a[:2], b[:2], a[2])


# -- predictions ------------------------------------------------------------------------------------------------------


def _one_act(over: _Over, data: Data, weights: Array, fitted: Calibration) -> Score:
    """Every act judged alone, as when one annotator labels each pair; every vote counts once."""
    act, vote = couples(data)
    w, item = weights[data.who[act]], data.item[act]
    odds = w[:, 0] * data.verdict[act] + w[:, 1] * data.odds[act] + w[:, 2] * data.order[act]
    odds += w[:, 3] * data.length[item] + w[:, 4] * data.lists[item] + fitted.common.first * data.vote_order[vote]
    y = data.vote[vote]
    losses = log_loss(sigmoid(odds), y), log_loss(flipped(data.verdict[act]), y)
    return _loss("log loss, one act", over, item, *losses, weight=1 / data.acts[item])


def _folded(p: Array, y: Array) -> tuple[Array, Array, Ints]:
    """Predictions and votes seen from the favoured side, and ten bins of equally many votes (equal ones together)."""
    side = p >= 0.5
    p, y = np.where(side, p, 1 - p), np.where(side, y, 1 - y)
    edges = np.unique(np.quantile(p, np.arange(1, BINS) / BINS))
    return p, y, np.searchsorted(edges, p, side="left")


def _bins(p: Array, y: Array) -> tuple[Bin, ...]:
    p, y, where = _folded(p, y)
    found = []
    for k in np.unique(where):
        some = where == k
        found.append(Bin(predicted=float(p[some].mean()), observed=float(y[some].mean()), n=int(some.sum())))
    return tuple(found)


def _calibration_error(over: _Over, data: Data, ours: Array, theirs: Array) -> Score:
    """Expected calibration error: the mean distance of prediction and outcome over bins, weighted by votes."""

    def error(p: Array) -> tuple[float, Array]:
        p, y, where = _folded(p, data.vote)
        parts = [over.sums(data.vote_item, (p - y) * (where == k)) for k in np.unique(where)]
        n = over.sums(data.vote_item, np.ones(len(p)))
        return sum(abs(v) for v, _ in parts) / n[0], np.abs([d for _, d in parts]).sum(axis=0) / n[1]

    return _score("calibration error", error(ours), error(theirs), len(data.vote))


# -- populations in the people's seats --------------------------------------------------------------------------------


def _shares(over: _Over, data: Data, seats: Seats) -> list[Score]:
    """What the populations prefer and how they agree, beside what people do, on decided votes."""
    item, people = data.vote_item, np.where(data.vote > 0.5, 1, -1).astype(np.int8)
    counts = counts_of(data, people)
    one_less, _ = left_out(counts, "half")
    others = one_less[people + 1, item] @ np.array([-1, 0, 1])
    several = counts.sum(1)[item] > 1
    every: list[tuple[str, Array, npt.NDArray[np.bool_]]] = [
        ("agreement with the majority of others", others, several),
        ("prefers longer", np.sign(data.length[item]), data.length[item] != 0),
        ("prefers lists", np.sign(data.lists[item]), data.lists[item] != 0),
        ("prefers first", data.vote_order, data.vote_order != 0),
    ]
    scores = []
    for name, target, some in every:

        def earned(label: Labels, target: Array = target) -> Array:
            return np.asarray(0.5 + 0.5 * label * target)

        found = [
            over.share(item[some], values[some])
            for values in (earned(people), averaged(seats.calibrated, earned), averaged(seats.uniform, earned))
        ]
        scores.append(_score(name, found[1][:2], found[2][:2], found[0][2], found[0][:2]))

    def disagreement(label: Labels) -> Array:
        less, _ = left_out(counts_of(data, label), "half")
        return np.asarray(0.5 - 0.5 * label * (less[label + 1, item] @ np.array([-1, 0, 1])))

    found = [
        over.share(item[several], values[several])
        for values in (
            disagreement(people),
            averaged(seats.calibrated, disagreement),
            averaged(seats.uniform, disagreement),
        )
    ]
    scores.insert(1, _score("variance", found[1][:2], found[2][:2], found[0][2], found[0][:2]))
    return scores


def _split_table(data: Data, seats: Seats) -> tuple[SplitShare, ...]:
    people = np.where(data.vote > 0.5, 1, -1).astype(np.int8)
    tables = [
        cells(data, people),
        averaged(seats.calibrated, lambda x: cells(data, x)),
        averaged(seats.uniform, lambda x: cells(data, x)),
    ]
    votes = counts_of(data, people).sum(1).astype(int)
    rows = []
    for v in sorted(set(votes[votes > 1])):
        some = votes == v
        for m in range(v // 2 + 1):
            there, ours, theirs = (t[some, m].sum() for t in tables)
            rows.append(
                SplitShare(
                    votes=int(v), minority=m, people=int(there), calibrated=round(ours, 4), uniform=round(theirs, 4)
                )
            )
    return tuple(rows)


def _split_scores(over: _Over, data: Data, seats: Seats, ours: Array, theirs: Array) -> list[Score]:
    """Distance of the distributions of vote splits (total variation, given the number of votes), and correlation of
    predicted with observed disagreement over pairs."""
    people = np.where(data.vote > 0.5, 1, -1).astype(np.int8)
    counts = counts_of(data, people)
    votes = counts.sum(1).astype(int)
    pairs = np.flatnonzero(votes > 1)
    if not len(pairs):
        none = Estimate(value=None, n=0, note="not estimable: no pair has two decided votes")
        names = ("distance of vote splits", "finds the contested pairs")
        return [Score(name=name, calibrated=none, uniform=none, gain=none) for name in names]
    tables = [
        cells(data, people),
        averaged(seats.calibrated, lambda x: cells(data, x)),
        averaged(seats.uniform, lambda x: cells(data, x)),
    ]
    distances = []
    for table in tables[1:]:
        value, draws = 0.0, np.zeros(len(over.weights))
        for v in sorted(set(votes[pairs])):
            some = pairs[votes[pairs] == v]
            for m in range(v // 2 + 1):
                total, drawn = over.sums(some, tables[0][some, m] - table[some, m])
                value, draws = value + abs(total) / 2, draws + np.abs(drawn) / 2
        n, drawn_n = over.sums(pairs, np.ones(len(pairs)))
        with np.errstate(invalid="ignore"):
            distances.append((value / n, draws / drawn_n))
    observed = 2 * counts[pairs, 0] * counts[pairs, 2] / (votes[pairs] * (votes[pairs] - 1))
    correlations = []
    for p in (ours, theirs):
        mean = per_item(data.vote_item, p, len(votes)) / np.maximum(votes, 1)
        correlations.append(_correlation(over, pairs, 2 * mean[pairs] * (1 - mean[pairs]), observed))
    return [
        _score("distance of vote splits", distances[0], distances[1], len(pairs)),
        _score("finds the contested pairs", correlations[0], correlations[1], len(pairs), sign=-1),
    ]


def _correlation(over: _Over, item: Ints, x: Array, y: Array) -> tuple[float, Array]:
    """Pearson's correlation over pairs with its draws."""
    values = [over.sums(item, v) for v in (np.ones(len(x)), x, y, x * y, x * x, y * y)]

    def r(k: int) -> Array:
        n, sx, sy, sxy, sxx, syy = (np.asarray(v[k], dtype=float) for v in values)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.maximum(sxx / n - (sx / n) ** 2, 0) * np.maximum(syy / n - (sy / n) ** 2, 0)
            return np.asarray(np.where(spread > 1e-15, (sxy / n - sx * sy / n**2) / np.sqrt(spread), np.nan))

    return float(r(0)), r(1)


class CalibrationStudy(Record):
    """What ``farm calibrate`` says: the population fitted on one half, and how it does on the other."""

    calibration: Calibration
    held_out: HeldOut
    seed: int
    n_judges: int
    n_tied: int


def study(data: Data, *, seed: int) -> CalibrationStudy:
    """Fit on half of the instructions, compare on the other half. Raises DataError when a half is too small."""
    fit_on, report_on = halves(data, seed)
    if not report_on[data.vote_item].any():
        raise DataError("not estimable: all votes are on one instruction, so there is no half to report on")
    fitted = fit(data.on(fit_on))
    return CalibrationStudy(
        calibration=fitted,
        held_out=compare(data.on(report_on), fitted, seed=seed),
        seed=seed,
        n_judges=len(data.names),
        n_tied=int((data.vote == 0.5).sum()),
    )
