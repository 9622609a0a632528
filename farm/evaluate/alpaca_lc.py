"""AlpacaEval 2's length-controlled win rate of one model, twice: ``lc``, the one to cite, and ``lc_compat``.

Both fit the logistic model of Dubois et al. 2024 (arXiv 2404.04475) to the verdicts on one model,

    logit P(model preferred on instruction i) = w_len t_i + w_diff d_i + w_model,    t_i = tanh(delta_i / sd(delta))

with ``delta`` the reference's length minus the model's in characters and ``d`` a known difficulty per instruction, and
report the mean over instructions of the fitted chance with the length term set to zero. Regulariser rows (the reference
prompted to be longer or shorter, against itself; weight 0.1 each, no model term) tie ``w_len`` to what length alone
buys.

``lc``        difficulty joined by instruction id; weak ridge of fixed strength; bootstrap over instructions.
``lc_compat`` what alpaca_eval 0.6 publishes: difficulty joined by the position of the row among the model's rows, L1
              penalty chosen by cross-validation among ten (or given), liblinear's early stop. No interval is given:
              the published standard error is the spread of fitted chances, 1.9 to 5.7 times smaller than the
              sampling error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.data.length_control import Material
from farm.data.verdicts import Verdicts
from farm.evaluate import l1_logistic
from farm.evaluate.intervals import SAME, Array, percentiles, weights
from farm.records import Estimate

RIDGE = 0.01  # 1 / prior variance of every coefficient: an SD of 10, where fitted ones lie between -5 and 5
REGULARISER_WEIGHT = 0.1
FEWEST = 10
RESAMPLES = 1000
PENALTIES = np.logspace(-4, 4, 10)
FOLDS = 5
# scikit-learn seeds liblinear anew for every fit, with the draws of its random_state 123 in turn.
SEEDS = (
    *(843828734, 914636141, 1228959102, 1840268610, 974319580),
    *(819844194, 220395238, 941243409, 942612051, 2109339754),
)
PUBLISHED = ("weighted_alpaca_eval_gpt4_turbo", "gpt4_1106_preview")  # what the published penalties belong to


@dataclass(frozen=True)
class LengthControlled:
    """An estimate in [0, 1], its bootstrap standard error and what length, difficulty and the model weigh."""

    estimate: Estimate
    standard_error: float | None = None
    coefficients: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Compatible:
    """The value as published, in [0, 1]; the penalty C and whether it was 'published', 'given' or 'cross-validated'."""

    value: float | None
    c: float | None = None
    chosen: str = ""
    note: str = ""


def lc(verdicts: Verdicts, material: Material, *, seed: int, resamples: int = RESAMPLES) -> LengthControlled:
    """Length-controlled win rate with its 95% bootstrap interval (``resamples`` 0: none).

    Several verdicts on one instruction are averaged first. The scale of lengths stays that of all rows. Not estimable,
    with a note: fewer than 10 instructions with verdict, lengths and difficulty, one class of verdicts, lengths that
    never differ. A model against itself has 0.5 by definition.
    """
    if verdicts.model == verdicts.reference:
        n = len(verdicts.by_instruction()[0])
        return LengthControlled(Estimate(value=0.5, n=n, note="0.5 by definition: the reference itself"))
    ids, y, longer = verdicts.by_instruction()
    known = np.array([i in material.difficulty for i in ids], dtype=bool) & ~np.isnan(longer)
    y, delta = y[known], -longer[known]
    d = np.array([material.difficulty[i] for i, k in zip(ids, known, strict=True) if k])
    reason = _reason(y, delta, len(ids))
    if reason:
        return LengthControlled(Estimate(value=None, n=0, note=reason))
    t, n = np.tanh(delta / delta.std(ddof=1)), len(y)
    rows = _design(t, d, y, material)
    w = _ridge(rows, rows.weight[None, :], np.zeros((1, 3)))
    value = float(_chance(w[:, 1] * d + w[:, 2]).mean())
    note = "" if known.all() else f"{int((~known).sum())} instructions without a length or difficulty left out"
    found = tuple(float(v) for v in w[0])
    if not resamples:
        return LengthControlled(Estimate(value=value, n=n, note=note), None, (found[0], found[1], found[2]))
    drawn = np.concatenate(list(_resampled(rows, w, d, n, seed, resamples)))
    low, high = percentiles(drawn)
    estimate = Estimate(value=value, ci95_low=low, ci95_high=high, n=n, note=note)
    return LengthControlled(estimate, float(drawn.std(ddof=1)), (found[0], found[1], found[2]))


def _reason(y: Array, delta: Array, judged: int) -> str:
    if len(y) < FEWEST:
        what = "the lengths of both texts and a difficulty are known"
        return f"not estimable: {what} for {len(y)} of {judged} judged instructions, at least {FEWEST} are needed"
    if np.ptp(y) <= SAME:
        return "not estimable: every instruction has the same verdict"
    if np.ptp(delta) == 0:
        return "not estimable: the length difference is the same everywhere"
    return ""


def _design(t: Array, d: Array, y: Array, material: Material) -> l1_logistic.Rows:
    """Regulariser rows first, as upstream: the folds of the cross-validation depend on it."""
    extra = material.regulariser
    k = len(extra)
    model = np.concatenate([np.zeros(k), np.ones(len(y))])
    x = np.stack([np.concatenate([extra[:, 0], t]), np.concatenate([extra[:, 1], d]), model], axis=1)
    weight = np.concatenate([np.full(k, REGULARISER_WEIGHT), np.ones(len(y))])
    return l1_logistic.Rows(x, np.concatenate([extra[:, 2], y]), weight)


def _ridge(rows: l1_logistic.Rows, weight: Array, start: Array) -> Array:
    """Coefficients (B, 3) of B weighted fits at once, weights (B, rows), by Newton's method with steps of at most 1."""
    w, products = start, (rows.x[:, :, None] * rows.x[:, None, :]).reshape(len(rows.y), 9)
    for _ in range(100):
        chance = _chance(w @ rows.x.T)
        gradient = (weight * (chance - rows.y)) @ rows.x + RIDGE * w
        hessian = ((weight * chance * (1 - chance)) @ products).reshape(-1, 3, 3) + RIDGE * np.eye(3)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        w = w - step / np.maximum(longest, 1.0)
        if longest.max() < 1e-6:  # convergence is quadratic: what is left is far below any digit shown
            break
    return w


