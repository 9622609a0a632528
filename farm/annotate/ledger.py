"""The ledger: every call is on disk before it is sent, every answer before it is read.

Two tables in one SQLite file (WAL). ``attempts`` holds one row per call sent, with how it ended; a row without an end
is a call whose fate a crash left unknown. ``answers`` holds raw answers by request key and serves as cache: a failure
is an attempt and never an answer, so it is asked again. The file can be killed at any time; what was committed stays.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from farm.errors import RunError
from farm.lm.endpoints import Reply, Request
from farm.seeds import digest

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, annotator TEXT NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL,
    sent_at REAL NOT NULL, ended_at REAL, status TEXT, detail TEXT, prompt_tokens INTEGER, completion_tokens INTEGER
);
CREATE INDEX IF NOT EXISTS attempts_by_key ON attempts (key);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, top_logprobs TEXT
) WITHOUT ROWID;
"""
_READ = "SELECT key, text, finish_reason, model, prompt_tokens, completion_tokens, top_logprobs, seconds FROM answers"


def request_key(endpoint: str, request: Request, fingerprint: str, draw: int = 0) -> str:
    """Identity of a call: all that can change its answer; never the API key, a timeout or the concurrency."""
    texts = [request.prompt or ""] if request.messages is None else [t for m in request.messages for t in m]
    return "k" + digest(
        endpoint, request.model, request.temperature, request.max_tokens, request.seed, request.logprobs, fingerprint,
        draw, request.messages is None, *texts, size=16,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A call about to be sent."""

    key: str
    annotator: str
    endpoint: str
    model: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored answer and the seconds it took."""

    reply: Reply
    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: with an answer, or with an error (class and scrubbed detail)."""

    attempt: int
    key: str
    answer: Answer | None
    error: str = ""
    detail: str = ""


class Ledger:
    """One ledger file. Safe across threads and processes; every method is one transaction.

    Raises RunError when the file cannot be opened, is no ledger, or is of a later version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._open()
        except (OSError, sqlite3.Error) as e:
            raise RunError(f"ledger {self.path} cannot be used ({e}); move it away to start a new one") from None

    def _open(self) -> None:
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise RunError(f"ledger {self.path} has version {version}, this farm reads {VERSION}: upgrade farm")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as e:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(e, sqlite3.Error):
                    raise RunError(f"ledger {self.path} cannot be written ({e})") from e
                raise

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Stored answers among these keys."""
        found: dict[str, Answer] = {}
        with self._lock:
            for start in range(0, len(keys), 500):
                part = list(keys[start : start + 500])
                marks = ",".join("?" * len(part))
                for row in self._db.execute(f"{_READ} WHERE key IN ({marks})", part):
                    key, text, finish, model, prompt, completion, logprobs, seconds = row
                    top = None if logprobs is None else json.loads(logprobs)
                    found[key] = Answer(Reply(text, finish, model, prompt, completion, top), seconds)
        return found

    def sent(self, calls: Sequence[Call]) -> list[int]:
        """Write down calls before they are sent; returns their attempt ids."""
        now = time.time()
        with self._transaction() as db:
            insert = "INSERT INTO attempts (key, annotator, endpoint, model, sent_at) VALUES (?, ?, ?, ?, ?)"
            rows = [db.execute(insert, (c.key, c.annotator, c.endpoint, c.model, now)).lastrowid for c in calls]
        return [r for r in rows if r is not None]

    def ended(self, ends: Sequence[End]) -> None:
        """Write down answers (before anyone reads them) and errors."""
        now = time.time()
        attempts: list[tuple[object, ...]] = []
        answers: list[tuple[object, ...]] = []
        for e in ends:
            if e.answer is None:
                attempts.append((now, e.error or "error", e.detail, None, None, e.attempt))
                continue
            r = e.answer.reply
            tokens = (r.prompt_tokens, r.completion_tokens)
            attempts.append((now, "answered", None, *tokens, e.attempt))
            logprobs = None if r.top_logprobs is None else json.dumps(r.top_logprobs)
            answers.append((e.key, r.text, r.finish_reason, r.model, *tokens, e.answer.seconds, logprobs))
        with self._transaction() as db:
            db.executemany(
                "UPDATE attempts SET ended_at=?, status=?, detail=?, prompt_tokens=?, completion_tokens=? WHERE id=?",
                attempts,
            )
            db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", answers)

    def counts(self) -> dict[str, int]:
        """Attempts by how they ended; ``unknown`` are calls sent whose end was never recorded."""
        with self._lock:
            rows = self._db.execute("SELECT coalesce(status, 'unknown'), count(*) FROM attempts GROUP BY 1 ORDER BY 1")
            return dict(rows.fetchall())

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
