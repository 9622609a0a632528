"""Rate limits of the judge server: token buckets, and the 429s and headers that tell a caller about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from farm.world.wire import Refused

_ROUNDING = 1e-6  # of a request or token; what a clock's rounding can leave missing


class Bucket:
    """A token bucket: refills at ``per_minute``, holds ``burst`` seconds' worth and at least one."""

    def __init__(self, per_minute: float, burst: float, clock: Callable[[], float]) -> None:
        self.rate, self.clock = per_minute / 60, clock
        self.size = max(1.0, self.rate * burst)
        self._level, self._at = self.size, clock()

    def level(self) -> float:
        now = self.clock()
        self._level = min(self.size, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def wait(self, need: float) -> float:
        """Seconds until ``need`` is there; 0 when it is, but for a rounding error of the clock."""
        missing = need - self.level()
        return missing / self.rate if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """May leave a debt, which refills first."""
        self._level = self.level() - amount


class Limits:
    """The account's limits on requests and tokens per minute. ``burst``: seconds' worth that the buckets hold;
    ``retry_after``: form of the hint on a refusal."""

    def __init__(
        self,
        rpm: float | None,
        tpm: float | None,
        burst: float,
        retry_after: str,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self.requests = Bucket(rpm, burst, clock) if rpm else None
        self.tokens = Bucket(tpm, burst, clock) if tpm else None
        self._form, self._now = retry_after, now

    def admit(self) -> tuple[Refused, float | None] | None:
        """None, and one request is taken; or the refusal, and the moment until which it asks to wait."""
        waits = {
            "requests": self.requests.wait(1.0) if self.requests else 0.0,
            "tokens": self.tokens.wait(2 * _ROUNDING) if self.tokens else 0.0,
        }
        what, wait = max(waits.items(), key=lambda item: item[1])
        if wait > 0:
            return rate_limited(
                self._form, wait, self._now(), f"Rate limit reached for {what} per minute", self.headers()
            )
        if self.requests:
            self.requests.take(1.0)
        return None

    def pay(self, tokens: int) -> None:
        if self.tokens:
            self.tokens.take(tokens)

    def headers(self) -> dict[str, str]:
        """The x-ratelimit headers that come with every answer of a limited account."""
        out = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                out[f"x-ratelimit-limit-{name}"] = f"{bucket.rate * 60:.0f}"
                out[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level())))
                out[f"x-ratelimit-reset-{name}"] = _duration(bucket.wait(bucket.size))
        return out


def rate_limited(
    form: str, wait: float, now: float, why: str, headers: Mapping[str, str] | None = None
) -> tuple[Refused, float | None]:
    """A 429 that asks to wait, and until when; the hint is rounded up, never down."""
    hint: dict[str, str] = {}
    until: float | None = None
    if form in ("seconds", "ms"):
        hint["Retry-After"] = str(math.ceil(wait))
        until = now + math.ceil(wait)
    if form == "ms":
        hint["retry-after-ms"] = str(math.ceil(wait * 1000))
        until = now + math.ceil(wait * 1000) / 1000
    if form == "date":
        until = float(math.ceil(now + wait))
        hint["Retry-After"] = format_datetime(datetime.fromtimestamp(0, UTC) + timedelta(seconds=until), usegmt=True)
    message = f"{why}. Please try again in {wait:.3f}s." if hint else f"{why}. Please slow down."
    return Refused(429, message, "rate_limit_exceeded", {**(headers or {}), **hint}), until


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{math.ceil(rest)}s" if minutes else f"{rest:.3g}s"
