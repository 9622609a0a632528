"""Logistic regression with an L1 penalty, a few features and probabilities as targets, stopped where liblinear stops.

Minimises ``sum_i weight_i [log(1 + exp z_i) - y_i z_i] + |w|_1 / C`` with ``z = X w`` by the improved GLMNET method of
Yuan, Ho & Lin 2012 (JMLR 13, 1999-2030): a Newton model of the loss, minimised by coordinate descent in random order,
then a line search. The published length-controlled win rates come from liblinear's version of it, which stops early
(tolerance 1e-4): its order of coordinates, its active sets and its stopping rules are therefore part of the
definition, and are kept. A target y stands for two rows there, label 1 with weight y and label 0 with 1 - y; both have
the same features, so all sums are taken over one row here. With few features the Newton model is a small matrix, and
an iteration costs one pass over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import exp, inf
from operator import mul

import numpy as np
import numpy.typing as npt

from farm.evaluate.intervals import Array

TOLERANCE, NEWTON_STEPS, SWEEPS, HALVINGS = 1e-4, 100, 1000, 20
RIDGE, DECREASE = 1e-12, 0.01  # added to the diagonal of the Newton model; sufficient decrease of the line search


@dataclass(frozen=True)
class Rows:
    """Features (n, k), targets in [0, 1] and weights > 0 of the rows of a fit."""

    x: Array
    y: Array
    weight: Array

    @cached_property
    def halves(self) -> Array:
        """(k, n): half the features, one contiguous row each, so that ``w @ halves`` is z / 2."""
        return np.ascontiguousarray(0.5 * self.x.T)

    @cached_property
    def weighted(self) -> Array:
        """(k, n): half the features times weights. With h = tanh(z / 2) a chance is (1 + h) / 2, and the gradient is
        that at w = 0 plus ``weighted @ h``."""
        return self.halves * self.weight

    @cached_property
    def products(self) -> Array:
        """(k * k, n): a quarter of the weighted products of feature pairs. The Hessian is that at w = 0 minus
        ``products @ h^2``, since chance (1 - chance) = (1 - h^2) / 4."""
        k, n = self.halves.shape
        return (self.weighted[:, None, :] * self.halves[None, :, :]).reshape(k * k, n)

    @cached_property
    def at_zero(self) -> tuple[Array, Array]:
        """Gradient (k,) and Hessian (k * k,) of the loss at w = 0, the same for every penalty but for a factor."""
        return self.weighted @ (1.0 - 2.0 * self.y), self.products.sum(axis=1)

    @cached_property
    def largest(self) -> list[float]:
        """The largest absolute value of every feature."""
        found: list[float] = np.abs(self.x).max(axis=0).tolist()
        return found

    def at(self, keep: npt.NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(self.x[keep], self.y[keep], self.weight[keep])


def logistic(z: Array) -> tuple[Array, Array]:
    """1 / (1 + exp -z) and log(1 + exp z), from one exponential."""
    e = np.exp(-np.abs(z))
    positive = z >= 0
    return np.where(positive, 1.0, e) / (1.0 + e), np.log(1.0 + e) + np.where(positive, z, 0.0)


def fit(rows: Rows, c: float, seed: int) -> Array:
    """Coefficients (k,) at penalty ``1 / c``; ``seed`` is that of the 32-bit Mersenne Twister that orders coordinates.

    Every call starts from zero. It ends when the violation of optimality is ``TOLERANCE`` of that at the start, times
    the share of the rarer label.
    """
    n, k = rows.x.shape
    ones, zeros = int(np.count_nonzero(rows.y > 0)), int(np.count_nonzero(rows.y < 1))
    stop = TOLERANCE * max(min(ones, zeros), 1) / (ones + zeros)
    coordinates = _Coordinates(k, seed, ones + zeros)
    w, half, bent = [0.0] * k, np.zeros(n), np.empty(n)  # half = z / 2, bent = tanh of it
    gradient, curvature = first, second = rows.at_zero
    start, inner = -1.0, 1.0
    for _ in range(NEWTON_STEPS):
        slope = (c * gradient).tolist()
        violation = coordinates.activate(w, slope)
        start = violation if start < 0 else start
        if violation <= stop * start:
            break
        hessian = (c * curvature).reshape(k, k).tolist()
        target, sweeps = coordinates.descend(w, slope, hessian, inner * start)
        w, half = _search(rows, c, w, half, target, slope, hessian)
        inner *= 0.25 if sweeps == 1 else 1.0
        np.tanh(half, out=bent)
        gradient = first + rows.weighted @ bent
        np.square(bent, out=bent)
        curvature = second - rows.products @ bent
    return np.array(w)


def _search(
    rows: Rows,
    c: float,
    w: list[float],
    half: Array,
    target: list[float],
    gradient: list[float],
    hessian: list[list[float]],
) -> tuple[list[float], Array]:
    """Halve the step until the objective falls by enough.

    A full step that moves no row's z by more than m changes the loss by at most g s + s H s (e^m - m - 1) / m^2
    (Bach 2010, Electron. J. Statist. 4, for losses whose third derivative is bounded by the second). Where that
    already proves the decrease, as it does at all but the first steps, the loss itself is not needed.
    """
    step = [t - v for t, v in zip(target, w, strict=True)]
    change = np.array(step) @ rows.halves
    penalty = _norm(w)
    predicted = sum(map(mul, gradient, step)) + _norm(target) - penalty
    curve = sum(s * sum(map(mul, row, step)) for s, row in zip(step, hessian, strict=True))
    reach = sum(map(mul, map(abs, step), rows.largest))
    if reach > 1.5:  # the cheap bound on m may be far above it
        reach = 2 * max(float(change.max()), -float(change.min()))
    if reach < 5:
        growth = (exp(reach) - reach - 1) / reach**2 if reach > 1e-3 else 0.5 + reach
        if predicted + curve * growth <= DECREASE * predicted:
            return target, half + change
    loss = c * _loss(rows, 2 * half)
    for halving in range(HALVINGS):
        size = 0.5**halving
        new, there = [v + size * s for v, s in zip(w, step, strict=True)], half + size * change
        if c * _loss(rows, 2 * there) - loss + _norm(new) - penalty <= DECREASE * size * predicted:
            return new, there
    return w, half


def _loss(rows: Rows, z: Array) -> float:
    return float(rows.weight @ (np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0.0) - rows.y * z))


def _norm(w: list[float]) -> float:
    return sum(map(abs, w))


def _violation(w: float, gradient: float, bound: float) -> float:
    """How far a coordinate is from the optimum of loss + |w|; below 0 for one so far inside that it may rest."""
    if w > 0:
        return abs(gradient + 1)
    if w < 0:
        return abs(gradient - 1)
    if gradient < -1:
        return -1 - gradient
    if gradient > 1:
        return gradient - 1
    return -1.0 if bound - 1 < gradient < 1 - bound else 0.0


class _Coordinates:
    """The order in which coordinates are visited, drawn as liblinear draws it, and which of them rest.

    Draws are words of the Mersenne Twister scaled to a range (Lemire 2019). A coordinate at zero rests when its
    gradient is further inside the penalty than the largest violation of the last pass, per row.
    """

    def __init__(self, k: int, seed: int, rows: int) -> None:
        self.order, self.active, self.rows = list(range(k)), k, rows
        self.words, self.used, self.bound = _words(seed), 0, inf

    def activate(self, w: list[float], gradient: list[float]) -> float:
        """Let coordinates rest or wake for one Newton step; returns the sum of violations."""
        self.active, worst, total = self._pass(len(w), w, gradient, self.bound)
        self.bound = worst / self.rows
        return total

    def _pass(self, size: int, w: list[float], gradient: list[float], bound: float) -> tuple[int, float, float]:
        s, worst, total, order = 0, 0.0, 0.0, self.order
        while s < size:
            j = order[s]
            violation = _violation(w[j], gradient[j], bound)
            if violation < 0:
                size -= 1
                order[s], order[size] = order[size], j
                continue
            worst, total, s = max(worst, violation), total + violation, s + 1
        return size, worst, total

    def descend(
        self, w: list[float], gradient: list[float], hessian: list[list[float]], enough: float
    ) -> tuple[list[float], int]:
        """Minimise the Newton model plus |w| over the active coordinates; returns the minimiser and the sweeps."""
        target, moved, order = w.copy(), [0.0] * len(w), self.order
        size, bound = self.active, inf
        for sweep in range(1, SWEEPS + 1):
            self._shuffle(size)
            s, worst, total = 0, 0.0, 0.0
            while s < size:
                j = order[s]
                row, here = hessian[j], target[j]
                slope = gradient[j] + moved[j] * RIDGE + sum(map(mul, row, moved))
                violation = _violation(here, slope, bound)
                if violation < 0:
                    size -= 1
                    order[s], order[size] = order[size], j
                    continue
                s += 1
                total += violation
                if violation > worst:
                    worst = violation
                curvature = row[j] + RIDGE
                if slope + 1 < curvature * here:
                    step = -(slope + 1) / curvature
                elif slope - 1 > curvature * here:
                    step = -(slope - 1) / curvature
                else:
                    step = -here
                if step > 1e-12 or step < -1e-12:
                    step = min(max(step, -10.0), 10.0)
                    target[j] = here + step
                    moved[j] += step
            if total > enough:
                bound = worst / self.rows
            elif size == self.active:
                return target, sweep
            else:
                size, bound = self.active, inf
        return target, SWEEPS

    def _shuffle(self, size: int) -> None:
        order, words, used = self.order, self.words, self.used
        for j in range(size):
            i = j + (words[(used + j) % len(words)] * (size - j) >> 32)
            order[i], order[j] = order[j], order[i]
        self.used = used + size


@lru_cache(maxsize=16)
def _words(seed: int) -> list[int]:
    stream = np.random.RandomState(seed)  # the classic generator: its words are those of C++'s std::mt19937
    return stream.randint(0, 2**32, size=4 * SWEEPS, dtype=np.uint32).tolist()  # type: ignore[no-any-return]
