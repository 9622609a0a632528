"""The command line: bad input ends in one paragraph that names file and field, and in an exit code that is not 0."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def farm(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "farm", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=120,
    )


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_help_names_every_stage():
    text = farm("--help").stdout
    for stage in ("run", "sft", "sample", "annotate", "reward", "improve", "evaluate", "study", "report", "serve"):
        assert f"\n    {stage}" in text


def test_recipes_are_listed_shown_and_copied(tmp_path):
    names = [p.stem for p in (ROOT / "recipes").glob("*.yaml")]
    listed = farm("recipes", "list").stdout
    assert names
    assert all(n in listed for n in names)
    assert farm("recipes", "show", names[0]).stdout == (ROOT / "recipes" / f"{names[0]}.yaml").read_text()
    assert farm("recipes", "copy", names[0], cwd=tmp_path).returncode == 0
    assert (tmp_path / f"{names[0]}.yaml").is_file()
    refused(farm("recipes", "copy", names[0], cwd=tmp_path), "exists already")
    refused(farm("recipes", "show"), "needs a recipe's name")


def test_thirteen_annotators():
    lines = farm("annotators", "list").stdout.splitlines()
    assert len(lines) == 14
    assert "reply" in farm("annotators", "show", "a07").stdout.lower()
    refused(farm("annotators", "show", "a99"), "a99", "a01")


def test_every_shipped_recipe_is_valid():
    from farm import pipeline

    names = [p.stem for p in (ROOT / "recipes").glob("*.yaml")]
    assert len(names) >= 4
    for name in names:
        assert pipeline.load(name).name == name


def test_several_mistakes_at_once(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: r\ndata: {world: offline}\nsampel: {}\nsft: {lr: 3}\n"
        "improve: {a: {method: poo}, b: {method: ppo, stepz: 1}}\n"
    )
    refused(farm("run", str(path)), "r.yaml: 4 mistakes", "'sample'", "sft.lr", "'ppo'", "'steps'")


@pytest.mark.parametrize("key", ["nonsense", "sample.m=1", "improve.x.method=poo"])
def test_bad_overrides(key, tmp_path):
    refused(farm("run", "tiny", "--set", key, "--out", str(tmp_path / "r")), "tiny.yaml")


def test_missing_recipe_and_missing_data(tmp_path):
    refused(farm("run", "absent"), "absent", "quickstart")
    evaluation = tmp_path / "e.jsonl"
    evaluation.write_text('{"instruction": "a", "text_davinci_003": "b", "gpt4_1106_preview": "c"}\n')
    absent = ["--data", str(tmp_path / "none.jsonl"), "--set", f"data.eval_path={evaluation}"]
    sets = [*absent, "--set", "data.eval_set=alpaca_eval_805", "--out", str(tmp_path / "r")]
    refused(farm("run", "tiny", *sets), "1 instructions, but the card of alpaca_eval_805 says 805")


@pytest.fixture
def own_text(tmp_path):
    """A function that runs a recipe on given training rows, with one evaluation instruction of its own."""
    card = tmp_path / "set"
    card.mkdir()
    (card / "card.yaml").write_text(
        "name: mine\nabout: x\nsource: x\nlicence: x\nn: 1\ncolumns: {reference: ref}\nhow_to_get: x\n"
    )
    (tmp_path / "e.jsonl").write_text('{"instruction": "held out", "ref": "b"}\n')

    def run(rows: list[str]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "d.jsonl").write_text("\n".join(rows))
        sets = ["--set", f"data.eval_path={tmp_path / 'e.jsonl'}", "--set", f"data.eval_set={card}"]
        return farm("run", "tiny", "--data", str(tmp_path / "d.jsonl"), *sets, "--out", str(tmp_path / "out"))

    return run


def test_a_malformed_row_and_an_empty_split(own_text):
    good = [json.dumps({"instruction": f"say {i}", "output": "x"}) for i in range(9)]
    refused(own_text([*good, '{"instruction": 7}']), "d.jsonl, line 10, field 'instruction'")
    refused(own_text([*good, "{"]), "d.jsonl, line 10: not JSON")
    refused(own_text(good), "d.jsonl", "empty")


def test_an_unwritable_output_folder(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused(farm("run", "tiny", "--out", str(blocked / "run")), "cannot be written", "--out")
