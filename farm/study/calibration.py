"""Fits the population of annotators to human votes.

The model and its formula are in ``farm/annotate/calibrated.py``, which the labelling stage draws from. It is fitted
in four steps, each with few numbers, because human votes are few:

1. how to read one act: a logistic regression of people's votes on the act's verdict, its log-odds, its order, and the
   texts' length and lists, with people's own lean to the first (Platt's calibration with covariates; a monotone fit
   such as isotonic regression needs more votes than people collect); then once more per annotator, its weights drawn
   to the common ones by a normal prior whose standard deviations are estimated from the annotators (empirical Bayes);
2. ``dependence`` and ``fading``: what several acts on one pair are worth together, by the likelihood of the votes;
3. how much people differ in their lean to the first and their taste for length: the standard deviations of a random
   slope per person, which the annotators get as evenly spread quantiles;
4. ``shared``: how much of the luck belongs to the pair, by the likelihood of all votes on a pair together.

The variances of steps 1 and 3 are found by EM with Laplace's approximation. A tie counts as half a vote for either
side. With few votes the fit stays near its prior, which is AlpacaFarm's uniform flip of a quarter of the labels.
``pool.yaml`` of a calibrated pool has, beside the usual fields,

    noise: {dependence: 0.4, fading: 0.1, shared: 0.3}                        # top level: calibrated.PoolNoise
    annotators:
      - id: a01
        ...
        noise: {verdict: 0.9, confidence: 0.0, position: -0.1, length: 0.8, lists: 0.1, first: 0.1, longer: -0.4}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from farm.annotate.calibrated import ActNoise, PoolNoise
from farm.errors import DataError
from farm.evaluate.intervals import Array
from farm.records import Record
from farm.seeds import key
from farm.study.ballots import Ints, per_item
from farm.study.calibration_data import Data, couples

PRIOR = np.array([np.log(3), 0, 0, 0, 0, 0])  # of the common weights and the lean to the first: a quarter is flipped
WIDE = 0.5  # its standard deviation, in log-odds
SPREAD = 0.25  # and of an annotator's around the common ones, before it is estimated
ROUNDS = 20  # of EM for the annotators
READING = ("verdict", "confidence", "position", "length", "lists")
FEWEST = 10  # votes and pairs below which nothing is fitted
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Calibration(Record):
    """A fitted population. ``common`` are the weights shared by all annotators; ``spread_first`` and
    ``spread_longer`` the standard deviations between people."""

    annotators: dict[str, ActNoise]
    common: ActNoise
    pool: PoolNoise
    spread_first: float
    spread_longer: float
    n_votes: int
    n_pairs: int
    n_people: int


def fit(data: Data) -> Calibration:
    """Fit the population to all votes in ``data``.

    Raises DataError on fewer than 10 votes or pairs.
    """
    n_pairs = len(np.unique(data.vote_item))
    if min(len(data.vote), n_pairs) < FEWEST:
        raise DataError(
            f"not estimable: {len(data.vote)} votes on {n_pairs} pairs to fit; at least {FEWEST} are needed"
        )
    act, vote = couples(data)
    common, first = _common_weights(data, act, vote)
    weights = _own_weights(data, act, vote, common, first)
    dependence, fading = _worth_together(data, weights, first)
    odds = evidence_of(data, weights, dependence, fading)[data.vote_item] + first * data.vote_order
    spread = {
        "first": round(spread_between(data.person, data.vote_order, data.vote, odds), 4),
        "longer": round(spread_between(data.person, data.length[data.vote_item], data.vote, odds), 4),
    }
    return Calibration(
        annotators=population(dict(zip(data.names, weights, strict=True)), first, spread),
        common=_noise(common, first),
        pool=PoolNoise(dependence=dependence, fading=fading, shared=shared_luck(data, sigmoid(odds))),
        spread_first=spread["first"],
        spread_longer=spread["longer"],
        n_votes=len(data.vote),
        n_pairs=n_pairs,
        n_people=len(np.unique(data.person)),
    )


def population(weights: Mapping[str, Array], first: float, spread: Mapping[str, float]) -> dict[str, ActNoise]:
    """Annotators with their weights and a person's lean and taste each: the quantiles of a normal distribution, handed
    out in an order drawn from the names, so that the population's spread is that of the people and its mean zero."""
    z = [NormalDist().inv_cdf((k + 0.5) / len(weights)) for k in range(len(weights))]
    rank = {
        what: {name: r for r, name in enumerate(sorted(weights, key=lambda n: key(0, f"person {what}", n)))}
        for what in spread
    }
    return {
        name: _noise(w, first + spread["first"] * z[rank["first"][name]], spread["longer"] * z[rank["longer"][name]])
        for name, w in weights.items()
    }


