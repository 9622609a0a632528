"""Bradley-Terry ratings of many policies from judgements between any of them, ties as half a win each.

    P(a preferred to b) = sigmoid(r_a - r_b)

A verdict with score s (1, 0, or between for ties and soft verdicts) counts s wins and 1 - s losses, so that the fitted
model reproduces every policy's expected score (Bradley & Terry 1952; Hunter 2004 for existence). Ties as half a win
rather than Davidson's tie parameter: ratings then say the same as win rates do everywhere else in the farm, and are
defined for soft verdicts. Ratings are finite only when no group of policies always beats the rest: otherwise they are
'not estimable', unless ``prior`` adds that many wins, half each way, between all policies that met.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from farm.data.verdicts import Verdicts
from farm.evaluate.intervals import SAME, Array, percentiles, weights
from farm.records import Estimate, Record

RESAMPLES = 1000
ELO = 400 / np.log(10)  # Elo points per unit of log-odds


class Contest(NamedTuple):
    """One verdict between two policies: ``score`` in [0, 1] is what ``first`` got, 0.5 for a tie."""

    instruction: str
    first: str
    second: str
    score: float


class Rating(Record):
    """``rating`` in log-odds, the mean over policies being 0 (times 400 / ln 10 for Elo points); ``score`` is the
    share of its contests that the policy won, ``n`` how many it had."""

    policy: str
    rating: Estimate
    score: float
    n: int


def contests(verdicts: Iterable[Verdicts]) -> list[Contest]:
    """Every verdict of ``verdicts`` as a contest of model and reference; failures are left out."""
    return [
        Contest(i, v.model, v.reference, float(s))
        for v in verdicts
        for i, s in zip(v.ids, v.score, strict=True)
        if not np.isnan(s) and v.model != v.reference
    ]


def ratings(rows: Sequence[Contest], *, seed: int, prior: float = 0.0, resamples: int = RESAMPLES) -> list[Rating]:
    """Ratings in descending order with 95% bootstrap intervals over instructions (``resamples`` 0: none).

    All contests on one instruction are one cluster. Where the ratings do not exist every one is None, and the note
    names the policies that keep them from existing. Resamples without finite ratings are counted in the note; above
    2.5% there is no interval. With a ``prior`` the note says so.
    """
    names = sorted({name for r in rows for name in (r.first, r.second)})
    tables, wins = _tables(rows, names)
    total = wins + _prior(wins, prior)
    played = wins.sum(axis=1) + wins.sum(axis=0)
    scores = np.divide(wins.sum(axis=1), played, out=np.zeros(len(names)), where=played > 0)
    reason = missing(total, names)
    if reason:
        values = [Estimate(value=None, n=len(tables), note=f"not estimable: {reason}")] * len(names)
    else:
        values = _intervals(tables, total, prior, seed, resamples)
    found = [
        Rating(policy=name, rating=values[k], score=float(scores[k]), n=round(float(played[k])))
        for k, name in enumerate(names)
    ]
    return sorted(found, key=lambda r: (-(r.rating.value if r.rating.value is not None else r.score), r.policy))


def _tables(rows: Sequence[Contest], names: Sequence[str]) -> tuple[Array, Array]:
    """Wins by instruction (n, P * P) and in total (P, P); [a, b] = wins of a over b."""
    place = {name: k for k, name in enumerate(names)}
    instructions = {i: k for k, i in enumerate(sorted({r.instruction for r in rows}))}
    p = len(names)
    tables = np.zeros((len(instructions), p, p))
    for r in rows:
        a, b, i = place[r.first], place[r.second], instructions[r.instruction]
        tables[i, a, b] += r.score
        tables[i, b, a] += 1 - r.score
    return tables.reshape(len(instructions), p * p), tables.sum(axis=0)


def _prior(wins: Array, prior: float) -> Array:
    met: Array = np.where(wins + wins.T > 0, prior / 2, 0.0)
    return met


def missing(wins: Array, names: Sequence[str]) -> str:
    """Why no finite ratings exist ('' when they do): the graph of who beat whom must be strongly connected."""
    if len(names) < 2:
        return "one policy only"
    joined = _reach((wins + wins.T) > 0)
    if not joined.all():
        first = [n for n, near in zip(names, joined[0], strict=True) if near]
        return f"no contest links {_some(first)} with the others"
    reach = _reach(wins > 0)
    if reach.all():
        return ""
    for k in np.argsort(reach.sum(axis=0)):  # a policy that few can reach by a chain of wins belongs to the top
        top = [n for n, m in zip(names, reach[k] & reach[:, k], strict=True) if m]
        outside = np.array([n not in top for n in names])
        inside = ~outside
        if wins[np.ix_(outside, inside)].sum() == 0:
            return f"{_some(top)} never lost to the others"
    return "some policies always win"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _reach(edges: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Which node can reach which, itself included."""
    reach = edges | np.eye(len(edges), dtype=bool)
    for _ in range(max(1, len(edges).bit_length())):
        reach = (reach.astype(float) @ reach.astype(float)) > 0
    return reach


def fit(wins: Array, start: Array | None = None) -> Array:
    """Maximum-likelihood ratings (..., P) with mean 0 of win tables (..., P, P), by Newton's method on all at once.

    ``wins[..., a, b]`` counts wins of a over b. The tables must be strongly connected (:func:`missing`).
    """
    p = wins.shape[-1]
    games = wins + np.swapaxes(wins, -1, -2)
    r = np.zeros(wins.shape[:-1]) if start is None else np.broadcast_to(start, wins.shape[:-1]).copy()
    for _ in range(100):
        gap = r[..., :, None] - r[..., None, :]
        chance = 1 / (1 + np.exp(-gap))
        gradient = (wins - games * chance).sum(axis=-1)
        pull = games * chance * (1 - chance)
        hessian = -pull
        hessian[..., range(p), range(p)] += pull.sum(axis=-1)
        hessian += 1.0 / p  # ratings are defined up to a constant: hold their mean
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step *= np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(axis=-1, keepdims=True), 1e-12))
        r = r + step
        if np.abs(step).max() < 1e-9:
            break
    result: Array = r - r.mean(axis=-1, keepdims=True)
    return result


def _intervals(tables: Array, total: Array, prior: float, seed: int, resamples: int) -> list[Estimate]:
    n, p = len(tables), len(total)
    value = fit(total)
    note = f"regularised by {prior:g} wins between all that met" if prior else ""
    if n == 1 or not resamples:
        note = "; ".join(filter(None, (note, "no interval: one instruction" if n == 1 else "")))
        return [Estimate(value=float(v), n=n, note=note) for v in value]
    counts = n * weights(n, seed, resamples)
    drawn = (counts @ tables).reshape(resamples, p, p)
    drawn += _prior(total, prior)
    good = np.array([_reach(w > 0).all() for w in drawn])
    lost = int((~good).sum())
    if lost:
        note = "; ".join(filter(None, (note, f"{lost} of {resamples} resamples have no finite ratings")))
    if lost > 0.025 * resamples:
        return [Estimate(value=float(v), n=n, note=f"no interval: {note}") for v in value]
    fits = np.concatenate([fit(part, value) for part in np.array_split(drawn[good], max(1, resamples // 100))])
    found = []
    for k, v in enumerate(value):
        if np.ptp(fits[:, k]) <= SAME:
            same = "; ".join(filter(None, ("no interval: the same in every resample", note)))
            found.append(Estimate(value=float(v), n=n, note=same))
        else:
            low, high = percentiles(fits[:, k])
            found.append(Estimate(value=float(v), ci95_low=low, ci95_high=high, n=n, note=note))
    return found
