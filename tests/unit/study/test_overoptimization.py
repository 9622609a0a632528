import numpy as np
import pytest

from farm.errors import DataError
from farm.records import CurvePoint, RewardCurve
from farm.study.overoptimization import PromptCurve, verdict

XS = (0, 20, 40, 80, 120, 160, 200)
HUMP = (0.0, 0.5, 0.8, 1.0, 0.8, 0.5, 0.2)
RISING = (0.0, 0.4, 0.7, 0.9, 1.0, 1.1, 1.2)
FLAT = (0.0,) * 7
FALLING = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.0)
CLIMB = tuple(0.3 * k for k in range(7))


def planted(gold, proxy=CLIMB, *, seed=0, prompts=120, noise=0.6, method="ppo") -> PromptCurve:
    r = np.random.default_rng(seed)
    level = r.normal(0, 1, prompts)
    g = np.array(gold)[:, None] + level + r.normal(0, noise, (7, prompts))
    p = np.array(proxy)[:, None] + level + r.normal(0, noise, (7, prompts))
    points = tuple(
        CurvePoint(
            x=x,
            proxy=p[k].mean(),
            gold=g[k].mean(),
            kl=x / 10,
            n=prompts,
            proxy_se=p[k].std() / prompts**0.5,
            gold_se=g[k].std() / prompts**0.5,
        )
        for k, x in enumerate(XS)
    )
    curve = RewardCurve(method=method, seed=seed, x_name="step", points=points)
    return PromptCurve(curve, tuple(f"i{k}" for k in range(prompts)), p, g)


@pytest.mark.parametrize("bare", [False, True])
def test_planted_hump_is_over_optimization(bare: bool):
    data = planted(HUMP, noise=0.3, prompts=400)
    v = verdict([data.curve if bare else data], seed=0)
    assert v.gold_rises
    assert v.gold_falls
    assert v.proxy_keeps_rising
    assert v.over_optimized
    assert (v.peak_x, v.peak_kl) == (80, 8)
    assert v.rise.value == pytest.approx(1.0, abs=0.15)
    assert v.fall.ci95_low < 0.8 < v.fall.ci95_high
    assert "then falls" in v.sentence
    assert v.sentence.endswith("over-optimization.")
    assert ("cross-fitted" in v.tested) is not bare


def test_three_seeds_are_judged_together():
    v = verdict([planted(HUMP, seed=s) for s in range(3)], seed=0)
    assert v.over_optimized
    assert v.seeds == (0, 1, 2)
    assert len(v.peaks) == 3
    assert "3 seeds" in v.rise.note


def test_a_few_seeds_peaks_are_listed_and_many_are_a_range():
    moved = [planted(HUMP if s % 2 else np.roll(HUMP, 1), seed=s, noise=0.01) for s in range(6)]
    few, many = verdict(moved[:2], seed=0), verdict(moved, seed=0)
    low, high = (f"{x:g}" for x in sorted(set(many.peaks)))
    assert f"in the median of 2 seeds ({low}, {high})" in few.sentence
    assert f"in the median of 6 seeds ({low} to {high})" in many.sentence


def test_seeds_that_differ_in_size_but_not_in_direction_agree():
    """Every seed's proxy rises and gold falls, by such different amounts that no interval over three seeds says so."""
    sizes = (0.3, 0.4, 9.0)
    data = [
        planted([g * s for g in HUMP], proxy=[p * s for p in RISING], seed=k, noise=0.05) for k, s in enumerate(sizes)
    ]
    v = verdict(data, seed=0)
    assert v.proxy_after_peak.ci95_low < 0
    assert v.fall.ci95_low < 0
    assert (v.seeds_falling, v.seeds_rising) == (3, 3)
    assert v.over_optimized
    assert "in each of 3 seeds" in v.sentence


def test_rising_gold_is_not():
    v = verdict([planted(RISING)], seed=0)
    assert v.gold_rises
    assert not v.gold_falls
    assert not v.over_optimized
    assert "no over-optimization" in v.sentence


def test_falling_from_the_start():
    v = verdict([planted(FALLING)], seed=0)
    assert not v.gold_rises
    assert v.gold_falls
    assert v.over_optimized
    assert v.peak_x == 0


def test_fall_without_proxy_rise_is_not_called_over_optimization():
    v = verdict([planted(HUMP, proxy=HUMP)], seed=0)
    assert v.gold_falls
    assert not v.proxy_keeps_rising
    assert not v.over_optimized
    assert "stops rising" in v.sentence


def test_flat_curves_rarely_look_like_falls():
    """A peak chosen and measured on the same noise would call half of these falls."""
    alarms = [verdict([planted(FLAT, seed=s, prompts=60)], seed=0).gold_falls for s in range(100)]
    assert sum(alarms) <= 8
    bare = [verdict([planted(FLAT, seed=s, prompts=60).curve], seed=0).gold_falls for s in range(100)]
    assert sum(bare) <= 8


def test_missing_gold_and_too_few_points_are_said():
    data = planted(HUMP)
    unmeasured = tuple(p.model_copy(update={"gold": None}) for p in data.curve.points)
    blind = data.curve.model_copy(update={"points": unmeasured})
    v = verdict([blind], seed=0)
    assert v.rise.value is None
    assert not v.over_optimized
    assert "gold was not measured" in v.sentence
    short = data.curve.model_copy(update={"points": data.curve.points[:1]})
    assert "too few points" in verdict([short], seed=0).sentence


def test_no_standard_errors_no_claim():
    points = tuple(CurvePoint(x=x, proxy=x, gold=g, n=50) for x, g in zip(XS, HUMP))
    v = verdict([RewardCurve(method="ppo", seed=0, x_name="step", points=points)], seed=0)
    assert v.fall.value == pytest.approx(0.8)
    assert v.fall.ci95_low is None
    assert not v.gold_falls
    assert "untested" in v.sentence


def test_bad_curves_are_refused():
    data = planted(HUMP)
    with pytest.raises(DataError, match="one method"):
        verdict([data, planted(HUMP, seed=1, method="dpo")], seed=0)
    with pytest.raises(DataError, match="seed occurs twice"):
        verdict([data, data], seed=0)
    backward = data.curve.model_copy(update={"points": data.curve.points[::-1]})
    with pytest.raises(DataError, match="must increase"):
        verdict([backward], seed=0)
    with pytest.raises(DataError, match="shape"):
        PromptCurve(data.curve, data.prompts[:-1], data.proxy, data.gold)


def test_seeds_that_fall_to_different_depths_all_fall():
    ends = (0.2, -1.5, -7.0)
    three = [planted((*HUMP[:-1], end), seed=k, prompts=300, noise=0.3) for k, end in enumerate(ends)]
    v = verdict(three, seed=0)
    assert v.fall.ci95_low < 0  # three so different seeds say little about a fourth
    assert v.seeds_falling == 3
    assert v.over_optimized
    assert "in each of 3 seeds" in v.sentence


def test_one_seed_that_does_not_fall_is_enough_to_doubt():
    three = [planted((*HUMP[:-1], end), seed=k, prompts=300, noise=0.3) for k, end in enumerate((1.2, -1.5, -7.0))]
    v = verdict(three, seed=0)
    assert v.seeds_falling == 2
    assert not v.over_optimized
