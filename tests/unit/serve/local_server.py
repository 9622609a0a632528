"""The judge server inside the test's own event loop, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp.test_utils import TestClient

from farm.world.receipts import Receipts

Serve = Callable[..., Any]
TOKEN = "a-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Clock:
    """Seconds since an arbitrary moment; also serves as time of day."""

    at: float = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Local:
    """A server in this loop: its client, receipts and clock."""

    client: TestClient[Any, Any]
    receipts: Receipts
    clock: Clock = field(default_factory=Clock)

    async def post(self, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        async with self.client.post(path, json=body) as response:
            return response.status, await response.json(content_type=None), dict(response.headers)

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as response:
            return response.status, await response.json()

    async def text(self, path: str) -> str:
        async with self.client.get(path) as response:
            assert response.status == 200
            return await response.text()


def question(number: int = 0, **settings: Any) -> dict[str, Any]:
    """A chat request that the judge answers with A or B."""
    slots = (("instruction", f"Name colour {number}."), ("first", "Blue."), ("second", "I I I I."))
    fenced = "\n".join(f"<<{slot} 1 0a1b2c3d>>\n{text}\n<<end 0a1b2c3d>>" for slot, text in slots)
    content = f"{fenced}\nReply format: A or B"
    return {"model": "scripted/a06", "messages": [{"role": "user", "content": content}], "temperature": 0} | settings
