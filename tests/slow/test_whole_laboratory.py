"""A whole laboratory, tiny: cut off or not the same numbers, a finished one does no work, variants reuse what they
share and say so, gold from other places."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LAB = """
name: {name}
data: {{world: offline}}
seeds: [0, 1]
policy: {{hidden: 32, layers: 1}}
sft: {{optim: {{lr: 0.01, epochs: 0.3, batch: 32}}}}
sample: {{instructions: 400}}
annotate: {{flip: 0.25}}
reward: {{optim: {{lr: 0.002, epochs: 1, batch: 16}}}}
laboratory:
  pool: {{n: 32, instructions: 12}}
  curve_instructions: 20
  labels:
    {{clean: {{flip: 0}}, single: {{pool: single, flip: 0}}, calibrated: {{pool: farm13_calibrated}},
     people: {{pool: humans}}}}
  rewards:
    base: {{preferences: 150, replicates: 2}}
    fewer: {{preferences: {fewer}, epochs: 2, question: "Fewer preferences:"}}
    clean: {{labels: clean, preferences: 150}}
    mean-of-2: {{preferences: 150, members: 2, combine: mean}}
    apart: {{preferences: 150, members: 2, starts: other}}
    averaged: {{preferences: 150, members: 2, combine: weights}}
    small: {{preferences: 150, trunk: {{hidden: 16}}, length_penalty: 0.05}}
    refreshed: {{preferences: 150, refresh: base}}
    other-half: {{preferences: 150, skip: 150}}
    single: {{labels: single, preferences: 150}}
    bounded: {{preferences: 150, transform: bounded}}
    clipped: {{preferences: 150, transform: clip, clip: 0.5}}
    quantile: {{preferences: 150, transform: quantile}}
    calibrated: {{labels: calibrated, preferences: 150}}
    people: {{labels: people, preferences: 150}}
  second: other-half
  ensemble: mean-of-2
  policies:
    ppo: {{method: ppo, kl_coef: 0, steps: 4, rollouts: 32, curve_every: 1}}
    ppo-single: {{method: ppo, reward: single, kl_coef: 0, steps: 4, rollouts: 32, curve_every: 1}}
    ppo-bounded: {{method: ppo, reward: bounded, kl_coef: 0, steps: 2, rollouts: 32, curve_every: 1}}
    ppo-clipped: {{method: ppo, reward: clipped, kl_coef: 0, steps: 2, rollouts: 32, curve_every: 1}}
    ppo-quantile: {{method: ppo, reward: quantile, kl_coef: 0, steps: 2, rollouts: 32, curve_every: 1}}
    rloo: {{method: rloo, kl_coef: 0, steps: 2, prompts_per_step: 8, curve_every: 1}}
    dpo: {{method: dpo, curve_points: 3}}
    expert: {{method: expert_iteration, n: 4, rounds: 2, prompts: 60}}
  crossing:
    population: base
    single: single
    population_policy: ppo
    single_policy: ppo-single
    instructions: 12
