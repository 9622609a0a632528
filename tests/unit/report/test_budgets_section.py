"""The report at equal budgets: what every row spent, what it reaches within a budget, controls apart."""

from __future__ import annotations

import pytest

from farm.records import Budget, Estimate
from farm.report import html, plots, tables
from farm.report.headline import headline
from farm.study.budgets import Affordable, Choice


@pytest.fixture
def spent(one):
    """The summary with budgets, two checkpoints of PPO, and a control row."""
    summary, _ = one
    gain = Estimate(value=0.25, ci95_low=0.125, ci95_high=0.375, n=40)
    budget = Budget(comparisons=1234, generated_sequences=7680, train_tokens=55_555, updates=60, seconds=9.0)
    return summary.model_copy(
        update={
            "rows": tuple(r.model_copy(update={"budget": budget}) for r in summary.rows),
            "controls": ("ppo_no_kl",),
            "choices": tuple(
                Choice(method="ppo", seed=0, x=x, sequences=256 * x, prompts=50, comparisons=48, chosen=x == 5)
                for x in (5, 10)
            ),
            "affordable": tuple(
                Affordable(
                    method=m, share=s, sequences=int(7680 * s), seeds=(0,), xs=(5.0,), win_rate=0.625,
                    gold=gain, proxy=gain,
                )
                for s in (0.5, 1.0)
                for m in (("ppo",) if s == 0.5 else ("ppo_no_kl", "ppo"))
            ),
            "curves": tuple(
                c.model_copy(update={"sequences": int(256 * c.x)}) if c.method.startswith("ppo") else c
                for c in summary.curves
            ),
        }
    )  # fmt: skip


def test_what_every_row_spent_and_what_selecting_cost(spent):
    lines = {line.method: line for line in tables.spending(spent)}
    assert spent.baseline not in lines
    assert lines["ppo"].budget.comparisons == 1234
    assert lines["ppo"].selecting == 96
    assert lines["ppo_no_kl"].selecting == 0
    page = html.render(spent)
    assert "At equal budgets" in page
    assert "7,680" in page
    assert "1,234" in page


def test_means_over_seeds_are_the_nearest_whole_number(spent):
    row = next(r for r in spent.rows if r.method == "ppo_no_kl")
    each = [row.model_copy(update={"budget": Budget(comparisons=n, seconds=n / 2)}) for n in (1135, 1146, 1147)]
    (line,) = tables.spending(spent.model_copy(update={"rows": tuple(each)}))
    assert line.budget.comparisons == 1143
    assert line.budget.seconds == pytest.approx(571.33, abs=0.01)


def test_rows_within_a_budget_in_the_order_of_the_table_above(spent):
    budgets, rows = tables.affordable(spent)
    assert budgets == [3840, 7680]
    assert [name for name, _ in rows] == ["ppo", "ppo_no_kl"]
    cells = dict(rows)
    assert cells["ppo_no_kl"][0] is None
    assert cells["ppo"][1].win_rate == 0.625
    assert "62.5" in html.render(spent)


def test_gold_against_drawn_responses_shows_those_that_draw(spent, one):
    svg = plots.against(spent, "sequences", "gold")
    assert svg is not None
    assert "responses drawn for training" in svg
    assert ">ppo<" in svg
    assert ">best_of_n<" not in svg
    assert plots.against(one[0], "sequences", "gold") is None


def test_a_control_is_never_a_finding_and_always_told(spent):
    points = headline(spent)
    told = [p for p in points if p.text.startswith("Controls")]
    assert len(told) == 1
    assert "ppo_no_kl" in told[0].text
    assert not any("ppo_no_kl" in p.text for p in points if p not in told)


def test_a_run_that_selects_nothing_has_no_such_section(one):
    summary, _ = one
    assert tables.spending(summary) == []
    assert "At equal budgets" not in html.render(summary)
