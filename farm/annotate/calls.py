"""Sending calls: fixed workers, a bounded queue, retries, and the ledger's group commits.

A worker writes its attempt down, sends, and writes the end down before anyone sees the answer. Commits are shared by
all workers through one writer, so durability costs one disk sync per group and not per call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from farm.annotate.ledger import Answer, Call, End, Ledger
from farm.errors import AnnotatorError
from farm.lm.endpoints import CallError, Endpoint, Request
from farm.seeds import uniform

GROUP = 64  # rows per commit at most


class Work(Protocol):
    """What a worker needs to know of a job."""

    @property
    def key(self) -> str: ...
    @property
    def request(self) -> Request: ...
    @property
    def call(self) -> Call: ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Patience:
    """How long to try. ``timeout`` seconds per call; ``attempts`` per job; pauses double from ``backoff`` seconds up
    to ``longest``, with jitter; ``refusals`` is how many jobs may fail before the first answer of all."""

    timeout: float = 60.0
    attempts: int = 5
    backoff: float = 0.5
    longest: float = 60.0
    refusals: int = 5


class Sender(Generic[W]):
    """Runs jobs from an async iterator through ``endpoint``; ``answered`` and ``failed`` are called in the event loop.

    Raises AnnotatorError when the endpoint is unusable as a whole; answers received until then are in the ledger.
    """

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
        self._resume_at = 0.0  # all workers wait until then when the server asks for a pause
        self._any_answer = False
        self._failures = 0

    async def run(self, jobs: AsyncIterator[W], concurrency: int) -> None:
        """Send everything; returns when all jobs are settled."""
        queue: asyncio.Queue[W | None] = asyncio.Queue(maxsize=2 * concurrency)
        self._writer = _Writer(self.ledger)
        writing = asyncio.create_task(self._writer.run())
        tasks = [asyncio.create_task(self._work(queue)) for _ in range(concurrency)]
        tasks.append(asyncio.create_task(self._feed(jobs, queue, concurrency)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._writer.stop()
            await writing
            await self.endpoint.close()

    async def _feed(self, jobs: AsyncIterator[W], queue: asyncio.Queue[W | None], concurrency: int) -> None:
        async for job in jobs:
            await queue.put(job)
        for _ in range(concurrency):
            await queue.put(None)

    async def _work(self, queue: asyncio.Queue[W | None]) -> None:
        while (job := await queue.get()) is not None:
            await self._settle(job)

    async def _settle(self, job: W) -> None:
        """One job to its end: an answer, or a failure after all attempts."""
        patience = self.patience
        for attempt in range(1, patience.attempts + 1):
            while (wait := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            error = await self._once(job)
            if error is None:
                return
            if error.kind == "fatal":
                raise AnnotatorError(str(error))
            last = attempt == patience.attempts or (not self._any_answer and attempt == 3)
            if error.kind == "connection" and last:
                raise AnnotatorError(
                    f"{error}. Tried {attempt} times. Is the server running and base_url right? What was answered so "
                    f"far is in {self.ledger.path}; the same command continues from there."
                )
            if error.kind == "rejected" or attempt == patience.attempts:
                self._fail(job, str(error))
                return
            if error.retry_after is not None:
                self._resume_at = max(self._resume_at, time.monotonic() + error.retry_after)
            jitter = 0.5 + uniform(0, "backoff", job.key, attempt)
            await asyncio.sleep(min(patience.longest, patience.backoff * 2 ** (attempt - 1)) * jitter)

    def _fail(self, job: W, message: str) -> None:
        self._failures += 1
        if not self._any_answer and self._failures >= self.patience.refusals:
            raise AnnotatorError(
                f"the judge has answered none of the first {self._failures} prompts. The last reply was: {message}. "
                "Check the model name, and that the server accepts these settings."
            )
        self.failed(job, message)

    async def _once(self, job: W) -> CallError | None:
        """One attempt, in the ledger before and after."""
        attempt = await self._writer.sent(job.call)
        started = time.monotonic()
        try:
            reply = await asyncio.wait_for(self.endpoint.complete(job.request), self.patience.timeout)
        except TimeoutError:
            error = CallError("retry", f"{self.endpoint.name} did not answer within {self.patience.timeout:g} s")
        except CallError as e:
            error = e
        else:
            answer = Answer(reply, round(time.monotonic() - started, 4))
            await self._writer.ended(End(attempt, job.key, answer))
            self._any_answer = True
            self.answered(job, answer)
            return None
        await self._writer.ended(End(attempt, job.key, None, error.kind, str(error)))
        return error


class _Writer:
    """Collects ledger rows from all workers and commits them in groups, off the event loop's thread."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._queue: asyncio.Queue[tuple[Call | End | None, asyncio.Future[int]]] = asyncio.Queue()

    async def sent(self, call: Call) -> int:
        return await self._put(call)

    async def ended(self, end: End) -> None:
        await self._put(end)

    async def stop(self) -> None:
        await self._put(None)

    async def _put(self, row: Call | End | None) -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((row, done))
        return await done

    async def run(self) -> None:
        stopping = False
        while not stopping:
            group = [await self._queue.get()]
            while len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            stopping = any(row is None for row, _ in group)
            calls = [(row, done) for row, done in group if isinstance(row, Call)]
            ends = [row for row, _ in group if isinstance(row, End)]
            results: dict[asyncio.Future[int], int] = {}
            try:
                results = await asyncio.to_thread(self._commit, calls, ends)
            except Exception as e:  # disk full, for one: every waiting worker must hear of it
                for _, done in group:
                    if not done.done():
                        done.set_exception(e)
                continue
            for _, done in group:
                if not done.done():
                    done.set_result(results.get(done, 0))

    def _commit(self, calls: list[tuple[Call, asyncio.Future[int]]], ends: list[End]) -> dict[asyncio.Future[int], int]:
        if ends:
            self.ledger.ended(ends)
        ids = self.ledger.sent([c for c, _ in calls]) if calls else []
        return {done: id for (_, done), id in zip(calls, ids, strict=True)}
