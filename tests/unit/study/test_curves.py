"""Peaks, shifts and KL budgets of curves over seeds: what was planted is found, paired where it can be."""

from __future__ import annotations

import numpy as np
import pytest

from farm.errors import DataError
from farm.records import CurvePoint, RewardCurve
from farm.study import curves
from farm.study.overoptimization import PromptCurve
from farm.study.resample import bootstrap

D = np.linspace(0, 2.4, 13)
PROMPTS = tuple(f"i{k}" for k in range(40))


def curve(peak: float, height: float, seed: int, method: str = "m", noise: float = 0.2, kl: float = 1.0) -> PromptCurve:
    """Gold with its peak at d = ``peak``, proxy d, KL ``kl`` * d^2; noise is the same for the same seed and prompt."""
    random = np.random.default_rng(seed)
    gold = (
        height * (1 - ((D - peak) / peak) ** 2)[:, None]
        + random.normal(0, noise, len(PROMPTS))
        + 0.02 * random.normal(size=(len(D), len(PROMPTS)))
    )
    proxy = D[:, None] + random.normal(0, noise, len(PROMPTS))
    points = tuple(
        CurvePoint(x=2.0**k, proxy=float(p.mean()), gold=float(g.mean()), kl=float(kl * d * d), n=len(PROMPTS))
        for k, (d, p, g) in enumerate(zip(D, proxy, gold, strict=True))
    )
    return PromptCurve(RewardCurve(method=method, seed=seed, x_name="n", points=points), PROMPTS, proxy, gold)


def test_the_peak_is_found_with_an_interval_around_it():
    p = curves.peak([curve(1.2, 0.5, s) for s in range(3)], seed=0)
    assert p.kl.value == pytest.approx(1.44, abs=0.3)
    assert p.kl.ci95_low <= 1.44 <= p.kl.ci95_high
    assert p.gain.value == pytest.approx(0.5, abs=0.03)
    assert p.fall.ci95_low > 0
    assert p.proxy_gain.value == pytest.approx(2.4)


def test_a_shift_is_paired_so_shared_noise_cancels():
    base = [curve(1.2, 0.5, s) for s in range(3)]
    moved = [curve(1.8, 0.6, s) for s in range(3)]
    s = curves.shift(moved, base, seed=0, name="more", against="less", question="")
    assert s.peak_gold.value == pytest.approx(0.1, abs=0.02)
    assert s.peak_gold.ci95_high - s.peak_gold.ci95_low < 0.06  # single levels scatter by 0.2 / sqrt(40)
    assert s.peak_kl.ci95_low > 0
    assert s.peak_kl.value == pytest.approx(1.8**2 - 1.2**2, abs=0.5)
    assert s.fall.ci95_high < 0
    nothing = curves.shift(base, base, seed=0, name="a", against="a", question="")
    assert (nothing.peak_kl.value, nothing.peak_gold.value, nothing.fall.value) == (0, 0, 0)
    assert set(nothing.in_each.values()) == {0}


def test_what_holds_in_every_seed_counts_however_much_seeds_differ():
    base = [curve(1.2, 0.5, s) for s in range(3)]
    moved = [curve(1.2, h, s, noise=0.25) for s, h in enumerate((0.7, 1.0, 4.0))]
    s = curves.shift(moved, base, seed=0, name="a", against="b", question="")
    assert s.peak_gold.ci95_low < 0  # three seeds that different give no interval to speak of
    assert (s.in_each["peak_gold"], s.in_each["end_gold"], s.in_each["peak_kl"]) == (1, 0, 0)


def test_shifts_between_other_seeds_or_prompts_are_refused():
    base = [curve(1.2, 0.5, s) for s in range(2)]
    with pytest.raises(DataError, match="different seeds"):
        curves.shift(base[:1], base, seed=0, name="a", against="b", question="")
    other = PromptCurve(base[1].curve, tuple(f"j{k}" for k in range(40)), base[1].proxy, base[1].gold)
    with pytest.raises(DataError, match="different instructions"):
        curves.shift([base[0], other], base, seed=0, name="a", against="b", question="")


def test_a_peak_needs_gold_and_kl():
    bare = curve(1.2, 0.5, 0)
    with pytest.raises(DataError, match="not measured"):
        curves.peak([PromptCurve(bare.curve, bare.prompts, bare.proxy, None)], seed=0)


