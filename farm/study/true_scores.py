"""What the true scores of these methods may be, given scores measured with error on two sides.

Measurement error lowers a correlation: a bootstrap that adds noise to scores which already hold noise sits far below
the truth and misses it most of the time. So every resample is shrunk by as much as its noise inflates it. Methods'
true scores (one per side) are taken as draws from a bivariate normal distribution with unknown mean and covariance S;
the scores are the true ones plus errors whose spread is known from standard errors or instructions.

For each draw, 1. the covariance of the *measured* scores comes from its fiducial distribution given their scatter
(Fisher 1930; the right-Haar posterior of Berger and Sun, Annals of Statistics 2008, whose intervals for a correlation
cover exactly); 2. the average error covariance is taken off, negative variances being refused and correlations beyond
+-1 set to +-1 (a generalised pivot); 3. draws are weighted for errors that differ between methods; 4. the true scores
are drawn given S and the measured ones by Matheron's rule: draw true scores and errors (the errors being bootstrap
resamples of the instructions where there are any), then correct the draw by S (S + V)^-1 times what it misses by. Win
rates are bent near 0 and 1, where a straight line through methods of very different quality would miss; sides whose
scores all lie in [0, 1] or [0, 100] are therefore modelled as logits and turned back. With dozens of methods this
decides: without it intervals for saturating boards of 30 to 60 methods covered 25-90% in simulation
(``tests/slow/test_many_studies.py`` holds them to 88% and more).

Intervals from these draws cover at about their nominal rate in the offline world, where the naive bootstrap covers
41% with 20 methods and 78% with 8 (``benchmarks/coverage.py``). They are about these methods: no method that was not
measured enters.
"""

from __future__ import annotations

import numpy as np

from farm.evaluate.intervals import Array
from farm.seeds import rng

PROPOSALS = 4  # per draw kept
FEWEST = 100
EVEN = 0.05  # weights worth less than this share of the proposals are too uneven


def true_scores(values: Array, errors: Array, *, seed: int) -> Array | None:
    """Draws of the true scores, shape (B, 2, K), from measured ``values`` (2, K) and ``errors`` (B, 2, K).

    ``errors`` are draws of the measurement error, mean 0, with whatever they share between sides and methods. None
    when on some side the methods differ by so little more than their noise that nothing is left to draw from.
    """
    tops = [top_of(side) for side in values]
    bent = [_logits(v, errors[:, k], top) for k, (v, top) in enumerate(zip(values, tops, strict=True))]
    found, worth = _draw(np.array([v for v, _ in bent]), np.stack([e for _, e in bent], axis=1), seed)
    if any(tops) and worth < EVEN * PROPOSALS * len(errors):  # errors that are even as they are, and not as logits
        straight, other = _draw(values, errors, seed)
        if other > worth:
            return straight
    if found is not None:
        for k, top in enumerate(tops):
            if top:
                found[:, k] = top / (1 + np.exp(-found[:, k]))
    return found


def top_of(values: Array) -> float:
    """Upper end of the scale: 1 for shares, 100 for percentages, 0 for scores without bounds."""
    if values.size == 0 or values.min() < 0 or values.max() > 100:
        return 0.0
    return 1.0 if values.max() <= 1 else 100.0


def _logits(values: Array, errors: Array, top: float) -> tuple[Array, Array]:
    """Scores and errors on the scale of logits (first order); unbounded scores as they are."""
    if not top:
        return values, errors
    p = np.clip(values / top, 0.002, 0.998)
    return np.log(p / (1 - p)), errors / top / (p * (1 - p))


def _draw(values: Array, errors: Array, seed: int) -> tuple[Array | None, float]:
    """The draws, and how many equally weighted proposals they are worth (Kish's effective sample size)."""
    methods = values.shape[1]
    r = rng(seed, "true scores", methods)
    c = (values - values.mean(axis=1, keepdims=True)).T
    centred = (errors - errors.mean(axis=2, keepdims=True)).transpose(0, 2, 1)  # what all methods share cancels
    noise = np.einsum("bki,bkj->kij", centred, centred) / len(errors) * methods / (methods - 1)
    average = noise.mean(axis=0)
    covariance = _fiducial(c.T @ c, methods - 1, PROPOSALS * len(errors), r) - average
    covariance = covariance[(covariance[:, 0, 0] > 0) & (covariance[:, 1, 1] > 0)]
    if len(covariance) < FEWEST:
        return None, 0.0
    sd = np.sqrt(covariance[:, [0, 1], [0, 1]])
    rho = np.clip(covariance[:, 0, 1] / sd.prod(axis=1), -1, 1)
    covariance[:, 0, 1] = covariance[:, 1, 0] = rho * sd.prod(axis=1)
    if np.ptp(noise, axis=0).max() > 0:
        log_weight = _log_density(c, covariance[:, None] + noise) - _log_density(c, covariance[:, None] + average)
    else:
        log_weight = np.zeros(len(covariance))
    weight = np.exp(log_weight - log_weight.max())
    at = np.cumsum(weight) / weight.sum()
    # One uniform draw and equal steps (systematic resampling) keep the weights' noise out of the quantiles.
    kept = np.searchsorted(at, (np.arange(len(errors)) + r.random()) / len(errors)).clip(0, len(at) - 1)
    kept = r.permutation(kept)
    draws = _given(values.T, errors.transpose(0, 2, 1), centred, noise, covariance[kept], sd[kept], rho[kept], r)
    return draws, float(weight.sum() ** 2 / np.square(weight).sum())


