"""Gao's laws: the right law for the right method, planted coefficients recovered with honest intervals, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farm.errors import DataError
from farm.records import CurvePoint, RewardCurve
from farm.study import fits
from farm.study.overoptimization import PromptCurve

D = {"n": np.linspace(0.0, 2.5, 16), "step": np.linspace(0.0, 7.0, 14)}
PLANTED = {"n": (0.62, 0.2), "step": (0.9, 0.55)}  # peaks at d = 1.55 and at d = 1.89


def planted(x_name: str, d: np.ndarray) -> np.ndarray:
    alpha, beta = PLANTED[x_name]
    return fits.predict(alpha, beta, d, "best_of_n" if x_name == "n" else "rl")


def bare(x_name: str, gold: np.ndarray, d: np.ndarray, seed: int = 0) -> RewardCurve:
    points = tuple(
        CurvePoint(x=float(k + (x_name == "n")), proxy=float(k), gold=float(g), kl=float(v * v), n=60)
        for k, (g, v) in enumerate(zip(gold, d, strict=True))
    )
    return RewardCurve(method="m", seed=seed, x_name=x_name, points=points)


def by_prompt(x_name: str, random: np.random.Generator, seeds: int, prompts: int = 60) -> list[PromptCurve]:
    """Curves whose instructions and seeds scatter around the planted law, points of one instruction correlated."""
    d, out = D[x_name], []
    own = random.normal(0, 0.3, size=(2, prompts))  # what an instruction's alpha and beta are apart from the mean
    for s in range(seeds):
        shift = random.normal(0, 0.03, size=2)
        form = "best_of_n" if x_name == "n" else "rl"
        each = fits.design(d, form) @ (own + shift[:, None])
        noise = random.normal(0, 0.2, size=(len(d), prompts)) + random.normal(0, 0.5, size=prompts)
        gold = 0.7 + planted(x_name, d)[:, None] + each + noise
        curve = bare(x_name, gold.mean(axis=1), d, s)
        out.append(PromptCurve(curve, tuple(f"i{k}" for k in range(prompts)), gold, gold))
    return out


def test_each_method_has_its_own_law():
    d = np.array([0.5, 1.0, 2.0])
    assert fits.predict(2.0, 0.5, d, "best_of_n") == pytest.approx(d * (2.0 - 0.5 * d))
    assert fits.predict(2.0, 0.5, d, "rl") == pytest.approx(d * (2.0 - 0.5 * np.log(d)))
    assert fits.form_of(bare("n", d, d)) == "best_of_n"
    assert all(fits.form_of(bare(x, d, d)) == "rl" for x in ("step", "update", "epoch"))


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_the_peak_is_where_the_law_is_highest(form):
    d = np.linspace(1e-3, 12, 200_001)
    gains = fits.predict(1.1, 0.6, d, form)
    at, kl, gain = fits.peak(np.array(1.1), np.array(0.6), form)
    assert at == pytest.approx(d[gains.argmax()], abs=1e-3)
    assert (kl, gain) == (pytest.approx(at**2), pytest.approx(gains.max(), abs=1e-6))
    assert math.isinf(fits.peak(np.array(1.0), np.array(-0.1), form)[0])


@pytest.mark.parametrize("x_name", ["n", "step"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_cover_planted_coefficients_as_often_as_they_say(x_name, seeds):
    random = np.random.default_rng(11)
    covered = np.zeros(3)
    top = float(fits.peak(*map(np.array, PLANTED[x_name]), fits.form_of(bare(x_name, D[x_name], D[x_name])))[0])
    for _ in range(200):
        curves = by_prompt(x_name, random, seeds)
        if seeds == 1:  # the shift of a single seed is part of what is fitted: the scatter is over instructions
            curves = by_prompt_without_shift(x_name, random)
        f = fits.fit(curves, seed=0)
        for k, (estimate, truth) in enumerate(zip((f.alpha, f.beta, f.peak_d), (*PLANTED[x_name], top), strict=True)):
            low, high = estimate.ci95_low, estimate.ci95_high
            covered[k] += (low is None or low <= truth) and (high is None or truth <= high)
    # 200 draws of a 95% interval cover 181 to 198 times with probability 0.998; two instructions' worth of slack below
    assert (covered >= 179).all(), covered
    assert covered.sum() < 3 * 200


def by_prompt_without_shift(x_name: str, random: np.random.Generator) -> list[PromptCurve]:
    d, prompts = D[x_name], 60
    own = random.normal(0, 0.3, size=(2, prompts))
    form = "best_of_n" if x_name == "n" else "rl"
    noise = random.normal(0, 0.2, size=(len(d), prompts)) + random.normal(0, 0.5, size=prompts)
    gold = 0.7 + planted(x_name, d)[:, None] + fits.design(d, form) @ own + noise
    return [PromptCurve(bare(x_name, gold.mean(axis=1), d), tuple(f"i{k}" for k in range(prompts)), gold, gold)]


@pytest.mark.parametrize("x_name", ["n", "step"])
def test_bare_curves_are_fitted_by_least_squares_with_the_same_promise(x_name):
    random = np.random.default_rng(5)
    covered = np.zeros(2)
    for _ in range(200):
        gold = 0.7 + planted(x_name, D[x_name]) + random.normal(0, 0.03, len(D[x_name]))
        f = fits.fit([bare(x_name, gold, D[x_name])], seed=0)
        for k, (e, truth) in enumerate(zip((f.alpha, f.beta), PLANTED[x_name], strict=True)):
            covered[k] += e.ci95_low <= truth <= e.ci95_high
    assert ((covered >= 179) & (covered < 200)).all(), covered


def test_a_curve_on_the_law_is_recovered_exactly_and_foreseen_from_its_first_part():
    random = np.random.default_rng(0)
    gold = 0.7 + planted("n", D["n"])[:, None] + random.normal(0, 0.4, size=30)  # offsets cancel in the differences
    curve = PromptCurve(bare("n", gold.mean(axis=1), D["n"]), tuple(map(str, range(30))), gold, gold)
    f = fits.fit([curve], seed=0)
    assert (f.alpha.value, f.beta.value) == pytest.approx(PLANTED["n"])
    assert f.peak_d.value == pytest.approx(0.62 / 0.4)
    assert f.peak_gain.value == pytest.approx(0.62**2 / 0.8)
    assert f.peak_inside
    assert f.r2 == pytest.approx(1)
    assert max(map(abs, f.residuals)) < 1e-9
    e = f.extrapolation
    assert e is not None
    assert e.n_fitted + e.n_held == 15
    assert e.predicted_last == pytest.approx(e.measured_last)
    assert e.error.value == pytest.approx(0, abs=1e-9)


def test_the_wrong_law_explains_less_and_misses_the_end():
    gold = 0.7 + planted("n", D["n"])[:, None] + np.zeros(20)
    curve = PromptCurve(bare("n", gold.mean(axis=1), D["n"]), tuple(map(str, range(20))), gold, gold)
    f = fits.fit([curve], seed=0)
    assert f.r2_other is not None
    assert f.r2_other < f.r2 - 0.01


def test_a_rising_curve_has_no_peak_in_range():
    d = D["n"]
    f = fits.fit([bare("n", 0.5 + 0.3 * d + np.random.default_rng(1).normal(0, 0.01, len(d)), d)], seed=0)
    assert not f.peak_inside
    assert "no peak" in f.sentence or "beyond what was measured" in f.sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p[:4], "needs at least 4"),
        (lambda p: [*p[:5], p[5].model_copy(update={"gold": None}), *p[6:]], "gold was not measured"),
        (lambda p: [*p[:5], p[5].model_copy(update={"kl": None}), *p[6:]], "KL was not measured"),
        (lambda p: [*p[:5], p[5].model_copy(update={"gold": math.nan}), *p[6:]], "not a finite number"),
        (lambda p: [*p[:9], p[9].model_copy(update={"kl": 0.1}), *p[10:]], "KL falls from"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(change, words):
    curve = bare("n", 0.7 + planted("n", D["n"]), D["n"])
    f = fits.fit([curve.model_copy(update={"points": tuple(change(list(curve.points)))})], seed=0)
    assert words in f.refused
    assert f.sentence.startswith("m: no fit")
    assert f.alpha.value is None
    assert f.peak_kl.value is None


def test_a_law_that_does_not_describe_the_curve_is_refused():
    gold = 0.7 + np.random.default_rng(3).normal(0, 0.2, 16)
    assert "explains only" in fits.fit([bare("n", gold, D["n"])], seed=0).refused


def test_kl_may_wobble_within_its_error():
    points = list(bare("step", 0.7 + planted("step", D["step"]), D["step"]).points)
    points[8] = points[8].model_copy(update={"kl": points[7].kl - 0.3, "kl_se": 0.2})
    assert fits.fit([RewardCurve(method="m", seed=0, x_name="step", points=tuple(points))], seed=0).refused == ""


def test_curves_of_two_methods_are_not_fitted_together():
    one = bare("n", D["n"], D["n"])
    with pytest.raises(DataError, match="one method"):
        fits.fit([one, one.model_copy(update={"method": "other"})], seed=0)
