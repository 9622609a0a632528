"""``farm correlate`` from the command line: a table, two tables, scores per instruction, a run folder, a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from farm import records, runs
from farm.cli import main
from farm.records import Instruction, Judgement, Outcome, Pair, Response

SHARED = Path(__file__).parents[3] / "shared" / "data" / "method_level"
TABLE = """method,simulated_win_rate,simulated_se,human_win_rate,human_se
GPT-4,79.0,1.4,69.8,1.6
PPO,46.8,1.8,55.1,1.7
<b>DPO</b>,45.0,1.7,50.7,1.8
SFT 10k,36.7,1.7,44.3,1.7
Quark,35.6,1.7,,
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    return path


def run(capsys, *arguments):
    main(["correlate", *map(str, arguments)])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as e:
        main(["correlate", *map(str, arguments)])
    assert e.value.code == 1
    return capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not beside this checkout")
def test_alpacafarms_table(capsys, tmp_path):
    out = run(capsys, SHARED / "alpacafarm_paper_methods.csv", "--json", tmp_path / "a.json")
    assert "left out: line 10: Quark" in out
    found = json.loads((tmp_path / "a.json").read_text())
    all_rows, trained, preferences = (a["these"] for a in found["associations"])
    values = [round(all_rows[k]["value"], d) for k, d in (("spearman", 3), ("kendall", 3), ("pearson", 3))]
    assert values == [0.976, 0.911, 0.933]
    assert round(all_rows["mean_absolute_error"]["value"], 1) == 5.9
    assert all(all_rows[k]["ci95_low"] < all_rows[k]["value"] < all_rows[k]["ci95_high"] + 1e-9 for k in
               ("spearman", "kendall", "pearson", "mean_absolute_error"))  # fmt: skip
    assert (len(trained["methods"]), len(preferences["methods"])) == (6, 4)
    assert round(trained["spearman"]["value"], 3) == 0.943
    assert preferences["spearman"]["value"] == pytest.approx(1.0)
    assert found["associations"][2]["like_these"]["spearman"]["ci95_low"] < 0.2


def test_table_page_and_same_seed_same_bytes(capsys, tmp_path, table):
    pages = [tmp_path / f"{k}.html" for k in "ab"]
    outs = [run(capsys, table, "--report", p, "--json", p.with_suffix(".json")) for p in pages]
    assert outs[0].replace("a.html", "b.html") == outs[1]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert pages[0].with_suffix(".json").read_bytes() == pages[1].with_suffix(".json").read_bytes()
    text = pages[0].read_text()
    assert "<b>DPO" not in text
    assert text.count("<svg") == 2
    assert "http://" not in text
    assert "these methods" in outs[0]
    assert "Leaving one method out" in outs[0]


def test_only_some_rows(capsys, table):
    out = run(capsys, table, "--only", "PPO,SFT 10k,GPT-4")
    assert "methods named (3 of 4, by list)" in out
    assert "all 4 methods" in out
    assert "no method is called 'nobody'" in refused(capsys, table, "--only", "nobody")


def test_without_standard_errors_it_says_so(capsys, tmp_path):
    path = tmp_path / "bare.csv"
    path.write_text("model,sim,human\na,1,900\nb,2,1000\nc,3,1100\nd,4,1050\n")
    out = run(capsys, path)
    assert "Intervals are over methods only, without standard errors on both sides" in out
    assert "mean absolute error" in out
    assert "different units" in out


