"""Runs that meet a broken model, an empty file or prompts that do not fit: one clear paragraph, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from farm.report import summary

pytestmark = pytest.mark.slow

SMALL = {
    "sft.optim.epochs": 0.1,
    "sample.instructions": 60,
    "improve": "{ppo: {method: ppo, steps: 2, rollouts: 16}, dpo: {method: dpo}}",
    "evaluate": "{instructions: 20, human_votes: 0}",
    "study": "{best_of_n: null, curve_instructions: 6}",
}


def run(out: Path, **more: object) -> subprocess.CompletedProcess[str]:
    settings = SMALL | {k.replace("__", "."): v for k, v in more.items()}
    flags = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    command = [sys.executable, "-m", "farm", "run", "tiny", "--out", str(out), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def refused(out: Path, **more: object) -> str:
    done = run(out, **more)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def numbers(out: Path) -> str:
    return summary.dumps(summary.stable(summary.read(out / "8-report" / "summary.json")))


def steps(out: Path) -> dict[str, float]:
    return {str(p.relative_to(out).parent): p.stat().st_mtime for p in sorted(out.glob("*-*/**/step.json"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("bad") / "whole"
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out


def before_improve(whole: Path, out: Path) -> Path:
    """A run that was stopped after the reward model was trained."""
    later = ("5-*", "6-*", "7-*", "8-*")
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(*later), copy_function=shutil.copy2)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["steps"] = {k: v for k, v in manifest["steps"].items() if f"{k[0]}-*" not in later}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def nan(path: Path) -> None:
    tensors = load_file(path)
    tensors["score.weight"].fill_(float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "step", "model", "said"),
    [
        (nan, "4-reward/seed-0", "model", "'score.weight' is not finite"),
        (halve, "1-sft/seed-0", "policy", "cut off"),
    ],
)
def test_a_broken_model_stops_the_run_and_making_it_again_finishes_it(whole, tmp_path, spoil, step, model, said):
    out = before_improve(whole, tmp_path / "run")
    spoil(out / step / model / "model.safetensors")
    finished = steps(out)
    errors = refused(out)
    assert said in " ".join(errors.split())
    assert f"{out}/{step}/{model}" in errors
    assert finished.items() <= steps(out).items()  # what was finished stays
    shutil.rmtree(out / step)
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert numbers(out) == numbers(whole)


def test_a_reward_that_is_nan_at_some_text_stops_the_rows_that_need_it(whole, tmp_path):
    """Finite weights, but a normalisation that is not: the rewards are NaN."""
    out = before_improve(whole, tmp_path / "run")
    path = out / "4-reward" / "seed-0" / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reward_sd": float("nan")}))
    errors = refused(out)
    assert "nan" in errors
    assert "response r" in errors
    assert {"0-data", "1-sft/seed-0", "2-sample/seed-0", "3-annotate/seed-0", "4-reward/seed-0"} <= steps(out).keys()


@pytest.mark.parametrize("content", ["", "instruction,first,second,annotator,winner\n"])
def test_an_empty_file_of_labels(whole, tmp_path, content):
    out = before_improve(whole, tmp_path / "run")
    labels = tmp_path / "labels.csv"
    labels.write_text(content)
    finished = steps(out)
    errors = refused(out, annotate__human=labels)
    assert f"{labels}: is empty" in errors
    assert finished.items() <= steps(out).items()


def test_prompts_longer_than_the_limit_are_counted_said_and_left_out(whole, tmp_path):
    out = tmp_path / "run"
    done = run(out, policy__max_prompt_tokens=9)
    assert done.returncode == 0, done.stderr
    used = json.loads((out / "1-sft" / "seed-0" / "sft.used.json").read_text())
    assert used["too_long"] > 0
    assert used["used"] + used["too_long"] == sum(1 for _ in (out / "0-data" / "sft.jsonl").open())
    assert f"sft: {used['too_long']} of {used['used'] + used['too_long']} prompts exceed" in done.stderr
    whole_used = json.loads((whole / "5-improve" / "ppo" / "seed-0" / "val.used.json").read_text())
    assert whole_used == {"used": 6, "too_long": 0}
    errors = refused(tmp_path / "none", policy__max_prompt_tokens=4)
    assert "split 'sft': no prompt fits in policy.max_prompt_tokens=4; the shortest of" in errors


def test_a_policy_without_chat_template_runs_on_the_plain_prompt(whole, tmp_path):
    """GPT-2 as the Hub has it: no chat template, no separator, no pad token, learned positions."""
    import torch
    import transformers

    from farm.lm import tiny
    from farm.records import Instruction, read

    texts = [i.full_text for i in read(whole / "0-data" / "sft.jsonl", Instruction)[:300]]
    tokenizer = tiny.bpe_tokenizer(texts, 400)
    tokenizer.sep_token = tokenizer.pad_token = None
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=160, bos_token_id=1, eos_token_id=1
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    done = run(tmp_path / "run", policy__model=tmp_path / "gpt2", policy__max_prompt_tokens=110)
    assert done.returncode == 0, done.stderr
    found = summary.read(tmp_path / "run" / "8-report" / "summary.json")
    assert {"sft", "ppo", "dpo"} <= {r.method for r in found.rows}
