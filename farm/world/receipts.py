"""The judge server's own account of every call: what users check their own bookkeeping against.

One JSON line per call, written and flushed before the answer is sent, so nothing that was answered is missing even if
the server is killed. Totals are kept beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from farm.errors import DataError

GRACE = 0.05  # a call that arrives this soon after a pause was announced was on its way already


@dataclass(frozen=True, slots=True)
class Receipt:
    """One call. ``at``: arrival, seconds since the epoch. ``accepted``: the judge worked and the call is billed.
    ``content``: digest of what was asked. ``until``: end of the pause that the answer announces. ``batch``: its batch.
    ``client_request``: the caller's X-Client-Request-Id."""

    request: str
    at: float
    path: str
    model: str
    status: int
    accepted: bool
    content: str
    fault: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    until: float | None = None
    batch: str | None = None
    client_request: str | None = None

    def line(self) -> str:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({k: v for k, v in fields.items() if v is not None}, separators=(",", ":")) + "\n"


class Receipts:
    """All calls of one server; ``path`` receives their lines (appended). Raises DataError if it cannot be written."""

    def __init__(self, path: Path | None = None) -> None:
        self.numbered = 0
        self.in_flight = 0
        self.seen: Counter[str] = Counter()  # how many times each content has been asked
        self._paid: set[str] = set()
        self._totals: dict[str, Any] = {"accepted": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0}
        self._refused: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._repeated = self._early = 0
        self._pause = (0.0, 0.0)  # announced at, until
        self._file = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab", buffering=0)
            except OSError as e:
                raise DataError(f"the log {path} cannot be written ({e.strerror})") from None

    def next_request(self) -> str:
        self.numbered += 1
        return f"req_{self.numbered:08d}"

    @property
    def usd(self) -> float:
        return float(self._totals["usd"])

    def write(self, r: Receipt, now: float) -> None:
        """Count a call and write its line; ``now`` is when its fate was decided."""
        if r.batch is None and self._pause[0] + GRACE < r.at < self._pause[1]:
            self._early += 1
        if r.until is not None and r.until > self._pause[1]:
            self._pause = (now, r.until)
        if r.accepted:
            self._totals["accepted"] += 1
            for name in ("prompt_tokens", "completion_tokens", "usd"):
                self._totals[name] += getattr(r, name)
            self._repeated += r.content in self._paid
            self._paid.add(r.content)
        else:
            self._refused[str(r.status)] += 1
        if r.fault:
            self._faults[r.fault] += 1
        if self._file is not None:
            self._file.write(r.line().encode())

    def totals(self) -> dict[str, Any]:
        """``repeated``: accepted calls whose content had been accepted before. ``early``: calls that arrived within an
        announced pause. ``in_flight``: calls that arrived and are not answered yet."""
        return {
            **self._totals,
            "refused": dict(sorted(self._refused.items())),
            "faults": dict(sorted(self._faults.items())),
            "repeated": self._repeated,
            "early": self._early,
            "in_flight": self.in_flight,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
