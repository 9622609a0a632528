"""How far a run is, read from its folder while another process works in it.

Nothing is written or locked. Every file may be half-written, missing or renamed the moment it is read; what cannot be
read now is left out and found the next time.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from farm import runs
from farm.errors import RunError
from farm.records import CurvePoint, Record

State = Literal["running", "done", "stopped", "failed", "crashed", "silent"]
QUIET = 60.0  # seconds without a change after which a process on another machine is called silent
_OUTCOME = re.compile(rb',"outcome":"(\w+)"')  # within a text of the record the quotes would be escaped


class Working(Record):
    """A step under way. ``done`` of ``total`` (None: not known), ``left`` the seconds that its rate so far implies."""

    step: str
    title: str = ""
    done: int | None = None
    total: int | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    left: float | None = None


class StageState(Record):
    """Steps of one stage; ``wanted`` None where the run does not say."""

    stage: str
    done: int
    wanted: int | None


class LiveCurve(Record):
    """A method's curve as far as it is measured; ``whole`` when its step is finished."""

    step: str
    x_name: str
    points: tuple[CurvePoint, ...]
    whole: bool


class Spend(Record):
    """The run's ledger: calls by how they ended, and USD spent or reserved out of what is allowed (None: no limit)."""

    calls: dict[str, int]
    usd: float
    budget: float | None = None


class Live(Record):
    """One look at a run folder. ``message`` says in words what ``state`` means here; ``left`` is the time left in
    seconds, a lower bound when ``left_at_least``, None when nothing is known. ``outcomes`` counts the acts of judging
    of finished steps."""

    run: str
    recipe: str
    state: State
    message: str
    at: float
    since: float | None
    stages: tuple[StageState, ...]
    working: tuple[Working, ...]
    waiting: int | None
    curves: tuple[LiveCurve, ...]
    outcomes: dict[str, int]
    spend: Spend | None
    left: float | None
    left_at_least: bool = False
    report: str | None = None


def read(folder: Path) -> Live:
    """Look at a run folder once. Raises RunError when it is none."""
    manifest = _object(folder / "manifest.json")
    recipe = _recipe(folder)
    if not (manifest or recipe or (folder / runs.HOLDER).is_file()):
        raise RunError(f"{folder}: not a run folder (no manifest.json, no recipe.yaml); give the --out of 'farm run'")
    done, partial = _steps(folder)
    planned = [str(name) for name in manifest.get("planned") or ()]
    pages = [folder / name / "index.html" for name in ("8-report", "8-laboratory")]
    page = next((p for p in pages if p.is_file()), None)
    now = time.time()
    holder = _object(folder / runs.HOLDER)
    complete = page is not None and not [name for name in planned if name not in done]
    state, message = _state(folder, holder, complete, partial, now)
    working = tuple(_working(folder, name) for name in partial) if state in ("running", "silent") else ()
    waiting = [name for name in planned if name not in done and name not in partial]
    left, at_least = _left(working, waiting, done, _jobs(recipe)) if state == "running" and planned else (None, False)
    return Live(
        run=str(folder),
        recipe=str(recipe.get("name") or folder.name),
        state=state,
        message=message,
        at=now,
        since=holder.get("since"),
        stages=_stages(done, partial, planned),
        working=working,
        waiting=len(waiting) if planned else None,
        curves=_curves(folder, done, partial),
        outcomes=_outcomes(folder, done),
        spend=_spend(folder / "ledger.sqlite", recipe),
        left=left,
        left_at_least=at_least,
        report=str(page) if page and state != "running" else None,
    )


def _object(path: Path) -> dict[str, Any]:
    value = runs.read_json(path)
    return value if isinstance(value, dict) else {}