def _given(
    values: Array,
    errors: Array,
    centred: Array,
    noise: Array,
    covariance: Array,
    sd: Array,
    rho: Array,
    r: np.random.Generator,
) -> Array:
    """Matheron's rule, one draw per row: deviations from the mean are shrunk, the mean itself is not."""
    draws, methods = len(covariance), len(values)
    z = r.normal(size=(draws, 2, methods))
    second = rho[:, None] * z[:, 0] + np.sqrt(1 - rho**2)[:, None] * z[:, 1]
    prior = np.stack([sd[:, :1] * z[:, 0], sd[:, 1:] * second], axis=2)
    inverse = _inverse(covariance[:, None] + noise)
    precision = inverse.sum(axis=1)
    middle = np.linalg.solve(precision, (inverse @ values[..., None]).sum(axis=1))[..., 0]
    scatter = np.linalg.cholesky(np.linalg.inv(precision))
    middle = middle + np.einsum("bij,bj->bi", scatter, r.normal(size=(draws, 2)))
    missed = values - middle[:, None] - prior - centred
    gained = np.einsum("bkij,bkj->bki", covariance[:, None] @ inverse, missed)
    true: Array = prior + gained
    true = true - true.mean(axis=1, keepdims=True)
    level = values.mean(axis=0) - errors.mean(axis=1)
    result: Array = (true + level[:, None]).transpose(0, 2, 1)
    return result


def true_gaps(gaps: Array, errors: Array, *, seed: int) -> Array:
    """Draws of the true differences between the sides, shape (B, K), from measured ``gaps`` (K,) and ``errors`` (B, K).

    The same in one dimension: a mean absolute difference is inflated by noise as a correlation is lowered by it.
    """
    from scipy.stats import chi2

    methods = len(gaps)
    r = rng(seed, "true gaps", methods)
    c = gaps - gaps.mean()
    centred = errors - errors.mean(axis=1, keepdims=True)
    noise = np.square(centred).mean(axis=0) * methods / (methods - 1)
    average = float(noise.mean())
    scatter = float(c @ c)
    # Total variance = scatter / chi2 > the noise's: the chi2 variable is drawn below scatter / noise.
    below = chi2.cdf(scatter / average, methods - 1) if average > 0 else 1.0
    size = PROPOSALS * len(errors)
    if below * size < 1:
        variance = np.zeros(size)
    else:
        variance = np.maximum(scatter / chi2.ppf(below * (1 - r.random(size)), methods - 1) - average, 0.0)
    total, level = variance[:, None] + noise, variance[:, None] + average
    with np.errstate(divide="ignore", invalid="ignore"):
        log_weight = -0.5 * (np.log(total) + c**2 / total - np.log(level) - c**2 / level).sum(axis=1)
    log_weight = np.where(np.isfinite(log_weight), log_weight, 0.0)
    weight = np.exp(log_weight - log_weight.max())
    at = np.cumsum(weight) / weight.sum()
    kept = np.searchsorted(at, (np.arange(len(errors)) + r.random()) / len(errors)).clip(0, size - 1)
    kept = r.permutation(kept)
    prior = r.normal(size=errors.shape) * np.sqrt(variance[kept, None])
    prior -= prior.mean(axis=1, keepdims=True)
    share = np.divide(variance[kept, None], total[kept], out=np.ones_like(errors), where=total[kept] > 0)
    true = prior + share * (c - prior - centred)
    result: Array = gaps.mean() - errors.mean(axis=1, keepdims=True) + true
    return result


def _fiducial(scatter: Array, freedom: int, size: int, r: np.random.Generator) -> Array:
    """Covariances T T' with T = L A^-1: L is the Cholesky factor of the scatter, A that of a unit Wishart matrix."""
    ridge = 1e-12 * np.diag(np.maximum(np.diag(scatter), 1e-300))
    factor = np.linalg.cholesky(scatter + ridge)
    one = np.sqrt(r.chisquare(freedom, size))
    two = np.sqrt(r.chisquare(freedom - 1, size))
    inverse = np.zeros((size, 2, 2))
    inverse[:, 0, 0], inverse[:, 1, 1] = 1 / one, 1 / two
    inverse[:, 1, 0] = -r.normal(size=size) / (one * two)
    root = factor @ inverse
    result: Array = root @ root.transpose(0, 2, 1)
    return result


def _inverse(matrix: Array) -> Array:
    """Inverse of symmetric 2 x 2 matrices, shape (..., 2, 2); nearly singular ones are kept finite."""
    a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = np.maximum(a * d - b * b, 1e-14 * a * d)
    return np.stack([np.stack([d, -b], -1), np.stack([-b, a], -1)], -2) / determinant[..., None, None]


def _log_density(c: Array, covariance: Array) -> Array:
    """Log density of the rows of ``c`` (K, 2) under covariances (B, K or 1, 2, 2), summed over rows: (B,)."""
    a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    determinant = np.maximum(a * d - b * b, 1e-14 * a * d)
    square = (d * c[:, 0] ** 2 - 2 * b * c[:, 0] * c[:, 1] + a * c[:, 1] ** 2) / determinant
    result: Array = -0.5 * (np.log(determinant) + square).sum(axis=1)
    return result
