"""Length-controlled win rate: what the judge would prefer if both texts were equally long.

A logistic model after AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475), fitted to all policies at once:

    logit P(policy p beats the reference on instruction i) = a_p + (b + b_p) tanh(delta_ip / s) + d_i

``delta_ip`` is the length of p's text minus the reference's in characters, ``s`` the SD of all deltas about zero, a_p
the policy's intercept, d_i the instruction's difficulty (shared across policies), b the length effect shared by all
policies and b_p what a policy adds to it. The value is the mean over instructions of sigmoid(a_p + d_i): the length
term set to zero.

Differences from AlpacaEval's code: the difficulty is estimated here, from these policies, and joined by instruction
id, never by row; the length effect is shrunk towards a common one, so that a policy that is always longer borrows
its effect from the others instead of losing it to its intercept; ridge penalties with fixed strength replace the
cross-validated L1; standard errors come from a bootstrap over instructions that refits the model.
The correction is an extrapolation where a policy is longer on nearly every instruction; read it beside the raw value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from farm.evaluate.intervals import Array, percentiles, table, weights
from farm.records import Estimate

# Ridge strengths = 1 / prior variance. Difficulties of AlpacaEval 2 have an SD of 1.48; length effects are a few units.
DIFFICULTY, LENGTH, LENGTH_OF_POLICY, INTERCEPT = 0.5, 0.05, 4.0, 1e-4
FEWEST = 10
RESAMPLES = 200


class Scored(Protocol):
    """What length control needs of a comparison; :class:`farm.evaluate.win_rate.Comparison` has it all."""

    @property
    def policy(self) -> str: ...
    @property
    def judge(self) -> str: ...
    @property
    def scores(self) -> Mapping[str, float]: ...
    @property
    def longer_by(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Measured:
    """Scores in [0, 1] of a policy and its length minus the reference's in characters, both by instruction id."""

    policy: str
    judge: str
    scores: Mapping[str, float]
    longer_by: Mapping[str, float]


@dataclass(frozen=True)
class Fit:
    """Fitted coefficients, P policies and n instructions; ``scale`` is the SD of length differences in characters."""

    intercept: Array  # (P,)
    length: Array  # (P,) = b + b_p
    difficulty: Array  # (n,)
    scale: float
    beta: Array  # (2P + 1,): intercepts, b, b_p


def lc_win_rates(
    comparisons: Sequence[Scored], *, seed: int, resamples: int = RESAMPLES
) -> dict[tuple[str, str], Estimate]:
    """Length-controlled win rate of each comparison, keyed by (policy, judge); all are fitted together.

    Pass the comparisons of one judge against one reference. Values are in [0, 1] with a bootstrap interval over
    instructions (``resamples`` 0: none). Not estimable, with a note: fewer than 10 judged instructions, a policy
    that always wins or always loses, or lengths that never differ.
    """
    notes = {(c.policy, c.judge): _reason(c) for c in comparisons}
    usable = [c for c in comparisons if not notes[c.policy, c.judge]]
    result = {name: Estimate(value=None, n=0, note=note) for name, note in notes.items() if note}
    if usable:
        y, delta = table([c.scores for c in usable]), table([c.longer_by for c in usable])
        present = ~np.isnan(y)
        if not np.any(delta[present]):
            note = "not estimable: lengths never differ"
            return result | {(c.policy, c.judge): Estimate(value=None, n=0, note=note) for c in usable}
        model = fit(y, delta)
        values = controlled(model, np.ones(y.shape[1]))
        draws = _bootstrap(y, delta, model, seed, resamples)
        for p, c in enumerate(usable):
            low, high = percentiles(draws[:, p]) if resamples else (None, None)
            n = int(present[p].sum())
            result[c.policy, c.judge] = Estimate(value=float(values[p]), ci95_low=low, ci95_high=high, n=n)
    return {(c.policy, c.judge): result[c.policy, c.judge] for c in comparisons}


def _reason(comparison: Scored) -> str:
    scores = comparison.scores
    if len(scores) < FEWEST:
        return f"not estimable: {len(scores)} judged instructions, at least {FEWEST} are needed"
    if min(scores.values()) == max(scores.values()):
        return "not estimable: every instruction has the same verdict"
    return ""


