"""How fast an account is asked: adaptive concurrency, limits per minute, and pauses that hold for everyone.

Concurrency grows by rounds while throughput grows with it, and is cut once per episode of 429s. A rate that the server
states (``x-ratelimit-limit-*``) or the recipe declares is kept by a token bucket; a rate that only shows in 429s is
learned: set to what was accepted, then raised slowly. Nothing here changes what is asked, only when.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

START = 32  # calls at a time before anything is known
CUT = 0.8  # of the concurrency, at each episode of 429s
EPISODE = 1.0  # seconds within which further 429s belong to the same episode
HOLD = 3.0  # seconds before growth is tried again after it did not pay
PAYS = 0.25  # growth pays when throughput rises by this share of what concurrency rose
SAFETY = 0.98  # of a stated limit per minute
_TINY = 1e-6  # seconds, requests or tokens that are none: sums of floats are not exact
_MARGIN = 0.005  # seconds added to a pause, for clocks that differ


class Bucket:
    """A token bucket: refills at ``per_second``, holds ``size``; a debt is refilled first."""

    def __init__(self, per_second: float, size: float, clock: Callable[[], float]) -> None:
        self.per_second, self.size, self._clock = per_second, size, clock
        self._level, self._at = size, clock()

    def level(self) -> float:
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._at) * self.per_second)
        self._at = now
        return self._level

    def wait(self, amount: float) -> float:
        """Seconds until ``amount``, or all that the bucket can hold, is there."""
        lack = min(amount, self.size) - self.level()
        return lack / self.per_second if lack > _TINY else 0.0

    def take(self, amount: float) -> None:
        self._level = self.level() - amount


@dataclass
class Change:
    """Why the concurrency is what it is; shown to people."""

    limit: int
    reason: str


How = Literal["answered", "limited", "failed", "unsent"]


@dataclass
class Account:
    """One account at one server, shared by all workers of this process.

    ``bound``: calls at a time at most. ``rpm``, ``tpm``: declared requests and tokens per minute. ``clock``: seconds.
    """

    bound: int
    rpm: float | None = None
    tpm: float | None = None
    clock: Callable[[], float] = field(default_factory=lambda: asyncio.get_running_loop().time)

    def __post_init__(self) -> None:
        self.running = self._peak = self._round = 0
        self._round_at = self.clock()
        self.change = Change(min(self.bound, START), "start")
        self.answered = self.limited = 0
        self.resume_at = 0.0  # end of a pause that the server asked for
        self._requests = self._bucket(self.rpm, SAFETY)
        self._tokens = self._bucket(self.tpm, SAFETY)
        self._learned = False  # the request rate is a guess from 429s
        self._door = asyncio.Lock()
        self._freed: asyncio.Future[None] | None = None
        self._episode_until = self._calm_until = self._raised_at = 0.0
        self._before: tuple[int, float] | None = None  # limit and throughput before the last growth
        self._growth = 2.0
        self._paced = False  # somebody had to wait for the request rate
        self._mark, self._accepted = self.clock(), 0  # since the last episode
        self._latency: deque[float] = deque(maxlen=32)

    @property
    def limit(self) -> int:
        return self.change.limit

    def close(self) -> None:
        """Let nobody in any more; those who wait, wait until they are cancelled."""
        self.resume_at = math.inf

    async def enter(self, tokens: int) -> None:
        """Wait for a place among the calls under way, for the end of a pause, and for the limits per minute."""
        async with self._door:  # one at a time and in order: only the first in line watches the clock
            while True:
                if self.running >= self.limit or self.resume_at == math.inf:
                    await self._change(None)
                elif (wait := self._wait(tokens)) > 0:
                    await self._change(wait)
                else:
                    break
            self.running += 1
            self._peak = max(self._peak, self.running)
            if self._requests is not None:
                self._requests.take(1)
            if self._tokens is not None:
                self._tokens.take(tokens)

    async def _change(self, timeout: float | None) -> None:
        """Wait until a call is over, or for so many seconds."""
        self._freed = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._freed], timeout=timeout)

    def _wait(self, tokens: int) -> float:
        pause = self.paused()
        requests = self._requests.wait(1) if self._requests is not None else 0.0
        self._paced = self._paced or requests > 0
        return max(pause, requests, self._tokens.wait(tokens) if self._tokens is not None else 0.0)

    def paused(self) -> float:
        """Seconds left of a pause that the server asked for."""
        left = self.resume_at - self.clock()
        return left if left > _TINY else 0.0

    def hold(self, seconds: float) -> None:
        """Let nobody send for a while: the server is not there."""
        self.resume_at = max(self.resume_at, self.clock() + seconds)

    @property
    def counts_tokens(self) -> bool:
        return self._tokens is not None

    async def pause(self) -> None:
        """Wait until no pause holds any more. To be awaited right before sending: one may have begun since enter."""
        while (wait := self.paused()) > 0:
            await asyncio.sleep(min(wait, 3600.0))

    def leave(
        self, how: How, seconds: float = 0.0, *, reserved: int = 0, used: int = 0, wait: float | None = None
    ) -> None:
        """A call is over. ``reserved`` and ``used``: tokens taken at the door and really used (0 unknown); ``wait``:
        the pause that the server asked for."""
        self.running -= 1
        if wait is not None:
            self.resume_at = max(self.resume_at, self.clock() + wait + _MARGIN)
        if how == "unsent" and self._requests is not None:
            self._requests.take(-1)
        if self._tokens is not None and (used or how in ("limited", "unsent")):
            self._tokens.take(used - reserved)
        if how == "answered":
            self.answered += 1
            self._accepted += 1
            self._latency.append(seconds)
            self._round += 1
            if self._round >= self.limit:
                self._end_round()
        elif how == "limited":
            self.limited += 1
            self._cut(wait or 0.0)
        elif how == "failed":
            self._calm_until = self.clock() + HOLD  # a server in trouble is not asked for more
        self._wake()

    def stated(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Limits that the server states with an answer; declared ones stand."""
        if requests_per_minute and self.rpm is None:
            self._requests = self._restate(self._requests, requests_per_minute)
            self._learned = False
        if tokens_per_minute and self.tpm is None:
            self._tokens = self._restate(self._tokens, tokens_per_minute)

    def _restate(self, bucket: Bucket | None, per_minute: float) -> Bucket | None:
        rate = per_minute * SAFETY / 60
        if bucket is not None and abs(bucket.per_second - rate) < 1e-9:
            return bucket
        new = self._bucket(per_minute, SAFETY)
        if new is not None:
            new.take(new.size)
        return new

    def _bucket(self, per_minute: float | None, share: float) -> Bucket | None:
        if not per_minute:
            return None
        rate = per_minute * share / 60
        return Bucket(rate, max(1.0, rate / 10), self.clock)

    # -- concurrency --------------------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        self._round, self._peak, self._round_at = 0, self.running, self.clock()

    def _end_round(self) -> None:
        """As many answers as calls are allowed at a time: grow, if there was use for it and growing paid."""
        now = self.clock()
        throughput = self._round / max(now - self._round_at, 1e-6)
        used = self._peak >= 0.8 * self.limit
        self._begin_round()
        self._raise_rate(now)
        if not used or now < self._calm_until:
            return
        if self._before is not None:
            limit, before = self._before
            self._before = None
            if throughput < before * (1 + PAYS * (self.limit / limit - 1)):
                self._set(limit, f"{self.limit} at a time were no faster ({throughput:.0f}/s)")
                self._growth, self._calm_until = 1.25, now + HOLD
                return
        if self.limit < self.bound:
            self._before = (self.limit, throughput)
            self._set(min(self.bound, max(self.limit + 1, int(self.limit * self._growth))), "it pays")

    def _cut(self, wait: float) -> None:
        now = self.clock()
        if self._requests is not None:
            self._requests.take(max(0.0, self._requests.level()))  # no burst when the pause ends
        if now < self._episode_until:
            return
        self._episode_until = self._calm_until = now + max(EPISODE, wait)
        self._growth, self._before = 1.25, None
        self._lower_rate(now)
        # Never below what the known rate needs: more calls wait at the door anyway.
        need = int(self._requests.per_second * self._typical() * 1.5) + 1 if self._requests is not None else 1
        lower = max(1, min(need, self.limit), int(min(self.limit, max(self._peak, 1)) * CUT))
        self._set(min(self.limit, lower), "HTTP 429")
        self._begin_round()

    def _typical(self) -> float:
        return sorted(self._latency)[len(self._latency) // 2] if self._latency else 0.5

    def _set(self, limit: int, reason: str) -> None:
        if limit != self.limit:
            self.change = Change(limit, reason)
            self._wake()

    def _wake(self) -> None:
        if (
            self._freed is not None
            and not self._freed.done()
            and self.running < self.limit
            and self.resume_at < math.inf
        ):
            self._freed.set_result(None)

    # -- a request rate learned from 429s -------------------------------------------------------------------------

    def _lower_rate(self, now: float) -> None:
        span, accepted = now - self._mark, self._accepted
        self._mark, self._accepted = now, 0
        if self._requests is not None and not self._learned:
            return  # declared or stated: the 429 is about something else
        if span < EPISODE or accepted < 3:
            return
        rate = 0.95 * accepted / span
        if self._requests is not None:
            rate = min(rate, 0.95 * self._requests.per_second)
        self._learned, self._raised_at = True, now
        self._requests = Bucket(rate, 1.0, self.clock)
        self._requests.take(1.0)

    def _raise_rate(self, now: float) -> None:
        if self._learned and self._requests is not None and self._paced and now - self._raised_at > 5:
            self._requests.per_second *= 1.03
            self._raised_at, self._paced = now, False
