"""Win rates from a sample of pairs that people labelled, helped by simulated verdicts on all pairs.

    helped_k = mean over all pairs of policy k of f(x_i)  +  sum over its labelled pairs of (h_i - f(x_i)) / (N_k pi_i)

h is the mean label of a pair in [0, 1], pi the probability with which the pair was drawn, x the simulator's chance and
the difference in length, f a least-squares fit with one intercept per policy and slopes shared by all. This is the
generalised regression estimator of survey sampling (Sarndal, Swensson and Wretman 1992, ch. 6), the form that
prediction-powered inference takes when pairs are drawn unequally. A useless simulator gets slopes near zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.evaluate.intervals import Array
from farm.label.select import Unit
from farm.records import Estimate, Judgement

FEWEST = 5  # labelled pairs of a policy
_Z = 1.959964

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rate:
    """One policy against the reference: what people say, weighted by how pairs were drawn; the same helped by the
    simulator; and the simulator alone, all in [0, 1]. n = labelled pairs (simulator: all pairs)."""

    policy: str
    reference: str
    people: Estimate
    helped: Estimate
    simulator: Estimate


def labels(votes: Sequence[Judgement], policy_of: Mapping[str, str], reference: str) -> dict[str, float]:
    """Pair id -> mean label in [0, 1], 1 where the policy's response is preferred to the reference's, ties half."""
    found: dict[str, list[float]] = defaultdict(list)
    for j in votes:
        if j.outcome.judged:
            found[j.pair_id].append(0.5 if j.winner_id is None else float(policy_of[j.winner_id] != reference))
    return {pair: sum(values) / len(values) for pair, values in found.items()}


def win_rates(frame: Sequence[Unit], labelled: Mapping[str, float], drawn: Mapping[str, float]) -> list[Rate]:
    """One row per policy, by name. ``frame`` are all pairs; ``labelled`` as :func:`labels` makes it; ``drawn`` maps a
    chosen pair to the probability with which it was drawn (empty: all pairs were equally likely).

    Intervals are normal, over pairs, with the sample's own residuals. Fewer than 5 labelled pairs: not estimable.
    """
    if not frame:
        return []
    policies = sorted({u.policy for u in frame})
    which = np.array([policies.index(u.policy) for u in frame], dtype=int)
    used = np.array([k for k, u in enumerate(frame) if u.pair_id in labelled], dtype=int)
    part = len(used) / len(drawn or frame)  # of what was chosen, this much is labelled so far
    weight = np.array([1 / (drawn.get(frame[k].pair_id, 1.0) * part) for k in used])
    h = np.array([labelled[frame[k].pair_id] for k in used], dtype=float)
    seen = np.array([[u.chance, u.longer] for u in frame], dtype=float)
    plain = _fit(which, seen[:, :0], used, h, weight)
    helped = _fit(which, seen, used, h, weight)
    said = [np.array([u.wins / u.verdicts for u in frame if u.policy == p and u.verdicts]) for p in policies]
    return [Rate(p, frame[0].reference, plain[k], helped[k], _mean(said[k])) for k, p in enumerate(policies)]


def _fit(which: Ints, seen: Array, used: Ints, h: Array, weight: Array) -> list[Estimate]:
    """One estimate per policy. ``which`` (N,) numbers the policy of every pair, ``seen`` (N, c) are its covariates;
    ``used`` (n,) are the labelled pairs, ``h`` and ``weight`` (n,) their labels and weights."""
    counts = np.bincount(which[used], minlength=which.max() + 1)
    enough = np.flatnonzero(counts >= FEWEST)
    note = f"not estimable: fewer than {FEWEST} labelled pairs"
    result = [Estimate(value=None, n=int(n), note=note) for n in counts]
    if not len(enough):
        return result
    keep = np.isin(which[used], enough)
    used, h, weight = used[keep], h[keep], weight[keep]
    x = np.column_stack([which[:, None] == enough[None, :], seen]).astype(float)
    root = np.sqrt(weight)
    beta = np.linalg.lstsq(x[used] * root[:, None], h * root, rcond=None)[0]
    prediction = x @ beta
    residual = h - prediction[used]
    lost = len(h) / max(len(h) - int(np.linalg.matrix_rank(x[used])), 1)  # degrees of freedom
    for k in enough:
        mine, everywhere = which[used] == k, prediction[which == k]
        total = len(everywhere) if seen.shape[1] else weight[mine].sum()
        value = float(everywhere.mean())
        spread = float(everywhere.var() / len(everywhere))
        error = float(np.sqrt(lost * ((residual[mine] * weight[mine]) ** 2).sum() / total**2 + spread))
        low, high = max(0.0, value - _Z * error), min(1.0, value + _Z * error)
        result[k] = Estimate(value=min(max(value, 0.0), 1.0), ci95_low=low, ci95_high=high, n=int(counts[k]))
    return result


def _mean(values: Array) -> Estimate:
    if len(values) < 2:
        return Estimate(value=None, n=len(values), note="not estimable: no simulated verdicts")
    middle, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value=middle, ci95_low=middle - _Z * error, ci95_high=middle + _Z * error, n=len(values))