def for_pool(fitted: Calibration, annotators: Sequence[str]) -> dict[str, ActNoise]:
    """Noise for the annotators of a pool: their own where they were fitted, else the common weights; and a person each,
    spread over the whole pool."""
    rows = {name: fitted.annotators.get(name, fitted.common) for name in annotators}
    weights = {name: np.array([getattr(noise, k) for k in READING]) for name, noise in rows.items()}
    return population(weights, fitted.common.first, {"first": fitted.spread_first, "longer": fitted.spread_longer})


def _noise(weights: Array, first: float, longer: float = 0.0) -> ActNoise:
    """Rounded to four decimals, the way they are written, so that what is reported is what is used."""
    values = dict(zip(READING, (float(round(w, 4)) for w in weights), strict=True))
    return ActNoise(**values, first=round(first, 4), longer=round(longer, 4))


def _columns(data: Data, act: Ints) -> Array:
    item = data.item[act]
    return np.stack([data.verdict[act], data.odds[act], data.order[act], data.length[item], data.lists[item]], axis=1)


def _common_weights(data: Data, act: Ints, vote: Ints) -> tuple[Array, float]:
    """Weights of an act of anyone, and people's lean to the first; every vote counts once."""
    x = np.column_stack([_columns(data, act), data.vote_order[vote]])
    share = 1 / data.acts[data.item[act]]
    found = logistic(x, data.vote[vote], share, PRIOR, np.full(6, WIDE**-2))
    return found[:5], round(float(found[5]), 4)


def _own_weights(data: Data, act: Ints, vote: Ints, common: Array, first: float) -> Array:
    """Every annotator's weights, shape (annotators, 5), drawn to the common ones; draws on one pair share a vote."""
    parts = []
    for k in range(len(data.names)):
        mine = data.who[act] == k
        a, v = act[mine], vote[mine]
        draws = np.bincount(v, minlength=len(data.vote))[v]
        parts.append((_columns(data, a), data.vote[v], 1 / draws, first * data.vote_order[v]))
    variance = np.full(5, SPREAD**2)
    for _ in range(ROUNDS):
        weights = np.array([logistic(x, y, w, common, 1 / variance, o) for x, y, w, o in parts])
        doubt = [_uncertainty(x, w, b, 1 / variance, o) for (x, _, w, o), b in zip(parts, weights, strict=True)]
        variance = np.maximum(((weights - common) ** 2 + doubt).mean(axis=0), 1e-6)
    return weights


