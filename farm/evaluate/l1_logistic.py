"""Logistic regression with an L1 penalty, a few features and probabilities as targets, stopped where liblinear stops.

Minimises ``sum_i weight_i [log(1 + exp z_i) - y_i z_i] + |w|_1 / C`` with ``z = X w`` by the improved GLMNET method of
Yuan, Ho & Lin 2012 (JMLR 13, 1999-2030): a Newton model of the loss, minimised by coordinate descent in random order,
then a line search. The published length-controlled win rates come from liblinear's version of it, which stops early
(tolerance 1e-4): its order of coordinates, its active sets and its stopping rules are therefore part of the
definition, and are kept. A target y stands for two rows there, label 1 with weight y and label 0 with 1 - y; both have
the same features, so all sums are taken over one row here. With few features the Newton model is a small matrix, and
an iteration costs one pass over the rows, made for all penalties together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import cycle
from math import expm1, inf
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
        """Gradient (k,) and Hessian (k, k) of the loss at w = 0."""
        return self.weighted @ (1.0 - 2.0 * self.y), self.weighted @ self.halves.T

    @cached_property
    def largest(self) -> list[float]:
        """The largest absolute value of every feature."""
        found: list[float] = np.abs(self.x).max(axis=0).tolist()
        return found

    def derivatives(self, w: Array) -> tuple[Array, Array]:
        """Gradients (m, k) and Hessians (m, k, k) of the loss at coefficients (m, k)."""
        first, second = self.at_zero
        bent = w @ self.halves
        np.tanh(bent, out=bent)
        gradient = first + (self.weighted @ bent.T).T
        np.square(bent, out=bent)
        return gradient, second - (self.products @ bent.T).T.reshape(len(w), *second.shape)

    def losses(self, w: Array) -> Array:
        """The loss (m,) at coefficients (m, k)."""
        z = w @ self.x.T
        found: Array = (logistic(z)[1] - self.y * z) @ self.weight
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

    Every fit starts from zero. It ends when the violation of optimality is ``TOLERANCE`` of that at the start, times
    the share of the rarer label.
    """
    found: Array = fits(rows, [c], [seed])[0]
    return found


def fits(rows: Rows, cs: Sequence[float], seeds: Sequence[int]) -> Array:
    """Coefficients (m, k) of :func:`fit` at several penalties, each with its own seed.

    The fits do not know of each other: they only take their passes over the rows together.
    """
    gradient, hessian = rows.at_zero
    made = [_Fit(rows, c, seed) for c, seed in zip(cs, seeds, strict=True)]
    for one in made:
        one.slope, one.hessian = (one.c * gradient).tolist(), (one.c * hessian).tolist()
    running = made
    for _ in range(NEWTON_STEPS):
        running = [one for one in running if one.descends()]
        if not running:
            break
        c = np.array([one.c for one in running])
        gradients, hessians = rows.derivatives(np.array([one.target for one in running]))
        slopes, curvatures = (c[:, None] * gradients).tolist(), (c[:, None, None] * hessians).tolist()
        for one, slope, curvature in zip(running, slopes, curvatures, strict=True):
            one.move(slope, curvature)
    return np.array([one.w for one in made])


