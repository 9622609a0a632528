"""Best-of-n from one scored pool: the unbiased curve over n, and its KL from the base policy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farm.errors import DataError
from farm.evaluate.intervals import Array, finite
from farm.records import CurvePoint, RewardCurve
from farm.seeds import rng
from farm.study.overoptimization import PromptCurve


def best_of_n_weights(pool: int, n: int) -> Array:
    """Chance that each of ``pool`` samples, sorted ascending, is the best of n drawn without replacement.

    The i-th smallest (i from 1) has C(i-1, n-1) / C(pool, n). Computed in log space; shape (pool,), sums to 1.
    Raises DataError unless 1 <= n <= pool.
    """
    if not 1 <= n <= pool:
        raise DataError(f"best of n={n} cannot be estimated from {pool} samples: n must lie in 1..{pool}")
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pool + 1)))])
    i = np.arange(n, pool + 1)
    logs = (
        log_factorial[i - 1]
        - log_factorial[n - 1]
        - log_factorial[i - n]
        - (log_factorial[pool] - log_factorial[n] - log_factorial[pool - n])
    )
    result = np.zeros(pool)
    result[n - 1 :] = np.exp(logs)
    return result


def kl_upper_bound(n: float) -> float:
    """log n - (n - 1) / n, an upper bound on the KL of best-of-n from its base policy, in nats per sequence.

    Close for long, diverse texts; far too large where few distinct texts exist (Beirami et al., arXiv 2401.01879).
    """
    if n < 1:
        raise DataError(f"best of n needs n >= 1, got {n}")
    return math.log(n) - (n - 1) / n


def best_of_n_law(probabilities: Array, rewards: Array, n: int) -> Array:
    """Exact probabilities of best-of-n over enumerated outputs: F(y)^n - F^-(y)^n, F the distribution function of the
    reward under ``probabilities`` and F^- its left limit (Beirami et al., arXiv 2401.01879, lemma 1).

    Equal rewards share their mass in proportion to ``probabilities`` (a fair draw among tied samples). Shapes
    (outputs,). Raises DataError when shapes differ, a value is not finite, or the probabilities do not sum to 1.
    """
    p, r = np.asarray(probabilities, dtype=float), np.asarray(rewards, dtype=float)
    if p.shape != r.shape or p.ndim != 1 or n < 1:
        raise DataError(f"best-of-n over {p.shape} probabilities and {r.shape} rewards: one of each per output, n >= 1")
    finite(p, "probabilities")
    finite(r, "rewards")
    if (p < 0).any() or abs(p.sum() - 1) > 1e-6:
        raise DataError(f"probabilities must be positive and sum to 1, their sum is {p.sum():.6g}")
    _, level = np.unique(r, return_inverse=True)
    mass = np.bincount(level, weights=p)
    upto = np.minimum(np.cumsum(mass), 1.0)
    below = np.maximum(upto - mass, 0.0)
    law: Array = (upto**n - below**n)[level] * p / np.maximum(mass[level], 1e-300)
    return law


def best_of_n_exact_kl(probabilities: Array, rewards: Array, n: int) -> float:
    """KL(best-of-n || base) in nats where all outputs can be enumerated. Arguments as for :func:`best_of_n_law`."""
    law, p = best_of_n_law(probabilities, rewards, n), np.asarray(probabilities, dtype=float)
    some = law > 0
    return float((law[some] * np.log(law[some] / p[some])).sum())


def best_of_n_kl(log_probs: Array, n: int) -> Array:
    """KL of best-of-n estimated from the base policy's log-probability of the selected text, elementwise, in nats.

    Beirami et al.'s estimator, to be averaged over selected texts; between 0 and :func:`kl_upper_bound`. Right for
    low-entropy prompts, where the bound is not. ``log_probs`` are of whole sequences, <= 0.
    """
    e = np.exp(np.minimum(log_probs, 0.0))
    log_miss = n * np.log1p(-np.minimum(e, 1 - 1e-15))  # log (1-e)^n
    miss, hit = np.exp(log_miss), -np.expm1(log_miss)
    first = miss * (math.log(n) + (n - 1) / n * log_miss - (n - 1) / n)
    tiny = e < 1e-300
    ratio = np.where(tiny, math.log(n), np.log(np.maximum(hit, 1e-300)) - np.log(np.maximum(e, 1e-300)))
    result: Array = first + hit * ratio
    return np.clip(result, 0.0, kl_upper_bound(n))


def best_of_n_curve(
    proxy: npt.ArrayLike,
    gold: npt.ArrayLike | None,
    prompts: Sequence[str],
    ns: Sequence[int],
    *,
    seed: int,
    method: str = "best_of_n",
    log_probs: npt.ArrayLike | None = None,
    tokens: npt.ArrayLike | None = None,
) -> PromptCurve:
    """Expected proxy and gold of best-of-n by proxy, for every n in ``ns``, from one scored pool per prompt.

    ``proxy``, ``gold``, ``log_probs`` (of sequences under the base policy) and ``tokens`` have shape (prompts, N). The
    estimator is unbiased for every n <= N: all subsets of size n are averaged, in closed form. Equal proxies are
    ordered by a keyed hash, so storage order cannot leak in. Standard errors are over prompts; points of one curve
    share samples and are correlated. KL: Beirami's estimator with ``log_probs``, else the upper bound.
    Raises DataError on shapes that do not match, values that are not finite, or an n out of range.
    """
    p = np.asarray(proxy, dtype=float)
    if p.ndim != 2 or p.shape[0] != len(prompts) or not len(prompts):
        raise DataError(f"proxy scores need shape ({len(prompts)} prompts, samples), got {p.shape}")
    if len(set(prompts)) != len(prompts):
        raise DataError(f"prompt {max(prompts, key=list(prompts).count)!r} occurs twice: pool its samples first")
    finite(p, "proxy scores")
    order = ascending(p, prompts, seed)

    def sorted_by_proxy(values: npt.ArrayLike | None, what: str) -> Array | None:
        if values is None:
            return None
        array = np.asarray(values, dtype=float)
        if array.shape != p.shape:
            raise DataError(f"{what} have shape {array.shape}, proxy scores {p.shape}: score the same samples")
        finite(array, what)
        return np.take_along_axis(array, order, axis=1)

    ranked = np.take_along_axis(p, order, axis=1)
    ranked_gold = sorted_by_proxy(gold, "gold scores")
    ranked_logs = sorted_by_proxy(log_probs, "log-probabilities")
    ranked_tokens = sorted_by_proxy(tokens, "token counts")
    proxies, golds, points = [], [], []
    for n in sorted(set(ns)):
        w = best_of_n_weights(p.shape[1], n)
        proxies.append(ranked @ w)
        golds.append(ranked_gold @ w if ranked_gold is not None else None)
        kls = best_of_n_kl(ranked_logs, n) @ w if ranked_logs is not None else None
        points.append(
            CurvePoint(
                x=n,
                proxy=float(proxies[-1].mean()),
                gold=_mean(golds[-1]),
                kl=kl_upper_bound(n) if kls is None else float(kls.mean()),
                n=len(prompts),
                proxy_se=_se(proxies[-1]),
                gold_se=_se(golds[-1]),
                kl_se=_se(kls),
                mean_tokens=_mean(ranked_tokens @ w if ranked_tokens is not None else None),
            )
        )
    return PromptCurve(
        curve=RewardCurve(method=method, seed=seed, x_name="n", points=tuple(points)),
        prompts=tuple(prompts),
        proxy=np.array(proxies),
        gold=None if ranked_gold is None else np.array(golds),
    )


def ascending(proxy: Array, prompts: Sequence[str], seed: int) -> npt.NDArray[np.intp]:
    """Indices that sort each row of ``proxy`` (prompts, samples), ties in an order drawn per prompt."""
    rows = []
    for prompt, row in zip(prompts, proxy, strict=True):
        tiebreak = rng(seed, "best-of-n ties", prompt).permutation(len(row))
        rows.append(np.lexsort((tiebreak, row)))
    return np.array(rows)


def _mean(values: Array | None) -> float | None:
    return None if values is None else float(values.mean())


def _se(values: Array | None) -> float | None:
    return None if values is None or len(values) < 2 else float(values.std(ddof=1) / np.sqrt(len(values)))