def _uncertainty(x: Array, weight: Array, b: Array, precision: Array, offset: Array) -> Array:
    """Posterior variances of the coefficients at the maximum."""
    p = sigmoid(x @ b + offset)
    return np.asarray(np.diag(np.linalg.inv((x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(precision))))


def logistic(
    x: Array, y: Array, weight: Array, mean: Array, precision: Array, offset: Array | float = 0.0, rounds: int = 50
) -> Array:
    """Logistic regression of ``y`` in [0, 1] on ``x`` of shape (n, k) with a normal prior on the coefficients.

    Newton's method with step halving; the penalised likelihood is concave, so it is the maximum.
    """

    def loss(b: Array) -> float:
        z = x @ b + offset
        return float(weight @ (np.logaddexp(0, z) - y * z) + 0.5 * precision @ (b - mean) ** 2)

    b = mean.copy()
    current = loss(b)
    for _ in range(rounds):
        p = sigmoid(x @ b + offset)
        gradient = x.T @ (weight * (p - y)) + precision * (b - mean)
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(precision)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (moved := loss(b - size * step)) > current and size > 1e-6:
            size /= 2
        b = b - size * step
        done = current - moved < 1e-10 * (1 + abs(current))
        current = min(moved, current)
        if done:
            break
    return b


def evidence_of(data: Data, weights: Array, dependence: float, fading: float) -> Array:
    """E of every pair, shape (pairs,), from weights of shape (annotators, 5)."""
    said, looks = _added_up(data, weights)
    return _together(said, looks, data.acts, dependence, fading)


def _added_up(data: Data, weights: Array) -> tuple[Array, Array]:
    """Per pair the sum of what its acts say, and the mean of what its texts' looks say to their annotators."""
    w = weights[data.who]
    said = w[:, 0] * data.verdict + w[:, 1] * data.odds + w[:, 2] * data.order
    looks = w[:, 3] * data.length[data.item] + w[:, 4] * data.lists[data.item]
    n = len(data.pairs)
    return per_item(data.item, said, n), per_item(data.item, looks, n) / data.acts


def _together(said: Array, looks: Array, acts: Array, dependence: float, fading: float) -> Array:
    return said / (1 + (acts - 1) * dependence) + looks / (1 + (acts - 1) * fading)


def _worth_together(data: Data, weights: Array, first: float) -> tuple[float, float]:
    """``dependence`` and ``fading`` under which the votes are likeliest; (1, 0) where no pair has several acts."""
    from scipy.optimize import minimize

    if data.acts.max() <= 1:
        return 1.0, 0.0
    (said, looks), acts = _added_up(data, weights), data.acts

    def loss(x: Array) -> float:
        odds = _together(said, looks, acts, x[0], x[1])[data.vote_item] + first * data.vote_order
        return float(log_loss(sigmoid(odds), data.vote).sum())

    found = minimize(loss, [0.2, 0.05], bounds=[(0, 1), (0, 1)])
    dependence, fading = np.clip(np.round(found.x, 3), 0, 1)
    return float(dependence), float(fading)


def spread_between(person: Ints, x: Array, y: Array, odds: Array, rounds: int = 200) -> float:
    """Standard deviation between people of a random slope on ``x``, on top of ``odds``; 0 with fewer than five people.

    EM: people's slopes are found given the variance, the variance is the mean of their squares and uncertainties.
    """
    index = np.unique(person, return_inverse=True)[1]
    n = int(index.max()) + 1 if len(index) else 0
    if n < 5 or not x.any():
        return 0.0
    slope, variance = np.zeros(n), 0.25
    for _ in range(rounds):
        for _ in range(3):
            p = sigmoid(odds + slope[index] * x)
            curvature = np.bincount(index, x**2 * p * (1 - p), n) + 1 / variance
            slope = slope + (np.bincount(index, x * (y - p), n) - slope / variance) / curvature
        updated = float(np.mean(slope**2 + 1 / curvature))
        if abs(updated - variance) < 1e-6:
            break
        variance = max(updated, 1e-8)
    return float(np.sqrt(variance))


def shared_luck(data: Data, p: Array) -> float:
    """The part of luck that votes on one pair share, on a grid of hundredths, by the likelihood of decided votes.

    ``p`` are the votes' own chances, shape (votes,). Given the pair's standard normal luck t, a vote for ``a`` has
    the chance Phi((Phi^-1(p) - sqrt(shared) t) / sqrt(1 - shared)); t is integrated out by 32-point quadrature.
    """
    from scipy.special import log_ndtr, ndtri

    decided = np.flatnonzero(data.vote != 0.5)
    decided = decided[np.argsort(data.vote_item[decided], kind="stable")]
    start = np.unique(data.vote_item[decided], return_index=True)[1]
    if len(start) == len(decided):
        return 0.0
    sign = np.where(data.vote[decided] > 0.5, 1.0, -1.0)[:, None]
    z = ndtri(np.clip(p[decided], 1e-9, 1 - 1e-9))[:, None]

    def likelihood(s: float) -> float:
        each = log_ndtr(sign * (z - np.sqrt(s) * _NODES) / np.sqrt(1 - s))
        joint = np.add.reduceat(each, start, axis=0)
        top = joint.max(axis=1, keepdims=True)
        return float((top[:, 0] + np.log(np.exp(joint - top) @ _WEIGHTS)).sum())

    coarse = max(range(0, 99, 7), key=lambda k: likelihood(k / 100))
    fine = max(range(max(coarse - 6, 0), min(coarse + 7, 99)), key=lambda k: likelihood(k / 100))
    return float(fine / 100)


def log_loss(p: Array, y: Array) -> Array:
    """Negative log-likelihood of every vote, in nats; a tie is half a vote for either side."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


def sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))
