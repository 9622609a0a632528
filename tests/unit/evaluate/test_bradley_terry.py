import numpy as np
import pytest

from farm.evaluate import bradley_terry as bt
from farm.evaluate.bradley_terry import Contest


def round_robin(strength: list[float], n: int, seed: int = 0, ties: float = 0.2) -> list[Contest]:
    r = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        for a in range(len(strength)):
            for b in range(a):
                p = 1 / (1 + np.exp(strength[b] - strength[a]))
                score = 0.5 if r.random() < ties else float(r.random() < p)
                rows.append(Contest(f"i{i}", f"p{a}", f"p{b}", score))
    return rows


def wins(rows: list[Contest], p: int) -> np.ndarray:
    table = np.zeros((p, p))
    for r in rows:
        a, b = int(r.first[1:]), int(r.second[1:])
        table[a, b] += r.score
        table[b, a] += 1 - r.score
    return table


def test_equals_choix_with_ties_as_half_a_win():
    choix = pytest.importorskip("choix")
    rows = round_robin([0.0, 0.5, 1.0, -1.0, 0.2], 40)
    theirs = choix.ilsr_pairwise_dense(wins(rows, 5), alpha=0.0)
    found = {r.policy: r.rating.value for r in bt.ratings(rows, seed=0, resamples=0)}
    assert [found[f"p{k}"] for k in range(5)] == pytest.approx(list(theirs - theirs.mean()), abs=1e-6)


def test_equals_logistic_regression():
    from scipy.optimize import minimize

    rows = round_robin([0.0, 0.7, -0.4], 30, seed=4)
    table = wins(rows, 3)

    def loss(r: np.ndarray) -> float:
        gap = r[:, None] - r[None, :]
        return float((table * np.logaddexp(0, -gap)).sum() + r.sum() ** 2)

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    assert bt.fit(table) == pytest.approx(best, abs=1e-5)


def test_fitted_scores_are_the_observed_ones_and_two_policies_are_the_logit():
    rows = round_robin([0.0, 1.0, 2.0, -1.0], 60, seed=1)
    table = wins(rows, 4)
    r = bt.fit(table)
    expected = ((table + table.T) / (1 + np.exp(r[None, :] - r[:, None]))).sum(axis=1)
    assert expected == pytest.approx(table.sum(axis=1), abs=1e-6)
    two = bt.fit(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert two[0] - two[1] == pytest.approx(np.log(3))


def test_intervals_cover_and_are_seeded():
    truth = np.array([0.0, 0.6, 1.2, -0.8])
    truth = truth - truth.mean()
    hits = 0
    for k in range(25):
        found = {r.policy: r.rating for r in bt.ratings(round_robin(list(truth), 60, seed=k, ties=0), seed=0)}
        hits += sum(found[f"p{j}"].ci95_low <= truth[j] <= found[f"p{j}"].ci95_high for j in range(4))
    assert 88 <= hits <= 100
    rows = round_robin(list(truth), 20)
    assert bt.ratings(rows, seed=1) == bt.ratings(rows[::-1], seed=1)


def test_contests_on_one_instruction_are_one_cluster():
    rows = round_robin([0.0, 0.5], 40)
    many = [Contest(r.instruction, r.first, r.second, r.score) for r in rows for _ in range(5)]
    once, often = (bt.ratings(x, seed=0)[0].rating for x in (rows, many))
    assert often.ci95_high - often.ci95_low == pytest.approx(once.ci95_high - once.ci95_low, rel=1e-6)


def test_ratings_that_do_not_exist_are_not_estimable():
    always = [Contest(f"i{k}", "best", other, 1.0) for k in range(5) for other in ("b", "c")]
    always += [Contest(f"i{k}", "b", "c", float(k % 2)) for k in range(5)]
    found = bt.ratings(always, seed=0)
    assert all(r.rating.value is None for r in found)
    assert "best never lost" in found[0].rating.note
    assert found[0].policy == "best"  # in the order of the scores
    apart = [Contest("i", "a", "b", 0.5), Contest("j", "c", "d", 0.5)]
    assert "no contest links a, b" in bt.ratings(apart, seed=0)[0].rating.note
    assert bt.ratings([], seed=0) == []


def test_a_prior_is_asked_for_and_said():
    always = [Contest(f"i{k}", "best", other, 1.0) for k in range(5) for other in ("b", "c")]
    found = bt.ratings(always, seed=0, prior=1.0)
    assert found[0].rating.value > 0
    assert "regularised by 1 wins" in found[0].rating.note
    assert found[0].rating.ci95_low is None
    assert "the same in every resample" in found[0].rating.note
