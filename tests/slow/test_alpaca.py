"""The line on real instructions, as small as it goes: every annotator answers over HTTP, every outcome is counted."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from farm import records
from farm.records import Judgement
from farm.report import summary

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not beside this checkout")
def test_the_real_line(tmp_path):
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
        "improve.ppo.steps": 2,
        "improve.ppo.rollouts": 16,
        "improve.expert-iteration.prompts": 40,
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
    assert all(sum(r.outcomes.values()) == r.n + r.n_failed == 60 for r in s.rows)
    assert all(r.gold is None and r.human_win_rate is None for r in s.rows)
    assert s.correlation is None
    assert sum(s.training_outcomes.values()) == len(acts)