def _recipe(folder: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _jobs(recipe: Mapping[str, Any]) -> int:
    jobs = (recipe.get("compute") or {}).get("jobs")
    return jobs if isinstance(jobs, int) and jobs > 0 else 1


def _steps(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Finished steps with the seconds they took, and the names of those begun and not finished, in folder order."""
    done: dict[str, float] = {}
    partial = []
    for pattern in ("[0-9]-*", "[0-9]-*/*", "[0-9]-*/*/*"):
        for path in folder.glob(pattern):
            name = str(path.relative_to(folder))
            if ".partial/" in name or ".old" in name or not path.is_dir():
                continue
            if name.endswith(".partial"):
                partial.append(name.removesuffix(".partial"))
            elif "fingerprint" in (saved := _object(path / "step.json")):
                done[name] = float(saved.get("seconds") or 0.0)
    return dict(sorted(done.items())), sorted(partial)


def _state(
    folder: Path, holder: Mapping[str, Any], complete: bool, partial: Sequence[str], now: float
) -> tuple[State, str]:
    again = "the same command goes on from the finished steps"
    if holder.get("ended"):
        how = str(holder.get("how"))
        if how == "done":
            return (
                ("done", "finished") if complete else ("stopped", f"the last command is done, the run is not: {again}")
            )
        return ("stopped" if how == "interrupted" else "failed"), f"{how}; {again}"
    if not holder:
        return ("done", "finished") if complete else ("stopped", f"no process is known to work here; {again}")
    pid = holder.get("pid")
    if holder.get("host") == socket.gethostname():
        if isinstance(pid, int) and _alive(pid, holder.get("born")):
            return "running", f"process {pid}"
        if complete and not partial:
            return "done", "finished"
        return "crashed", f"process {pid} ended without a word (killed, or the machine went down); {again}"
    age = now - _newest(folder, partial)
    where = f"process {pid} on {holder.get('host')}"
    if age < QUIET:
        return "running", where
    return "silent", f"{where} has changed nothing for {age:.0f} s; it cannot be asked from here"


def _alive(pid: int, born: object) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there and somebody else's
    return born is None or runs.born(pid) == born


def _newest(folder: Path, partial: Iterable[str]) -> float:
    """When a file that a working run keeps writing last changed, in seconds since the epoch."""
    paths = [folder / "manifest.json", folder / "ledger.sqlite-wal", folder / runs.HOLDER]
    for name in partial:
        paths += [folder / f"{name}.partial", folder / f"{name}.partial" / runs.NOW]
    times = [0.0]
    for path in paths:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _working(folder: Path, name: str) -> Working:
    note = _object(folder / f"{name}.partial" / runs.NOW)
    done, total, elapsed = note.get("done"), note.get("total"), note.get("elapsed")
    left = None
    if isinstance(done, int) and isinstance(total, int) and isinstance(elapsed, int | float) and done > 0:
        left = max(0.0, elapsed * (total - done) / done)
    try:
        return Working(
            step=name,
            title=str(note.get("title", "")),
            done=done,
            total=total,
            figures=note.get("figures") or {},
            left=left,
        )
    except ValidationError:
        return Working(step=name)


def _left(
    working: Sequence[Working], waiting: Sequence[str], done: Mapping[str, float], jobs: int
) -> tuple[float | None, bool]:
    """Seconds left, and whether that is a lower bound: what the running steps' rates imply, and for each waiting step
    the median of finished steps like it (the same row with other seeds, else the same stage), ``jobs`` at a time."""
    running = [w.left for w in working]
    later = [_usual(name, done) for name in waiting]
    known = [v for v in (*running, *later) if v is not None]
    if not known:
        return None, False
    longest = max([v for v in running if v is not None], default=0.0)
    return max(longest, sum(known) / jobs), len(known) < len(running) + len(later)


def _usual(name: str, done: Mapping[str, float]) -> float | None:
    for like in (name.rpartition("/")[0], name.partition("/")[0]):
        times = [seconds for other, seconds in done.items() if like and other.startswith(f"{like}/")]
        if times:
            return statistics.median(times)
    return None


def _stages(done: Iterable[str], partial: Iterable[str], planned: Sequence[str]) -> tuple[StageState, ...]:
    finished = Counter(_stage(name) for name in done)
    wanted = Counter(_stage(name) for name in planned)
    names = sorted({*finished, *wanted, *(_stage(name) for name in partial)})
    return tuple(StageState(stage=n, done=finished[n], wanted=wanted[n] if planned else None) for n in names)


def _stage(name: str) -> str:
    return name.partition("/")[0]


def _curves(folder: Path, done: Iterable[str], partial: Iterable[str]) -> tuple[LiveCurve, ...]:
    found = []
    for name in done:
        if (folder / name / "curve.jsonl").is_file():
            x_name, points = _finished_curve(folder / name, _stamp(folder / name / "curve.jsonl"))
            found.append(LiveCurve(step=name, x_name=x_name, points=points, whole=True))
    for name in partial:
        saved = _object(folder / f"{name}.partial" / runs.RESUME / runs.SO_FAR)
        if points := _points(saved.get("points") or ()):
            found.append(LiveCurve(step=name, x_name=str(saved.get("x_name", "x")), points=points, whole=False))
    return tuple(sorted(found, key=lambda c: c.step))


@lru_cache(maxsize=256)
def _finished_curve(folder: Path, stamp: tuple[int, int]) -> tuple[str, tuple[CurvePoint, ...]]:
    result = _object(folder / "result.json")
    try:
        lines = (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        points = _points([json.loads(line) for line in lines])
    except (OSError, ValueError):
        points = ()
    return str((result.get("curve") or {}).get("x_name", "x")), points


def _points(rows: Sequence[Any]) -> tuple[CurvePoint, ...]:
    try:
        return tuple(CurvePoint.model_validate(row) for row in rows)
    except ValidationError:
        return ()


def _outcomes(folder: Path, done: Iterable[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name in done:
        path = folder / name / "judgements.jsonl"
        if path.is_file():
            total.update(dict(_counted(path, _stamp(path))))
    return dict(total.most_common())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1024)
def _counted(path: Path, stamp: tuple[int, int]) -> tuple[tuple[str, int], ...]:
    """Outcomes in a file of judgements; a finished file is read once."""
    counts: Counter[str] = Counter()
    try:
        with path.open("rb") as f:
            for line in f:
                if found := _OUTCOME.search(line):
                    counts[found[1].decode()] += 1
    except OSError:
        return ()
    return tuple(counts.items())


def _spend(path: Path, recipe: Mapping[str, Any]) -> Spend | None:
    """What the ledger says. With a write-ahead log beside it a reader disturbs no writer; without one nobody writes."""
    if not path.is_file():
        return None
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=0.2)
        try:
            calls = db.execute("SELECT coalesce(status, 'under way'), count(*) FROM attempts GROUP BY 1 ORDER BY 1")
            counts = {str(status): int(n) for status, n in calls}
            row = db.execute("SELECT usd FROM purse").fetchone()
        finally:
            db.close()
    except sqlite3.Error:
        return None
    endpoint = (recipe.get("annotate") or {}).get("endpoint") or {}
    budget = endpoint.get("budget") if isinstance(endpoint, dict) else None
    return Spend(
        calls=counts,
        usd=max(0.0, float(row[0])) if row else 0.0,
        budget=float(budget) if isinstance(budget, int | float) else None,
    )
