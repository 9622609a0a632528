"""What the ledger remembers of batches: which calls each holds, and how far it has come.

    prepared -> uploaded -> creating -> created -> collected        (or dropped: it never was created and cost nothing)

Every state is committed before the act that follows it, so a new process knows which act may have happened without
its knowing: a file is found again by its name, a batch by the tag in its metadata.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from farm.annotate.ledger import Call, End, Ledger
from farm.annotate.money import Price

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS batches (tag TEXT PRIMARY KEY, endpoint TEXT NOT NULL, path TEXT NOT NULL, "
    "model TEXT NOT NULL, prompt_price REAL NOT NULL, completion_price REAL NOT NULL, state TEXT NOT NULL, "
    "changed_at REAL NOT NULL, input_file TEXT, remote TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS batch_lines (tag TEXT NOT NULL, key TEXT NOT NULL, attempt INTEGER NOT NULL, "
    "PRIMARY KEY (tag, key)) WITHOUT ROWID",
)
_CHUNK = 500  # rows per statement of the ledger


@dataclass
class Batch:
    """One batch. ``tag``: our own name for it, the name of its file and a part of its metadata. ``path``: of its calls,
    below base_url. ``remote``: its id at the server. ``calls`` and ``attempts`` go by key. ``doubt``: the act that
    follows ``state`` may have happened without our knowing."""

    tag: str
    path: str
    model: str
    price: Price
    state: str
    changed_at: float
    input_file: str | None = None
    remote: str | None = None
    calls: dict[str, Call] = field(default_factory=dict, repr=False)
    attempts: dict[str, int] = field(default_factory=dict, repr=False)
    doubt: bool = False


class BatchBook:
    """The batches of one endpoint in a ledger."""

    def __init__(self, ledger: Ledger, endpoint: str) -> None:
        self.ledger, self.endpoint = ledger, endpoint
        with ledger.transaction() as db:
            for statement in _SCHEMA:
                db.execute(statement)

    def unfinished(self) -> list[Batch]:
        """Batches that an earlier process left, the oldest first."""
        found = self.ledger.rows(
            "SELECT tag, path, model, prompt_price, completion_price, state, changed_at, input_file, remote "
            "FROM batches WHERE endpoint = ? AND state NOT IN ('collected', 'dropped') ORDER BY changed_at, tag",
            (self.endpoint,),
        )
        batches = []
        for tag, path, model, prompt, completion, state, changed_at, file, remote in found:
            price = Price(prompt, completion)
            batch = Batch(tag, path, model, price, state, changed_at, file, remote, doubt=True)
            lines = self.ledger.rows(
                "SELECT l.key, l.attempt, a.annotator, a.reserved_usd FROM batch_lines l JOIN attempts a "
                "ON a.id = l.attempt WHERE l.tag = ?",
                (tag,),
            )
            for key, attempt, annotator, reserved in lines:
                batch.calls[key] = Call(key, annotator, self.endpoint, model, batch.price, reserved)
                batch.attempts[key] = attempt
            batches.append(batch)
        return batches

    def prepare(self, tag: str, path: str, calls: Sequence[Call]) -> Batch:
        """Write down a batch of those calls that the budget holds, and one attempt for each, in one transaction."""
        first = calls[0]
        batch = Batch(tag, path, first.model, first.price, "prepared", time.time())
        with self.ledger.transaction() as db:
            attempts = self.ledger.exchange((), calls)
            for call, attempt in zip(calls, attempts, strict=True):
                if attempt is not None:
                    batch.calls[call.key], batch.attempts[call.key] = call, attempt
            if batch.calls:
                price = (first.price.prompt, first.price.completion)
                row = (tag, self.endpoint, path, batch.model, *price, batch.state, batch.changed_at)
                db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)", row)
                lines = [(tag, key, attempt) for key, attempt in batch.attempts.items()]
                db.executemany("INSERT INTO batch_lines VALUES (?, ?, ?)", lines)
        return batch

    def move(self, batch: Batch, state: str) -> None:
        """Commit a new state, with the ids that came with it."""
        batch.state, batch.changed_at, batch.doubt = state, time.time(), False
        with self.ledger.transaction() as db:
            db.execute(
                "UPDATE batches SET state = ?, changed_at = ?, input_file = ?, remote = ? WHERE tag = ?",
                (state, batch.changed_at, batch.input_file, batch.remote, batch.tag),
            )

    def close(self, batch: Batch, state: str, ends: Sequence[End]) -> None:
        """Commit the ends of all its calls together with its last state."""
        rest = iter(ends)
        with self.ledger.transaction():
            while chunk := list(islice(rest, _CHUNK)):
                self.ledger.ended(chunk)
            self.move(batch, state)
