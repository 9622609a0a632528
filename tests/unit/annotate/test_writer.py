"""The writer's promises to workers that are cancelled: what was not sent says so in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.annotate.ledger import Call, Ledger
from farm.annotate.writer import Writer

CALL = Call("key", "a01", "here", "m")


async def cancelled(ledger: Ledger, when: Callable[[Writer, asyncio.Task[int | None]], None]) -> None:
    """Hand in one call, cancel its worker as ``when`` arranges, and let the writer finish."""
    writer = Writer(ledger)
    worker = asyncio.create_task(writer.sent(CALL))
    when(writer, worker)
    writing = asyncio.create_task(writer.run())
    with pytest.raises(asyncio.CancelledError):
        await worker
    await writer.stop()
    await writing


def before_the_commit(writer: Writer, worker: asyncio.Task[int | None]) -> None:
    asyncio.get_running_loop().call_soon(worker.cancel)


def between_the_commit_and_hearing_of_it(writer: Writer, worker: asyncio.Task[int | None]) -> None:
    put = writer._put

    def watched(row: object) -> asyncio.Future[int | None]:
        done = put(row)  # type: ignore[arg-type]
        if row is CALL:  # called before the worker's own callback: the attempt is set, the worker has not run on
            done.add_done_callback(lambda _: worker.cancel())
        return done

    writer._put = watched  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("when", [before_the_commit, between_the_commit_and_hearing_of_it])
def test_a_call_whose_worker_is_cancelled_before_it_is_sent_is_not_taken_for_one_that_was(
    tmp_path: Path, when: Callable[[Writer, asyncio.Task[int | None]], None]
) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        asyncio.run(cancelled(ledger, when))
        assert "unknown" not in ledger.counts()
    with Ledger(tmp_path / "l.sqlite") as again:
        assert set(again.counts()) <= {"unsent"}