"""


def recipe(folder: Path, name: str = "lab", fewer: int = 50) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(LAB.format(name=name, fewer=fewer))
    return path


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "farm", "overoptimize", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*arguments: str) -> tuple[str, str]:
    process = start(*arguments)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return out, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    out, _ = finish(str(recipe(folder)), "--out", str(folder / "lab"), "--plots", str(folder / "plots"))
    return folder, out


def numbers(run: Path) -> str:
    return (run / "8-laboratory" / "numbers.json").read_text()


def test_everything_is_there(whole):
    folder, out = whole
    found = json.loads(numbers(folder / "lab"))
    assert "best-of-n: base" in out
    drawn = {b["method"] for b in found["bands"]}
    assert drawn >= {
        "best-of-n: apart",
        "best-of-n: calibrated",
        "best-of-n: people",
        "ppo",
        "ppo-quantile",
        "dpo",
        "rloo",
        "expert",
    }
    assert not drawn & {"best-of-n: bounded", "best-of-n: clipped", "best-of-n: quantile"}
    proxies = {m: [b["proxy"]["value"] for b in found["bands"] if b["method"] == m] for m in drawn}
    assert all(0 <= v <= 1 for m in ("ppo-bounded", "ppo-quantile") for v in proxies[m])
    assert all(-0.5 <= v <= 0.5 for v in proxies["ppo-clipped"])
    assert [c["method"] for c in found["crossings"]] == ["best-of-n", "rl"]
    assert len(found["crossings"][0]["cells"]) == 4
    assert {r["signal"] for r in found["reliability"]} >= {"second reward model", "ensemble disagreement", "KL spent"}
    assert {s["name"] for s in found["shifts"]} >= {"best-of-n: fewer", "ppo-single", "best-of-n: base, stopped early"}
    assert {d["where"] for d in found["drifts"]} == {"start", "gold peak", "end"}
    assert (folder / "lab/8-laboratory/index.html").stat().st_size > 20_000
    assert {"gold.pdf", "gold.svg"} <= {p.name for p in (folder / "plots").iterdir()}
    assert all(0 <= p["middle_kl"]["value"] < 4 for p in found["peaks"] if p["x_name"] == "n")
    assert (folder / "lab/4-reward/recipe-0+50-epochs=2-m0/seed-0/model").is_dir()
    bands = [b for b in found["bands"] if b["method"] == "best-of-n: base"]
    assert all(0 <= b["kl"] <= b["kl_bound"] + 1e-9 for b in bands)
    assert all(a["proxy"]["value"] < b["proxy"]["value"] for a, b in pairwise(bands))


def test_a_finished_laboratory_does_no_work(whole):
    folder, _ = whole
    files = [p for p in (folder / "lab").rglob("*.json*") if not p.name.startswith(".")]
    before = {p: p.stat().st_mtime_ns for p in files}
    _, errors = finish(str(folder / "lab.yaml"), "--out", str(folder / "lab"))
    assert ": done" not in errors
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_kill_changes_nothing(whole, tmp_path):
    folder, _ = whole
    path = recipe(tmp_path)
    for wanted in ("4-reward/recipe-0+150-m0/seed-0", "5-improve/ppo/seed-0"):
        process = start(str(path), "--out", str(tmp_path / "cut"))
        while not (tmp_path / "cut" / wanted).exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(str(path), "--out", str(tmp_path / "cut"))
    assert numbers(tmp_path / "cut") == numbers(folder / "lab")


def test_a_second_recipe_reuses_what_it_shares_and_says_so(whole):
    folder, _ = whole
    _, errors = finish(str(recipe(folder, "second", 60)), "--out", str(folder / "second"))
    for stage in ("sft", "sample", "labels"):
        assert f"{stage}: " in errors
        assert f"{stage}: done" not in errors
    assert "are the same as in" in errors
    assert "rewards: done, 2 of" in errors  # the reward with another number of preferences, once per seed
    _, errors = finish(str(folder / "second.yaml"), "--out", str(folder / "third"), "--no-reuse", "--seed", "0")
    assert "sft: done" in errors


def test_gold_from_a_reward_model_or_from_judges(whole):
    folder, _ = whole
    model = folder / "lab/4-reward/clean-0+150-m0/seed-1/model"
    only = ["--set", "laboratory.policies={ppo: {method: ppo, kl_coef: 0, steps: 4, rollouts: 32, curve_every: 1}}"]
    only += [
        "--set",
        "laboratory.crossing=null",
        "--set",
        "laboratory.second=null",
        "--set",
        "laboratory.ensemble=null",
    ]
    only += ["--set", "laboratory.rewards={base: {preferences: 150}, fewer: {preferences: 50}}"]
    run = [str(folder / "lab.yaml"), *only]
    finish(*run, "--out", str(folder / "held-out"), "--set", f"laboratory.gold.reward_model={model}")
    found = json.loads(numbers(folder / "held-out"))
    assert found["gold"].startswith("reward model")
    assert {p["method"] for p in found["peaks"]} == {"best-of-n: base", "best-of-n: fewer", "ppo"}
    finish(*run, "--out", str(folder / "judged"), "--set", "laboratory.gold.pool=single")
    found = json.loads(numbers(folder / "judged"))
    assert found["gold"] == "win rate judged by single"
    golds = [b["gold"]["value"] for b in found["bands"]]
    assert all(0 <= g <= 1 for g in golds)
