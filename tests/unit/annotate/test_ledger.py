from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.annotate.ledger import Answer, Call, End, Ledger, request_key
from farm.errors import RunError
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
