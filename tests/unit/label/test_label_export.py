"""What comes out of a label store, and comes back in through the importers."""

from __future__ import annotations

import builtins
import json

import pytest
from hostile import HOSTILE
from studies import NOW, label_all, opened, study

from farm.data.human import read
from farm.errors import DataError, MissingExtra
from farm.label import export
from farm.label.store import Store


@pytest.fixture
def labelled(tmp_path) -> Store:
    store = opened(tmp_path / "s", known=3, repeats=4)
    for shift, name in enumerate(("ann", "bob", "cat")):
        k = shift

        def choose(task, left, right):
            nonlocal k
            k += 1
            return ("first", "second", "tie", "first", "skip")[k % 5]

        while task := store.sheet(name).now:
            choice = choose(task, None, None)
            strength = 1 + k % 3 if choice in ("first", "second") and k % 2 else None
            reason = 'too "hard", or\nnot' if choice == "skip" else ""
            store.act(name, task.id, 0, choice, strength=strength, reason=reason, seconds=k / 4, time=NOW)
    return store


@pytest.mark.parametrize("form", ["farm", "csv"])
def test_the_long_table_comes_back_as_the_same_records(labelled, tmp_path, form):
    path = tmp_path / ("out.csv" if form == "csv" else "out.jsonl")
    export.write(export.long_table(labelled), path, form)
    back = read(path, "farm")
    assert back.rejected == []
    assert sorted(back.judgements, key=lambda j: j.id) == sorted(labelled.judgements(), key=lambda j: j.id)
    assert sorted(p.id for p in back.pairs) == sorted(p.id for p in labelled.pairs(known=False))
    assert {p.id: p for p in back.pairs} == {p.id: p for p in labelled.pairs(known=False)}
    assert back.instructions == {k: v for k, v in labelled.instructions().items() if k in back.instructions}
    for id, response in back.responses.items():
        was = labelled.responses()[id]
        assert (response.text, response.policy, response.instruction_id) == (was.text, was.policy, was.instruction_id)
    assert {j.draw for j in back.judgements} == {0, 1}
    assert {j.strength for j in back.judgements} == {None, 1, 2, 3}


@pytest.mark.parametrize("form", ["farm", "csv"])
def test_hostile_texts_survive_the_round_trip(tmp_path, form):
    store = opened(tmp_path / "s", study(30, [(h, f"plain {k}") for k, h in enumerate(HOSTILE)]), ("ann",))
    label_all(store, "ann", lambda *_: "first")
    path = tmp_path / ("out.csv" if form == "csv" else "out.jsonl")
    export.write(export.long_table(store), path, form)
    back = read(path, "farm")
    assert back.rejected == []
    assert set(HOSTILE) <= {r.text for r in back.responses.values()}
    assert len(back.judgements) == 60


def test_the_simulators_verdicts_come_out_in_the_same_columns(labelled, tmp_path):
    rows = export.pool_table(labelled)
    assert list(rows[0]) == list(export.long_table(labelled)[0])
    export.write(rows, tmp_path / "pool.jsonl", "farm")
    back = {j.pair_id: j for j in read(tmp_path / "pool.jsonl", "farm").judgements}
    for was in labelled.pool_judgements():
        now = back[was.pair_id]
        assert (now.annotator, now.shown, now.outcome, now.winner_id) == (
            was.annotator,
            was.shown,
            was.outcome,
            was.winner_id,
        )
    assert len(back) == 24


def test_checks_are_left_out_unless_asked_for(labelled):
    known = set(labelled.answers())
    without, with_checks = export.long_table(labelled), export.long_table(labelled, checks=True)
    assert not known & {r["pair_id"] for r in without}
    assert known <= {r["pair_id"] for r in with_checks}
    assert len(with_checks) - len(without) == 9


def test_majority_and_each_never_turn_a_tie_into_a_winner(tmp_path):
    store = opened(tmp_path / "s", study(4))
    votes = {
        0: ("a", "a", "b"),
        1: ("a", "b", "tie"),
        2: ("tie", "tie", "tie"),
        3: ("b", "skip", "skip"),
        4: ("a", "tie", "tie"),
        5: ("skip", "skip", "skip"),
    }
    pairs = store.pairs(known=False)
    index = {p.id: k for k, p in enumerate(pairs)}
    for n, name in enumerate(("ann", "bob", "cat")):

        def choose(task, left, right, n=n):
            said = votes.get(index[task.pair_id], ("tie",) * 3)[n]
            if said in ("tie", "skip"):
                return said
            return "first" if task.first == getattr(pairs[index[task.pair_id]], said) else "second"

        label_all(store, name, choose)
    rows, ties = export.preferences(store)
    responses = store.responses()
    chosen = [(responses[pairs[k].a].text, responses[pairs[k].b].text) for k in (0, 3, 4)]
    assert [(r["chosen"], r["rejected"]) for r in rows] == [chosen[0], chosen[1][::-1], chosen[2]]
    assert ties == 4  # pairs 1, 2, 6, 7; pair 5 has no vote at all
    each, ties = export.preferences(store, rule="each", margin=True)
    assert len(each) == 3 + 2 + 1 + 1
    assert ties == 1 + 3 + 2 + 3 + 3
    assert {r["margin"] for r in each} == {2.0}


def test_margins_follow_strengths(tmp_path):
    store = opened(tmp_path / "s", study(1), ("ann", "bob", "cat"))
    pair = store.pairs(known=False)[0]
    said = {"ann": ("a", 3), "bob": ("a", 1), "cat": ("b", 1)}
    for name, (side, strength) in said.items():
        while task := store.sheet(name).now:
            winner = "first" if task.first == getattr(pair, side) else "second"
            mine = task.pair_id == pair.id
            store.act(name, task.id, 0, winner if mine else "skip", strength=strength if mine else None, time=NOW)
    (row,), _ = export.preferences(store, margin=True)
    assert row["margin"] == pytest.approx((3 + 1 - 1) / 3)
    assert set(row) == {"prompt", "chosen", "rejected", "margin"}


def test_trl_rows_come_back_through_the_importer(labelled, tmp_path):
    rows, _ = export.preferences(labelled, rule="each", margin=True)
    once = list({json.dumps(r): r for r in rows}.values())
    export.write(once, tmp_path / "trl.jsonl", "trl")
    back = read(tmp_path / "trl.jsonl", "trl")
    won = {(back.instructions[j.instruction_id].text, back.responses[j.winner_id].text) for j in back.judgements}
    assert won <= {(r["prompt"], r["chosen"]) for r in rows}


def test_nothing_to_export_and_no_pyarrow_are_said(store, labelled, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nothing to export"):
        export.write(export.long_table(store), tmp_path / "x", "farm")
    monkeypatch.setattr(export, "import_module", lambda name: builtins.__import__("no_such_module_at_all"))
    with pytest.raises(MissingExtra, match=r"rlhf-farm\[train\]"):
        export.write(export.long_table(labelled), tmp_path / "x.parquet", "parquet")
    assert not list(tmp_path.glob("x*"))


def test_parquet_holds_the_long_table(labelled, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = export.long_table(labelled)
    export.write(rows, tmp_path / "x.parquet", "parquet")
    assert parquet.read_table(tmp_path / "x.parquet").to_pylist() == rows
