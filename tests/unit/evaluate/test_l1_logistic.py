import numpy as np
import pytest

from farm.evaluate.alpaca_lc import FOLDS, PENALTIES, SEEDS, best_penalty
from farm.evaluate.l1_logistic import Rows, fit, logistic


def example(k: int, n: int = 300) -> Rows:
    r = np.random.default_rng(k)
    x = np.stack([np.tanh(r.normal(0, 1, n)), r.normal(0, 1.5, n), (np.arange(n) >= n // 2) * 1.0], axis=1)
    y = np.clip(logistic(x @ r.normal(0, 1.5, 3))[0] * r.uniform(0.3, 1.5, n), 0, 1)
    y[r.random(n) < 0.2] = 0.0
    return Rows(x, y, np.where(x[:, 2] > 0, 1.0, 0.1))


@pytest.mark.parametrize("k", range(3))
@pytest.mark.parametrize("c", [1e-3, 0.046, 2.78, 1e4])
def test_same_coefficients_as_liblinear(k: int, c: float):
    linear = pytest.importorskip("sklearn.linear_model")
    rows = example(k)
    double = np.r_[rows.x, rows.x]
    label = np.r_[np.ones(len(rows.y)), np.zeros(len(rows.y))]
    weight = np.r_[rows.y * rows.weight, (1 - rows.y) * rows.weight]
    settings = {"solver": "liblinear", "fit_intercept": False, "tol": 1e-4, "random_state": 123}
    theirs = linear.LogisticRegression(C=c, l1_ratio=1, **settings).fit(double, label, weight).coef_[0]
    assert fit(rows, c, SEEDS[0]) == pytest.approx(theirs, abs=1e-9)


def test_same_penalty_as_cross_validation():
    """The held-out loss of every fold and penalty, with scikit-learn's own folds and fits."""
    linear = pytest.importorskip("sklearn.linear_model")
    from sklearn.model_selection import GroupKFold

    for k in range(2):
        rows = example(k, 200)
        n = len(rows.y)
        double, label = np.r_[rows.x, rows.x], np.r_[np.ones(n), np.zeros(n)]
        weight = np.r_[rows.y * rows.weight, (1 - rows.y) * rows.weight]
        scores = np.zeros(len(PENALTIES))
        for train, test in GroupKFold(FOLDS).split(double, label, groups=np.r_[np.arange(n), np.arange(n)]):
            state = np.random.RandomState(123)
            kept = test[test < n]
            for i, c in enumerate(PENALTIES):
                settings = {"solver": "liblinear", "fit_intercept": False, "random_state": state}
                model = linear.LogisticRegression(C=c, l1_ratio=1, **settings).fit(
                    double[train], label[train], weight[train]
                )
                p = np.clip(model.predict_proba(rows.x[kept])[:, 1], 1e-15, 1 - 1e-15)
                loss = -(rows.y[kept] * np.log(p) + (1 - rows.y[kept]) * np.log(1 - p))
                scores[i] -= (rows.weight[kept] * loss).mean()
        assert best_penalty(rows) == PENALTIES[scores.argmax()]


def test_is_near_the_optimum_by_another_optimiser():
    from scipy.optimize import minimize

    rows, c = example(5), 2.78
    w = fit(rows, c, SEEDS[0])

    def objective(v: np.ndarray) -> float:
        z = rows.x @ (v[:3] - v[3:])
        return float(rows.weight @ (np.logaddexp(0, z) - rows.y * z)) + v.sum() / c

    best = minimize(objective, np.zeros(6), bounds=[(0, None)] * 6, method="L-BFGS-B", options={"ftol": 1e-14})
    ours = objective(np.r_[np.maximum(w, 0), np.maximum(-w, 0)])
    assert best.fun - 1e-9 <= ours <= best.fun + 1e-3


def test_a_small_penalty_constant_leaves_nothing():
    assert fit(example(1), 1e-4, SEEDS[0]).tolist() == [0.0, 0.0, 0.0]
