"""How fast an account is asked, against servers simulated in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import virtual_time

from farm.annotate.flow import Account, Bucket


@dataclass
class Server:
    """Answers after ``latency`` seconds, or 429 at once when its limit per minute is reached. ``hint``: how the 429
    says when to come back; ``slots``: calls it works on at a time, others wait."""

    latency: float = 0.3
    rpm: float | None = None
    hint: Callable[[float], float | None] = lambda wait: wait
    states_limit: bool = False
    slots: int | None = None
    arrivals: list[tuple[float, bool]] = field(default_factory=list)  # when, and whether it was accepted
    pauses: list[tuple[float, float]] = field(default_factory=list)
    most: int = 0
    _running: int = 0

    def open(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.bucket = Bucket(self.rpm / 60, self.rpm / 60, self.clock) if self.rpm else None
        self._slots = asyncio.Semaphore(self.slots or 10_000)

    async def answer(self) -> float | bool | None:
        """True, or the seconds that a 429 asks to wait (None: it does not say)."""
        now = self.clock()
        wait = self.bucket.wait(1.0) if self.bucket else 0.0
        self.arrivals.append((now, wait == 0))
        if self.bucket and wait > 0:
            if (asked := self.hint(wait)) is not None:
                self.pauses.append((now, now + asked))
            await asyncio.sleep(0.002)
            return asked
        if self.bucket:
            self.bucket.take(1.0)
        self._running += 1
        self.most = max(self.most, self._running)
        async with self._slots:
            await asyncio.sleep(self.latency)
        self._running -= 1
        return True


def ask(server: Server, jobs: int, bound: int, **declared: float) -> tuple[Account, float]:
    """``jobs`` calls by fixed workers, like the Sender's; the account and the seconds it took."""

    async def main() -> tuple[Account, float]:
        server.open()
        account = Account(bound, **declared)
        left = iter(range(jobs))

        async def work() -> None:
            for _ in left:
                while True:
                    await account.enter(0)
                    await asyncio.sleep(0.003)  # the ledger
                    await account.pause()
                    started = account.clock()
                    said = await server.answer()
                    account.stated(server.rpm if server.states_limit else None, None)
                    if said is True:
                        account.leave("answered", account.clock() - started)
                        break
                    account.leave("limited", wait=said)
                    if said is None:
                        await asyncio.sleep(0.5)

        await asyncio.gather(*[work() for _ in range(bound)])
        return account, account.clock()

    return virtual_time.run(main())


def seconds_up(wait: float) -> float:
    return float(int(wait) + 1)


@pytest.mark.parametrize(
    ("hint", "declared", "states_limit"),
    [
        (lambda wait: wait, {"rpm": 600.0}, False),
        (lambda wait: wait, {}, True),
        (lambda wait: wait, {}, False),
        (seconds_up, {}, False),
        (lambda wait: None, {}, False),
    ],
    ids=["declared", "stated", "learned", "learned, whole seconds", "learned, no hint"],
)
def test_600_per_minute_are_used_and_not_exceeded(
    hint: Callable[[float], float | None], declared: dict[str, float], states_limit: bool
) -> None:
    server = Server(rpm=600, hint=hint, states_limit=states_limit)
    _, took = ask(server, 1500, 128, **declared)
    ideal = 1500 / 10
    assert took < 1.15 * ideal
    late = [accepted for at, accepted in server.arrivals if at > 0.1 * ideal]
    assert late.count(False) / len(late) <= 0.03
    for announced, until in server.pauses:
        # What was on its way when the pause was announced arrives within its milliseconds.
        assert not [at for at, _ in server.arrivals if announced + 0.01 < at < until]


def test_without_limits_concurrency_grows_to_its_bound_while_it_pays() -> None:
    server = Server()
    account, took = ask(server, 8000, 128)
    assert account.limit == server.most == 128
    assert took < 1.1 * 8000 / 128 * 0.303


def test_growth_that_does_not_pay_is_taken_back() -> None:
    server = Server(slots=40)
    account, took = ask(server, 4000, 512)
    assert account.limit < 160  # 40 are worked on; the rest only waits
    assert took < 1.15 * 4000 / 40 * 0.3


def test_concurrency_is_cut_once_per_episode() -> None:
    async def main() -> list[int]:
        account = Account(32)
        limits = []
        for _ in range(10):
            await account.enter(0)
        for _ in range(10):
            account.leave("limited", wait=0.2)
            limits.append(account.limit)
        await asyncio.sleep(1.5)
        await account.enter(0)
        account.leave("limited", wait=0.2)
        return [*limits, account.limit]

    limits = virtual_time.run(main())
    assert limits[0] == limits[9] < 32
    assert limits[10] < limits[9]


def test_tokens_per_minute_are_kept() -> None:
    async def main() -> float:
        account = Account(16, tpm=60_000)

        async def call() -> None:
            await account.enter(1000)
            await asyncio.sleep(0.1)
            account.leave("answered", 0.1, reserved=1000, used=500)

        await asyncio.gather(*[call() for _ in range(240)])
        return account.clock()

    # 240 calls of 500 tokens at 1000 tokens a second; what is reserved too much comes back.
    assert virtual_time.run(main()) == pytest.approx(120, rel=0.1)


def test_nobody_enters_during_a_pause_nor_after_closing() -> None:
    async def main() -> list[float]:
        account = Account(4)
        entered = []

        async def call() -> None:
            await account.enter(0)
            await account.pause()
            entered.append(account.clock())
            account.leave("answered", 0.0)

        await account.enter(0)
        account.leave("limited", wait=7.0)
        await asyncio.gather(*[call() for _ in range(3)])
        account.close()
        late = asyncio.create_task(call())
        await asyncio.sleep(1000)
        late.cancel()
        return entered

    entered = virtual_time.run(main())
    assert len(entered) == 3
    assert min(entered) >= 7.0
