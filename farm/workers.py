"""Worker processes for independent steps: started once, one torch thread each, gone when the parent is gone."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as wait_for
from typing import Any

from farm.errors import RunError

Call = tuple[Any, ...]  # a function of some module, then its arguments
Each = Callable[[Sequence[Call]], list[Any]]


def _follow_parent() -> None:
    """End this worker the moment its parent dies (also by kill -9), so that no orphan writes into the run folder."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    wait_for([parent.sentinel])
    os._exit(1)


def _prepare(threads: int) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    # Set before torch is first imported: matrices here are small, and results must not depend on the machine's cores.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _warm_up() -> None:
    """Import what training steps need, while the parent still prepares data."""
    with suppress(ImportError):
        import transformers.models.llama.modeling_llama  # noqa: F401


@contextmanager
def pool(jobs: int, threads: int = 1) -> Iterator[Each]:
    """Yield ``each(calls)``: results in the order of the calls, ``jobs`` of them at a time, begun in that order.

    The first error ends the level: calls not yet begun are dropped, running ones may finish their step.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(threads,))

    for _ in range(jobs):
        executor.submit(_warm_up)

    def each(calls: Sequence[Call]) -> list[Any]:
        futures = [executor.submit(function, *arguments) for function, *arguments in calls]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [f for f in futures if f in done and f.exception() is not None]
        if failed:
            for f in waiting:
                f.cancel()
            wait([f for f in waiting if not f.cancelled()])
            error = failed[0].exception()
            if isinstance(error, BrokenProcessPool):
                raise RunError(
                    "a worker process died (out of memory, or killed); finished steps are kept: run the same command "
                    "again, with a smaller compute.jobs if memory was short"
                ) from error
            assert error is not None
            raise error
        return [f.result() for f in futures]

    try:
        yield each
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
