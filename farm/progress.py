"""Progress of long work: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """``progress(done, total, note)``: shows nothing for work that ends within two seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = time.monotonic()
        self.last = self.start
        self.bar: Any = None
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self.terminal:
            self._draw(done, total, note, now)
        elif now - self.last >= 10:
            self.last = now
            print(self._line(done, total, note, now), file=sys.stderr, flush=True)

    def _draw(self, done: int, total: int, note: str, now: float) -> None:
        if self.bar is None:
            if now - self.start < 2:
                return
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=self.title, leave=False, dynamic_ncols=True, mininterval=0.3)
            self.bar.start_t = self.bar._time() - (now - self.start)
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def _line(self, done: int, total: int, note: str, now: float) -> str:
        rate = done / max(now - self.start, 1e-9)
        left = (total - done) / rate if rate else float("inf")
        return f"  {self.title}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left{', ' + note if note else ''}"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr, so that stdout carries results only."""
    print(text, file=sys.stderr, flush=True)
