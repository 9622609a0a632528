"""Group commits: rows of all workers collected and written by one thread, off the event loop.

A committed row survives the end of this process, however it ends; a loss of power may cost the last second's rows.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from farm.annotate.ledger import Call, End, Ledger

GROUP = 256  # rows per commit at most
SYNC = 1.0  # seconds between two syncs of the disk


class Writer:
    """Commits what workers hand in, as one transaction per group."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._queue: asyncio.Queue[tuple[Call | End | None, asyncio.Future[int | None]]] = asyncio.Queue()

    async def sent(self, call: Call) -> int | None:
        """Write a call down before it is sent; its attempt id, or None where the budget does not hold it."""
        written = self._put(call)
        try:
            return await written
        except asyncio.CancelledError:
            # Cancelled between the commit and hearing of it: the writer takes the call for one that was sent.
            told = written.done() and not written.cancelled() and not written.exception()
            if told and (attempt := written.result()) is not None:
                self.note(End(attempt, call.key, None, "unsent", "the run ended before it was sent"))
            raise

    async def ended(self, end: End) -> None:
        await self._put(end)

    def note(self, end: End) -> None:
        """Hand in without waiting; ``stop`` waits for it."""
        self._put(end)

    async def stop(self) -> None:
        """Returns when everything handed in is committed."""
        await self._put(None)

    def _put(self, row: Call | End | None) -> asyncio.Future[int | None]:
        done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((row, done))
        return done

    async def run(self) -> None:
        syncing = asyncio.create_task(self._sync())
        try:
            await self._commits()
        finally:
            syncing.cancel()

    async def _sync(self) -> None:
        """The disk follows once a second: waiting for it at each commit would keep answers from being safe."""
        while True:
            await asyncio.sleep(SYNC)
            await asyncio.to_thread(self.ledger.sync)

    async def _commits(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            stopping = False
            while not stopping:
                group = [await self._queue.get()]
                while len(group) < GROUP and not self._queue.empty():
                    group.append(self._queue.get_nowait())
                stopping = any(row is None for row, _ in group)
                calls = [(row, done) for row, done in group if isinstance(row, Call) and not done.cancelled()]
                ends = [row for row, _ in group if isinstance(row, End)]
                try:
                    ids = await loop.run_in_executor(thread, self.ledger.exchange, ends, [c for c, _ in calls])
                except Exception as e:  # disk full, for one: every waiting worker must hear of it
                    for _, done in group:
                        if not done.done():
                            done.set_exception(e)
                    continue
                # A worker that was cancelled meanwhile will not send; nobody shall take the call for one that was.
                unsent = [
                    End(id, call.key, None, "unsent", "the run ended before it was sent")
                    for (call, done), id in zip(calls, ids, strict=True)
                    if done.cancelled() and id is not None
                ]
                if unsent:
                    await loop.run_in_executor(thread, self.ledger.ended, unsent)
                attempts = {done: id for (_, done), id in zip(calls, ids, strict=True)}
                for _, done in group:
                    if not done.done():
                        done.set_result(attempts.get(done))
