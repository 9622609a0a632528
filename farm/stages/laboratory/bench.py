"""The laboratory's finished steps, and the curves that lie in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from farm import runs
from farm.evaluate.intervals import Array
from farm.stages.common import Made, Run
from farm.stages.laboratory import measure
from farm.stages.laboratory.make import models_of
from farm.stages.laboratory.measure import POLICY, Samples
from farm.stages.laboratory.settings import Laboratory
from farm.study.overoptimization import PromptCurve

Curves = dict[str, list[PromptCurve]]
BEST_OF_N = "best-of-n: "


@dataclass(frozen=True)
class Bench:
    """The finished steps of every seed: ``made[seed]`` by key ('sft', 'pool', 'model:KEY', 'scores:KEY',
    'policy:ROW', 'signals:ROW', 'judged:NAME')."""

    run: Run
    lab: Laboratory
    made: Mapping[int, Made]

    @property
    def seed(self) -> int:
        return self.run.recipe.seeds[0]


def scored(bench: Bench, seed: int) -> Samples:
    samples = measure.read_pool(bench.made[seed]["pool"], seed)
    for key, step in bench.made[seed].items():
        if key.startswith("scores:"):
            samples.scores[key.removeprefix("scores:")] = measure.read_scores(step, samples.shape)
    if bench.lab.gold.reward_model:
        return replace(samples, columns={**samples.columns, "gold": samples.scores["gold"]})
    return samples


def reward_keys(lab: Laboratory, name: str, replicate: int = 0) -> list[str]:
    """Keys of the reward models whose scores make a reward of the pool."""
    if lab.rewards[name].combine == "weights":
        return [f"{name}-averaged"]
    return [m.key for m in models_of(lab, name, replicate)]


def value_of(lab: Laboratory, samples: Samples, name: str, replicate: int = 0) -> Array:
    members = [samples.scores[k] for k in reward_keys(lab, name, replicate)]
    return measure.combined(lab.rewards[name], members, samples.columns["tokens"])


def best_of_n(bench: Bench, pools: Mapping[int, Samples], name: str) -> list[PromptCurve]:
    """A reward's curve for every seed: the mean over its replicates (of judged curves the first)."""
    from farm.study.curves import averaged

    if bench.lab.gold.pool:
        return [judged(bench, s, pools[s], name, f"gold:{name}") for s in pools]
    replicates = range(bench.lab.rewards[name].replicates)
    return [averaged([one_best_of_n(bench, s, p, name, k) for k in replicates]) for s, p in pools.items()]


def one_best_of_n(bench: Bench, seed: int, samples: Samples, name: str, replicate: int = 0) -> PromptCurve:
    from farm.study.best_of_n import best_of_n_curve

    return best_of_n_curve(
        value_of(bench.lab, samples, name, replicate),
        samples.columns.get("gold"),
        samples.prompts,
        measure.grid(samples.shape[1]),
        seed=seed,
        method=BEST_OF_N + name,
        log_probs=samples.columns["log_prob"],
        tokens=samples.columns["tokens"],
    )


def judged(bench: Bench, seed: int, samples: Samples, name: str, key: str) -> PromptCurve:
    """Best-of-n in octaves with a judge's win rate as gold."""
    from farm.study.best_of_n import best_of_n_curve

    prompts, wins, _ = measure.read_wins(bench.made[seed][f"judged:{key}"])
    rows = [samples.prompts.index(p) for p in prompts]
    whole = best_of_n_curve(
        value_of(bench.lab, samples, name)[rows],
        None,
        prompts,
        measure.octaves(samples.shape[1]),
        seed=seed,
        method=BEST_OF_N + name,
        log_probs=samples.columns["log_prob"][rows],
        tokens=samples.columns["tokens"][rows],
    )
    return with_gold(whole, wins)


def with_gold(curve: PromptCurve, gold: Array) -> PromptCurve:
    """A curve with other gold, shape (points, prompts)."""
    n = gold.shape[1]
    points = [
        p.model_copy(update={"gold": float(g.mean()), "gold_se": float(g.std(ddof=1) / n**0.5) if n > 1 else None})
        for p, g in zip(curve.curve.points, gold, strict=True)
    ]
    return PromptCurve(curve.curve.model_copy(update={"points": tuple(points)}), curve.prompts, curve.proxy, gold)


def trained_curves(bench: Bench, row: str) -> list[PromptCurve]:
    """The curves of a policy, one per seed; none where the method keeps none."""
    from farm.methods.task import Result

    out = []
    for seed, made in bench.made.items():
        folder = made[POLICY + row].folder
        result = Result.load(folder)
        if result.curve is None or len(result.curve.points) < 3:
            return []
        values = runs.read_json(folder / "curve_values.json")
        curve = result.curve.model_copy(update={"method": row})
        gold = np.array(values["gold"]) if values["gold"] else None
        one = PromptCurve(curve, tuple(values["prompts"]), np.array(values["proxy"]), gold)
        out.append(_outside_gold(bench, seed, row, one))
    return out


def _outside_gold(bench: Bench, seed: int, row: str, curve: PromptCurve) -> PromptCurve:
    gold = bench.lab.gold
    if gold.reward_model:
        signals = runs.read_json(bench.made[seed][f"signals:{row}"].file("signals.json"))
        return with_gold(curve, np.array(signals["gold"]).reshape(curve.proxy.shape))
    if gold.pool:
        prompts, wins, _ = measure.read_wins(bench.made[seed][f"judged:gold:{row}"])
        return with_gold(restricted(curve, prompts), wins)
    return curve


def restricted(curve: PromptCurve, prompts: Sequence[str]) -> PromptCurve:
    """The curve on some of its prompts."""
    rows = [curve.prompts.index(p) for p in prompts]
    gold = None if curve.gold is None else curve.gold[:, rows]
    return PromptCurve(curve.curve, tuple(prompts), curve.proxy[:, rows], gold)
