from dataclasses import replace

import numpy as np
import pytest

from farm.data.verdicts import Verdicts
from farm.evaluate import paired

N = 200


def verdicts(score: np.ndarray, model: str = "m") -> Verdicts:
    n = len(score)
    names = tuple(f"i{k}" for k in range(n))
    nothing = np.full(n, np.nan)
    return Verdicts("j", "ref", model, names, score, nothing, nothing, ("j",) * n, (0,) * n)


def two(gap: float = 0.0, seed: int = 0, n: int = N) -> tuple[Verdicts, Verdicts]:
    """Two policies whose verdicts share the instruction's difficulty."""
    r = np.random.default_rng(seed)
    shared = r.normal(0, 1.5, n)
    first, second = ((r.random(n) < 1 / (1 + np.exp(-shared - g))).astype(float) for g in (gap, 0.0))
    return verdicts(first, "a"), verdicts(second, "b")


def test_hand_computed():
    a = verdicts(np.array([1.0, 1, 0, 0.5, 1, 0]), "a")
    b = verdicts(np.array([1.0, 0, 0, 0.5, 0, 0.5]), "b")
    found = paired.compare(a, b, seed=0)
    gaps = np.array([0, 1, 0, 0, 1, -0.5])
    assert found.difference.value == pytest.approx(gaps.mean())
    assert found.standard_error == pytest.approx(gaps.std(ddof=1) / 6**0.5)
    assert found.separable == pytest.approx(2.8015852 * gaps.std(ddof=1) / 6**0.5)
    assert found.needed == int(np.ceil((2.8015852 * gaps.std(ddof=1) / gaps.mean()) ** 2))
    assert found.n == 6


def test_equals_the_paired_t_test_and_statsmodels_power():
    from scipy import stats

    a, b = two(0.5)
    found = paired.compare(a, b, seed=0)
    t = stats.ttest_rel(a.score, b.score)
    assert found.difference.value / found.standard_error == pytest.approx(t.statistic)
    power = pytest.importorskip("statsmodels.stats.power")
    sd = found.standard_error * N**0.5
    theirs = power.NormalIndPower(ddof=0).solve_power(found.difference.value / sd, power=0.8, alpha=0.05, ratio=0)
    assert found.needed == pytest.approx(theirs, abs=1)


def test_pairing_pays_when_instructions_are_shared():
    found = paired.compare(*two(), seed=0)
    assert found.correlation > 0.1
    assert found.standard_error < 0.95 * found.unpaired_error
    same = two()[0]
    alike = paired.compare(same, replace(same, model="b"), seed=0)
    assert alike.difference.value == 0
    assert alike.difference.ci95_low is None
    assert "equal" in alike.difference.note
    assert alike.separable is None


def test_stated_power_is_the_rate_of_detection():
    """At the difference called separable, four studies in five find it."""
    found, shown = paired.compare(*two(seed=1), seed=0), 0
    r = np.random.default_rng(2)
    a, b = two(seed=1)
    centred = a.score - b.score - found.difference.value
    for _ in range(400):
        gaps = r.choice(centred, N) + found.separable
        shown += abs(gaps.mean()) > 1.96 * gaps.std(ddof=1) / N**0.5
    assert 0.75 < shown / 400 < 0.85


def test_both_orders_are_one_cluster():
    a, b = two(0.3)
    twice = [
        replace(
            v,
            ids=v.ids * 2,
            score=np.r_[v.score, v.score],
            longer_by=np.r_[v.longer_by, v.longer_by],
            model_first=np.r_[np.ones(N), np.zeros(N)],
            judges=v.judges * 2,
            seeds=v.seeds * 2,
        )
        for v in (a, b)
    ]
    assert paired.compare(*twice, seed=0) == paired.compare(a, b, seed=0)


def test_training_seeds_are_paired_and_widen_the_interval():
    a, b = two(0.3)
    tripled = [
        replace(
            v,
            ids=v.ids * 3,
            score=np.clip(np.r_[v.score, v.score, v.score] + np.repeat(shift, N), 0, 1),
            longer_by=np.tile(v.longer_by, 3),
            model_first=np.tile(v.model_first, 3),
            judges=v.judges * 3,
            seeds=tuple(np.repeat([0, 1, 2], N).tolist()),
        )
        for v, shift in ((a, [-0.3, 0.0, 0.3]), (b, [0.0, 0.0, 0.0]))
    ]
    wide, narrow = paired.compare(*tripled, seed=0), paired.compare(a, b, seed=0)
    assert wide.standard_error > 2 * narrow.standard_error


def test_only_common_instructions_with_verdicts_count():
    a, b = two()
    failed = replace(a, score=np.where(np.arange(N) < 50, np.nan, a.score))
    assert paired.compare(failed, b.take(np.arange(N) < 120), seed=0).n == 70
    none = paired.compare(failed, b.take(np.arange(N) < 50), seed=0)
    assert none.difference.value is None
    assert "no instruction" in none.difference.note
    assert paired.instructions_needed(0.0, 0.5) is None
