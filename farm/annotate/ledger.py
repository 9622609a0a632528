"""The ledger: every call is on disk before it is sent, every answer before it is read.

Three tables in one SQLite file (WAL). ``attempts`` holds one row per call sent, with how it ended and what it cost; a
row without an end is a call whose fate a crash left unknown, and counts with the worst case reserved for it, as does
a call that ended as ``lost``. ``answers`` holds raw answers by request key and serves as cache: a failure is an
attempt and never an answer, so it is asked again. ``purse`` is the sum of what was spent and is reserved, kept in the
same transactions, so that several processes together never exceed a budget. The file can be killed at any time; what
was committed stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from farm.annotate.money import FREE, Price
from farm.errors import BudgetError, RunError
from farm.lm.endpoints import Reply, Request

VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, annotator TEXT NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL,
    sent_at REAL NOT NULL, ended_at REAL, status TEXT, detail TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
    reserved_usd REAL NOT NULL DEFAULT 0, spent_usd REAL
);
CREATE INDEX IF NOT EXISTS attempts_by_key ON attempts (key);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, top_logprobs TEXT,
    usd REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS purse (id INTEGER PRIMARY KEY CHECK (id = 1), usd REAL NOT NULL, tag TEXT NOT NULL);
INSERT OR IGNORE INTO purse VALUES (1, 0, lower(hex(randomblob(6))));
"""
# From version 1 (no prices): its answers and attempts stay as they are and cost nothing.
_MIGRATION = """
ALTER TABLE attempts ADD COLUMN reserved_usd REAL NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN spent_usd REAL;
ALTER TABLE answers ADD COLUMN usd REAL NOT NULL DEFAULT 0
"""
_READ = "SELECT key, text, finish_reason, model, prompt_tokens, completion_tokens, top_logprobs, seconds, usd"
_PENNY = 1e-9  # USD; sums of floats are not exact


def request_key(endpoint: str, request: Request, fingerprint: str, draw: int = 0) -> str:
    """Identity of a call: all that can change its answer; never the API key, a timeout or the concurrency.

    ``fingerprint`` is ``Annotator.asking``: what the annotator asks, without how its answers are parsed.
    """
    r = request
    texts = [r.prompt or ""] if r.messages is None else [t for m in r.messages for t in m]
    parts = [
        endpoint, r.model, repr(r.temperature), str(r.max_tokens), str(r.seed), str(r.logprobs), fingerprint, str(draw),
        "text" if r.messages is None else "chat", r.response_format or "", *texts,
    ]  # fmt: skip
    sizes = ",".join([str(len(p)) for p in parts])
    data = "\0".join([sizes, *parts]).encode(errors="surrogatepass")
    return "k" + hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """A call about to be sent; ``reserved`` USD is what it can cost at most."""

    key: str
    annotator: str
    endpoint: str
    model: str
    price: Price = FREE
    reserved: float = 0.0

    def answer(self, reply: Reply, seconds: float) -> Answer:
        """The answer with its price; without token counts from the server, the worst case."""
        counted = reply.prompt_tokens or reply.completion_tokens
        usd = self.price.usd(reply.prompt_tokens, reply.completion_tokens) if counted else self.reserved
        return Answer(reply, seconds, usd)


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored answer, the seconds it took and what it cost."""

    reply: Reply
    seconds: float
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: with an answer, or with an error (class and scrubbed detail).

    After the error ``lost`` nobody knows whether the call is billed: its reservation stays. Other errors cost nothing.
    """

    attempt: int
    key: str
    answer: Answer | None
    error: str = ""
    detail: str = ""


