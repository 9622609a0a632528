"""The laboratory's last step: everything that follows from its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farm import records, resources, runs
from farm.records import Estimate
from farm.runs import Step
from farm.stages.laboratory import measure
from farm.stages.laboratory.bench import BEST_OF_N, Bench, Curves, best_of_n, one_best_of_n, scored, trained_curves
from farm.stages.laboratory.compare import crossings, shifts, traces_of
from farm.stages.laboratory.exploits import drifts_and_examples
from farm.stages.laboratory.make import models_of

if TYPE_CHECKING:
    from farm.report.overoptimization import ModelRow, Numbers
    from farm.study.curves import Spending
    from farm.study.overoptimization import PromptCurve


def conclude(bench: Bench) -> Step:
    """``numbers.json``: see :class:`farm.report.overoptimization.Numbers`."""
    inputs = list({id(s): s for m in bench.made.values() for s in m.values()}.values())

    def work(folder: Path) -> None:
        numbers = _numbers(bench)
        (folder / "numbers.json").write_text(numbers.model_dump_json(indent=1) + "\n", encoding="utf-8")

    r = bench.run.recipe
    shown = bench.lab.model_dump(mode="json", exclude={"policies"})
    asked = {k: v[2].model_dump() for k, v in bench.lab.policies.items()}
    settings = {
        "name": r.name,
        "seeds": r.seeds,
        "laboratory": shown,
        "policies": asked,
        "version": resources.installed() or "0",
    }
    return runs.perform(bench.run.step("8-laboratory"), settings, inputs, work)


def _spending(
    bench: Bench, pools: Mapping[int, measure.Samples], trained: Mapping[str, list[PromptCurve]]
) -> list[Spending]:
    """Every policy beside best-of-n on the very model that it was trained on, not on the mean over replicates."""
    from farm.study.curves import spending

    found = []
    for row, curves in trained.items():
        reward = bench.lab.policies[row][2].reward or bench.lab.base
        if curves and reward in bench.lab.selecting:
            chosen = [one_best_of_n(bench, s, p, reward) for s, p in pools.items()]
            found += spending(chosen, curves, bench.lab.gains, seed=bench.seed)
    return found


def _numbers(bench: Bench) -> Numbers:
    from farm.report.overoptimization import Numbers
    from farm.study.curves import bands, peak
    from farm.study.fits import fit
    from farm.study.overoptimization import verdict
    from farm.study.warning import marks, validate

    lab, seed = bench.lab, bench.seed
    pools = {s: scored(bench, s) for s in bench.made}
    pooled = {BEST_OF_N + name: best_of_n(bench, pools, name) for name in lab.selecting}
    trained = {row: trained_curves(bench, row) for row in lab.policies}
    curves: Curves = {**pooled, **{row: c for row, c in trained.items() if c}}
    with_gold = {name: c for name, c in curves.items() if all(one.gold is not None for one in c)}
    main = {name: c for name, c in with_gold.items() if name == BEST_OF_N + lab.base or name in lab.policies}
    traces = traces_of(bench, pools, trained)
    known = [t for t in traces if t.gold is not None]
    drifts, examples = drifts_and_examples(bench, pools, trained)
    return Numbers(
        farm_version=resources.installed() or "0",
        recipe=bench.run.recipe.name,
        seeds=tuple(bench.made),
        gold=_gold_name(bench),
        pool_instructions=pools[seed].shape[0],
        pool_size=pools[seed].shape[1],
        curve_instructions=lab.curve_instructions,
        bands=tuple(b for c in curves.values() for b in bands(c, seed=seed)),
        peaks=tuple(peak(c, seed=seed) for c in with_gold.values()),
        verdicts=tuple(verdict(c, seed=seed) for c in main.values()),
        fits=tuple(fit(c, seed=seed) for c in main.values()),
        spending=tuple(_spending(bench, pools, trained)),
        shifts=tuple(shifts(bench, with_gold, traces)),
        crossings=tuple(crossings(bench, pools, trained)),
        reliability=tuple(validate(known, seed=seed)) if len({t.seed for t in known}) > 1 and known == traces else (),
        marks=tuple(marks(traces)) if not known else (),
        models=tuple(_models(bench)),
        drifts=tuple(drifts),
        examples=tuple(examples),
        outcomes=_outcomes(bench),
        notes=tuple(_notes(bench)),
    )


def _models(bench: Bench) -> list[ModelRow]:
    from farm.report.overoptimization import ModelRow
    from farm.reward.report import RewardReport

    out = []
    for name in bench.lab.rewards:
        key = models_of(bench.lab, name)[0].key
        reports = [
            records.read(m[f"model:{key}"].file("model/report.jsonl"), RewardReport)[0] for m in bench.made.values()
        ]
        accuracy = [r.accuracy.value for r in reports if r.accuracy.value is not None]
        longer = [r.longer_wins.value for r in reports if r.longer_wins.value is not None]
        held = sum(r.accuracy.n for r in reports)
        out.append(
            ModelRow(
                reward=name,
                n_train=reports[0].n_train,
                accuracy=_share(accuracy, held),
                longer_wins=_share(longer, held),
            )
        )
    return out


def _share(values: Sequence[float], n: int) -> Estimate:
    from farm.reward.report import share

    if not values:
        return Estimate(value=None, n=0, note="no decided pair was held out")
    mean = float(np.mean(values))
    return share([1.0] * round(mean * n) + [0.0] * (n - round(mean * n))).model_copy(update={"value": mean})


def _outcomes(bench: Bench) -> dict[str, int]:
    total: dict[str, int] = {}
    for made in bench.made.values():
        for key, step in made.items():
            if key.startswith("judged:"):
                for outcome, count in measure.read_wins(step)[2].items():
                    total[outcome] = total.get(outcome, 0) + count
    return total


def _gold_name(bench: Bench) -> str:
    gold = bench.lab.gold
    if gold.reward_model:
        return f"reward model {gold.reward_model}"
    if gold.pool:
        return f"win rate judged by {gold.pool}"
    return "the offline world" if bench.run.offline else "not measured"


def _notes(bench: Bench) -> list[str]:
    notes = []
    if bench.run.offline:
        notes.append(
            "The offline world shows how curves behave; where a peak lies on real text must be measured there."
        )
    if _gold_name(bench) == "not measured":
        notes.append(
            "Gold was not measured, so no peak, law or shift can be shown; the marks of the warning light use "
            "thresholds calibrated in the offline world. Give laboratory.gold a reward_model or a pool to know more."
        )
    notes.append("KL of best-of-n is Beirami et al.'s estimate; KL of policies is k1 on the curve's responses.")
    return notes
