"""Labels are stored once, in order, and for good: plan, idempotence, undo, kill -9."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections import Counter

import pytest
from studies import NOW, label_all, opened, study

from farm.errors import DataError, RunError
from farm.label import checks, material, plan
from farm.label.store import Stale, Store, token
from farm.records import Outcome


def now(store: Store, name: str = "ann") -> tuple[str, int]:
    sheet = store.sheet(name)
    assert sheet.now is not None
    return sheet.now.id, sheet.turns[sheet.now.id]


def test_everybody_gets_all_pairs_in_an_order_of_their_own(store):
    orders = {}
    for name in ("ann", "bob", "cat"):
        label_all(store, name, lambda *_: "tie")
        orders[name] = [x.task.pair_id for x in store.labels(name)]
    assert len({tuple(o) for o in orders.values()}) == 3
    assert {frozenset(o) for o in orders.values()} == {frozenset(p.id for p in store.pairs(known=False))}


def test_sides_are_keyed_by_pair_and_annotator_and_balanced():
    pairs = study(200).pairs
    first = {name: {t.pair_id: t.first for t in plan.tasks(name, pairs, [], 0, 5, "s")} for name in ("ann", "bob")}
    again = {t.pair_id: t.first for t in plan.tasks("ann", pairs[::-1], [], 0, 5, "other salt")}
    assert again == first["ann"]
    left = sum(first["ann"][p.id] == p.a for p in pairs) / len(pairs)
    same = sum(first["ann"][p.id] == first["bob"][p.id] for p in pairs) / len(pairs)
    assert 0.44 < left < 0.56
    assert 0.44 < same < 0.56


def test_repeats_come_later_with_sides_swapped():
    pairs = study(30).pairs
    tasks = plan.tasks("ann", pairs, [], 6, 0, "s")
    once = {t.pair_id: t for t in tasks if t.draw == 0}
    again = [t for t in tasks if t.draw == 1]
    assert len(tasks) == len(pairs) + 6
    assert [t.place for t in tasks] == list(range(len(tasks)))
    assert len({t.id for t in tasks}) == len(tasks)
    assert len(again) == 6
    for t in again:
        assert t.first != once[t.pair_id].first
        assert t.place - once[t.pair_id].place >= len(pairs) / 2


def test_pairs_with_a_known_answer_are_made_from_stray_responses():
    found = study(20)
    made = material.mismatched(found, found.pairs, 5, 0)
    assert len(made.pairs) == 5
    for pair in made.pairs:
        right = made.responses[made.answers[pair.id]]
        wrong = made.responses[pair.b if right.id == pair.a else pair.a]
        assert right.policy == wrong.policy
        assert found.responses[right.id] == right
        number = found.instructions[pair.instruction_id].text.split()[-1].strip(".")
        assert f"Thing {number} " in right.text
        assert f"Thing {number} " not in wrong.text


def test_a_label_counts_once_however_often_it_arrives(store):
    task, turn = now(store)
    assert store.act("ann", task, turn, "first", strength=2, seconds=3.5, time=NOW)
    for choice in ("first", "second", "tie", "undo"):
        assert not store.act("ann", task, turn, choice, time=NOW)
    (label,) = store.labels()
    assert (label.winner, label.strength, label.seconds) == (label.task.first, 2, 3.5)


def test_what_does_not_fit_is_refused(store):
    task, turn = now(store)
    ahead = store.sheet("ann").next
    with pytest.raises(Stale):
        store.act("bob", task, turn, "tie", time=NOW)
    with pytest.raises(Stale):
        store.act("ann", task, turn + 1, "tie", time=NOW)
    with pytest.raises(Stale):
        store.act("ann", ahead.id, 0, "tie", time=NOW)
    with pytest.raises(Stale):
        store.act("ann", task, turn, "undo", time=NOW)
    assert store.count() == 0


def test_undo_goes_back_and_keeps_history(store):
    first, _ = now(store)
    store.act("ann", first, 0, "first", time=NOW)
    second, _ = now(store)
    store.act("ann", second, 0, "second", time=NOW)
    assert store.act("ann", second, 1, "undo", time=NOW)
    assert now(store) == (second, 2)
    assert store.act("ann", first, 1, "undo", time=NOW)
    assert now(store) == (first, 2)
    assert store.labels() == []
    assert store.act("ann", first, 2, "tie", time=NOW)
    assert [x.choice for x in store.labels()] == ["tie"]
    assert store.count() == 5


def test_labels_become_judgements_by_identity(store):
    label_all(store, "ann", lambda task, *_: ["first", "second", "tie", "skip"][task.place % 4])
    judged = {j.pair_id: j for j in store.judgements()}
    for label in store.labels():
        j = judged[label.task.pair_id]
        assert j.shown[0] == label.task.first
        wanted = [Outcome.DECIDED, Outcome.DECIDED, Outcome.TIE, Outcome.REFUSED][label.task.place % 4]
        assert (j.outcome, j.winner_id) == (wanted, label.winner)
    assert Counter(j.outcome for j in judged.values())[Outcome.DECIDED] == 12


def test_checks_see_what_they_should(tmp_path):
    store = opened(tmp_path / "s", study(60), ("ann", "bob", "cat"), known=10, repeats=12)
    answers = store.answers()

    def careful(task, left, right):
        if task.pair_id in answers:
            return "first" if task.first == answers[task.pair_id] else "second"
        return "first" if left.id < right.id else "second"

    label_all(store, "ann", careful)
    label_all(store, "bob", lambda *_: "first")
    ann, bob, cat = checks.checks(store)
    assert (ann.known_right, ann.known, ann.same, ann.repeats, ann.warnings) == (10, 10, 12, 12, ())
    assert (bob.left, bob.decided, bob.same) == (142, 142, 0)
    assert any("leans to the left" in w for w in bob.warnings)
    assert any("repeated" in w for w in bob.warnings)
    assert (cat.done, cat.total, cat.median_seconds, cat.left_p) == (0, 142, None, None)


def test_somebody_too_fast_is_noticed(store):
    while task := store.sheet("ann").now:
        store.act("ann", task.id, 0, "tie", seconds=0.4, time=NOW)
    assert checks.checks(store)[0].too_fast == 24
    assert any("under 3 s" in w for w in checks.checks(store)[0].warnings)


def test_files_are_private_and_links_come_from_the_key_alone(store, tmp_path):
    secret = store.secret()
    for name in ("labels.sqlite", "labels.sqlite.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    links = {token(secret, n) for n in ("ann", "bob", "(admin)")}
    assert len(links) == 3
    assert all(len(t) == 32 for t in links)
    data = b"".join(p.read_bytes() for p in tmp_path.glob("labels.sqlite*") if p.suffix != ".key")
    assert not any(t.encode() in data for t in links)
    assert secret.encode() not in data
    (tmp_path / "labels.sqlite.key").unlink()
    assert store.secret() != secret


def test_a_store_is_not_overwritten_and_not_mistaken(store, tmp_path):
    with pytest.raises(RunError, match="already"):
        opened(tmp_path / "labels.sqlite")
    (tmp_path / "other").write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(RunError, match="not a label store"):
        Store(tmp_path / "other")
    with pytest.raises(RunError, match="no such"):
        Store(tmp_path / "missing")
    with sqlite3.connect(tmp_path / "labels.sqlite") as db:
        db.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    db.close()
    with pytest.raises(RunError, match="version 99"):
        Store(tmp_path / "labels.sqlite")


def _tasks(store: Store) -> list[tuple[str, str]]:
    return store._db.execute("SELECT id, annotator FROM tasks ORDER BY annotator, place").fetchall()


def test_somebody_added_later_labels_the_same_pairs(store):
    before = _tasks(store)
    store.add_annotator("dan")
    store.add_annotator("dan")
    assert store.annotators() == ["ann", "bob", "cat", "dan"]
    assert store.sheet("dan").total == 24
    assert [t for t in _tasks(store) if t[1] != "dan"] == before


WRITER = """
import sys
from pathlib import Path
from farm.label.store import Store
store = Store(Path(sys.argv[1]))
while task := store.sheet("ann").now:
    store.act("ann", task.id, 0, "first", time="now")
    print(task.id, flush=True)
    sys.stdin.readline()
