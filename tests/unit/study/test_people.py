"""The agreement study as a whole, and the two commands on files and run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crowds import crowd

from farm import cli, records
from farm.annotate.pool import load_pool
from farm.data.judged import Judged, of_run
from farm.errors import DataError
from farm.report import agreement as report
from farm.report import page
from farm.study import held_out, people
from farm.study.calibration_data import assemble


def test_study_counts_and_parts():
    judges, crowd_ = crowd(80, 7)
    got = people.study(judges.judgements, crowd_.judgements, judges.instructions, judges.responses, seed=0, least=10)
    assert (got.n_pairs, got.n_common, got.n_votes) == (80, 80, 320)
    assert got.alpha_people.value == pytest.approx(0.2, abs=0.2)
    assert sum(s.pairs for s in got.splits) == 80
    assert {t.annotator for t in got.tests} == {j.annotator for j in judges.judgements} | {"pool"}
    by = people.study(judges.judgements, crowd_.judgements, judges.instructions, judges.responses, seed=0, by="split")
    groups = {i.source for i in judges.instructions.values()}
    assert {r.group for r in by.rows} == groups
    whole = next(r for r in got.rows if r.annotator == "a01").agreement
    parts = [r.agreement for r in by.rows if r.annotator == "a01"]
    assert sum(p.n for p in parts) == whole.n
    assert sum(p.value * p.n for p in parts) == pytest.approx(whole.value * whole.n)


def test_disjoint_files_are_an_error():
    judges, crowd_ = crowd(80, 7)
    keep = judges.judgements[:13]
    others = [j for j in crowd_.judgements if j.pair_id != keep[0].pair_id]
    with pytest.raises(DataError, match="no pair in common"):
        people.study(keep, others, judges.instructions, judges.responses, seed=0)


def test_one_pair_has_no_interval():
    judges, crowd_ = crowd(80, 7)
    pair = judges.pairs[0].id
    acts, votes = ([j for j in part if j.pair_id == pair] for part in (judges.judgements, crowd_.judgements))
    got = people.study(acts, votes, judges.instructions, judges.responses, seed=0)
    row = next(r for r in got.rows if r.annotator == "a01")
    assert row.agreement.value is not None
    assert row.agreement.ci95_low is None
    assert "one instruction" in row.agreement.note
    assert page.render(report.agreement_page(got, "one pair"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The parts of a run folder that agreement reads."""
    folder = tmp_path_factory.mktemp("run")
    judges, crowd_ = crowd(120, 8)
    records.write(folder / "0-data/preference.jsonl", judges.instructions.values())
    records.write(folder / "2-sample/seed-0/responses.jsonl", judges.responses.values())
    records.write(folder / "7-study/cross/seed-0/judgements.jsonl", judges.judgements)
    records.write(folder / "7-study/cross/seed-0/votes.jsonl", crowd_.judgements)
    return folder


def exported(path: Path, judged: Judged, policies: bool = False) -> Path:
    """The long table of single judgements, in the order shown to each."""
    with path.open("w", encoding="utf-8") as f:
        for j in judged.judgements:
            task = judged.instructions[j.instruction_id]
            first, second = (judged.responses[i] for i in j.shown)
            winner = {None: "tie", first.id: "first", second.id: "second"}[j.winner_id]
            row = {"instruction": task.text, "input": task.input, "first": first.text, "second": second.text,
                   "annotator": j.annotator, "winner": winner}  # fmt: skip
            f.write(
                json.dumps(row | ({"first_policy": first.policy, "second_policy": second.policy} if policies else {}))
            )
            f.write("\n")
    return path


def test_agree_on_a_run_and_on_its_export(run, tmp_path, capsys):
    cli.main(["agree", str(run), "--json", str(tmp_path / "run.json"), "--report", str(tmp_path / "run.html")])
    out = capsys.readouterr().out
    for name in ("a01", "pool", "human", "longest", "first", "random"):
        assert f"\n{name} " in out
    judges, crowd_ = of_run(run)
    files = [str(exported(tmp_path / "j.jsonl", judges, policies=True)), str(exported(tmp_path / "h.jsonl", crowd_))]
    cli.main(
        ["agree", "--judgements", files[0], "--format", "farm", "--humans", files[1], "--format", "farm",
         "--json", str(tmp_path / "files.json")]
    )  # fmt: skip
    one, other = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("run", "files"))
    rows = [
        {r["annotator"]: r["agreement"]["value"] for r in x["rows"] if r["annotator"] not in ("first", "random")}
        for x in (one, other)
    ]
    assert rows[0] == pytest.approx(rows[1])  # the texts join what ids and policies do not
    html = (tmp_path / "run.html").read_text()
    assert "<script" not in html
    assert "Krippendorff" in html
    assert len(html) < 500_000


