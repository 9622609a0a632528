"""The live view as a page on this machine: loopback only, Host and token checked, reading and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from farm.errors import DataError
from farm.report import live, live_view

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "farm",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(folder: Path, token: str, every: int) -> web.Application:
    """``/<token>/`` shows the run in ``folder`` and loads itself again every ``every`` seconds while it goes on."""

    async def look(request: web.Request) -> web.Response:
        seen = await asyncio.to_thread(live.read, folder)
        going = seen.state in ("running", "silent")
        text = live_view.page(seen, every if going else None)
        return web.Response(text=text, content_type="text/html")

    app = web.Application(client_max_size=1024, middlewares=[_guard(token)])
    app.router.add_get("/{token}/", look)
    app.on_response_prepare.append(_dress)
    return app


async def _dress(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _guard(token: str) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        name, _, port = request.host.rpartition(":")
        if (name if port.isdigit() else request.host).strip("[]") not in _NAMES:
            return web.Response(text="this server answers to 127.0.0.1 and localhost only", status=403)
        given = request.path.lstrip("/").split("/")[0].encode(errors="surrogateescape")
        if not hmac.compare_digest(given, token.encode()):
            return web.Response(text="this link is not valid: use the one printed at start", status=403)
        try:
            return await handler(request)
        except web.HTTPException as e:
            return web.Response(text=e.reason, status=e.status)

    return guard


def run(folder: Path, port: int = 0, every: int = 2) -> None:
    """Serve until interrupted; prints the link. Raises RunError when ``folder`` is no run,
    DataError for a port that is taken."""
    live.read(folder)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(folder, port, every))


async def _serve(folder: Path, port: int, every: int) -> None:
    token = secrets.token_urlsafe(16)
    runner = web.AppRunner(application(folder, token, every), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as e:
            raise DataError(f"cannot listen on {HOST}:{port} ({e.strerror}); choose another port for --serve") from None
        print(f"http://{HOST}:{runner.addresses[0][1]}/{token}/", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
