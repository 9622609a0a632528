"""The shipped comparison gives what the head of its recipe says, within the tolerance that stands there.

A whole run takes as long as the recipe says. A finished one is looked at instead where FARM_COMPARE names its folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from farm import resources
from farm.report import summary

pytestmark = pytest.mark.slow

ROW = re.compile(r"^# {3}([\w-]+) +([+-][\d.]+) ± ([\d.]+) +([+-][\d.]+) ± ([\d.]+)$", re.M)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = Path(os.environ.get("FARM_COMPARE") or tmp_path_factory.mktemp("runs") / "compare")
    subprocess.run([sys.executable, "-m", "farm", "run", "compare", "--out", str(out)], check=True)
    return summary.read(out / "8-report" / "summary.json")


def test_every_row_is_as_the_recipe_expects(found):
    head = resources.find("recipes", "compare").read_text(encoding="utf-8")
    expected = {name: tuple(map(float, rest)) for name, *rest in ROW.findall(head)}
    gains = {
        (c.method, c.measure): 100 * c.estimate.value if c.measure == "win_rate" else c.estimate.value
        for c in found.differences
        if c.seed is None and c.measure in ("win_rate", "gold")
    }
    rows = {row.method for row in found.rows} - {found.baseline, *found.yardsticks}
    assert set(expected) == rows
    wrong = {}
    for name, (rate, rate_within, gold, gold_within) in expected.items():
        got = gains[name, "win_rate"], gains[name, "gold"]
        if abs(got[0] - rate) > rate_within or abs(got[1] - gold) > gold_within:
            wrong[name] = got
    assert not wrong


def test_budgets_are_equal_and_every_method_of_the_shelf_stands_there(found):
    from farm import methods, pipeline

    rows = pipeline.load("compare").improve
    assert {method for method, _, _ in rows.values()} == set(methods.NAMES)
    drawn = {row.budget.generated_sequences for row in found.rows if row.method in rows}
    assert drawn == {0, 7680}
    labels = {}
    for row in found.rows:
        if row.method in rows and row.method not in found.controls:
            chosen = sum(c.comparisons for c in found.choices if (c.method, c.seed) == (row.method, row.seed))
            labels.setdefault(row.seed, set()).add(row.budget.comparisons - chosen)
    assert all(len(counts) == 1 for counts in labels.values())


def test_the_trend_that_the_recipe_is_there_to_show(found):
    gold = {c.method: c.estimate for c in found.differences if c.seed is None and c.measure == "gold"}
    better = [m for m, e in gold.items() if e.ci95_low > 0]
    assert {"best-of-16", "kto", "dpo", "rloo", "grpo", "online-dpo"} <= set(better)
    assert "ppo-random" not in better
    fell = {v.method for v in found.verdicts if v.over_optimized}
    assert "expert-iteration-4" in fell
    assert "ppo" not in fell
    value = {m: e.value for m, e in gold.items()}
    assert value["ppo-length"] < value["ppo"]
    assert value["expert-iteration-4"] < value["expert-iteration"]
