"""Comparisons of the laboratory's curves: shifts of the peak, the 2x2, and signs of danger a user could see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from farm import runs
from farm.evaluate.intervals import Array
from farm.stages.laboratory import measure
from farm.stages.laboratory.bench import (
    BEST_OF_N,
    Bench,
    Curves,
    judged,
    one_best_of_n,
    restricted,
    reward_keys,
    value_of,
    with_gold,
)
from farm.stages.laboratory.make import models_of
from farm.stages.laboratory.measure import Samples
from farm.stages.laboratory.settings import Laboratory
from farm.study.overoptimization import PromptCurve

if TYPE_CHECKING:
    from farm.study.crossing import Crossing
    from farm.study.curves import Shift
    from farm.study.warning import Trace


def shifts(bench: Bench, curves: Curves, traces: Sequence[Trace]) -> list[Shift]:
    from farm.study.curves import shift

    lab, out = bench.lab, []
    wanted = [
        (BEST_OF_N + name, BEST_OF_N + (r.against or lab.base), r.question)
        for name, r in lab.rewards.items()
        if (r.against or lab.base) != name and name != lab.second
    ]
    first = next(iter(lab.policies), "")
    wanted += [
        (str(row), str(more.against or first), str(more.question))
        for row, (_, _, more) in lab.policies.items()
        if (more.against or first) != row
    ]
    for name, against, question in wanted:
        if name in curves and against in curves and (both := _shared(curves[name], curves[against])):
            out.append(shift(*both, seed=bench.seed, name=name, against=against, question=question))
    return out + _early(bench, curves, traces)


def _shared(a: Sequence[PromptCurve], b: Sequence[PromptCurve]) -> tuple[list[PromptCurve], list[PromptCurve]] | None:
    """Two sets of curves on the instructions they share (judges may have failed on some); None where there are none."""
    common = [set(x.prompts) & set(y.prompts) for x, y in zip(a, b, strict=True)]
    if min(map(len, common)) < 5:
        return None
    first = [restricted(x, [p for p in x.prompts if p in c]) for x, c in zip(a, common, strict=True)]
    second = [restricted(y, x.prompts) for y, x in zip(b, first, strict=True)]
    return first, second


def _early(bench: Bench, curves: Curves, traces: Sequence[Trace]) -> list[Shift]:
    """Stopping where the reward model of the other preferences is highest: a shift like any other."""
    from farm.study.curves import shift

    out = []
    asked = (BEST_OF_N + bench.lab.base, next(iter(bench.lab.policies), ""))
    for name in (BEST_OF_N + bench.lab.base, *bench.lab.policies):
        mine = [t for t in traces if t.name == name and "second reward model" in t.signals]
        if name not in curves or len(mine) != len(curves[name]):
            continue
        stopped = []
        for curve, t in zip(curves[name], mine, strict=True):
            highest = int(np.flatnonzero(t.signals["second reward model"] <= 1e-12)[-1])
            stopped.append(_cut(curve, max(1, highest) + 1))
        out.append(
            shift(
                stopped,
                curves[name],
                seed=bench.seed,
                name=f"{name}, stopped early",
                against=name,
                question="Stopping where a reward model of other preferences is highest:" if name in asked else "",
            )
        )
    return out


def _cut(curve: PromptCurve, points: int) -> PromptCurve:
    kept = curve.curve.model_copy(update={"points": curve.curve.points[:points]})
    return PromptCurve(kept, curve.prompts, curve.proxy[:points], None if curve.gold is None else curve.gold[:points])


def crossings(bench: Bench, pools: Mapping[int, Samples], trained: Curves) -> list[Crossing]:
    from farm.study.crossing import EVALUATED, TRAINED, crossed

    cross = bench.lab.crossing
    if cross is None:
        return []
    rewards = {"population": cross.population, "single": cross.single}
    policies = {"population": cross.population_policy, "single": cross.single_policy}
    judges = {
        (t, e): cross.independent if e == "independent" else measure.judge_of(bench.run, bench.lab, rewards[t])
        for t, e in product(TRAINED, EVALUATED)
    }
    cells: dict[Any, list[PromptCurve]] = {}
    for t, e in judges:
        cells[t, e] = [judged(bench, s, pools[s], rewards[t], f"{rewards[t]}:{e}") for s in pools]
    out = [crossed(_on_common(cells), judges, method="best-of-n", seed=bench.seed)]
    if cross.population_policy and cross.single_policy and all(trained[p] for p in policies.values() if p):
        cells = {}
        for t, e in judges:
            row = policies[t] or ""
            cells[t, e] = []
            for s, curve in zip(bench.made, trained[row], strict=True):
                prompts, wins, _ = measure.read_wins(bench.made[s][f"judged:{row}:{e}"])
                cells[t, e].append(with_gold(restricted(curve, prompts), wins))
        out.append(crossed(_on_common(cells), judges, method="rl", seed=bench.seed))
    return out


def _on_common(cells: Mapping[Any, list[PromptCurve]]) -> dict[Any, list[PromptCurve]]:
    """Cells on the instructions that have verdicts in all of them, seed by seed, under one method name."""
    out: dict[Any, list[PromptCurve]] = {k: [] for k in cells}
    for k in range(len(next(iter(cells.values())))):
        shared = set.intersection(*(set(c[k].prompts) for c in cells.values()))
        for name, c in cells.items():
            one = c[k]
            out[name].append(restricted(one, [p for p in one.prompts if p in shared]))
    return out


def traces_of(bench: Bench, pools: Mapping[int, Samples], trained: Curves) -> list[Trace]:
    """Curves with what a user could have seen: best-of-n by every single reward of the laboratory, and all policies."""
    from farm.study.warning import signals

    lab, out = bench.lab, []
    for seed, samples in pools.items():
        for name in lab.selecting:
            if name == lab.second or bench.lab.gold.pool:
                continue
            curve = one_best_of_n(bench, seed, samples, name)
            weighted = _expected(samples, value_of(lab, samples, name), seed)
            spread = _spread(lab, samples.scores)
            found = signals(
                curve.proxy.mean(axis=1),
                kl=[p.kl or 0.0 for p in curve.curve.points],
                second=weighted(samples.scores[reward_keys(lab, lab.second)[0]]) if lab.second else None,
                spread=weighted(spread) if spread is not None else None,
                tokens=weighted(samples.columns["tokens"]),
                repeats=weighted(samples.columns["repeats"]),
            )
            out.append(_trace(curve, seed, found))
    for row, curves in trained.items():
        for seed, curve in zip(bench.made, curves, strict=bool(curves)):  # a method may keep no curve
            step = bench.made[seed][f"signals:{row}"]
            shape = (len(curve.curve.points), -1)
            values = {k: np.array(v).reshape(shape) for k, v in runs.read_json(step.file("signals.json")).items()}
            spread = _spread(lab, values)
            found = signals(
                curve.proxy.mean(axis=1),
                kl=[p.kl or 0.0 for p in curve.curve.points],
                second=values[reward_keys(lab, lab.second)[0]].mean(axis=1) if lab.second else None,
                spread=spread.mean(axis=1) if spread is not None else None,
                tokens=values["tokens"].mean(axis=1),
                repeats=values["repeats"].mean(axis=1),
            )
            out.append(_trace(curve, seed, found))
    return out


def _trace(curve: PromptCurve, seed: int, found: Mapping[str, Array]) -> Trace:
    from farm.study.warning import Trace

    x = np.array([p.x for p in curve.curve.points])
    gold = None if curve.gold is None else curve.gold.mean(axis=1)
    return Trace(curve.curve.method, seed, curve.curve.x_name, x, gold, found)


def _expected(samples: Samples, value: Array, seed: int) -> Any:
    """A function from a column of the pool to its mean under best-of-n, for every n of the grid."""
    from farm.study.best_of_n import ascending, best_of_n_weights

    order = ascending(value, samples.prompts, seed)
    weights = np.array([best_of_n_weights(value.shape[1], n) for n in measure.grid(value.shape[1])])
    return lambda column: (np.take_along_axis(column, order, axis=1) @ weights.T).mean(axis=0)


def _spread(lab: Laboratory, values: Mapping[str, Array]) -> Array | None:
    if lab.ensemble is None:
        return None
    spread: Array = np.stack([values[m.key] for m in models_of(lab, lab.ensemble)]).std(axis=0)
    return spread