def test_two_methods_are_not_estimable(capsys, tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("model,sim,human\na,1,2\nb,2,3\n")
    assert run(capsys, path, "--report", tmp_path / "p.html").count("not estimable: 2 methods") == 4


def test_ties_and_constant_columns(capsys, tmp_path):
    path = tmp_path / "ties.csv"
    path.write_text("model,sim,human\na,1,5\nb,1,5\nc,2,6\nd,2,7\n")
    out = run(capsys, path)
    assert "0.943" in out  # scipy.stats.spearmanr([1, 1, 2, 2], [5, 5, 6, 7])
    path.write_text("model,sim,human\na,1,5\nb,1,5\nc,1,6\nd,1,7\n")
    assert "all methods have the same simulated score" in run(capsys, path)


def test_scores_per_instruction_and_few_human_labels(capsys, tmp_path):
    r = np.random.default_rng(0)
    path = tmp_path / "long.csv"
    lines = ["method,instruction_id,simulated,human"]
    for k in range(5):
        for i in range(120):
            s = r.random() < 0.2 + 0.12 * k
            h = s if r.random() < 0.8 else r.random() < 0.5
            lines.append(f"m{k},i{i},{int(s)},{int(h) if i < 50 else ''}")
    path.write_text("\n".join(lines) + "\n")
    out = run(capsys, path, "--prediction-powered", "--json", tmp_path / "l.json", "--report", tmp_path / "l.html")
    assert "prediction-powered" in out
    found = json.loads((tmp_path / "l.json").read_text())
    assert [p["n_human"] for p in found["prediction_powered"]] == [50] * 5
    gains = [p["gain"] for p in found["prediction_powered"]]
    assert np.mean(gains) > 1.2
    fewer = run(capsys, path, "--prediction-powered", "--human-labels", "20")
    assert "Human labels of 20 of 50 instructions" in fewer


def test_a_run_folder(capsys, tmp_path):
    r = np.random.default_rng(1)
    for k, name in enumerate(("sft", "ppo", "dpo", "weak-writer")):
        folder = tmp_path / "run" / "6-evaluate" / name / "seed-0"
        rows = {"responses": [], "reference": [], "judgements": [], "votes": []}
        for i in range(40):
            a, b = (Response.make(f"i{i}", f"{p} {i}", p, n_tokens=2) for p in (name, "reference"))
            rows["responses"].append(a)
            rows["reference"].append(b)
            for side, chance in (("judgements", 0.2 + 0.15 * k), ("votes", 0.25 + 0.12 * k)):
                won = a.id if r.random() < chance else b.id
                rows[side].append(
                    Judgement(pair_id=Pair.of(a, b).id, instruction_id=f"i{i}", annotator=side, shown=(a.id, b.id),
                              outcome=Outcome.DECIDED, winner_id=won)
                )  # fmt: skip
        for side, some in rows.items():
            records.write(folder / f"{side}.jsonl", some)
        runs.write_json(folder / "step.json", {})
    out = run(capsys, tmp_path / "run", "--prediction-powered")
    assert "bootstrap over 40 instructions" in out or "all 4 methods" in out
    assert "trained in the farm (3 of 4, by column 'trained')" in out
    for path in (tmp_path / "run").rglob("votes.jsonl"):
        path.unlink()
    assert "no human votes to compare with" in refused(capsys, tmp_path / "run")


def test_exported_votes_on_a_run(capsys, tmp_path):
    tasks = [Instruction.make(f"Say {i}.", split="eval") for i in range(12)]
    records.write(tmp_path / "run" / "0-data" / "eval.jsonl", tasks)
    lines = ["instruction,first,second,annotator,winner"]
    for k, name in enumerate(("sft", "ppo", "dpo")):
        folder = tmp_path / "run" / "6-evaluate" / name / "seed-0"
        made = [(Response.make(t.id, f"{name} {t.text}", name, n_tokens=2),
                 Response.make(t.id, t.text, "reference", n_tokens=1)) for t in tasks]  # fmt: skip
        pool = [
            Judgement(pair_id=Pair.of(a, b).id, instruction_id=a.instruction_id, annotator="a01", shown=(a.id, b.id),
                      outcome=Outcome.DECIDED, winner_id=a.id if i % 4 <= k else b.id) for i, (a, b) in enumerate(made)
        ]  # fmt: skip
        records.write(folder / "responses.jsonl", [a for a, _ in made])
        records.write(folder / "reference.jsonl", [b for _, b in made])
        records.write(folder / "judgements.jsonl", pool)
        runs.write_json(folder / "step.json", {})
        won = ["second" if i % 6 <= 2 * k else "first" for i in range(12)]  # the policy is shown second
        lines += [f"{t.text},{t.text},{name} {t.text},ann,{w}" for t, w in zip(tasks, won, strict=True)]
    votes = tmp_path / "votes.csv"
    votes.write_text("\n".join(lines) + "\n")
    run(capsys, tmp_path / "run", "--votes", votes, "--json", tmp_path / "v.json")
    found = json.loads((tmp_path / "v.json").read_text())
    scores = {s["method"]: (s["first"], s["second"]) for s in found["scores"]}
    assert scores["dpo"] == pytest.approx((0.75, 5 / 6))
    assert scores["sft"] == pytest.approx((0.25, 1 / 6))
    assert found["associations"][0]["these"]["spearman"]["value"] == pytest.approx(1.0)


def test_bad_arguments(capsys, table, tmp_path):
    assert "between 0 and 2" in refused(capsys, table, "--target-width", "3")
    assert "at least 3 instructions" in refused(capsys, table, "--human-labels", "1")
    assert "one row per method and instruction" in refused(capsys, table, "--prediction-powered")
    assert "say COLUMN=VALUE" in refused(capsys, table, "--human-rows", "x")
    assert "neither a table nor a run folder" in refused(capsys, tmp_path)