def test_calibrate_writes_a_pool_that_loads(run, tmp_path, capsys):
    out = tmp_path / "mine"
    cli.main(["calibrate", str(run), "--out", str(out), "--json", str(tmp_path / "c.json"),
              "--report", str(tmp_path / "c.html")])  # fmt: skip
    assert "25% flips" in capsys.readouterr().out
    pool = load_pool(out)
    saved = json.loads((tmp_path / "c.json").read_text())["calibration"]
    assert pool.annotator("a07").noise.model_dump() == pytest.approx(saved["annotators"]["a07"])
    assert pool.noise.model_dump() == saved["pool"]
    assert "Vote splits" in (tmp_path / "c.html").read_text()
    with pytest.raises(SystemExit):
        cli.main(["calibrate", str(run), "--out", str(out)])
    assert "exists already" in capsys.readouterr().err


def test_judges_outside_the_pool_give_it_common_weights(run, tmp_path, capsys):
    judges, crowd_ = of_run(run)
    one = [j.model_copy(update={"annotator": "gpt"}) for j in judges.judgements if j.annotator == "a01"]
    some = Judged(judges.instructions, judges.responses, judges.pairs, one, [])
    files = exported(tmp_path / "j.jsonl", some), exported(tmp_path / "h.jsonl", crowd_)
    cli.main(["calibrate", "--judgements", str(files[0]), "--humans", str(files[1]), "--out", str(tmp_path / "p")])
    assert "13 of 13 annotators were not among the judges" in capsys.readouterr().out
    assert len({a.noise.verdict for a in load_pool(tmp_path / "p").annotators}) == 1


def test_rejected_rows_are_listed(run, tmp_path, capsys):
    judges, crowd_ = of_run(run)
    files = exported(tmp_path / "j.jsonl", judges), exported(tmp_path / "h.jsonl", crowd_)
    with files[1].open("a") as f:
        f.write('{"instruction": "x", "first": "a", "second": "b", "annotator": "c", "winner": "left"}\n')
    listed = tmp_path / "rejected.csv"
    cli.main(["agree", "--judgements", str(files[0]), "--humans", str(files[1]), "--rejected", str(listed)])
    assert "1 rows could not be read" in capsys.readouterr().err
    assert f'{files[1]},481,"winner: must be one of' in listed.read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["agree"], "say what the judges said"),
        (["agree", "--judgements", "JUDGES"], "holds no human votes"),
        (["agree", "."], "is this the folder of a run"),
        (["agree", "--judgements", "nowhere.csv", "--humans", "JUDGES"], "no such file"),
        (["agree", "RUN", "--epsilon", "2"], "epsilon"),
        (["calibrate", "RUN", "--out", "x", "--pool", "farm99"], "no such name"),
    ],
)
def test_bad_arguments_end_in_one_paragraph(run, tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    judges = exported(tmp_path / "j.jsonl", of_run(run)[0])
    known = {"RUN": str(run), "JUDGES": str(judges)}
    with pytest.raises(SystemExit) as e:
        cli.main([known.get(a, a) for a in arguments])
    assert e.value.code == 1
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


def test_hostile_names_are_shown_as_text():
    judges, crowd_ = crowd(80, 7)
    evil = "<script>alert(1)</script>\u202e"
    acts = [j.model_copy(update={"annotator": evil}) for j in judges.judgements if j.annotator == "a01"]
    found = people.study(acts, crowd_.judgements, judges.instructions, judges.responses, seed=0)
    html = page.render(report.agreement_page(found, evil))
    study = held_out.study(assemble(acts, crowd_.judgements, judges.responses), seed=0)
    html += page.render(report.calibration_page(study, evil))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
