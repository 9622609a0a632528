"""Whole runs: cut off or not, the same numbers; a finished run does no work; a template edit asks only its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farm.report import summary

pytestmark = pytest.mark.slow


SELECTING = (
    "--set", "select={instructions: 10, candidates: 2}",
    "--set", "improve.noise={method: ppo, reward: random, steps: 6, rollouts: 32, curve_every: 2}",
)  # fmt: skip


def start(out: Path, *more: str, stage: str = "run") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "farm", stage, "tiny", "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(out: Path, *more: str, stage: str = "run") -> str:
    process = start(out, *more, stage=stage)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return errors


def numbers(out: Path) -> str:
    return summary.dumps(summary.stable(summary.read(out / "8-report" / "summary.json")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    finish(out)
    return out


def test_kill_at_three_stages_changes_nothing(whole, tmp_path):
    out = tmp_path / "cut"
    for wanted in ("2-sample/seed-0", "5-improve/ppo/seed-0.partial", "6-evaluate/sft/seed-0"):
        process = start(out)
        while not (out / wanted).exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(out)
    assert numbers(out) == numbers(whole)


def test_a_run_that_selects_is_the_same_after_two_kills(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(whole, *SELECTING)
    for wanted in ("5-improve/noise/seed-0.partial", "5-select/ppo/seed-0"):
        process = start(cut, *SELECTING)
        while not (cut / wanted).exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(cut, *SELECTING)
    assert numbers(cut) == numbers(whole)
    s = summary.read(cut / "8-report" / "summary.json")
    assert s.controls == ("noise",)
    assert {c.method for c in s.choices} == {"expert-iteration", "ppo", "dpo", "noise"}
    assert all(sum(c.chosen for c in s.choices if c.method == m) == 1 for m in ("ppo", "dpo", "noise"))
    spent = {row.method: row.budget.comparisons for row in s.rows if row.budget}
    assert spent["best-of-4"] > 100  # the labels behind its reward model
    assert spent["noise"] == sum(c.comparisons for c in s.choices if c.method == "noise") > 0
    manifest = json.loads((cut / "manifest.json").read_text())
    assert {*manifest["steps"], "0-data"} == set(manifest["planned"])


def test_a_finished_run_does_no_work(whole):
    stamps = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file() and p.suffix in (".jsonl", ".html")}
    assert "nothing to do" in finish(whole)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_outcomes_add_up(whole):
    s = summary.read(whole / "8-report" / "summary.json")
    for row in s.rows:
        assert sum(row.outcomes.values()) == row.n + row.n_failed == 40
    assert sum(s.training_outcomes.values()) == len((whole / "2-sample/seed-0/pairs.jsonl").read_text().splitlines())


def test_the_page_shows_the_reward_model(whole):
    (row,) = summary.read(whole / "8-report" / "summary.json").rewards
    assert row.seed == 0
    assert row.report.n_validation > 0
    assert "<h2>Reward models" in (whole / "8-report" / "index.html").read_text(encoding="utf-8")


def test_one_character_of_a_template_redoes_only_its_labels(whole, tmp_path):
    from farm import resources

    out, pool = tmp_path / "edited", tmp_path / "farm13"
    shutil.copytree(whole, out)
    shutil.copytree(resources.folder("annotators") / "farm13", pool)
    template = pool / "prompts" / "a06.txt"
    template.write_text(template.read_text().replace(".", "!", 1))

    def asked() -> dict[str, int]:
        with sqlite3.connect(out / "ledger.sqlite") as db:
            return dict(db.execute("select annotator, count(*) from attempts group by annotator"))

    before = asked()
    finish(out, "--set", f"annotate.pool={pool}", stage="annotate")  # later stages judge other responses
    after = asked()
    assert {a for a in after if after[a] != before.get(a)} == {"a06"}


def test_the_manifest_tells_what_was_done(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["wall_seconds"] > 0
    assert "8-report" in manifest["steps"]
    assert {*manifest["steps"], "0-data"} == set(manifest["planned"])


def test_an_unreachable_judge_is_named_and_nothing_is_lost(whole, tmp_path):
    out = tmp_path / "unreachable"
    shutil.copytree(whole, out)
    url = "http://127.0.0.1:9/v1"
    process = start(out, "--set", "annotate.endpoint.kind=openai", "--set", f"annotate.endpoint.base_url={url}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert url in errors
    assert "Traceback" not in errors
    assert (out / "2-sample/seed-0/step.json").is_file()
    assert "nothing to do" in finish(out)  # the scripted judge again: everything still stands
