"""Judging through the Batch API: half the price, an answer within a day, and nothing paid twice when we are killed.

Calls are collected into files, one model each, within the API's limits. Every batch goes through the states of
``farm.annotate.batch_book``; a new process first goes on with the batches that an earlier one left, and a call that is
in one of them waits for it instead of being sent again. Lines that expired or failed are failed attempts: they go into
another batch, as often as ``Patience.attempts`` allows.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

from farm.annotate.batch_book import Batch, BatchBook
from farm.annotate.batch_files import (
    MAX_BYTES,
    MAX_LINES,
    Draft,
    Result,
    errors_of,
    id_of,
    json_object,
    line_of,
    read_results,
    tag_of,
)
from farm.annotate.calls import Patience, W
from farm.annotate.ledger import Answer, End, Ledger
from farm.errors import AnnotatorError, BudgetError, RunError
from farm.lm.endpoints import CallError, OpenAIEndpoint
from farm.progress import say

_WINDOW = 256  # jobs looked up in the ledger at a time
_TELL = 30.0  # seconds between two lines about a batch that waits


class BatchSender(Generic[W]):
    """Runs jobs from an async iterator through batches; ``answered`` and ``failed`` are called in the event loop.

    Raises AnnotatorError when the endpoint is unusable as a whole, or does not answer about its batches any more.
    Whatever happens, the batches are in the ledger, and the next ``run`` with the same ledger goes on with them.
    """

    def __init__(
        self,
        endpoint: OpenAIEndpoint,
        ledger: Ledger,
        patience: Patience,
        answered: Callable[[W, Answer], None],
        failed: Callable[[W, str], None],
        *,
        lines: int = MAX_LINES,
        size: int = MAX_BYTES,
    ) -> None:
        self.endpoint, self.ledger, self.patience = endpoint, ledger, patience
        self.answered, self.failed = answered, failed
        self.lines, self.size = lines, size
        self.book = BatchBook(ledger, endpoint.name)
        self._waiting: dict[str, W | None] = {}  # calls in open batches; without a job where an earlier process left it
        self._tries: dict[str, int] = {}
        self._again: list[W] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._any_answer = False
        self._failures = 0
        self._began = time.monotonic()

    async def run(self, jobs: AsyncIterator[W], concurrency: int) -> None:
        """Send everything, at most ``concurrency`` batches at a time; returns when all jobs are settled."""
        self._slots = asyncio.Semaphore(concurrency)
        with _alone(self.ledger.path):
            try:
                for batch in self.book.unfinished():
                    self._waiting.update(dict.fromkeys(batch.calls))
                    await self._start(batch, None)
                while True:
                    async for draft in self._drafts(jobs):
                        await self._submit(draft)
                    await self._wait()
                    if not self._again:
                        return
                    jobs, self._again = _stream(self._again), []
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self.endpoint.close()

    async def _start(self, batch: Batch, draft: Draft[W] | None) -> None:
        await self._slots.acquire()
        for task in [t for t in self._tasks if t.done()]:
            self._tasks.remove(task)
            task.result()
        task = asyncio.create_task(self._carry(batch, draft))
        task.add_done_callback(lambda _: self._slots.release())
        self._tasks.append(task)

    # -- files --------------------------------------------------------------------------------------------------

    async def _drafts(self, jobs: AsyncIterator[W]) -> AsyncIterator[Draft[W]]:
        """Files of jobs that nobody has answered and no open batch holds; one model and path each."""
        drafts: dict[tuple[str, str], Draft[W]] = {}
        async for window in _windows(jobs):
            new = []
            for job in window:
                if job.key in self._waiting:
                    self._waiting[job.key] = job
                else:
                    new.append(job)
            known = self.ledger.answers([j.key for j in new])
            for job in new:
                if (answer := known.get(job.key)) is not None:  # an earlier process's batch has brought it meanwhile
                    self.answered(job, answer)
                    continue
                path, body = self.endpoint.body(job.request)
                line = line_of(job.key, path, body)
                draft = drafts.get((path, job.request.model))
                if draft is not None and (len(draft.jobs) >= self.lines or draft.size + len(line) > self.size):
                    yield drafts.pop((path, job.request.model))
                    draft = None
                if draft is None:
                    draft = drafts[path, job.request.model] = Draft(path)
                self._waiting[job.key] = job
                draft.add(job, line)
        for draft in drafts.values():
            yield draft

    async def _submit(self, draft: Draft[W]) -> None:
        """Start a batch of what the budget holds, and another of the rest once open batches have cost less than was
        reserved for them. Raises BudgetError when there are none."""
        while draft.jobs:
            batch = self.book.prepare(f"farm-{secrets.token_hex(8)}", draft.path, [j.call for j in draft.jobs])
            fits, draft = draft.split(batch.calls)
            if batch.calls:
                await self._start(batch, fits)
            elif not self._tasks:
                raise BudgetError("")  # the engine says what is left
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Until all open batches have ended."""
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    # -- the life of a batch ------------------------------------------------------------------------------------

    async def _carry(self, batch: Batch, draft: Draft[W] | None) -> None:
        """Take a batch from any state to its end."""
        failures = 0
        while batch.state not in ("collected", "dropped"):
            try:
                await self._step(batch, draft)
                failures = 0
            except CallError as e:
                failures += 1
                batch.doubt = True
                if e.kind in ("fatal", "rejected", "filtered") or failures >= self.patience.attempts:
                    raise AnnotatorError(
                        f"batch {batch.remote or batch.tag}, {batch.state}: {e}. It is in {self.ledger.path}; the same "
                        "command goes on with it. If the server has lost it for good, start over in another run folder."
                    ) from None
                await asyncio.sleep(self._pause(failures, e.retry_after))

    def _pause(self, times: int, asked: float | None = None) -> float:
        pause: float = min(self.patience.longest, self.patience.backoff * 2 ** min(times - 1, 30))
        return max(pause, asked or 0.0)

    async def _step(self, batch: Batch, draft: Draft[W] | None) -> None:
        """The act that follows the batch's state, or finding out that it has happened."""
        if batch.state == "prepared":
            if batch.doubt:
                name = f"{batch.tag}.jsonl"
                batch.input_file = await self._find("/files?purpose=batch", lambda f: f.get("filename") == name)
            if batch.input_file is None and draft is None:
                self._drop(batch)
                return
            if batch.input_file is None and draft is not None:
                batch.input_file = await self._upload(batch, draft)
            self.book.move(batch, "uploaded")
        elif batch.state == "uploaded":
            self.book.move(batch, "creating")
            batch.remote = await self._create(batch)
            self.book.move(batch, "created")
        elif batch.state == "creating":
            await self._reconcile(batch)
        else:
            await self._collect(batch, await self._finished(batch))

    async def _upload(self, batch: Batch, draft: Draft[W]) -> str:
        self._tell(batch, f"uploading {len(batch.calls)} calls of {batch.model}")
        with draft.open() as content:
            files = {"file": (f"{batch.tag}.jsonl", content, "application/jsonl")}
            data = await self.endpoint.send("POST", "/files", fields={"purpose": "batch"}, files=files)
        return id_of(json_object(data, "/files"))

    async def _create(self, batch: Batch) -> str:
        order = {
            "input_file_id": batch.input_file,
            "endpoint": f"/v1{batch.path}",
            "completion_window": "24h",
            "metadata": {"farm": batch.tag},
        }
        return id_of(await self._json("POST", "/batches", json.dumps(order).encode()))

    async def _reconcile(self, batch: Batch) -> None:
        """The batch may have been created: look for it, and create it once it cannot turn up any more."""
        waited = time.time() - batch.changed_at
        batch.remote = await self._find("/batches?limit=100", lambda b: tag_of(b) == batch.tag)
        if batch.remote is not None:
            self.book.move(batch, "created")
        elif 0 <= waited < self.patience.timeout:
            await asyncio.sleep(min(self.patience.timeout - waited, self._pause(1)))
        else:
            self.book.move(batch, "uploaded")

    def _drop(self, batch: Batch) -> None:
        """Its file never arrived. Its calls are free to be sent in another batch."""
        ends = [End(a, k, None, "unsent", "killed before its batch was created") for k, a in batch.attempts.items()]
        self.book.close(batch, "dropped", ends)
        self._settle(batch, {key: CallError("retry", "its batch was never created") for key in batch.attempts})

    async def _finished(self, batch: Batch) -> dict[str, Any]:
        """The batch's description once it has ended, asking less and less often."""
        asked, told, seen = 0, 0.0, ""
        while True:
            shown = await self._json("GET", f"/batches/{batch.remote}")
            status, counts = str(shown.get("status")), shown.get("request_counts") or {}
            if status != seen or time.monotonic() - told > _TELL:
                done = f"{counts.get('completed', 0)} of {counts.get('total') or len(batch.calls)} answered"
                self._tell(batch, f"{status}, {done}")
                told, seen = time.monotonic(), status
            if status in ("completed", "failed", "expired", "cancelled"):
                return shown
            asked += 1
            await asyncio.sleep(self._pause(asked))

    async def _collect(self, batch: Batch, shown: Mapping[str, Any]) -> None:
        """Read both files, commit all ends at once, then tell the engine."""
        results: dict[str, Result] = {}
        for name in ("output_file_id", "error_file_id"):
            if shown.get(name):
                data = await self.endpoint.send("GET", f"/files/{shown[name]}/content")
                results |= await asyncio.to_thread(read_results, self.endpoint, batch, data)
        missing = CallError("retry", f"no line in a batch that is {shown.get('status')} {errors_of(shown)}".rstrip())
        results = {key: results.get(key, missing) for key in batch.attempts}
        ends = []
        for key, attempt in batch.attempts.items():
            result = results[key]
            if isinstance(result, Answer):
                ends.append(End(attempt, key, result))
            else:
                ends.append(End(attempt, key, None, result.kind, str(result)))
        await asyncio.to_thread(self.book.close, batch, "collected", ends)
        self._settle(batch, results)
        errors = errors_of(shown)
        if shown.get("status") == "failed" and "token_limit_exceeded" not in errors:
            raise AnnotatorError(f"batch {batch.remote} is refused as a whole: {errors or 'no reason given'}")

    def _settle(self, batch: Batch, results: Mapping[str, Result]) -> None:
        """Hand results to the engine; what is worth it goes into another batch. Raises AnnotatorError when nothing is
        worth it any more."""
        self._any_answer |= any(isinstance(result, Answer) for result in results.values())
        fatal = None
        for key, result in results.items():
            job = self._waiting.pop(key)
            if isinstance(result, Answer):
                if job is not None:
                    self.answered(job, result)
                continue
            fatal = result if result.kind == "fatal" else fatal
            tries = self._tries[key] = self._tries.get(key, 0) + 1
            if job is None:
                continue
            if result.kind in ("rejected", "filtered") or tries >= self.patience.attempts:
                self._failures += 1
                self.failed(job, result.kind)
            else:
                self._again.append(job)
        if fatal is None and not self._any_answer and self._failures >= self.patience.refusals:
            fatal = next(r for r in results.values() if isinstance(r, CallError))
        if fatal is not None:
            raise AnnotatorError(f"batch {batch.remote}: {fatal}")

    # -- the server ---------------------------------------------------------------------------------------------

    async def _json(self, method: str, path: str, content: bytes | None = None) -> dict[str, Any]:
        return json_object(await self.endpoint.send(method, path, content), path)

    async def _find(self, path: str, fits: Callable[[Mapping[str, Any]], bool]) -> str | None:
        """The id of the first row of a paged list that fits."""
        after = ""
        while True:
            page = await self._json("GET", path + after)
            rows = [row for row in page.get("data") or () if isinstance(row, dict)]
            for row in rows:
                if fits(row):
                    return id_of(row)
            if not page.get("has_more") or not rows:
                return None
            after = f"&after={id_of(rows[-1])}"

    def _tell(self, batch: Batch, what: str) -> None:
        if time.monotonic() - self._began > 2:
            say(f"  batch {batch.remote or batch.tag}: {what}")


async def _stream(jobs: Iterable[W]) -> AsyncIterator[W]:
    for job in jobs:
        yield job


async def _windows(jobs: AsyncIterator[W]) -> AsyncIterator[list[W]]:
    window: list[W] = []
    async for job in jobs:
        window.append(job)
        if len(window) == _WINDOW:
            yield window
            window = []
    if window:
        yield window


@contextmanager
def _alone(ledger: Path) -> Iterator[None]:
    """Two processes that go on with the same batch would create it twice. The lock dies with its process."""
    import fcntl

    with ledger.with_name(ledger.name + ".batches").open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another process is working on the batches of {ledger}; wait for it or stop it") from None
        yield