def test_kl_for_the_same_proxy_gain():
    cheap = [curve(1.2, 0.5, s) for s in range(3)]
    dear = [curve(1.2, 0.5, s, method="rl", kl=4.0) for s in range(3)]
    found = curves.spending(cheap, dear, [0.5, 1.0, 99.0], seed=0)
    assert [s.gain for s in found] == [0.5, 1.0]  # 99 is out of reach
    for s in found:
        assert s.first_kl.value == pytest.approx(s.gain**2, abs=0.03)
        assert s.second_kl.value == pytest.approx(4 * s.gain**2, abs=0.1)
        assert s.difference.ci95_low > 0
        assert s.in_each == 1


def test_more_kl_in_every_seed_counts_where_the_seeds_differ_too_much_for_an_interval():
    cheap = [curve(1.2, 0.5, s) for s in range(3)]
    dear = [curve(1.2, 0.5, s, method="rl", kl=k) for s, k in enumerate((1.2, 1.5, 6.0))]
    (found,) = curves.spending(cheap, dear, [0.5], seed=0)
    assert found.difference.ci95_low < 0
    assert found.in_each == 1
    (mixed,) = curves.spending(cheap, [*dear[:2], curve(1.2, 0.5, 2, method="rl", kl=1.0)], [0.5], seed=0)
    assert mixed.in_each == 0


def test_prices_need_the_same_seeds_and_a_gain_that_every_seed_reaches():
    cheap = [curve(1.2, 0.5, s) for s in range(3)]
    with pytest.raises(DataError, match="different seeds"):
        curves.spending(cheap, cheap[:2], [0.5], seed=0)
    short = cheap[2].curve.model_copy(update={"points": cheap[2].curve.points[:3]})
    stops = PromptCurve(short, cheap[2].prompts, cheap[2].proxy[:3], None)
    assert [s.gain for s in curves.spending(cheap, [*cheap[:2], stops], [0.1, 1.0], seed=0)] == [0.1]


def test_bands_average_seeds_and_carry_the_bound_only_for_best_of_n():
    several = [curve(1.2, 0.5, s) for s in range(3)]
    rows = curves.bands(several, seed=0)
    assert [b.x for b in rows] == [2.0**k for k in range(13)]
    assert rows[3].gold.value == pytest.approx(np.mean([c.gold[3].mean() for c in several]))
    assert rows[3].kl_bound == pytest.approx(np.log(8) - 7 / 8)
    assert all(b.gold.ci95_low < b.gold.value < b.gold.ci95_high for b in rows)


def test_bootstrap_of_a_mean_agrees_with_the_two_way_interval():
    from farm.evaluate.intervals import two_way

    random = np.random.default_rng(3)
    data = random.normal(size=(3, 50)) + random.normal(0, 0.3, size=(3, 1))
    ids = [[f"i{k:02d}" for k in range(50)]] * 3
    ours = bootstrap([row[None] for row in data], ids, lambda k, means: means, seed=1).together().estimate(0)
    theirs = two_way(data, seed=1)
    assert (ours.value, ours.ci95_low, ours.ci95_high) == pytest.approx(
        (theirs.value, theirs.ci95_low, theirs.ci95_high), abs=0.01
    )


def test_a_bootstrap_refuses_nan():
    with pytest.raises(DataError, match="finite"):
        bootstrap([np.array([[1.0, np.nan]])], [["a", "b"]], lambda k, means: means, seed=0)


def test_replicates_are_averaged_point_by_point():
    one, two = curve(1.2, 0.5, 0), curve(1.8, 0.7, 1)
    mean = curves.averaged([one, two])
    assert np.allclose(mean.gold, (one.gold + two.gold) / 2)
    assert mean.curve.points[5].gold == pytest.approx(mean.gold[5].mean())
    assert mean.curve.points[5].proxy == pytest.approx(mean.proxy[5].mean())
    assert mean.curve.points[5].gold_se == pytest.approx(mean.gold[5].std(ddof=1) / np.sqrt(len(PROMPTS)))
    assert mean.curve.points[5].kl == one.curve.points[5].kl
    assert curves.averaged([one]) is one
    bare = PromptCurve(one.curve, one.prompts, one.proxy, None)
    assert curves.averaged([bare, two]).gold is None
    other = PromptCurve(one.curve, tuple(f"j{k}" for k in range(40)), one.proxy, one.gold)
    with pytest.raises(DataError, match="different instructions"):
        curves.averaged([one, other])


def middle(gain, d) -> float:
    return float(curves.middles(np.array(gain, dtype=float)[:, None], np.array(d, dtype=float))[0])


