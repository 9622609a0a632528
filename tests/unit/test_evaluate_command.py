from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from farm.cli import main
from farm.records import Judgement, Outcome, Pair, Response, write

N = 40


def annotations(path: Path) -> Path:
    r = np.random.default_rng(0)
    with path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["annotator", "reference", "model", "id", "preference", "chars_reference", "chars_model"])
        for model, skill in (("good", 0.75), ("fair", 0.5), ("poor", 0.2)):
            for i in range(N):
                preference = "" if (model, i) == ("fair", 3) else 1 + int(r.random() < skill)
                out.writerow(["judge", "ref", model, i, preference, 100, int(r.integers(40, 220))])
        out.writerow(["judge", "ref", "good", 3, 1, 100, 100])
        out.writerow(["judge", "ref", "good", 99, 7, 100, 100])
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_the_table_and_everything_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lc, prompts = tmp_path / "lc", tmp_path / "set.jsonl"
    lc.mkdir()
    d = "\n".join(f"{i},{(i % 5) - 2}" for i in range(N))
    (lc / "instruction_difficulty.csv").write_text(f"index,instruction_difficulty\n{d}\n")
    prompts.write_text(
        "\n".join(json.dumps({"id": i, "instruction": f"task {i}", "dataset": "ab"[i % 2]}) for i in range(N))
    )
    names = ("table", "parts", "rejected")
    files = {name: tmp_path / f"{name}.csv" for name in names}
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    command = ["evaluate", "--judgements", str(annotations(tmp_path / "a.csv")), "--format", "alpaca-eval"]
    command += ["--out", str(files["table"]), "--length-control", str(lc), "--instructions", str(prompts)]
    command += ["--by-source", str(files["parts"]), "--rejected", str(files["rejected"]), "--report", str(page)]
    command += ["--json", str(numbers), "--compare", "good", "poor", "--compare", "good", "fair", "--ratings"]
    main(command)
    out, err = capsys.readouterr()
    table = rows(files["table"])
    assert [t["model"] for t in table] == ["good", "fair", "poor"]
    assert list(table[0])[:8] == [
        *("annotator", "reference", "model", "n", "win_rate", "standard_error", "ci95_low", "ci95_high"),
    ]
    assert [(t["n"], t["failed"], t["rejected"]) for t in table] == [
        ("40", "0", "2"),
        ("39", "1", "0"),
        ("40", "0", "0"),
    ]
    assert all(float(t["lc_ci95_low"]) < float(t["lc"]) < float(t["lc_ci95_high"]) for t in table)
    assert all(t["lc_compat_choice"] == "cross-validated" and t["lc_compat"] for t in table)
    assert [(p["source"], p["n"]) for p in rows(files["parts"])][:2] == [("a", "20"), ("b", "20")]
    assert [r["line"] for r in rows(files["rejected"])] == ["122", "123"]
    assert "line 122: not used: instruction 3 was judged before" in err
    assert "good minus poor" in out
    assert "80% power" in out
    found = json.loads(numbers.read_text())
    assert found["pairs"][0]["separable"] > 0
    assert {r["policy"] for r in found["ratings"]["judge"]} == {"good", "fair", "poor", "ref"}
    text = page.read_text()
    assert "<svg" in text
    assert "Rows not used" in text
    again = tmp_path / "again.csv"
    main([*command[:3], "--out", str(again), "--length-control", str(lc), "--instructions", str(prompts)])
    assert again.read_bytes() == files["table"].read_bytes()
    main([*command[:3], "--out", str(again), "--length-control", str(lc), "--seed", "5"])
    other = rows(again)
    assert other[0]["win_rate"] == table[0]["win_rate"]
    assert other[0]["ci95_low"] != table[0]["ci95_low"]


