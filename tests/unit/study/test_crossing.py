"""The 2x2 of training and evaluation judges: planted causes are named, effects have the right size."""

from __future__ import annotations

import numpy as np
import pytest

from farm.errors import DataError
from farm.records import CurvePoint, RewardCurve
from farm.study.crossing import EVALUATED, TRAINED, crossed
from farm.study.overoptimization import PromptCurve

PROMPTS = tuple(f"i{k}" for k in range(80))
JUDGES = {(t, e): f"{t}-{e}" for t in TRAINED for e in EVALUATED}


def cell(fall: float, seed: int) -> PromptCurve:
    random = np.random.default_rng(seed)
    mean = np.array([0.3, 0.45, 0.5, 0.5 - fall / 2, 0.5 - fall])
    gold = mean[:, None] + random.normal(0, 0.1, len(PROMPTS)) + random.normal(0, 0.03, size=(5, len(PROMPTS)))
    proxy = np.arange(5.0)[:, None] + np.zeros(len(PROMPTS))
    points = tuple(
        CurvePoint(x=2.0**k, proxy=float(k), gold=float(gold[k].mean()), kl=float(k), n=len(PROMPTS)) for k in range(5)
    )
    return PromptCurve(RewardCurve(method="m", seed=seed, x_name="n", points=points), PROMPTS, proxy, gold)


def table(falls: dict[tuple[str, str], float]):
    return crossed({k: [cell(f, s) for s in range(3)] for k, f in falls.items()}, JUDGES, method="best-of-n", seed=0)


def planted(population_same, population_independent, single_same, single_independent):
    values = (population_same, population_independent, single_same, single_independent)
    return dict(zip([(t, e) for t in TRAINED for e in EVALUATED], values, strict=True))


@pytest.mark.parametrize(
    ("falls", "words"),
    [
        ((0.2, 0.2, 0.0, 0.0), "whenever the labels are noisy"),
        ((0.0, 0.2, 0.0, 0.2), "whenever another judge evaluates"),
        ((0.0, 0.2, 0.0, 0.0), "needs both"),
        ((0.2, 0.2, 0.2, 0.2), "all four cells"),
        ((0.0, 0.0, 0.0, 0.0), "none of the four"),
        ((0.2, 0.0, 0.0, 0.2), "2 of four cells"),
    ],
)
def test_the_cause_is_named(falls, words):
    assert words in table(planted(*falls)).sentence


def test_effects_are_the_planted_ones_with_intervals():
    found = table(planted(0.2, 0.3, 0.0, 0.1))
    assert found.noise.value == pytest.approx(0.2, abs=0.02)
    assert found.change.value == pytest.approx(0.1, abs=0.02)
    assert found.noise.ci95_low > 0.15
    assert [c.judge for c in found.cells] == list(JUDGES.values())
    assert "deepen the fall by" in found.sentence


def test_every_cell_is_needed_and_on_the_same_instructions():
    falls = planted(0.1, 0.1, 0.1, 0.1)
    curves = {k: [cell(f, s) for s in range(3)] for k, f in falls.items()}
    with pytest.raises(DataError, match="lacks single judged by the independent"):
        crossed({k: v for k, v in curves.items() if k != ("single", "independent")}, JUDGES, method="m", seed=0)
    curves["single", "same"] = curves["single", "same"][:2]
    with pytest.raises(DataError, match="same seeds"):
        crossed(curves, JUDGES, method="m", seed=0)