def test_the_middle_of_the_top_is_the_peak_of_an_even_curve_and_follows_pieces_exactly():
    d = np.linspace(0, 2.4, 25)
    assert middle(1 - (d - 1.2) ** 2 / 1.44, d) == pytest.approx(1.2, abs=1e-9)
    assert middle([0, 1, 0], [0, 1, 3]) == pytest.approx((0.9 + 1.2) / 2)  # above 0.9 from d = 0.9 to 1.2
    assert middle([0, 0.95, 1, 0.95], [0, 1, 2, 3]) == pytest.approx((0.9 / 0.95 + 3) / 2)
    assert middle([0, 1, 0, 1], [0, 1, 2, 3]) == pytest.approx((0.2 * 1.0 + 0.1 * 2.95) / 0.3)  # two tops
    assert middle([0, -1, -2], [0, 1, 2]) == 0  # never gains
    assert middle([0, 0, 0], [0, 1, 2]) == 0


def arc(gain, d) -> float:
    return float(curves.arcs(np.array(gain, dtype=float)[:, None], np.array(d, dtype=float))[0])


def test_an_arc_turns_at_the_peak_of_its_parabola_and_a_collapse_far_behind_it_changes_nothing():
    d = np.linspace(0, 2.4, 25)
    whole = 1 - (d - 1.0) ** 2
    assert arc(whole, d) == pytest.approx(1.0)
    collapsed = np.where(np.arange(25) > 24 - 2, -9.0, whole)  # the stretch ends where gold is 1 below the start
    assert arc(collapsed, d) == pytest.approx(1.0)
    assert arc(np.r_[whole, 5.0], np.r_[d[:-1], 2.42, 3.0]) != pytest.approx(1.0)  # while it lasts every point counts
    assert arc(d, d) == 2.4  # no turn: not beyond what was measured
    assert arc(0.6 * d - 0.01 * d**2, d) == 2.4
    assert arc([0, -1, -2], [0, 1, 2]) == 0  # never gains
    assert arc([0, 0, 0], [0, 1, 2]) == 0
    assert arc([0, 1, -3], [0, 1, 2]) == 1  # one point cannot carry a parabola
    many = curves.arcs(np.stack([whole, d, -d], axis=1), d)
    assert many == pytest.approx([1.0, 2.4, 0.0])


def test_the_middle_of_the_top_is_less_noisy_than_the_highest_point():
    """A flat best-of-n curve: each instruction's own smooth wander, and 64 instructions."""
    random = np.random.default_rng(0)
    d = np.sqrt([np.log(n) - (n - 1) / n for n in (2 ** (np.arange(21) / 2)).round()])
    wander = 0.25 * np.minimum(d, 2)[:, None] * np.minimum(d, 2) * np.exp(-0.5 * ((d[:, None] - d) / 0.8) ** 2)
    root = np.linalg.cholesky(wander * 0.25 + 1e-9 * np.eye(len(d)))
    for peak in (1.4, 2.0):
        true = 0.3 * (2 * d / peak - (d / peak) ** 2)
        means = true[:, None] + root @ random.normal(size=(len(d), 400)) / np.sqrt(64)
        means[0] = 0
        highest, middle_ = d[means.argmax(axis=0)], curves.middles(means, d)
        assert np.mean((middle_ - peak) ** 2) < 0.8 * np.mean((highest - peak) ** 2)
        assert abs(middle_.mean() - peak) < 0.12


def test_the_turn_of_the_arc_is_less_noisy_than_both_where_a_curve_goes_on_well_beyond_its_peak():
    """KL at the steps of a shipped PPO run, 512 instructions."""
    random = np.random.default_rng(0)
    d = np.sqrt([0, 0.1, 0.5, 1, 1.9, 2.6, 3.4, 3.9, 4.4, 4.7, 5.3, 6.0, 7.3, 9.1])
    near = np.minimum(d, 2)[:, None] * np.minimum(d, 2) * np.exp(-0.5 * ((d[:, None] - d) / 0.8) ** 2)
    root = np.linalg.cholesky(0.25 * near + 1e-9 * np.eye(len(d)))
    for peak in (1.0, 1.4):
        true = 0.17 * (2 * d / peak - (d / peak) ** 2)
        means = true[:, None] + root @ random.normal(size=(len(d), 1000)) / np.sqrt(512)
        means[0] = 0
        errors = {
            name: np.sqrt(np.mean((found - peak) ** 2))
            for name, found in (
                ("highest", d[means.argmax(axis=0)]),
                ("middle", curves.middles(means, d)),
                ("turn", curves.arcs(means, d)),
            )
        }
        assert errors["turn"] < 0.7 * errors["middle"] < 0.7 * errors["highest"]
        assert abs(curves.arcs(means, d).mean() - peak) < 0.02