def _resampled(
    rows: l1_logistic.Rows, w: Array, d: Array, n: int, seed: int, resamples: int, at_once: int = 50
) -> Iterator[Array]:
    """Values of the refitted model on resampled instructions; the regulariser rows are not resampled."""
    counts = n * weights(n, seed, resamples)
    fixed = len(rows.y) - n
    for k in range(0, resamples, at_once):
        part = counts[k : k + at_once]
        weight = np.concatenate([np.broadcast_to(rows.weight[:fixed], (len(part), fixed)), part], axis=1)
        fits = _ridge(rows, weight, np.repeat(w, len(part), axis=0))
        yield (part * _chance(fits[:, 1:2] * d + fits[:, 2:3])).sum(axis=1) / n


def _chance(z: Array) -> Array:
    result: Array = 1.0 / (1.0 + np.exp(-np.clip(z, -500, 500)))
    return result


def lc_compat(verdicts: Verdicts, material: Material, c: float | None = None) -> Compatible:
    """The value alpaca_eval 0.6 computes, from one verdict per instruction.

    ``c`` is the penalty; where it is None, the published one of a model of AlpacaEval 2, else the best of ten in a
    5-fold cross-validation. Rows are put in the order of their ids first (numbers as numbers), as in the published
    files: position is what difficulty is joined by. Failed rows stay in the average and out of the fit, as published.
    """
    if verdicts.model == verdicts.reference:
        return Compatible(0.5, note="0.5 by definition: the reference itself")
    n = len(verdicts.ids)
    if len(set(verdicts.ids)) != n:
        return Compatible(
            None, note="not estimable: several verdicts per instruction, which alpaca_eval has no rule for"
        )
    order = _in_order(verdicts.ids)
    y, delta = verdicts.score[order], -verdicts.longer_by[order]
    if np.isnan(delta).any():
        return Compatible(None, note="not estimable: a length is unknown")
    if n > len(material.difficulty):
        return Compatible(None, note=f"not estimable: {n} rows but {len(material.difficulty)} difficulties")
    judged = ~np.isnan(y)
    reason = _reason(y[judged], delta[judged], n)
    if reason:
        return Compatible(None, note=reason)
    d = np.fromiter(material.difficulty.values(), dtype=float)[:n]
    t = np.tanh(delta / delta.std(ddof=1))
    rows = _design(t[judged], d[judged], y[judged], material)
    chosen = "given"
    if c is None and verdicts.name[:2] == PUBLISHED:
        c, chosen = material.penalties.get(verdicts.model), "published"
    if c is None:
        c, chosen = best_penalty(rows), "cross-validated"
    w = l1_logistic.fit(rows, c, SEEDS[0])
    return Compatible(float(_chance(w[1] * d + w[2]).mean()), c, chosen)


def _in_order(ids: Sequence[str]) -> npt.NDArray[np.intp]:
    """Positions in the order of ids, numbers as numbers and before names."""
    if all(map(str.isdecimal, ids)):
        return np.argsort(np.array(ids, dtype=np.int64), kind="stable")
    ranks = [(0, int(name), "") if name.isdecimal() else (1, 0, name) for name in ids]
    return np.array(sorted(range(len(ids)), key=ranks.__getitem__), dtype=np.intp)


def best_penalty(rows: l1_logistic.Rows) -> float:
    """The C among ten with the smallest held-out log loss, as scikit-learn's LogisticRegressionCV finds it.

    Both copies of a row share a fold. scikit-learn deals groups of equal size out from the last to the first.
    """
    n = len(rows.y)
    fold = (n - 1 - np.arange(n)) % FOLDS
    scores = np.zeros(len(PENALTIES))
    for k in range(FOLDS):
        train, test = rows.at(fold != k), rows.at(fold == k)
        scores -= test.losses(l1_logistic.fits(train, PENALTIES.tolist(), SEEDS)) / len(test.y)
    return float(PENALTIES[int(scores.argmax())])
