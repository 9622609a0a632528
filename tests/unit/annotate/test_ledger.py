from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.annotate.ledger import Answer, Call, End, Ledger, request_key
from farm.annotate.money import Price
from farm.errors import BudgetError, RunError
from farm.lm.endpoints import Reply, Request

REQUEST = Request(model="m", messages=(("system", "s"), ("user", "u")), temperature=1.0, max_tokens=9, seed=3)
REPLY = Reply("text", "stop", "m", 10, 2, [{"a": -0.1, "b": -2.5}])


def call(key: str) -> Call:
    return Call(key, "a01", "here", "m")


def test_an_answer_is_found_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        (attempt,) = ledger.sent([call("k1")])
        ledger.ended([End(attempt, "k1", Answer(REPLY, 0.25))])
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.answers(["k0", "k1"]) == {"k1": Answer(REPLY, 0.25)}


def test_failures_and_unknown_ends_are_no_answers(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        attempts = ledger.sent([call("k1"), call("k2"), call("k1")])
        ledger.ended([End(attempts[0], "k1", None, "retry", "HTTP 500")])
        assert ledger.answers(["k1", "k2"]) == {}
        assert ledger.counts() == {"retry": 1, "unknown": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"temperature": 0.9},
        {"max_tokens": 8},
        {"seed": 4},
        {"logprobs": 5},
        {"response_format": "json_object"},
        {"messages": (("system", "s"), ("user", "u."))},
        {"messages": (("user", "s"), ("user", "u"))},
        {"messages": (("system", "su"), ("user", ""))},
        {"messages": None, "prompt": "s"},
    ],
)
def test_whatever_can_change_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert request_key("e", replace(REQUEST, **change), "f") != request_key("e", REQUEST, "f")


def test_endpoint_annotator_and_draw_are_in_the_key() -> None:
    keys = {request_key("e", REQUEST, "f"), request_key("e2", REQUEST, "f"), request_key("e", REQUEST, "f2")}
    assert len(keys | {request_key("e", REQUEST, "f", 1)}) == 4


def test_file_is_private_and_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    Ledger(path).close()
    assert path.stat().st_mode & 0o077 == 0
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(RunError, match="version 99"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_text("this is not a database, it is a text that is long enough to look like neither\n" * 20)
    with pytest.raises(RunError, match=r"l\.sqlite"):
        Ledger(path)
    with pytest.raises(RunError, match="cannot be used"):
        Ledger(tmp_path)


def test_a_write_that_fails_is_a_run_error(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger._db.execute("DROP TABLE attempts")
        with pytest.raises(RunError, match="cannot be written"):
            ledger.sent([call("k")])


def test_ten_thousand_answers_are_written_and_read_fast(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(10_000)]
    started = time.process_time()
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for start in range(0, len(keys), 256):
            part = keys[start : start + 256]
            attempts = ledger.sent([call(k) for k in part])
            ledger.ended([End(a, k, Answer(REPLY, 0.0)) for a, k in zip(attempts, part, strict=True)])
        assert len(ledger.answers(keys)) == 10_000
    assert time.process_time() - started < 4


VERSION_1 = """
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, annotator TEXT NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL,
    sent_at REAL NOT NULL, ended_at REAL, status TEXT, detail TEXT, prompt_tokens INTEGER, completion_tokens INTEGER
);
CREATE TABLE answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, top_logprobs TEXT
) WITHOUT ROWID;
INSERT INTO attempts VALUES (1, 'k1', 'a01', 'here', 'm', 1.0, 2.0, 'answered', NULL, 10, 2);
INSERT INTO answers VALUES ('k1', 'text', 'stop', 'm', 10, 2, 0.25, NULL);
PRAGMA user_version=1;
"""


def test_a_ledger_of_version_1_is_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    db.close()
    for _ in range(2):
        with Ledger(path, budget=1.0) as ledger:
            assert ledger.answers(["k1"]) == {"k1": Answer(Reply("text", "stop", "m", 10, 2), 0.25)}
            assert ledger.counts() == {"answered": 1}
            assert ledger.spent() == 0.0


def priced(key: str, usd: float) -> Call:
    return Call(key, "a01", "here", "m", Price(1.0, 1.0), usd)


def test_what_is_reserved_is_spent_until_the_end_is_known(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite", budget=1.0) as ledger, Ledger(tmp_path / "l.sqlite", budget=1.0) as other:
        first = ledger.sent([priced("k1", 0.4), priced("k2", 0.4)])
        assert other.exchange((), [priced("k3", 0.3), priced("k4", 0.2)])[0] is None  # another process's money
        assert ledger.spent() == pytest.approx(1.0)
        with pytest.raises(BudgetError):
            other.sent([priced("k5", 0.1)])
        ledger.ended([End(first[0], "k1", Answer(REPLY, 0.1, 0.15)), End(first[1], "k2", None, "retry", "HTTP 500")])
        assert other.spent() == pytest.approx(0.35)
        (lost,) = other.sent([priced("k5", 0.5)])
        other.ended([End(lost, "k5", None, "lost", "cut off")])
        assert ledger.spent() == pytest.approx(0.85)
        assert [(u["key"], u["reserved_usd"]) for u in ledger.unknown()] == [("k4", 0.2), ("k5", 0.5)]


def test_an_answer_without_token_counts_costs_the_worst_case() -> None:
    assert priced("k", 0.7).answer(Reply("A", "stop", "m", 0, 0), 0.1).usd == 0.7
    assert priced("k", 0.7).answer(Reply("A", "stop", "m", 100_000, 0), 0.1).usd == pytest.approx(0.1)