def controlled(model: Fit, weight: Array) -> Array:
    """Mean predicted preference at zero length difference, shape (P,), over instructions weighted by ``weight``."""
    chance: Array = _sigmoid(model.intercept[:, None] + model.difficulty[None, :])
    result: Array = chance @ weight / weight.sum()
    return result


def fit(y: Array, delta: Array, weight: Array | None = None, start: Fit | None = None) -> Fit:
    """Fit the model by penalised maximum likelihood (Newton's method with the difficulties eliminated).

    ``y`` in [0, 1] and ``delta`` in characters have shape (P, n); NaN in ``y`` = no verdict. ``weight`` (n,) repeats
    instructions, as a bootstrap does. ``start`` warms the iteration up and fixes the length scale.
    """
    policies, n = y.shape
    w = np.ones(n) if weight is None else weight
    m = np.where(np.isnan(y), 0.0, w)
    y = np.nan_to_num(y)
    scale = start.scale if start else float(np.sqrt(np.square(delta[m > 0]).mean())) or 1.0
    t = np.tanh(np.nan_to_num(delta) / scale)
    penalty = np.concatenate([np.full(policies, INTERCEPT), [LENGTH], np.full(policies, LENGTH_OF_POLICY)])
    beta = start.beta.copy() if start else np.zeros(2 * policies + 1)
    d = start.difficulty.copy() if start else np.zeros(n)

    def logits(beta: Array, d: Array) -> Array:
        return beta[:policies, None] + (beta[policies] + beta[policies + 1 :, None]) * t + d

    def loss(beta: Array, d: Array) -> float:
        z = logits(beta, d)
        ridge = float(penalty @ beta**2 + DIFFICULTY * (w @ d**2))
        return float((m * (np.logaddexp(0, z) - y * z)).sum()) + 0.5 * ridge

    current = loss(beta, d)
    for _ in range(50):
        chance = _sigmoid(logits(beta, d))
        step_beta, step_d = _newton_step(m * (chance - y), m * chance * (1 - chance), t, w, beta, d, penalty)
        size = 1.0
        while (moved := loss(beta - size * step_beta, d - size * step_d)) > current and size > 1e-6:
            size /= 2
        beta, d = beta - size * step_beta, d - size * step_d
        done = current - moved < 1e-9 * (1 + abs(current))
        current = min(moved, current)
        if done:
            break
    return Fit(beta[:policies], beta[policies] + beta[policies + 1 :], d, scale, beta)


def _newton_step(
    residual: Array, curvature: Array, t: Array, w: Array, beta: Array, d: Array, penalty: Array
) -> tuple[Array, Array]:
    """One Newton step. The Hessian's difficulty block is diagonal, so a (2P+1)-square system remains."""
    gradient = np.concatenate([residual.sum(1), [(residual * t).sum()], (residual * t).sum(1)]) + penalty * beta
    gradient_d = residual.sum(0) + DIFFICULTY * w * d
    c, ct, ctt = curvature.sum(1), (curvature * t).sum(1), (curvature * t * t).sum(1)
    k = len(c)
    hessian = np.diag(np.concatenate([c, [ctt.sum()], ctt]) + penalty)
    hessian[:k, k] = hessian[k, :k] = ct
    hessian[:k, k + 1 :] += np.diag(ct)
    hessian[k + 1 :, :k] += np.diag(ct)
    hessian[k, k + 1 :] = hessian[k + 1 :, k] = ctt
    cross = np.vstack([curvature, (curvature * t).sum(0)[None, :], curvature * t])
    diagonal = curvature.sum(0) + DIFFICULTY * w
    inverse = np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    step = np.linalg.solve(hessian - (cross * inverse) @ cross.T, gradient - cross @ (inverse * gradient_d))
    return step, inverse * (gradient_d - step @ cross)


def _bootstrap(y: Array, delta: Array, model: Fit, seed: int, resamples: int) -> Array:
    draws = np.zeros((resamples, y.shape[0]))
    n = y.shape[1]
    for k, shares in enumerate(weights(n, seed, resamples) if resamples else ()):
        weight = shares * n
        draws[k] = controlled(fit(y, delta, weight, model), weight)
    return draws


def _sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))


def values(estimates: Mapping[tuple[str, str], Estimate]) -> dict[str, float | None]:
    """The bare values by policy, for ``win_rate(..., lc_value=...)``."""
    return {policy: estimate.value for (policy, _), estimate in estimates.items()}
