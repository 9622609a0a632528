from dataclasses import replace

import numpy as np
import pytest

from farm.data.verdicts import Verdicts
from farm.evaluate import alarms, intervals, table


def verdicts(score: list[float], model: str = "m", outputs: list[str] | None = None) -> Verdicts:
    n = len(score)
    names = tuple(f"i{k:03d}" for k in range(n))
    texts = dict(zip(names, outputs or [f"answer {k}" for k in range(n)], strict=True))
    longer = np.arange(n) % 7 * 10.0 - 20
    return Verdicts(
        "j", "ref", model, names, np.array(score), longer, np.full(n, np.nan), ("j",) * n, (0,) * n, (), texts
    )


MIXED = [1.0, 1.0, 0.0, 0.5, 0.75, float("nan"), 0.1, 1.0]


def test_a_row_by_hand():
    row = table.rows([verdicts(MIXED)], seed=0)[0]
    known = np.array([x for x in MIXED if x == x])
    assert (row.n, row.judgements, row.ties, row.failed) == (7, 7, 1, 1)
    assert row.win_rate == pytest.approx(100 * known.mean())
    assert row.standard_error == pytest.approx(100 * known.std(ddof=1) / 7**0.5)
    assert row.discrete_win_rate == pytest.approx(100 * (4 + 0.5) / 7)
    assert row.low_if_failed_lose == pytest.approx(100 * known.sum() / 8)
    assert row.high_if_failed_win == pytest.approx(100 * (known.sum() + 1) / 8)
    assert row.ci95_low < row.win_rate < row.ci95_high
    assert row.lc is None


def test_one_class_and_one_instruction_have_no_error_bars():
    for score in ([1.0] * 30, [1.0]):
        row = table.rows([verdicts(score)], seed=0, lengths=True)[0]
        assert row.win_rate == 100.0
        assert row.standard_error is row.ci95_low is row.lc is None
        assert "no interval" in row.note
        assert "not estimable" in row.note
    failed = table.rows([verdicts([float("nan")] * 3)], seed=0)[0]
    assert failed.win_rate is None
    assert (failed.low_if_failed_lose, failed.high_if_failed_win) == (0.0, 100.0)


def test_order_of_rows_does_not_matter():
    r = np.random.default_rng(0)
    v = verdicts(r.random(60).round(2).tolist())
    order = r.permutation(60)
    turned = replace(
        v,
        ids=tuple(v.ids[i] for i in order),
        score=v.score[order],
        longer_by=v.longer_by[order],
    )
    other = verdicts(r.random(60).round(2).tolist(), "o")
    first, second = (table.rows([x, other], seed=0, lengths=True) for x in (v, turned))
    assert first[0].lc is not None
    for name, value in first[0]:
        again = getattr(second[0], name)
        assert again == (pytest.approx(value) if isinstance(value, float) else value), name


def test_several_annotators_and_seeds_widen_the_interval():
    r = np.random.default_rng(1)
    v = verdicts(np.clip(0.5 + r.normal(0, 0.2, 260), 0, 1).tolist())
    judges = tuple(f"a{k % 5}" for k in range(260))
    lenient = replace(v, score=np.clip(v.score + np.array([0.3, 0, 0, 0, -0.3] * 52), 0, 1))
    alone, pool = (table.rows([x], seed=0)[0] for x in (lenient, replace(lenient, judges=judges)))
    assert pool.win_rate == pytest.approx(alone.win_rate)
    assert pool.standard_error > 3 * alone.standard_error


def test_crossed_equals_one_way_clusters_and_statsmodels():
    r = np.random.default_rng(2)
    groups, second = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    x = r.normal(0, 0.5, 4)[second] + r.normal(0, 1, 30)[groups] + r.normal(0, 1, 120)
    estimate, error = intervals.crossed(x, [groups], seed=0)
    means = np.array([x[groups == g].mean() for g in range(30)])
    assert estimate.value == pytest.approx(means.mean())
    assert error == pytest.approx(means.std(ddof=1) / 30**0.5)
    api = pytest.importorskip("statsmodels.api")
    model = api.OLS(x, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": np.stack([groups, second], axis=1)})
    _, both = intervals.crossed(x, [groups, second], seed=0)
    assert both == pytest.approx(float(model.bse[0]), rel=0.02)  # its small-sample correction has (n - 1) / (n - k)


@pytest.mark.parametrize(("annotators", "seeds"), [(13, 1), (1, 3), (5, 2)])
def test_crossed_covers(annotators: int, seeds: int):
    r = np.random.default_rng(3)
    hits = 0
    for k in range(120):
        i, a = np.tile(np.arange(80), seeds), r.integers(0, annotators, 80 * seeds)
        s = np.repeat(np.arange(seeds), 80)
        x = r.normal(0, 0.3, 80)[i] + (r.normal(0, 0.1, annotators) * (annotators > 1))[a]
        x = x + (r.normal(0, 0.05, seeds) * (seeds > 1))[s]
        e, _ = intervals.crossed(x + r.normal(0, 0.3, len(x)), [i, a, s], seed=k % 3, resamples=300)
        hits += e.ci95_low <= 0 <= e.ci95_high
    assert hits / 120 >= 0.9


def test_by_source():
    v = verdicts([1.0, 0.0, 1.0, 1.0])
    found = table.by_source([v], {"i000": "b", "i001": "a", "i002": "a"}, seed=0)
    assert [(r.source, r.n, r.win_rate) for r in found] == [("a", 2, 50.0), ("b", 1, 100.0)]
    assert table.columns(found)[3] == "source"
    assert "source" not in table.columns(table.rows([v], seed=0))


def test_alarms():
    r = np.random.default_rng(4)
    null = verdicts([0.5 + 0.3 * (k % 2) for k in range(40)], "null", ["Sure."] * 40)
    honest = verdicts((r.random(40) < 0.7).astype(float).tolist(), "honest")
    control = verdicts((r.random(40) < 0.05).astype(float).tolist(), "honest-shuffled")
    blind = verdicts((r.random(40) < 0.7).astype(float).tolist(), "blind")
    fooled = replace(blind, model="blind-shuffled")
    flaky = verdicts([1.0, float("nan")] * 20, "flaky")
    rows = {x.model: x for x in table.rows([null, honest, control, blind, fooled, flaky], seed=0)}
    assert any("same output for 100%" in a for a in rows["null"].alarms)
    assert any("undecided on 100%" in a for a in rows["null"].alarms)
    assert rows["honest"].alarms == ()
    assert any("ignores the instruction" in a for a in rows["blind"].alarms)
    assert any("50% of the judgements failed" in a for a in rows["flaky"].alarms)
    canaries = [replace(control, model="canary/shuffled"), replace(blind, model="canary/constant"), honest, blind]
    rows = {x.model: x for x in table.rows(canaries, seed=0)}
    assert rows["canary/shuffled"].alarms == rows["honest"].alarms == rows["blind"].alarms == ()
    assert any("a canary" in a for a in rows["canary/constant"].alarms)
    assert alarms.constant(replace(honest, outputs={})) is None
    assert alarms.undecided(verdicts([float("nan")])) is None
