from dataclasses import replace

import numpy as np
import pytest

from farm.data.length_control import Material
from farm.data.verdicts import Verdicts
from farm.evaluate import alpaca_lc
from farm.evaluate.l1_logistic import logistic

N = 300


def verdicts(model: str = "m", effect: float = 1.5, seed: int = 0) -> tuple[Verdicts, Material, float]:
    """A model that writes longer than its reference before a judge that likes length, and its true controlled rate."""
    r = np.random.default_rng(seed)
    d = np.round(r.normal(0, 1.5, N), 6)
    longer = np.round(r.normal(120, 200, N))
    t = np.tanh(-longer / longer.std(ddof=1))
    score = logistic(-effect * t + 0.8 * d - 0.5)[0]
    hard = (r.random(N) < score).astype(float)
    names = tuple(str(i) for i in range(N))
    made = Verdicts("j", "ref", model, names, hard, longer, np.full(N, np.nan), ("j",) * N, (0,) * N)
    return made, Material(dict(zip(names, d.tolist()))), float(logistic(0.8 * d - 0.5)[0].mean())


def shuffled(v: Verdicts) -> Verdicts:
    order = np.random.default_rng(9).permutation(len(v.ids))
    ids = tuple(v.ids[i] for i in order)
    return replace(v, ids=ids, score=v.score[order], longer_by=v.longer_by[order])


def test_recovers_the_planted_value_that_length_had_inflated():
    v, material, truth = verdicts()
    found = alpaca_lc.lc(v, material, seed=0, resamples=200)
    assert abs(v.score.mean() - truth) > 0.05
    assert found.estimate.value == pytest.approx(truth, abs=0.05)
    assert found.estimate.ci95_low < truth < found.estimate.ci95_high
    assert found.coefficients[0] < 0
    assert alpaca_lc.lc_compat(v, material).value == pytest.approx(found.estimate.value, abs=0.02)


def test_equals_a_second_optimiser():
    from scipy.optimize import minimize

    v, material, _ = verdicts()
    d = np.array(list(material.difficulty.values()))
    t = np.tanh(-v.longer_by / v.longer_by.std(ddof=1))
    x = np.stack([t, d, np.ones(N)], axis=1)

    def objective(w: np.ndarray) -> float:
        z = x @ w
        return float((np.logaddexp(0, z) - v.score * z).sum() + alpaca_lc.RIDGE / 2 * w @ w)

    other = minimize(objective, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    assert alpaca_lc.lc(v, material, seed=0, resamples=0).coefficients == pytest.approx(tuple(other), abs=1e-4)


def test_bootstrap_error_is_that_of_repeated_studies_and_seeded():
    values = [alpaca_lc.lc(*verdicts(seed=s)[:2], seed=0, resamples=0).estimate.value for s in range(40)]
    v, material, _ = verdicts()
    found = alpaca_lc.lc(v, material, seed=3)
    assert found == alpaca_lc.lc(v, material, seed=3)
    assert found.estimate.ci95_low != alpaca_lc.lc(v, material, seed=4).estimate.ci95_low
    assert found.standard_error == pytest.approx(np.std(values), rel=0.35)
    d = np.array(list(material.difficulty.values()))
    printed = logistic(found.coefficients[1] * d + found.coefficients[2])[0].std(ddof=1) / N**0.5
    assert found.standard_error > 1.5 * printed  # what alpaca_eval prints is the spread of fitted chances


def test_neither_form_depends_on_the_order_of_rows():
    v, material, _ = verdicts()
    assert alpaca_lc.lc(shuffled(v), material, seed=0) == alpaca_lc.lc(v, material, seed=0)
    assert alpaca_lc.lc_compat(shuffled(v), material) == alpaca_lc.lc_compat(v, material)


def test_a_missing_instruction_shifts_only_the_published_form():
    v, material, truth = verdicts()
    short = v.take(np.arange(N) != 2)
    assert alpaca_lc.lc(short, material, seed=0, resamples=0).estimate.value == pytest.approx(truth, abs=0.05)
    whole, cut = (alpaca_lc.lc_compat(x, material, c=21.5).value for x in (v, short))
    by_id = [alpaca_lc.lc(x, material, seed=0, resamples=0).estimate.value for x in (v, short)]
    assert abs(whole - cut) > 3 * abs(by_id[0] - by_id[1])


def test_failed_rows_leave_the_fit_and_stay_in_the_published_average():
    v, material, _ = verdicts()
    failed = replace(v, score=np.where(np.arange(N) < 5, np.nan, v.score))
    found = alpaca_lc.lc(failed, material, seed=0, resamples=0)
    assert found.estimate.n == N - 5
    rows = failed.take(np.arange(N) >= 5)
    d = np.array(list(material.difficulty.values()))
    chance = logistic(found.coefficients[1] * d[5:] + found.coefficients[2])[0]
    assert found.estimate.value == pytest.approx(chance.mean())
    assert alpaca_lc.lc_compat(failed, material, c=1e4).value != alpaca_lc.lc_compat(rows, material, c=1e4).value


def test_the_published_penalty_belongs_to_one_judge_and_reference():
    v, material, _ = verdicts()
    known = replace(material, penalties={"m": 1e4})
    assert alpaca_lc.lc_compat(v, known).chosen == "cross-validated"
    judge, reference = alpaca_lc.PUBLISHED
    published = replace(v, annotator=judge, reference=reference)
    assert alpaca_lc.lc_compat(published, known).c == 1e4
    assert alpaca_lc.lc_compat(published, known).chosen == "published"
    assert alpaca_lc.lc_compat(published, known, c=2.0).chosen == "given"


def test_the_reference_against_itself_is_a_half():
    v, material, _ = verdicts("ref")
    assert alpaca_lc.lc(v, material, seed=0).estimate.value == 0.5
    assert alpaca_lc.lc_compat(v, material).value == 0.5


def test_not_estimable_says_why():
    v, material, _ = verdicts()

    def reason(changed: Verdicts, given: Material = material) -> tuple[str, str]:
        found = alpaca_lc.lc(changed, given, seed=0).estimate, alpaca_lc.lc_compat(changed, given)
        assert found[0].value is None
        assert found[1].value is None
        return found[0].note, found[1].note

    assert "same verdict" in reason(replace(v, score=np.ones(N)))[0]
    assert "the same everywhere" in reason(replace(v, longer_by=np.full(N, 3.0)))[1]
    assert "for 4 of 4" in reason(v.take(np.arange(N) < 4))[0]
    assert "a length is unknown" in reason(replace(v, longer_by=np.full(N, np.nan)))[1]
    assert "0 difficulties" in reason(v, Material())[1]
    both = replace(v, ids=tuple(str(i // 2) for i in range(N)))
    assert "several verdicts" in alpaca_lc.lc_compat(both, material).note
    some = Material({k: d for k, d in material.difficulty.items() if int(k) >= 20})
    found = alpaca_lc.lc(v, some, seed=0, resamples=0).estimate
    assert found.n == N - 20
    assert found.note == "20 instructions without a length or difficulty left out"
