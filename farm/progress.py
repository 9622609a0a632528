"""Progress of long work: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """``progress(done, total, figures)`` shows nothing for work that ends within two seconds.

    Worker processes write whole lines even on a terminal, where bars of several processes would tear each other.
    """

    def __init__(self, title: str, *, bar: bool = False) -> None:
        self.title = title
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        self.draws = bar and sys.stderr.isatty()

    def __call__(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if self.draws:
            self._draw(done, total, figures or {}, now)
        elif now - self.last >= 10:
            self.last = now
            say(self._line(done, total, figures or {}, now))

    def judged(self, done: int, total: int, cached: int, outcomes: Mapping[str, int]) -> None:
        """The annotation engine's form: judgements done, wanted, answered from the ledger, and counts by outcome."""
        self(done, total, {"cached": cached, **outcomes})

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


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr, so that stdout carries results only."""
    print(text, file=sys.stderr, flush=True)
