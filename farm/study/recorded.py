"""Best-of-n curves from recorded samples: the same code as for a run's own pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from farm.data.recorded import Recorded
from farm.errors import DataError
from farm.evaluate import intervals
from farm.records import Estimate, Record
from farm.study.best_of_n import best_of_n_curve
from farm.study.overoptimization import PromptCurve

LENGTH = "length"  # a proxy that every file has: the number of characters
GOLD = "gold itself"  # the judge that gold comes from, as the proxy: what no proxy can beat


class Pick(Record):
    """One reward model known by its best of all samples only. ``judged`` = share of its picks whose gold is known;
    ``gain`` = gold of the pick minus the mean gold of the judged samples of the same instruction."""

    model: str
    n: int
    judged: float
    pick: Estimate
    gain: Estimate


class Order(Record):
    """Whether recorded order carries information: change of gold and of length (in characters) from one sample to the
    next in the file, slopes within instructions. An interval away from zero: the samples are not exchangeable."""

    gold: Estimate
    length: Estimate
    exchangeable: bool


def curves(rows: Sequence[Recorded], *, seed: int) -> dict[str, PromptCurve]:
    """A best-of-n curve for every proxy of the file, for text length, and for gold itself.

    Samples without gold are left out, and every instruction gets as many as the one that has fewest (the first ones
    after a shuffle). Without log-probabilities KL is the upper bound. Raises DataError when gold is missing
    altogether or fewer than two samples per instruction have it.
    """
    kept = {r.id: [k for k, g in enumerate(r.gold) if g is not None] for r in (r.shuffled(seed) for r in rows)}
    size = min(map(len, kept.values()))
    if not any(kept.values()):
        raise DataError(
            "recorded samples: gold is missing everywhere, so there is a proxy but nothing to hold it against"
        )
    if size < 2:
        bad = next(i for i, k in kept.items() if len(k) < 2)
        raise DataError(
            f"recorded samples: instruction {bad} has {len(kept[bad])} samples with gold, a curve needs two"
        )
    mixed = [r.shuffled(seed) for r in rows]
    chosen = [kept[r.id][:size] for r in mixed]
    gold = [[float(r.gold[k] or 0.0) for k in ks] for r, ks in zip(mixed, chosen, strict=True)]
    logs = None
    if all(r.log_probs is not None for r in mixed):
        logs = [[r.log_probs[k] for k in ks] for r, ks in zip(mixed, chosen, strict=True) if r.log_probs is not None]
    names = [n for n in rows[0].scores if all(n in r.scores for r in rows)]
    proxies: dict[str, list[list[float]]] = {
        n: [[r.scores[n][k] for k in ks] for r, ks in zip(mixed, chosen, strict=True)] for n in names
    }
    proxies[LENGTH] = [[float(len(r.samples[k])) for k in ks] for r, ks in zip(mixed, chosen, strict=True)]
    proxies[GOLD] = gold
    ids = [r.id for r in rows]
    return {
        name: best_of_n_curve(
            values, gold, ids, range(1, size + 1), seed=seed, method=f"best-of-n: {name}", log_probs=logs
        )
        for name, values in proxies.items()
    }


def picks(rows: Sequence[Recorded], *, seed: int) -> list[Pick]:
    """What the picks of reward models without scores are worth, by reward model."""
    out = []
    for model in sorted({m for r in rows for m in r.picks}):
        having = [r for r in rows if model in r.picks]
        gold = {r.id: float(r.gold[r.picks[model]] or 0.0) for r in having if r.gold[r.picks[model]] is not None}
        means = {r.id: float(np.mean([g for g in r.gold if g is not None])) for r in having if r.id in gold}
        out.append(
            Pick(
                model=model,
                n=len(gold),
                judged=len(gold) / len(having),
                pick=intervals.over_seeds([gold], seed=seed) if gold else Estimate(value=None, n=0),
                gain=intervals.over_seeds([_minus(gold, means)], seed=seed) if gold else Estimate(value=None, n=0),
            )
        )
    return out


def _minus(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {i: a[i] - b[i] for i in a}


def order(rows: Sequence[Recorded], *, seed: int) -> Order:
    """Slopes of gold and length over the recorded order."""
    gold, length = dict[str, float](), dict[str, float]()
    for r in rows:
        known = [(k, g) for k, g in enumerate(r.gold) if g is not None]
        if len(known) > 1:
            gold[r.id] = _slope(*zip(*known, strict=True))
        if len(r.samples) > 1:
            length[r.id] = _slope(range(len(r.samples)), [len(s) for s in r.samples])
    found = [intervals.over_seeds([t], seed=seed) if t else Estimate(value=None, n=0) for t in (gold, length)]
    flat = all(e.ci95_low is None or e.ci95_high is None or e.ci95_low <= 0 <= e.ci95_high for e in found)
    return Order(gold=found[0], length=found[1], exchangeable=flat)


def _slope(x: Sequence[float] | range, y: Sequence[float]) -> float:
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    centred = a - a.mean()
    return float(centred @ (b - b.mean()) / (centred @ centred))
