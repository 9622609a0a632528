"""Sending calls: fixed workers, a bounded queue, retries, and the ledger's group commits.

A worker waits for its place (``farm.annotate.flow``), writes its attempt down, sends, and writes the end down before
anyone sees the answer. Whatever ends a run early (Ctrl-C, a fatal error, an outage, the budget), no further call is
sent, and answers under way get a moment to arrive and be stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from farm.annotate.flow import Account, How
from farm.annotate.ledger import Answer, Call, End, Ledger
from farm.annotate.money import usual_tokens
from farm.annotate.writer import Writer
from farm.errors import AnnotatorError, BudgetError
from farm.lm.endpoints import CallError, Endpoint, Reply, Request
from farm.progress import say
from farm.seeds import uniform

_SPARE = 8  # workers beyond the calls at a time: they commit answers while others are asked


class Work(Protocol):
    """What a worker needs to know of a job."""

    @property
    def key(self) -> str: ...
    @property
    def request(self) -> Request: ...
    @property
    def call(self) -> Call: ...


W = TypeVar("W", bound=Work)
Wc = TypeVar("Wc", bound=Work, contravariant=True)


class Carrier(Protocol[Wc]):
    """What brings jobs to a judge: ``Sender`` one call at a time, ``BatchSender`` through the Batch API. Both are made
    from (endpoint, ledger, patience, answered, failed)."""

    async def run(self, jobs: AsyncIterator[Wc], concurrency: int) -> None: ...


@dataclass(frozen=True)
class Patience:
    """How long to try, and how fast. ``timeout`` seconds per call; ``attempts`` per job (waiting for a limit is none);
    pauses double from ``backoff`` seconds up to ``longest``, with jitter. The run stops when ``refusals`` jobs have
    failed before the first answer of all, when nobody has been there for ``outage`` seconds, and when the server asks
    for a pause beyond ``longest_pause``. Calls under way then get ``grace`` seconds. ``rpm`` and ``tpm``: declared
    requests and tokens per minute of the account."""

    timeout: float = 60.0
    attempts: int = 5
    backoff: float = 0.5
    longest: float = 60.0
    refusals: int = 5
    outage: float = 60.0
    longest_pause: float = 900.0
    grace: float = 10.0
    rpm: float | None = None
    tpm: float | None = None


class Sender(Generic[W]):
    """Runs jobs from an async iterator through ``endpoint``; ``answered`` and ``failed`` are called in the event loop.

    Raises AnnotatorError when the endpoint is unusable as a whole and BudgetError when the ledger's budget is used up;
    answers received until then are in the ledger.
    """

    account: Account

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        patience: Patience,
        answered: Callable[[W, Answer], None],
        failed: Callable[[W, str], None],
    ) -> None:
        self.endpoint, self.ledger, self.patience = endpoint, ledger, patience
        self.answered, self.failed = answered, failed
        self._any_answer = False
        self._failures = 0  # jobs that failed since the last answer
        self._nobody_since: float | None = None  # when the connection errors since the last answer began
        self._stopping = False
        self._good_at = 0.0  # when the last answer came, or the run began
        self._open = 0  # attempts whose end is not written down yet
        self._flying: set[asyncio.Task[None]] = set()
        self._tight = asyncio.Lock()  # held by the one worker that waits for money
        self._ended = asyncio.Event()

    async def run(self, jobs: AsyncIterator[W], concurrency: int) -> None:
        """Send everything; returns when all jobs are settled."""
        self.account = Account(concurrency, self.patience.rpm, self.patience.tpm)
        self._good_at = asyncio.get_running_loop().time()
        workers = concurrency + min(concurrency, _SPARE)
        queue: asyncio.Queue[W | None] = asyncio.Queue(maxsize=2 * concurrency)
        self._writer = Writer(self.ledger)
        writing = asyncio.create_task(self._writer.run())
        tasks = [asyncio.create_task(self._work(queue)) for _ in range(workers)]
        tasks.append(asyncio.create_task(self._feed(jobs, queue, workers)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await self._land(tasks)
            await self._writer.stop()
            await writing
            await self.endpoint.close()

    async def _land(self, tasks: list[asyncio.Task[None]]) -> None:
        """End all workers; those with a call under way may bring it home, unless cancelled (Ctrl-C) once more."""
        self._stopping = True
        self.account.close()
        flying = {t for t in self._flying if not t.done()}
        for task in tasks:
            if task not in flying:
                task.cancel()
        if flying and self.patience.grace:
            say(f"  waiting up to {self.patience.grace:g} s for {len(flying)} answers under way")
            await asyncio.wait(flying, timeout=self.patience.grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, jobs: AsyncIterator[W], queue: asyncio.Queue[W | None], workers: int) -> None:
        async for job in jobs:
            await queue.put(job)
        for _ in range(workers):
            await queue.put(None)

    async def _work(self, queue: asyncio.Queue[W | None]) -> None:
        while not self._stopping and (job := await queue.get()) is not None:
            await self._settle(job)

    async def _settle(self, job: W) -> None:
        """One job to its end: an answer, or a failure after all attempts."""
        patience = self.patience
        tokens = usual_tokens(job.request) if self.account.counts_tokens else 0
        attempts = tries = 0
        while not self._stopping:
            error = await self._once(job, tokens)
            if error is None:
                return
            tries += 1
            attempts += error.kind not in ("limited", "connection")
            self._give_up(error, tries)
            if error.kind in ("rejected", "filtered") or attempts >= patience.attempts:
                self._fail(job, error)
                return
            jitter = 0.5 + uniform(0, "backoff", job.key, tries)
            wait = min(patience.longest, patience.backoff * 2 ** min(tries - 1, 20)) * jitter
            if error.kind == "connection":
                self.account.hold(wait)
            elif error.retry_after is None:
                await asyncio.sleep(wait)

    def _give_up(self, error: CallError, tries: int) -> None:
        """Raise when no other call would fare better."""
        if error.kind == "fatal":
            raise AnnotatorError(str(error))
        rest = f"What was answered so far is in {self.ledger.path}; the same command continues from there."
        if error.retry_after is not None and error.retry_after > self.patience.longest_pause:
            raise AnnotatorError(f"{error}. It asks to wait {error.retry_after:.0f} s. {rest}")
        now = asyncio.get_running_loop().time()
        if error.kind == "limited" and now - self._good_at > 10 * self.patience.outage:
            raise AnnotatorError(f"{error}. It has said nothing else for {now - self._good_at:.0f} s. {rest}")
        if error.kind != "connection":
            self._nobody_since = None
            return
        if self._nobody_since is None:
            self._nobody_since = now
        if now - self._nobody_since >= self.patience.outage or (not self._any_answer and tries >= 3):
            raise AnnotatorError(f"{error}. Is the server running and base_url right? {rest}")

    def _fail(self, job: W, error: CallError) -> None:
        """Settle a job as failed; when nothing is answered any more, say so instead."""
        self._failures += 1
        if self._failures >= (max(50, 2 * self.account.bound) if self._any_answer else self.patience.refusals):
            since = "since the last answer" if self._any_answer else "and has answered none"
            raise AnnotatorError(
                f"the judge has failed on {self._failures} prompts {since}. The last reply was: {error}. Check the "
                f"model name, and that the server accepts these settings. What was answered so far is in "
                f"{self.ledger.path}; the same command continues from there."
            )
        self.failed(job, error.kind)

    async def _once(self, job: W, tokens: int) -> CallError | None:
        """One attempt, in the ledger before and after."""
        loop = asyncio.get_running_loop()
        attempt = await self._admitted(job, tokens)
        task = asyncio.current_task()
        assert task is not None
        reply: Reply | None = None
        error: CallError | None = None
        try:
            await self.account.pause()  # one may have been announced while the attempt was written down
        except asyncio.CancelledError:
            self._writer.note(End(attempt, job.key, None, "unsent", "the run ended before it was sent"))
            raise
        started = loop.time()
        self._flying.add(task)
        try:
            async with asyncio.timeout(self.patience.timeout):
                reply = await self.endpoint.complete(job.request, f"farm-{self.ledger.tag}-{attempt}")
        except TimeoutError:
            error = CallError("lost", f"{self.endpoint.name} did not answer within {self.patience.timeout:g} s")
        except CallError as e:
            error = e
        finally:
            seconds = loop.time() - started
            self._leave(reply, error, seconds, tokens)
        try:
            answer = None if reply is None else job.call.answer(reply, round(seconds, 4))
            kind, detail = ("", "") if error is None else (error.kind, str(error))
            await self._writer.ended(End(attempt, job.key, answer, kind, detail))
        finally:
            self._open -= 1
            self._ended.set()
            self._flying.discard(task)
        if answer is not None:
            self._any_answer, self._failures, self._nobody_since = True, 0, None
            self._good_at = loop.time()
            self.answered(job, answer)
        return error

    def _leave(self, reply: Reply | None, error: CallError | None, seconds: float, tokens: int) -> None:
        if error is not None and error.kind == "fatal":
            self.account.close()
        how: How = "answered" if reply is not None else "failed"
        if error is not None and error.kind == "limited":
            how = "limited"
        elif error is not None and error.kind in ("rejected", "filtered"):
            how = "answered"  # as far as the flow is concerned
        used = 0 if reply is None else reply.prompt_tokens + reply.completion_tokens
        limits = reply.limits if reply is not None else error.limits if error is not None else (None, None)
        self.account.stated(*limits)
        wait = None if error is None else error.retry_after
        self.account.leave(how, seconds, reserved=tokens, used=used, wait=wait)

    async def _admitted(self, job: W, tokens: int) -> int:
        """A place among the calls under way, and the attempt in the ledger. When the budget does not hold it, wait for
        calls under way to cost less than was reserved for them. Raises BudgetError when there are none."""
        async with self._tight if self._tight.locked() else contextlib.nullcontext():
            attempt = await self._reserve(job, tokens)
        if attempt is not None:
            return attempt
        async with self._tight:
            while True:
                self._ended.clear()
                under_way = self._open
                if (attempt := await self._reserve(job, tokens)) is not None:
                    return attempt
                if not under_way and not self._open:
                    raise BudgetError("")  # the engine says what is left
                await self._ended.wait()

    async def _reserve(self, job: W, tokens: int) -> int | None:
        await self.account.enter(tokens)
        attempt: int | None = None
        try:
            attempt = await self._writer.sent(job.call)
        finally:
            if attempt is None:
                self.account.leave("unsent", reserved=tokens)
            else:
                self._open += 1
        return attempt
