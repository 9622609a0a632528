"""Worker processes: order kept, errors passed on, no orphan survives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from farm import workers
from farm.errors import DataError, RunError


def double(x: int) -> int:
    return 2 * x


def refuse(x: int) -> int:
    raise DataError(f"row {x} is bad")


def die(x: int) -> int:
    os._exit(9)


def test_results_come_in_order():
    with workers.pool(2) as each:
        assert each([(double, i) for i in range(7)]) == [0, 2, 4, 6, 8, 10, 12]


def test_errors_keep_their_class_and_words():
    with workers.pool(1) as each, pytest.raises(DataError, match="row 3 is bad"):
        each([(refuse, 3)])


def test_a_dead_worker_is_explained():
    with workers.pool(1) as each, pytest.raises(RunError, match="worker process died"):
        each([(die, 0)])


def test_workers_die_with_their_parent():
    code = (
        "import time, os\nfrom farm import workers\n"
        "if __name__ == '__main__':\n"
        "    with workers.pool(1) as each:\n"
        "        print(each([(os.getpid,)])[0], flush=True)\n        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{worker}/stat") as f:
            if f.read().split(") ")[1][0] == "Z":
                return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent by five seconds")