class _Fit:
    """One fit: coefficients ``w``, the first two derivatives of c times the loss there, and the next ``target``.

    Coordinates are visited in the order in which liblinear visits them: draws are words of the Mersenne Twister scaled
    to a range (Lemire 2019). A coordinate at zero rests when its gradient is further inside the penalty than the
    largest violation of the last pass, per row.
    """

    def __init__(self, rows: Rows, c: float, seed: int) -> None:
        k = rows.x.shape[1]
        ones, zeros = int(np.count_nonzero(rows.y > 0)), int(np.count_nonzero(rows.y < 1))
        self.rows, self.c, self.draw, self.labels = rows, c, cycle(_words(seed)).__next__, ones + zeros
        self.stop, self.enough = TOLERANCE * max(min(ones, zeros), 1) / (ones + zeros), -1.0
        self.order, self.active, self.bound = list(range(k)), k, inf
        self.w, self.target = [0.0] * k, [0.0] * k
        self.slope, self.hessian = [0.0] * k, [[0.0] * k] * k

    def descends(self) -> bool:
        """Set the next target; False at the optimum."""
        violation = self._activate()
        if self.enough < 0:
            self.stop *= violation
            self.enough = violation
        if violation <= self.stop:
            return False
        self._descend()
        return True

    def _activate(self) -> float:
        """Let coordinates rest or wake for one Newton step; returns the sum of violations."""
        w, slope, order, bound = self.w, self.slope, self.order, self.bound
        s, size, worst, total = 0, len(w), 0.0, 0.0
        while s < size:
            j = order[s]
            violation = _violation(w[j], slope[j])
            if violation < -bound:
                size -= 1
                order[s], order[size] = order[size], j
                continue
            s += 1
            if violation > 0:
                total += violation
                if violation > worst:
                    worst = violation
        self.active, self.bound = size, worst / self.labels
        return total

    def _descend(self) -> None:
        """Minimise the Newton model plus |w| over the active coordinates."""
        target, moved = self.w.copy(), [0.0] * len(self.w)
        gradient, hessian, order, draw = self.slope, self.hessian, self.order, self.draw
        size, bound = self.active, inf
        for sweep in range(SWEEPS):
            for s in range(size):
                j = s + (draw() * (size - s) >> 32)
                order[j], order[s] = order[s], order[j]
            s, worst, total = 0, 0.0, 0.0
            while s < size:
                j = order[s]
                row, here = hessian[j], target[j]
                slope = gradient[j] + moved[j] * RIDGE + sum(map(mul, row, moved))
                violation = _violation(here, slope)
                if violation < -bound:
                    size -= 1
                    order[s], order[size] = order[size], j
                    continue
                s += 1
                if violation > 0:
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
            if total > self.enough:
                bound = worst / self.labels
            elif size == self.active:
                self.enough *= 0.25 if sweep == 0 else 1.0
                break
            else:
                size, bound = self.active, inf
        self.target = target

    def move(self, slope: list[float], hessian: list[list[float]]) -> None:
        """Go to the target, where the derivatives are these, or less far if the objective falls by too little.

        If no row's z moves by more than m, the loss changes by at most (1 - u) times the slope along the step at its
        start plus u times that at its end, 1 - u = 1 / m - 1 / (e^m - 1): the third derivative is bounded by the second
        (Bach 2010, Electron. J. Statist. 4), and u is met where the curvature falls by e^m. Where that already proves
        the decrease, as it does nearly always, the loss itself is not needed.
        """
        w, target = self.w, self.target
        step = [t - v for t, v in zip(target, w, strict=True)]
        penalty = sum(map(abs, target)) - sum(map(abs, w))
        start, end = sum(map(mul, self.slope, step)) + penalty, sum(map(mul, slope, step)) + penalty
        reach = max(sum(map(mul, map(abs, step), self.rows.largest)), 1e-6)
        share = 1 / reach - 1 / expm1(reach) if reach < 100 else 0.0
        if share * start + (1 - share) * end <= DECREASE * start:
            self.w, self.slope, self.hessian = target, slope, hessian
            return
        self._search(step, start)

    def _search(self, step: list[float], predicted: float) -> None:
        """Halve the step until the objective falls by enough."""
        sizes = np.concatenate([[0.0], 0.5 ** np.arange(HALVINGS)])
        tried = np.array(self.w) + sizes[:, None] * np.array(step)
        value = self.c * self.rows.losses(tried) + np.abs(tried).sum(axis=1)
        good = value - value[0] <= DECREASE * sizes * predicted
        w = tried[int(good[1:].argmax()) + 1 if good[1:].any() else 0]
        gradient, hessian = self.rows.derivatives(w[None])
        self.w, self.slope, self.hessian = w.tolist(), (self.c * gradient[0]).tolist(), (self.c * hessian[0]).tolist()


def _violation(w: float, gradient: float) -> float:
    """How far a coordinate is from the optimum of loss + |w|; at zero, below 0 by how far it is inside the penalty."""
    if w:
        return abs(gradient + 1) if w > 0 else abs(gradient - 1)
    return abs(gradient) - 1


@lru_cache(maxsize=16)
def _words(seed: int) -> list[int]:
    stream = np.random.RandomState(seed)  # the classic generator: its words are those of C++'s std::mt19937
    return stream.randint(0, 2**32, size=4 * SWEEPS, dtype=np.uint32).tolist()  # type: ignore[no-any-return]