"""


def test_what_was_confirmed_survives_kill_9(store, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "labels.sqlite")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    confirmed = []
    for _ in range(5):
        confirmed.append(child.stdout.readline().strip())
        if len(confirmed) < 5:
            child.stdin.write("\n")
            child.stdin.flush()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert [x.task.id for x in store.labels("ann")] == confirmed


# -- material ---------------------------------------------------------------------------------------------------------


def test_pairs_of_a_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"instruction": "Q", "first": "one", "second": "two", "first_policy": "m1", "second_policy": "m2"}\n'
        '{"instruction": "R", "input": "i", "first": "x", "second": "y", "answer": "second"}\n'
    )
    found = material.from_file(path)
    assert [found.instructions[p.instruction_id].full_text for p in found.pairs] == ["Q", "R\n\ni"]
    assert found.policies(found.pairs[0]) == {"m1", "m2"}
    assert {found.responses[i].text for i in found.answers.values()} == {"y"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"instruction": "Q", "first": "a"}', "field 'second'"),
        ('{"instruction": " ", "first": "a", "second": "b"}', "field 'instruction'"),
        ('{"instruction": "Q", "first": "a", "second": 3}', "field 'second'"),
        ('{"instruction": "Q", "first": "a", "second": "a"}', "same text"),
        ('{"instruction": "Q", "first": "a", "second": "b", "answer": "left"}', "field 'answer'"),
        ('{"instruction": "Q", "first": "a", "second": "b", "model": "m"}', "unknown field 'model'"),
        ('{"instruction": "P", "first": "1", "second": "2"}', "given on line 1"),
        ("[1]", "JSON object"),
        ("{", "not JSON"),
        ('{"instruction": "Q", "first": "a", "second": "' + "b" * 200_001 + '"}', "200,001 characters"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"instruction": "P", "first": "1", "second": "2"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2") as e:
        material.from_file(path)
    assert words in str(e.value)


def test_a_folder_without_judged_pairs_is_refused(tmp_path):
    with pytest.raises(DataError, match="farm evaluate"):
        material.from_run(tmp_path)
    with pytest.raises(DataError, match="agreement_pairs"):
        material.from_run(tmp_path, "cross")
