"""The judge server inside the test's own event loop, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from local_server import HEADERS, TOKEN, Clock, Local, Serve

from farm.world.api import Desk, application
from farm.world.faults import Conditions
from farm.world.judge import ScriptedJudge
from farm.world.receipts import Receipts


@pytest.fixture
def serving(tmp_path: Path) -> Serve:
    """``serving(work, **conditions)`` runs ``await work(local)`` against a server of these conditions."""

    def run(work: Callable[[Local], Awaitable[Any]], **conditions: Any) -> Any:
        async def main() -> Any:
            folder = tmp_path / "files"
            folder.mkdir(exist_ok=True)
            clock = Clock()
            settings = Conditions(**conditions)
            with Receipts(settings.log) as receipts:
                desk = Desk(ScriptedJudge(), settings, receipts, clock, clock)
                async with TestClient(TestServer(application(desk, TOKEN, folder)), headers=HEADERS) as client:
                    return await asyncio.wait_for(work(Local(client, receipts, clock)), 60)

        return asyncio.run(main())

    return run
