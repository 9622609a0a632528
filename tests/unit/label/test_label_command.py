"""``farm label``: what it refuses, what it makes, and labels by people in a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from studies import POLICIES, label_all, opened, study

from farm import records
from farm.cli import main, parser
from farm.commands import label
from farm.errors import DataError, RecipeError, RunError
from farm.label import export, material
from farm.label.store import Store
from farm.recipe import Recipe
from farm.records import Preference
from farm.runs import Step
from farm.stages import Run, annotate
from farm.stages.common import texts


@pytest.fixture
def served(monkeypatch) -> list[Store]:
    """Stores that would be served."""
    from farm.label import serve

    found: list[Store] = []
    monkeypatch.setattr(serve, "run", lambda store, figures, host, port: found.append(store))
    return found


def pairs_file(folder: Path, n: int = 20) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"instruction": f"Question {k}?", "first": f"Yes {k}.", "second": f"No {k}."} for k in range(n)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def run_folder(folder: Path, n: int = 30) -> Path:
    """A run folder as far as labelling reads it."""
    found = study(n)
    records.write(folder / "0-data" / "eval.jsonl", found.instructions.values())
    for policy in POLICIES:
        step = folder / "6-evaluate" / policy / "seed-0"
        mine = [p for p in found.pairs if policy in found.policies(p)]
        both = [found.responses[i] for p in mine for i in (p.a, p.b)]
        records.write(step / "responses.jsonl", [r for r in both if r.policy == policy])
        records.write(step / "reference.jsonl", [r for r in both if r.policy != policy])
        records.write(step / "judgements.jsonl", [j for j in found.judgements if j.pair_id in {p.id for p in mine}])
    return folder


def test_a_file_of_pairs_becomes_a_store(tmp_path, served, monkeypatch):
    path = pairs_file(tmp_path)
    main(["label", "--pairs-file", str(path), "--annotators", "ann,bob", "--pairs", "10"])
    (store,) = served
    assert store.path == tmp_path / "pairs.labels.sqlite"
    assert store.annotators() == ["ann", "bob"]
    assert (len(store.pairs(known=False)), len(store.answers()), store.sheet("ann").total) == (10, 1, 11)
    main(["label", "--pairs-file", str(path), "--annotators", "cat"])
    assert served[1].annotators() == ["ann", "bob", "cat"]
    main(["label", "--store", str(store.path)])
    assert served[2].annotators() == ["ann", "bob", "cat"]


def test_known_answers_of_the_file_are_the_checks(tmp_path, served):
    path = pairs_file(tmp_path)
    with path.open("a") as f:
        f.write('{"instruction": "One and one?", "first": "two", "second": "three", "answer": "first"}\n')
    main(["label", "--pairs-file", str(path), "--annotators", "ann", "--repeats", "0.1"])
    (store,) = served
    (known,) = store.answers().values()
    assert store.responses()[known].text == "two"
    assert store.sheet("ann").total == 20 + 1 + 2


@pytest.mark.parametrize("choose", ["random", "informative"])
def test_pairs_of_a_run(tmp_path, served, choose):
    folder = run_folder(tmp_path / "run")
    main(["label", str(folder), "--annotators", "ann", "--pairs", "20", "--choose", choose])
    (store,) = served
    assert store.path == folder / "labels.sqlite"
    assert len(store.pairs(known=False)) == 20
    assert len(store.frame()) == 60
    assert len(store.pool_judgements()) == 20
    assert len(store.probabilities()) == (20 if choose == "informative" else 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a run folder"),
        (["--store", "none.sqlite"], "no such label store"),
        (["run", "--pairs-file", "pairs.jsonl"], "not both"),
        (["--pairs-file", "pairs.jsonl"], "say who labels"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "ann,,bob"], "not a usable name"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "ann,ann"], "not a usable name"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "a b"], "not a usable name"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "ann", "--pairs", "21"], "there are 20 pairs"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "ann", "--pairs", "0"], "there are 20 pairs"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "ann", "--checks", "2"], "from 0 to 0.5"),
        (["--pairs-file", "pairs.jsonl", "--annotators", "ann", "--choose", "informative"], "simulated verdicts"),
        (["--pairs-file", "missing.jsonl", "--annotators", "ann"], "no such file"),
        (["missing", "--annotators", "ann"], "no judged pairs"),
        (["export"], "needs a store"),
        (["export", "missing.sqlite", "--out", "x"], "no such label store"),
    ],
)
def test_bad_input_is_one_paragraph(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    pairs_file(tmp_path)
    with pytest.raises(SystemExit) as e:
        main(["label", *arguments])
    said = capsys.readouterr().err
    assert e.value.code == 1
    assert words in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.sqlite")) or "say who labels" in words or "usable" in words


def test_another_number_of_pairs_needs_another_store(tmp_path, served, capsys):
    path = pairs_file(tmp_path)
    main(["label", "--pairs-file", str(path), "--annotators", "ann", "--pairs", "10"])
    with pytest.raises(SystemExit):
        main(["label", "--pairs-file", str(path), "--annotators", "ann", "--pairs", "11"])
    assert "has 10 pairs" in capsys.readouterr().err


def test_export_says_how_many(tmp_path, capsys):
    store = opened(tmp_path / "s.sqlite", study(5), ("ann", "bob"))
    label_all(store, "ann", lambda *_: "first")
    label_all(store, "bob", lambda task, *_: "tie" if task.place < 3 else "first")
    main(["label", "export", str(tmp_path / "s.sqlite"), "--format", "trl", "--out", str(tmp_path / "o.jsonl")])
    said = capsys.readouterr().out
    n = len((tmp_path / "o.jsonl").read_text().splitlines())
    assert f"{n} preferences; {10 - n} ties left out" in said
    main(["label", "export", str(tmp_path / "s.sqlite"), "--out", str(tmp_path / "f.jsonl")])
    assert "20 judgements" in capsys.readouterr().out


def test_help_names_the_ways(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["label", "--help"])
    assert "farm label export STORE" in capsys.readouterr().out


def test_a_store_of_another_kind_is_refused(tmp_path):
    (tmp_path / "s.sqlite").write_bytes(b"SQLite format 3\0" + b"\1" * 4000)
    with pytest.raises((RunError, DataError)):
        label._store(argparse.Namespace(source=None, pairs_file=None, store=tmp_path / "s.sqlite", pairs=None))


# -- labels by people in a run ----------------------------------------------------------------------------------------


def test_one_recipe_line_takes_labels_from_people(tmp_path, capsys):
    found = study(6)
    store = opened(tmp_path / "s", found, ("ann", "bob", "cat"), repeats=2)
    order = (POLICIES[0], "reference", POLICIES[1])
    for name in ("ann", "bob"):
        label_all(
            store,
            name,
            lambda _, left, right: "first" if order.index(left.policy) < order.index(right.policy) else "second",
        )
    label_all(store, "cat", lambda *_: "tie")
    export.write(export.long_table(store), tmp_path / "people.jsonl", "farm")

    samples = tmp_path / "2-sample" / "seed-0"
    records.write(samples / "responses.jsonl", [])
    records.write(tmp_path / "0-data" / "preference.jsonl", [])
    records.write(tmp_path / "0-data" / "eval.jsonl", list(found.instructions.values())[:2])
    made = {
        "data": Step(tmp_path / "0-data", "d", 0.0, 0.0, False),
        "sample": Step(samples, "s", 0.0, 0.0, False),
    }
    recipe = Recipe.model_validate(
        {"name": "people", "data": {"world": "offline"}, "annotate": {"human": str(tmp_path / "people.jsonl")}}
    )
    run = Run(tmp_path / "run", recipe)
    made["annotate"] = step = annotate(run, 0, made)
    assert "2 of 6 instructions belong to the evaluation set" in capsys.readouterr().err
    preferences = records.read(step.file("preferences.jsonl"), Preference)
    instructions, responses = texts(made)
    assert len(preferences) == 12
    assert {p.origin for p in preferences} == {"human"}
    assert {len(p.judgements) for p in preferences} == {3}  # a repeat is no second vote
    for p in preferences:
        assert p.instruction_id in instructions
        assert set(p.responses) <= set(responses)
        policies = {responses[i].policy for i in p.responses}
        winner = responses[p.winner_id].policy
        assert winner == (POLICIES[0] if POLICIES[0] in policies else "reference")
    assert annotate(run, 0, made).fresh is False
    with (tmp_path / "people.jsonl").open("a") as f:
        f.write("\n")
    assert annotate(run, 0, made).fresh is True


def test_a_missing_file_of_labels_is_named(tmp_path):
    recipe = Recipe.model_validate(
        {"name": "people", "data": {"world": "offline"}, "annotate": {"human": str(tmp_path / "none.jsonl")}}
    )
    with pytest.raises(RecipeError, match=r"none\.jsonl"):
        annotate(Run(tmp_path, recipe), 0, {})


@pytest.mark.parametrize(("source", "step"), [("annotate", "3-annotate"), ("cross", "7-study/cross")])
def test_pairs_of_samples_of_a_run(tmp_path, source, step):
    found = study(5)
    records.write(tmp_path / "0-data" / "preference.jsonl", found.instructions.values())
    records.write(tmp_path / "2-sample" / "seed-0" / "responses.jsonl", found.responses.values())
    records.write(tmp_path / step / "seed-0" / "judgements.jsonl", found.judgements)
    back = material.from_run(tmp_path, source)
    assert ({p.id for p in back.pairs}, back.judgements) == ({p.id for p in found.pairs}, found.judgements)
    records.write(tmp_path / "2-sample" / "seed-0" / "responses.jsonl", list(found.responses.values())[1:])
    with pytest.raises(DataError, match="did not sample"):
        material.from_run(tmp_path, source)


def test_identical_responses_of_a_run_are_not_asked_about(tmp_path):
    folder = run_folder(tmp_path / "run", 4)
    step = folder / "6-evaluate" / POLICIES[0] / "seed-0"
    rows = records.read(step / "responses.jsonl", records.Response)
    reference = {r.instruction_id: r for r in records.read(step / "reference.jsonl", records.Response)}
    same = [r.model_copy(update={"text": reference[r.instruction_id].text}) for r in rows]
    records.write(step / "responses.jsonl", same)
    assert len(material.from_run(folder).pairs) == 4
