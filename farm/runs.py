"""The run folder: one folder per step, each finished whole or not at all.

A step is built in ``<folder>.partial`` and renamed into place when done, with a ``step.json`` that holds its
fingerprint: a hash of its settings, of the fingerprints of the steps it reads, and of the format version.
A step whose fingerprint stands is not run again; a half-written one is never trusted. Long work may keep whole
checkpoints in ``resume/`` inside its folder (each written aside and renamed): they survive a cut-off, and are offered
again to the same work only.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.errors import RunError
from farm.seeds import digest

RESUME = "resume"
_MEANT = "meant.json"
NOW = "now.json"  # in a step's partial folder: how far it is (``note_progress``)
SO_FAR = "so_far.json"  # in ``resume``: a method's curve as far as it is measured
HOLDER = ".holder.json"  # in the run folder: which process works or last worked in it, and how it ended
FORMAT = 1  # raised when the meaning of files in a run folder changes, so that old steps are redone

_lending: ContextVar[tuple[Path, tuple[Path, ...]] | None] = ContextVar("lending", default=None)
_making: ContextVar[Path | None] = ContextVar("making", default=None)


@dataclass(frozen=True)
class Step:
    """A finished step: where it lies, what it was made from, and what it took (seconds, peak memory in MB)."""

    folder: Path
    fingerprint: str
    seconds: float
    peak_memory_mb: float
    fresh: bool  # made in this call, not found finished
    lender: Path | None = None  # the run folder it was taken from in this call

    def file(self, name: str) -> Path:
        return self.folder / name


def fingerprint(settings: Mapping[str, Any], inputs: Sequence[Step | str] = ()) -> str:
    """Hash of settings and inputs; key order does not matter."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return digest(FORMAT, text, *(i if isinstance(i, str) else i.fingerprint for i in inputs), size=16)


def finished(folder: Path, expected: str) -> Step | None:
    """The step in ``folder`` if it is finished and made from what ``expected`` says, else None."""
    try:
        saved = json.loads((folder / "step.json").read_text(encoding="utf-8"))
        if saved["fingerprint"] != expected:
            return None
        return Step(folder, expected, float(saved["seconds"]), float(saved["peak_memory_mb"]), fresh=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def perform(
    folder: Path, settings: Mapping[str, Any], inputs: Sequence[Step | str], work: Callable[[Path], None]
) -> Step:
    """Run ``work(partial folder)`` unless the step already stands; returns the finished step.

    Raises RunError when the folder cannot be written; whatever ``work`` raises passes through and leaves the
    earlier finished steps as they were.
    """
    expected = fingerprint(settings, inputs)
    if step := finished(folder, expected) or _borrowed(folder, expected):
        return step
    partial = folder.with_name(folder.name + ".partial")
    start = time.perf_counter()
    try:
        _clear(partial, expected)
    except OSError as e:
        raise RunError(f"{partial}: cannot be written ({e.strerror}); choose another folder with --out") from e
    token = _making.set(partial)
    try:
        work(partial)
    finally:
        _making.reset(token)
    shutil.rmtree(partial / RESUME, ignore_errors=True)
    (partial / _MEANT).unlink()
    (partial / NOW).unlink(missing_ok=True)
    seconds, peak = time.perf_counter() - start, peak_memory_mb()
    write_json(
        partial / "step.json",
        {"fingerprint": expected, "settings": dict(settings), "seconds": seconds, "peak_memory_mb": peak},
    )
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(folder)
    return Step(folder, expected, seconds, peak, fresh=True)


@contextmanager
def borrowing(root: Path, lenders: Sequence[Path]) -> Iterator[None]:
    """Within, a step of the run folder ``root`` that is not done is taken from a run in ``lenders`` that has the very
    same step finished: as hard links where the file system allows, else as a copy."""
    token = _lending.set((root, tuple(lenders)))
    try:
        yield
    finally:
        _lending.reset(token)


def _borrowed(folder: Path, expected: str) -> Step | None:
    root, lenders = _lending.get() or (folder, ())
    for lender in lenders:
        theirs = lender / folder.relative_to(root)
        if (step := finished(theirs, expected)) is None:
            continue
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(theirs, partial, copy_function=_link)
        partial.rename(folder)
        return Step(folder, expected, step.seconds, step.peak_memory_mb, fresh=False, lender=lender)
    return None


def _link(source: str, target: str) -> None:
    """A hard link is safe here: files of a finished step are replaced whole, never written into."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _clear(partial: Path, expected: str) -> None:
    """Empty the partial folder, but for the checkpoints of the very same work, and say in it what it is meant for."""
    same = read_json(partial / _MEANT) == expected
    for left in partial.iterdir() if partial.is_dir() else ():
        if same and left.name == RESUME:
            continue
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / _MEANT, expected)


def making() -> Path | None:
    """The partial folder of the step that is being made here, if one is."""
    return _making.get()


def note_progress(folder: Path, value: Mapping[str, Any]) -> None:
    """Say in a step's partial ``folder`` how far it is, for whoever watches: whole or not at all, but not durable."""
    partial = folder / f"{NOW}.partial"
    try:
        partial.write_text(json.dumps({"at": time.time(), **value}), encoding="utf-8")
        partial.replace(folder / NOW)
    except OSError:
        pass  # a full disk will be noticed by the work itself


def write_json(path: Path, value: object) -> None:
    """Write pretty JSON atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False, default=str)
        f.write("\n")
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: a second process on the same folder is refused. The lock dies with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+")
    except OSError as e:
        raise RunError(
            f"{folder}: the output folder cannot be written ({e.strerror}); choose another with --out"
        ) from e
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder}: another farm process is working in this run folder; wait, or choose --out"
            ) from None
        holder = {"pid": os.getpid(), "born": born(os.getpid()), "host": socket.gethostname(), "since": time.time()}
        write_json(folder / HOLDER, holder)
        try:
            yield
        except BaseException as e:
            how = "interrupted" if isinstance(e, KeyboardInterrupt) else f"{type(e).__name__}: {e}"[:500]
            write_json(folder / HOLDER, holder | {"ended": time.time(), "how": how})
            raise
        write_json(folder / HOLDER, holder | {"ended": time.time(), "how": "done"})


def born(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since boot, to tell it from a later one with the same number; None
    where it has ended (even if its parent has not noticed) or the system does not say (only Linux does)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if stat[0] in "ZX" else stat[19]
    except (OSError, IndexError):
        return None


def file_fingerprint(path: Path) -> str:
    """Hash of a file's bytes, or of all files of a folder with their names."""
    import hashlib

    h = hashlib.blake2b(digest_size=16)
    for part in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        h.update(part.name.encode() + b"\0")
        with part.open("rb") as f:
            while block := f.read(1 << 20):
                h.update(block)
    return h.hexdigest()


def read_json(path: Path) -> Any:
    """A JSON file's value, or None when there is no readable one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
