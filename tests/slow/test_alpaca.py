"""The line on real instructions, as small as it goes: every method of the shelf runs, every annotator answers over
HTTP, every outcome is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from farm import records
from farm.methods import NAMES
from farm.methods.task import Result
from farm.records import Judgement
from farm.report import summary

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[3] / "shared" / "data"
STEPS = {"steps": 2, "prompts_per_step": 4, "curve_every": 1}
# One row of each method, as few steps as show that it works.
ROWS = {name: {"method": name} for name in NAMES}
ROWS["best_of_n"] |= {"n": 4}
ROWS["expert_iteration"] |= {"n": 4, "prompts": 40}
ROWS["ppo"] |= {"steps": 2, "rollouts": 16, "curve_every": 1}
for each in ("rloo", "grpo", "remax", "quark", "online_dpo"):
    ROWS[each] |= STEPS
FROM_PAIRS = {"feedme", "reward_conditioning", "dpo", "kto"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not beside this checkout")
def test_the_real_line_with_every_method(tmp_path):
    files = {
        "data.path": "instruct/alpaca_52k.jsonl.gz",
        "data.exclude": "instruct/alpaca_ids_in_eval_sets.csv",
        "data.eval_path": "eval_prompts/alpaca_eval_805.jsonl.gz",
    }
    small = {
        "policy.hidden": 32,
        "policy.layers": 1,
        "policy.max_tokens": 64,
        "sft.optim.epochs": 0.3,
        "sample.instructions": 150,
        "improve": json.dumps(ROWS),
        "evaluate.instructions": 60,
        "study.best_of_n.n": 4,
        "study.curve_instructions": 10,
    }
    sets = [f"{k}={SHARED / v}" for k, v in files.items()] + [f"{k}={v}" for k, v in small.items()]
    flags = [part for s in sets for part in ("--set", s)]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "farm", "run", "alpaca_cpu", "--out", str(out), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acts = records.read(out / "3-annotate/seed-0/judgements.jsonl", Judgement)
    counts = Counter(j.annotator for j in acts)
    assert len(counts) == 13
    assert sum(counts.values()) == len(acts) == sum(1 for _ in (out / "2-sample/seed-0/pairs.jsonl").open())
    assert all(j.raw for j in acts if j.outcome.judged and j.outcome != "identical")
    s = summary.read(out / "8-report/summary.json")
    assert (out / "8-report/index.html").stat().st_size > 10_000
    assert sorted(r.method for r in s.rows) == sorted(["sft", *NAMES])
    assert all(sum(r.outcomes.values()) == r.n + r.n_failed == 60 for r in s.rows)
    stages = {c.stage: c for c in s.costs}
    assert all(stages[name].seconds > 0 for name in ("sft", "sample", "annotate", "reward", "improve", "evaluate"))
    assert stages["annotate"].cost.calls > 0
    assert stages["evaluate"].cost.calls > 0
    labels = sum(1 for _ in (out / "3-annotate/seed-0/preferences.jsonl").open())
    for name in NAMES:
        result = Result.load(out / "5-improve" / name / "seed-0")
        assert result.budget.comparisons == labels
        assert (result.budget.updates > 0) == (name != "best_of_n")
        assert (result.budget.generated_sequences > 0) == (name not in {*FROM_PAIRS, "best_of_n"})
        assert (result.curve is not None) == (name != "best_of_n")
    assert all(r.gold is None and r.human_win_rate is None for r in s.rows)
    assert s.correlation is None
    assert sum(s.training_outcomes.values()) == len(acts)