class Ledger:
    """One ledger file. Safe across threads and processes; every method is one transaction.

    ``budget``: USD that all calls in this file together may cost; None is no limit. Raises RunError when the file
    cannot be opened, is no ledger, or is of a later version.
    """

    def __init__(self, path: Path | str, budget: float | None = None) -> None:
        self.path, self.budget = Path(path), budget
        self._lock, self._reading = threading.RLock(), threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A commit reaches the system at once, so a kill cannot undo it; the disk follows with ``sync``.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._open()
            self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self._reader.execute("PRAGMA query_only=1")
            self._reader.execute("PRAGMA cache_size=-16000")  # 16 MB
        except (OSError, sqlite3.Error) as e:
            raise RunError(f"ledger {self.path} cannot be used ({e}); move it away to start a new one") from None

    def _open(self) -> None:
        with self.transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise RunError(f"ledger {self.path} has version {version}, this farm reads {VERSION}: upgrade farm")
            for statement in (_MIGRATION if version == 1 else "").split(";") + _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={VERSION}")
            (self.tag,) = db.execute("SELECT tag FROM purse").fetchone()  # names this ledger to servers

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; rolled back on any error. Inside another one of the same thread it is a part of it.

        Raises RunError when the file cannot be written.
        """
        with self._lock:
            inside = self._db.in_transaction
            if inside:
                yield self._db
                return
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

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a reading query, of what is committed."""
        with self._reading:  # not the writer's lock: a look-up shall not wait for a disk sync
            try:
                return self._reader.execute(query, tuple(values)).fetchall()
            except sqlite3.Error as e:
                raise RunError(f"ledger {self.path} cannot be read ({e})") from e

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Stored answers among these keys."""
        found: dict[str, Answer] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            for row in self.rows(f"{_READ} FROM answers WHERE key IN ({marks})", part):
                key, text, finish, model, prompt, completion, logprobs, seconds, usd = row
                top = None if logprobs is None else json.loads(logprobs)
                found[key] = Answer(Reply(text, finish, model, prompt, completion, top), seconds, usd)
        return found

    def sent(self, calls: Sequence[Call]) -> list[int]:
        """Write down calls before they are sent; returns their attempt ids.

        Raises BudgetError, and writes nothing, when the budget does not hold all of them.
        """
        ids = self.exchange((), calls, whole=True)
        return [i for i in ids if i is not None]

    def ended(self, ends: Sequence[End]) -> None:
        """Write down answers (before anyone reads them) and errors."""
        self.exchange(ends, ())

    def exchange(self, ends: Sequence[End], calls: Sequence[Call], *, whole: bool = False) -> list[int | None]:
        """Both in one transaction, ends first: one attempt id per call, None where the budget does not hold it.

        ``whole``: all calls or none, with BudgetError.
        """
        now = time.time()
        with self.transaction() as db:
            freed = self._end(db, ends, now) if ends else 0.0
            if not calls:
                if freed:
                    db.execute("UPDATE purse SET usd = usd - ?", (freed,))
                return []
            (spent,) = db.execute("SELECT usd FROM purse").fetchone()
            room = float("inf") if self.budget is None else self.budget - (spent - freed) + _PENNY
            taken = -freed
            ids: list[int | None] = []
            for c in calls:
                if c.reserved > 0 and c.reserved > room:
                    ids.append(None)
                    continue
                room -= c.reserved
                taken += c.reserved
                values = (c.key, c.annotator, c.endpoint, c.model, now, c.reserved)
                ids.append(db.execute(_INSERT, values).lastrowid)
            if whole and None in ids:
                raise BudgetError(f"the budget of {self.budget:.2f} USD does not hold these {len(calls)} calls")
            if taken:
                db.execute("UPDATE purse SET usd = usd + ?", (taken,))
        return ids

    def _end(self, db: sqlite3.Connection, ends: Sequence[End], now: float) -> float:
        """Store ends; returns the USD that are no longer reserved."""
        attempts: list[tuple[object, ...]] = []
        answers: list[tuple[object, ...]] = []
        known: list[int] = []
        spent = 0.0
        for e in ends:
            if e.answer is None:
                usd = None if e.error == "lost" else 0.0
                attempts.append((now, e.error or "error", e.detail, None, None, usd, e.attempt))
            else:
                r, usd = e.answer.reply, e.answer.usd
                spent += usd
                tokens = (r.prompt_tokens, r.completion_tokens)
                attempts.append((now, "answered", None, *tokens, usd, e.attempt))
                logprobs = None if r.top_logprobs is None else json.dumps(r.top_logprobs)
                answers.append((e.key, r.text, r.finish_reason, r.model, *tokens, e.answer.seconds, logprobs, usd))
            if usd is not None:
                known.append(e.attempt)
        marks = ",".join("?" * len(known))
        query = f"SELECT coalesce(sum(reserved_usd), 0) FROM attempts WHERE id IN ({marks})"  # noqa: S608
        (reserved,) = db.execute(query, known).fetchone()
        db.executemany(_UPDATE, attempts)
        db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", answers)
        return float(reserved) - spent

    def counts(self) -> dict[str, int]:
        """Attempts by how they ended; ``unknown`` are calls sent whose end was never recorded."""
        return dict(self.rows("SELECT coalesce(status, 'unknown'), count(*) FROM attempts GROUP BY 1 ORDER BY 1"))

    def spent(self) -> float:
        """USD spent, with the worst case of calls under way or of unknown fate."""
        return max(0.0, float(self.rows("SELECT usd FROM purse")[0][0]))

    def unknown(self) -> list[dict[str, Any]]:
        """Calls sent whose outcome is not known: cut off by a crash, or lost on the way back."""
        names = ("id", "key", "annotator", "model", "sent_at", "status", "reserved_usd")
        query = f"SELECT {', '.join(names)} FROM attempts WHERE status IS NULL OR status = 'lost' ORDER BY id"  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in self.rows(query)]

    def usual(self) -> Mapping[str, tuple[float, float, int]]:
        """Mean prompt and completion tokens of answered calls and their number, by annotator."""
        query = "SELECT annotator, avg(prompt_tokens), avg(completion_tokens), count(*) FROM attempts"
        rows = self.rows(f"{query} WHERE status = 'answered' GROUP BY annotator")
        return {a: (float(p or 0), float(c or 0), int(n)) for a, p, c, n in rows}

    def sync(self) -> None:
        """Have the disk hold what is committed, against a loss of power; safe beside commits of another thread."""
        with contextlib.suppress(OSError):  # the log is folded into the file from time to time, synced by SQLite itself
            handle = os.open(f"{self.path}-wal", os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def close(self) -> None:
        self.sync()
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_INSERT = "INSERT INTO attempts (key, annotator, endpoint, model, sent_at, reserved_usd) VALUES (?, ?, ?, ?, ?, ?)"
_UPDATE = (
    "UPDATE attempts SET ended_at=?, status=?, detail=?, prompt_tokens=?, completion_tokens=?, spent_usd=? WHERE id=?"
)
