"""Published votes: agreement equals the numbers counted from the same files by other means, calibration is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farm import cli

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data" / "human_pref_dev"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data files are not beside this checkout")


def agree(tmp_path: Path, judges: str, people: str, *more: str) -> dict[str, dict]:
    out = tmp_path / "out.json"
    files = ["--judgements", str(DATA / f"{judges}.jsonl.gz"), "--humans", str(DATA / f"{people}.jsonl.gz")]
    cli.main(["agree", *files, *more, "--json", str(out)])
    return {row["annotator"]: row for row in json.loads(out.read_text())["rows"]}


def value(row: dict, field: str) -> tuple[float, int]:
    return round(row[field]["value"], 3), row[field]["n"]


@needs_data
def test_mt_bench(tmp_path):
    rows = agree(tmp_path, "mtbench_gpt4_pair", "mtbench_human_votes", "--format", "mtbench")
    assert value(rows["human"], "one_vote") == (0.693, 1137)
    assert value(rows["human"], "one_vote_decided") == (0.837, 762)
    assert value(rows["gpt4_pair"], "one_vote") == (0.676, 1679)
    assert value(rows["gpt4_pair"], "one_vote_decided") == (0.854, 1097)
    assert rows["longest"]["agreement"]["value"] is None  # the votes name systems only: no text, no length
    assert rows["gpt4_pair"]["prefers_first"]["value"] is None  # asked in both orders
    texts = agree(tmp_path, "mtbench_gpt4_pair", "mtbench_human_votes", "--texts", str(DATA / "mtbench_texts.jsonl.gz"))
    assert value(texts["gpt4_pair"], "one_vote") == (0.676, 1679)
    assert texts["human"]["prefers_longer"]["value"] > 0.7


@needs_data
def test_pandalm(tmp_path):
    rows = agree(tmp_path, "pandalm_testset", "pandalm_testset", "--ties", "exact")
    assert value(rows["human"], "one_vote") == (0.931, 1272)
    assert rows["human"]["prefers_longer"]["value"] == pytest.approx(0.62, abs=0.005)
    assert value(rows["pandalm7b"], "with_majority") == (0.649, 424)
    share, n = rows["gpt35"]["with_majority"]["value"], rows["gpt35"]["with_majority"]["n"]
    assert n == 424 - 8 == 424 - rows["gpt35"]["outcomes"]["unparseable"]
    assert share * n / 424 == pytest.approx(0.705, abs=5e-4)  # the published number counts the failures as wrong


@needs_data
def test_alpacafarm(tmp_path):
    rows = agree(tmp_path, "alpacafarm_crossannotations", "alpacafarm_crossannotations")
    assert value(rows["gpt4_b1"], "self_agreement") == (0.841, 1926)
    assert value(rows["gpt4_b5"], "self_agreement") == (0.790, 1926)
    assert value(rows["gpt4_b1"], "one_vote")[0] == 0.722
    assert value(rows["gpt4_b5"], "one_vote")[0] == 0.694


@needs_data
@pytest.mark.parametrize(
    ("judges", "people", "more"),
    [
        ("mtbench_gpt4_pair", "mtbench_human_votes", ["--texts", str(DATA / "mtbench_texts.jsonl.gz")]),
        ("alpacafarm_crossannotations", "alpacafarm_crossannotations", []),
        ("pandalm_testset", "pandalm_testset", []),
    ],
)
def test_calibration_on_real_votes_is_reported_whatever_it_shows(tmp_path, judges, people, more):
    out = tmp_path / "c.json"
    files = ["--judgements", str(DATA / f"{judges}.jsonl.gz"), "--humans", str(DATA / f"{people}.jsonl.gz")]
    cli.main(["calibrate", *files, *more, "--json", str(out)])
    held = json.loads(out.read_text())["held_out"]
    for name in ("log loss, one act", "log loss, all acts", "calibration error"):
        gain = next(s for s in held["scores"] if s["name"] == name)["gain"]
        assert gain["ci95_low"] < gain["value"] < gain["ci95_high"]
        assert gain["n"] == held["n_votes"]
