"""Where a flat curve peaks: over planted best-of-n curves, three seeds of 64 instructions each, the interval of the
middle of the top and that of the arc's turn cover the truth as often as they say, and so do those of paired shifts."""

from __future__ import annotations

import numpy as np
import pytest

from farm.records import CurvePoint, RewardCurve
from farm.study import curves
from farm.study.overoptimization import PromptCurve

pytestmark = pytest.mark.slow

NS = sorted({round(2 ** (k / 2)) for k in range(21)})
D = np.sqrt([np.log(n) - (n - 1) / n for n in NS])
PROMPTS = tuple(f"i{k:02d}" for k in range(64))
WANDER = 0.25**2 * np.minimum(D, 2)[:, None] * np.minimum(D, 2) * np.exp(-0.5 * ((D[:, None] - D) / 0.8) ** 2)
ROOT = np.linalg.cholesky(WANDER + 1e-9 * np.eye(len(D)))
SEEDS, CURVES = 3, 150


def law(peak: float, height: float) -> np.ndarray:
    return height * (2 * D / peak - (D / peak) ** 2)


def measured(random, shape: np.ndarray, seed: int, shared: np.ndarray) -> PromptCurve:
    """One seed's curve: instructions wander around ``shape``; ``shared`` is what two rewards have in common."""
    own = ROOT @ random.normal(size=(len(D), len(PROMPTS)))
    gold = shape[:, None] + np.sqrt(0.5) * (own + shared)
    points = tuple(
        CurvePoint(x=n, proxy=d, gold=float(g.mean()), kl=d * d, n=len(PROMPTS))
        for n, d, g in zip(NS, D.tolist(), gold, strict=True)
    )
    curve = RewardCurve(method="m", seed=seed, x_name="n", points=points)
    return PromptCurve(curve, PROMPTS, np.repeat(D[:, None], len(PROMPTS), axis=1), gold)


def true_middle(shape: np.ndarray) -> float:
    return float(curves.middles((shape - shape[0])[:, None], D)[0] ** 2)


def covered(estimate, truth: float) -> bool:
    return estimate.ci95_low <= truth <= estimate.ci95_high


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_intervals_of_the_place_of_the_peak_and_of_its_shift_cover(spread):
    """``spread``: how much training seeds differ in where they peak (d), on top of the noise of instructions."""
    random = np.random.default_rng(0)
    early, late = law(1.3, 0.3), law(1.8, 0.4)
    hits = dict.fromkeys(("level", "shift", "turn", "shift of the turn"), 0)
    for k in range(CURVES):
        shared = [ROOT @ random.normal(size=(len(D), len(PROMPTS))) for _ in range(SEEDS)]
        off = spread * random.normal(size=(2, SEEDS))
        one = [measured(random, law(1.3 + off[0, s], 0.3), s, shared[s]) for s in range(SEEDS)]
        two = [measured(random, law(1.8 + off[1, s], 0.4), s, shared[s]) for s in range(SEEDS)]
        first, second = curves.peak_draws(one, seed=k), curves.peak_draws(two, seed=k)
        moved = second.minus(first).together()
        hits["level"] += covered(first.together().estimate(2), true_middle(early))
        hits["shift"] += covered(moved.estimate(2), true_middle(late) - true_middle(early))
        hits["turn"] += covered(first.together().estimate(3), 1.3**2)
        hits["shift of the turn"] += covered(moved.estimate(3), 1.8**2 - 1.3**2)
    shares = {what: n / CURVES for what, n in hits.items()}
    print(shares)
    assert all(share >= 0.9 for share in shares.values()), shares
