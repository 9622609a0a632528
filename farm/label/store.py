"""Where labels are kept: one SQLite file (WAL, synced on every commit) that can be killed at any time.

``acts`` is append-only: a label, a skip and an undo are rows, and ``tasks.label`` points at the one that stands. An act
names its task and its ``turn``, the number of acts on that task before it: the two are unique, so a double click, a
retry or a second window stores nothing twice. The links' secret is not in this file but beside it (``.key``, 0600).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from farm.errors import RunError
from farm.label.material import Material
from farm.label.plan import Task, tasks
from farm.label.select import Unit, units
from farm.records import Cost, Instruction, Judgement, Outcome, Pair, Record, Response
from farm.seeds import digest

VERSION = 1
_TASKS = "SELECT id, annotator, place, pair_id, first, draw FROM tasks"
Choice = Literal["first", "second", "tie", "skip", "undo"]
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE records (id TEXT PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE pairs (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL UNIQUE, known INTEGER NOT NULL, answer TEXT, probability REAL
) STRICT;
CREATE TABLE frame (
    pair_id TEXT PRIMARY KEY, policy TEXT NOT NULL, reference TEXT NOT NULL, wins REAL NOT NULL,
    verdicts INTEGER NOT NULL, longer REAL NOT NULL
) STRICT;
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, annotator TEXT NOT NULL, place INTEGER NOT NULL, pair_id TEXT NOT NULL REFERENCES pairs,
    first TEXT NOT NULL, draw INTEGER NOT NULL, label INTEGER, UNIQUE (annotator, place)
) STRICT;
CREATE TABLE acts (
    n INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL REFERENCES tasks, turn INTEGER NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('decided', 'tie', 'skip', 'undo')), winner TEXT, strength INTEGER,
    reason TEXT NOT NULL, seconds REAL NOT NULL, time TEXT NOT NULL, UNIQUE (task_id, turn),
    CHECK ((choice = 'decided') = (winner IS NOT NULL))
) STRICT;
CREATE INDEX tasks_by_label ON tasks (annotator, label);
"""


@dataclass(frozen=True)
class Label:
    """Where one task stands: its last act. ``winner`` is a response id, None for a tie or a skip."""

    task: Task
    choice: Literal["decided", "tie", "skip"]
    winner: str | None
    strength: int | None
    reason: str
    seconds: float
    time: str
    known: int  # 1: its answer is known, so that it is a check and no data


@dataclass(frozen=True)
class Sheet:
    """What an annotator sees next. ``turns`` are those of ``now``, ``next`` and ``previous`` (the label to undo)."""

    done: int
    total: int
    seconds: tuple[float, ...]
    now: Task | None
    next: Task | None
    previous: Task | None
    turns: dict[str, int]


class Stale(Exception):
    """An act that does not fit where its task stands: not the annotator's, not the next one, nothing to undo."""