def test_some_models_and_lengths_from_outputs(tmp_path: Path):
    source, outputs, out = annotations(tmp_path / "a.csv"), tmp_path / "o.jsonl", tmp_path / "t.csv"
    lengths = {i: int(r["chars_model"]) for r in rows(source) if r["model"] == "poor" for i in [r["id"]]}
    texts = [json.dumps({"model": "poor", "id": i, "output": "x" * n}) for i, n in lengths.items()]
    outputs.write_text("\n".join(texts))
    numbers = tmp_path / "n.json"
    command = ["evaluate", "--judgements", str(source), "--models", "poor", "--outputs", str(outputs)]
    main([*command, "--out", str(out), "--ratings", "--json", str(numbers)])
    (row,) = rows(out)
    assert {r["policy"] for r in json.loads(numbers.read_text())["ratings"]["judge"]} == {"poor", "ref"}
    assert row["lc"]
    assert row["lc_basis"] == "difficulty estimated from 1 models"
    beside = tmp_path / "length_control"
    beside.mkdir()
    d = "\n".join(f"{i},{(i % 5) - 2}" for i in range(N))
    (beside / "instruction_difficulty.csv").write_text(f"index,instruction_difficulty\n{d}\n")
    main([*command, "--out", str(out)])
    (row,) = rows(out)
    assert row["lc_basis"] == "difficulty given"
    assert row["lc_compat"]
    assert row["constant"] == "2.5" or float(row["constant"]) < 20


def steps(folder: Path) -> Path:
    """Two policies with two training seeds each, judged by two annotators, as a run keeps them."""
    r = np.random.default_rng(1)
    for policy, skill in (("ppo", 0.7), ("sft", 0.4)):
        for seed in range(2):
            step = folder / policy / f"seed-{seed}"
            mine, other, acts = [], [], []
            for i in range(12):
                a = Response.make(f"i{i}", f"{policy} {seed} says {i}" + "!" * (i % 4), policy, n_tokens=4)
                b = Response.make(f"i{i}", f"the reference {i}", "reference", n_tokens=3)
                mine.append(a)
                other.append(b)
                winner = a.id if r.random() < skill else b.id
                acts.append(
                    Judgement(
                        pair_id=Pair.of(a, b).id,
                        instruction_id=f"i{i}",
                        annotator=f"a{i % 2}",
                        shown=(a.id, b.id),
                        outcome=Outcome.DECIDED if i else Outcome.FAILED,
                        winner_id=winner if i else None,
                    )
                )
            write(step / "responses.jsonl", mine)
            write(step / "reference.jsonl", other)
            write(step / "judgements.jsonl", acts)
    return folder


def test_a_folder_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, out = steps(tmp_path / "6-evaluate"), tmp_path / "t.csv"
    main(["evaluate", "--judgements", str(folder), "--format", "farm", "--out", str(out), "--compare", "ppo", "sft"])
    table = {r["model"]: r for r in rows(out)}
    assert table.keys() == {"ppo", "sft"}
    assert table["ppo"]["reference"] == "reference"
    assert (table["ppo"]["n"], table["ppo"]["judgements"], table["ppo"]["failed"]) == ("11", "22", "2")
    assert "ppo minus sft" in capsys.readouterr().out
    one = folder / "sft" / "seed-1" / "judgements.jsonl"
    main(["evaluate", "--judgements", str(one), "--format", "farm", "--annotators", "each", "--out", str(out)])
    assert {r["annotator"] for r in rows(out)} == {"a0", "a1"}
    assert {r["model"] for r in rows(out)} == {"sft"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a recipe, or --judgements FILE"),
        (["quickstart", "--judgements", "a.csv"], "either a recipe"),
        (["--judgements", "absent.csv"], "no such file"),
        (["--judgements", "a.csv", "--models", "none"], "not among the models judged: fair, good, poor"),
        (["--judgements", "a.csv", "--compare", "good", "none"], "no judge has judged both"),
        (["--judgements", "a.csv", "--by-source", "s.csv"], "needs --instructions"),
        (["--judgements", "a.csv", "a.csv"], "already in a file given before"),
        (["--judgements", "a.csv", "--reference", "none"], "no judgement on a model against none"),
        (["--judgements", "a.csv", "--format", "mtbench", "--outputs", "a.csv"], "go with --format alpaca-eval"),
    ],
)
def test_what_cannot_work_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    annotations(tmp_path / "a.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
