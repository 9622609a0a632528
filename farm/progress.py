"""Progress of long work: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farm import runs

JSON_ENV = "FARM_JSON_PROGRESS"  # set: JSON lines about judging even on a terminal; worker processes inherit it
_EVERY = 10.0  # seconds between lines
_NOTED = 1.0  # seconds between notes in the step's folder
_RECENT = 15.0  # seconds over which a rate is taken


@dataclass(frozen=True, slots=True)
class Judging:
    """How far the annotation engine is: judgements done, wanted (None: unknown), answered from the ledger, by outcome;
    calls at a time and why so many; seconds left of a pause the server asked for; USD spent in this ledger, projected
    for the whole, and allowed."""

    done: int
    total: int | None
    cached: int
    outcomes: Mapping[str, int]
    concurrency: int | None = None
    reason: str = ""
    pause: float = 0.0
    spent: float = 0.0
    projected: float | None = None
    budget: float | None = None


class Progress:
    """``progress(done, total, figures)`` shows nothing for work that ends within two seconds.

    Worker processes write whole lines even on a terminal, where bars of several processes would tear each other.
    Within a step, how far it is also goes into the step's folder every second, for ``farm watch``.
    """

    def __init__(self, title: str, *, bar: bool = False) -> None:
        self.title = title
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        self.draws = bar and sys.stderr.isatty() and JSON_ENV not in os.environ
        self._recent: deque[tuple[float, int]] = deque([(self.start, 0)])
        self._drawn = False
        self._folder, self._noted = runs.making(), self.start

    def __call__(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        self._note(now, done, total, figures or {})
        if self.draws:
            self._draw(done, total, figures or {}, now)
        elif now - self.last >= _EVERY:
            self.last = now
            say(self._line(done, total, figures or {}, now))

    def judged(self, now: Judging) -> None:
        """The annotation engine's form: one live line on a terminal, one JSON object per line elsewhere."""
        at = time.monotonic()
        self._note(at, now.done, now.total, now.outcomes)
        if at - self._recent[-1][0] >= 0.5:
            self._recent.append((at, now.done))
            while at - self._recent[0][0] > _RECENT and len(self._recent) > 2:
                self._recent.popleft()
        if at - self.last < (0.5 if self.draws else _EVERY) or at - self.start < 2:
            return
        self.last = at
        since, before = self._recent[0]
        rate = (now.done - before) / max(at - since, 1e-9)
        left = None if now.total is None or rate <= 0 else (now.total - now.done) / rate
        if self.draws:
            self._drawn = True
            print(f"\r\x1b[K{_judging(self.title, now, rate, left)}", end="", file=sys.stderr, flush=True)
        elif sys.stderr.isatty() and JSON_ENV not in os.environ:
            say(_judging(self.title, now, rate, left))
        else:
            say(_judging_json(self.title, now, rate, left, at - self.start))

    def _note(self, now: float, done: int, total: int | None, figures: Mapping[str, float]) -> None:
        if self._folder is not None and now - self._noted >= _NOTED:
            self._noted = now
            told = {"title": self.title, "done": done, "total": total, "figures": dict(figures)}
            runs.note_progress(self._folder, told | {"elapsed": round(now - self.start, 3)})

    def _draw(self, done: int, total: int, figures: Mapping[str, float], now: float) -> None:
        if self.bar is None:
            if now - self.start < 2:
                return
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=self.title, leave=False, dynamic_ncols=True, mininterval=0.3)
        self.bar.set_postfix_str(_figures(figures), refresh=False)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def _line(self, done: int, total: int, figures: Mapping[str, float], now: float) -> str:
        rate = done / max(now - self.start, 1e-9)
        left = f"{(total - done) / rate:.0f} s left" if rate else "rate unknown"
        shown = _figures(figures)
        return f"  {self.title}: {done}/{total}, {rate:.1f}/s, {left}{'; ' + shown if shown else ''}"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = False


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


def _judging(title: str, j: Judging, rate: float, left: float | None) -> str:
    parts = [f"  {title}: {j.done}/{'?' if j.total is None else j.total}", f"{rate:.1f}/s"]
    parts.append("time left unknown" if left is None else f"{left:.0f} s left")
    text = ", ".join(parts) + f"; cached {j.cached}, {_figures(j.outcomes)}"
    if j.concurrency is not None:
        text += f"; {j.concurrency} at a time ({j.reason})"
    if j.pause > 0:
        text += f"; the server asks to wait {j.pause:.0f} s"
    if j.spent or j.budget is not None:
        text += f"; {j.spent:.4f} USD spent"
        text += "" if j.projected is None else f", {j.projected:.2f} projected"
        text += "" if j.budget is None else f", {j.budget:g} allowed"
    return text


def _judging_json(title: str, j: Judging, rate: float, left: float | None, elapsed: float) -> str:
    row = {
        "event": "judging", "what": title, "elapsed_s": round(elapsed, 1), "done": j.done, "total": j.total,
        "cached": j.cached, "outcomes": dict(j.outcomes), "per_second": round(rate, 2),
        "left_s": None if left is None else round(left, 1), "concurrency": j.concurrency, "reason": j.reason,
        "pause_s": round(j.pause, 2), "usd_spent": round(j.spent, 6),
        "usd_projected": None if j.projected is None else round(j.projected, 6), "usd_budget": j.budget,
    }  # fmt: skip
    return json.dumps(row)


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr, so that stdout carries results only."""
    print(text, file=sys.stderr, flush=True)