class Store:
    """One labelling study. Raises RunError when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RunError(f"{path}: no such label store")
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            version = int(self.meta("version") or 0)
        except sqlite3.Error as e:
            raise RunError(f"{path}: not a label store ({e})") from None
        if version != VERSION:
            raise RunError(f"{path}: a label store of version {version}, this farm reads version {VERSION}")

    @classmethod
    def create(
        cls,
        path: Path,
        material: Material,
        chosen: Sequence[tuple[Pair, float | None]],
        known: Material,
        *,
        repeats: int,
        seed: int,
        salt: str | None = None,
    ) -> Self:
        """A new store with the ``chosen`` pairs (and the probability with which each was drawn) and those of ``known``
        answer. It appears whole or not at all. Raises RunError when there is one already."""
        if path.exists():
            raise RunError(f"{path}: there is a label store already; give another --store, or go on with this one")
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            db = sqlite3.connect(partial, isolation_level=None)
        except (OSError, sqlite3.Error) as e:
            raise RunError(f"{path}: the label store cannot be written ({e}); choose another --store") from None
        kept = {p.id for p, _ in chosen}
        texts: dict[str, Record] = {}
        for source, pairs in ((material, [p for p, _ in chosen]), (known, known.pairs)):
            for pair in pairs:
                texts[pair.id] = pair
                texts[pair.instruction_id] = source.instructions[pair.instruction_id]
                texts |= {i: source.responses[i] for i in (pair.a, pair.b)}
        texts |= {j.id: j for j in material.judgements if j.pair_id in kept}
        rows: list[tuple[object, ...]] = [(p.id, k, 0, None, q) for k, (p, q) in enumerate(chosen)]
        rows += [(p.id, len(rows) + k, 1, known.answers[p.id], None) for k, p in enumerate(known.pairs)]
        salt = salt or secrets.token_hex(16)
        meta = {"version": VERSION, "seed": seed, "repeats": repeats, "salt": salt}
        db.executescript("BEGIN;" + _SCHEMA)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(k, str(v)) for k, v in meta.items()])
        bodies = [(i, type(r).__name__.lower(), r.model_dump_json()) for i, r in texts.items()]
        db.executemany("INSERT INTO records VALUES (?, ?, ?)", bodies)
        db.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?)", rows)
        frame = [(u.pair_id, u.policy, u.reference, u.wins, u.verdicts, u.longer) for u in units(material)]
        db.executemany("INSERT INTO frame VALUES (?, ?, ?, ?, ?, ?)", frame)
        db.execute("COMMIT")
        db.close()
        partial.replace(path)
        return cls(path)

    def close(self) -> None:
        self._db.close()

    def meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # -- who ------------------------------------------------------------------------------------------------------

    def secret(self) -> str:
        """What the private links are made of, from the key file; made when there is none (old links end then)."""
        path = self.path.with_name(self.path.name + ".key")
        try:
            if not path.exists():
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
                    f.write(secrets.token_hex(32))
            found = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as e:
            raise RunError(f"{path}: the key file cannot be used ({e})") from None
        if len(found) < 32:
            raise RunError(f"{path}: the key file is damaged; delete it to get new links")
        return found

    def annotators(self) -> list[str]:
        return [str(r[0]) for r in self._db.execute("SELECT DISTINCT annotator FROM tasks ORDER BY annotator")]

    def add_annotator(self, name: str) -> None:
        """Plan ``name``'s tasks, unless that was done before."""
        pairs, known = self.pairs(known=False), self.pairs(known=True)
        seed, salt = int(self.meta("seed") or 0), self.meta("salt") or ""
        planned = tasks(name, pairs, known, int(self.meta("repeats") or 0), seed, salt)
        with self._transaction():
            if self._db.execute("SELECT 1 FROM tasks WHERE annotator = ?", (name,)).fetchone() is None:
                rows = [(t.id, t.annotator, t.place, t.pair_id, t.first, t.draw) for t in planned]
                self._db.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, NULL)", rows)

    # -- what -----------------------------------------------------------------------------------------------------

    def pairs(self, known: bool) -> list[Pair]:
        """The pairs to label, in the order in which they were chosen; or those whose answer is known."""
        sql = "SELECT body FROM pairs p JOIN records r ON r.id = p.id WHERE known = ? ORDER BY place"
        return [Pair.model_validate_json(r[0]) for r in self._db.execute(sql, (int(known),))]

    def answers(self) -> dict[str, str]:
        """Pair id -> response id of the known answer."""
        return dict(self._db.execute("SELECT id, answer FROM pairs WHERE known = 1").fetchall())

    def probabilities(self) -> dict[str, float]:
        """Pair id -> probability with which it was drawn, where pairs were drawn unequally."""
        sql = "SELECT id, probability FROM pairs WHERE probability IS NOT NULL"
        return dict(self._db.execute(sql).fetchall())

    def frame(self) -> list[Unit]:
        """All pairs that were there to choose from, as comparisons with the reference; empty where they are none."""
        return [Unit(*row) for row in self._db.execute("SELECT * FROM frame ORDER BY pair_id")]

    def instructions(self) -> dict[str, Instruction]:
        return {r.id: r for r in map(Instruction.model_validate_json, self._bodies("instruction"))}

    def responses(self) -> dict[str, Response]:
        return {r.id: r for r in map(Response.model_validate_json, self._bodies("response"))}

    def pool_judgements(self) -> list[Judgement]:
        """What the simulator said about the pairs, for comparison."""
        return [Judgement.model_validate_json(body) for body in self._bodies("judgement")]

    def _bodies(self, kind: str) -> list[str]:
        sql = "SELECT body FROM records WHERE kind = ? ORDER BY id"
        return [str(r[0]) for r in self._db.execute(sql, (kind,))]

    def texts(self, task: Task) -> tuple[Instruction, Response, Response]:
        """The instruction, and the two responses as they are shown: left, right."""
        pair = Pair.model_validate_json(self._body(task.pair_id))
        second = pair.b if task.first == pair.a else pair.a
        asked = Instruction.model_validate_json(self._body(pair.instruction_id))
        return asked, *(Response.model_validate_json(self._body(i)) for i in (task.first, second))  # type: ignore[return-value]

    def _body(self, id: str) -> str:
        return str(self._db.execute("SELECT body FROM records WHERE id = ?", (id,)).fetchone()[0])

    # -- labels ---------------------------------------------------------------------------------------------------

    def sheet(self, annotator: str) -> Sheet:
        """Where an annotator stands."""
        took = "SELECT seconds FROM tasks t JOIN acts a ON a.n = t.label WHERE annotator = ?"
        seconds = tuple(r[0] for r in self._db.execute(took, (annotator,)))
        total = self._db.execute("SELECT COUNT(*) FROM tasks WHERE annotator = ?", (annotator,)).fetchone()[0]
        now, following = (*self._open(annotator), None, None)[:2]
        previous = self._last(annotator)
        turns = {t.id: self._turns(t.id) for t in (now, following, previous) if t is not None}
        return Sheet(len(seconds), total, seconds, now, following, previous, turns)

    def _open(self, annotator: str) -> list[Task]:
        """The next two tasks without a label."""
        sql = _TASKS + " WHERE annotator = ? AND label IS NULL ORDER BY place LIMIT 2"
        return [Task(*row) for row in self._db.execute(sql, (annotator,))]

    def _last(self, annotator: str) -> Task | None:
        """The task labelled last."""
        sql = _TASKS + " WHERE annotator = ? AND label IS NOT NULL ORDER BY label DESC LIMIT 1"
        row = self._db.execute(sql, (annotator,)).fetchone()
        return Task(*row) if row else None

    def _turns(self, task_id: str) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM acts WHERE task_id = ?", (task_id,)).fetchone()[0])

    def act(
        self,
        annotator: str,
        task_id: str,
        turn: int,
        choice: Choice,
        *,
        strength: int | None = None,
        reason: str = "",
        seconds: float = 0.0,
        time: str,
    ) -> bool:
        """Store one act, synced to disk before this returns; False when this turn was taken before. Raises Stale."""
        with self._transaction():
            sql = _TASKS + " WHERE id = ? AND annotator = ?"
            row = self._db.execute(sql, (task_id, annotator)).fetchone()
            if row is None:
                raise Stale("no such task")
            task, taken = Task(*row), self._turns(task_id)
            if turn < taken:
                return False
            expected = self._last(annotator) if choice == "undo" else (*self._open(annotator), None)[0]
            if turn > taken or expected != task:
                raise Stale("another pair is to be labelled")
            pair = Pair.model_validate_json(self._body(task.pair_id))
            sides = {"first": task.first, "second": pair.b if task.first == pair.a else pair.a}
            kind = "decided" if choice in sides else choice
            values = (task_id, turn, kind, sides.get(choice), strength, reason, seconds, time)
            stored = self._db.execute(
                "INSERT INTO acts (task_id, turn, choice, winner, strength, reason, seconds, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            label = None if choice == "undo" else stored.lastrowid
            self._db.execute("UPDATE tasks SET label = ? WHERE id = ?", (label, task_id))
            return True

    def count(self) -> int:
        """Number of acts so far: rises with every change."""
        return int(self._db.execute("SELECT COUNT(*) FROM acts").fetchone()[0])

    def labels(self, annotator: str | None = None) -> list[Label]:
        """Every task that has a label, in the order of labelling."""
        sql = (
            "SELECT t.id, annotator, t.place, pair_id, first, draw, choice, winner, strength, reason, seconds, time, "
            "known FROM tasks t JOIN acts a ON a.n = t.label JOIN pairs p ON p.id = t.pair_id "
            "WHERE ? IS NULL OR annotator = ? ORDER BY n"
        )
        return [Label(Task(*r[:6]), *r[6:]) for r in self._db.execute(sql, (annotator, annotator))]

    def judgements(self, checks: bool = False) -> list[Judgement]:
        """The labels as records, sorted by pair, annotator and draw; ``checks`` adds pairs of known answer.

        A skip has the outcome ``refused`` and its reason as raw text.
        """
        pairs = {p.id: p for known in (False, True) for p in self.pairs(known)}
        rows = [judgement(x, pairs[x.task.pair_id]) for x in self.labels() if checks or not x.known]
        return sorted(rows, key=lambda j: (j.pair_id, j.annotator, j.draw))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def judgement(label: Label, pair: Pair) -> Judgement:
    """A label as the record that simulated verdicts have too."""
    task = label.task
    second = pair.b if task.first == pair.a else pair.a
    outcome = {"decided": Outcome.DECIDED, "tie": Outcome.TIE, "skip": Outcome.REFUSED}[label.choice]
    return Judgement(
        pair_id=pair.id,
        instruction_id=pair.instruction_id,
        annotator=task.annotator,
        shown=(task.first, second),
        outcome=outcome,
        winner_id=label.winner,
        raw=label.reason,
        draw=task.draw,
        cost=Cost(seconds=label.seconds),
        strength=label.strength,
    )


def token(secret: str, name: str) -> str:
    """The private part of a link: 128 bits that only the holder of the key file can compute."""
    return digest(secret, "link", name, size=16)
