"""The judge server as an aiohttp application: OpenAI's paths in front of the scripted judge.

``POST /v1/chat/completions``, ``POST /v1/completions`` (log-probabilities in either format), ``GET /v1/models``, files
and batches, and ``GET /v1/farm/ledger`` with the server's own totals. Only requests that name this machine in the Host
header (a web page that rebinds a name gets nothing) and carry the bearer token are answered.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from farm.world import faults
from farm.world.batches import Batches
from farm.world.faults import OF_ANSWER, REFUSING, Conditions
from farm.world.judge import MODELS, Completion, ScriptedJudge
from farm.world.limits import Limits
from farm.world.receipts import Receipt, Receipts
from farm.world.wire import CHAT, TEXT, Asked, Refused, answer_body, parse

HOSTS = ("127.0.0.1", "localhost", "::1")
_MAX_BODY = 1_000_000
_HANG = 3600.0
_REQUEST_ID = "x-request-id"


@dataclass(frozen=True)
class Served:
    """A judged call: the bytes of its answer, the fault it met on the way, how long it is held back."""

    data: bytes
    fault: str | None
    seconds: float


class Desk:
    """Takes calls one after the other: limits, faults, the judge, the receipt. ``clock`` is monotonic, ``now`` the time
    of day, both in seconds."""

    def __init__(
        self,
        judge: ScriptedJudge,
        conditions: Conditions,
        receipts: Receipts,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.judge, self.conditions, self.receipts, self.now = judge, conditions, receipts, now
        c = conditions
        self.limits = Limits(c.rpm, c.tpm, c.burst, c.retry_after, clock, now)

    def call(self, data: bytes, path: str, request: str, client: str | None = None) -> Served:
        """One call outside batches, logged; raises Refused. No answer shall go to a call of fault hang or drop."""
        at, model, content, fault, until = self.now(), "", "", None, None

        def log(status: int, *billed: Any) -> None:
            bill = dict(zip(("prompt_tokens", "completion_tokens", "usd"), billed, strict=False))
            fate = {"fault": fault, "until": until, "client_request": client, **bill}
            self.receipts.write(Receipt(request, at, path, model, status, status == 200, content, **fate), self.now())

        try:
            asked = Asked.read(parse(data), path == CHAT, self.conditions.models)
            model, content = asked.model, asked.content
            if (limited := self.limits.admit()) is not None:
                refused, until = limited
                raise refused
            fault, times = self._fault(asked)
            if fault in ("hang", "drop"):
                log(0)
                return Served(b"", fault, _HANG if fault == "hang" else 0.0)
            if fault in REFUSING:
                refused, until = faults.refusal(fault, self.conditions, self.now())
                raise refused
        except Refused as e:
            log(e.status)
            raise
        done = self.answer(asked)
        tokens = (done.prompt_tokens, done.completion_tokens)
        self.limits.pay(sum(tokens))
        log(200, *tokens, self.conditions.usd(model, *tokens))
        return Served(self._bytes(asked, done, fault), fault, self.conditions.seconds(content, times))

    def line(self, body: dict[str, Any], path: str, request: str, batch: str) -> dict[str, Any]:
        """One line of a batch, logged at half price; returns the response's body. Raises Refused."""
        at, model, content, fault = self.now(), "", "", None
        try:
            asked = Asked.read(body, path == CHAT, self.conditions.models)
            model, content = asked.model, asked.content
            fault, _ = self._fault(asked)
            if fault in REFUSING and fault not in ("hang", "drop", "redirect"):
                raise faults.refusal(fault, self.conditions, at)[0]
        except Refused as e:
            refused = Receipt(request, at, path, model, e.status, False, content, fault, batch=batch)
            self.receipts.write(refused, self.now())
            raise
        if fault not in OF_ANSWER:
            fault = None  # the others are about a connection, and a line has none
        done = self.answer(asked)
        tokens = (done.prompt_tokens, done.completion_tokens)
        usd = self.conditions.usd(model, *tokens) / 2
        self.receipts.write(
            Receipt(request, at, path, model, 200, True, content, fault, *tokens, usd, batch=batch), self.now()
        )
        answered: dict[str, Any] = json.loads(self._bytes(asked, done, fault))
        return answered

    def _fault(self, asked: Asked) -> tuple[str | None, int]:
        """The fault that strikes, and how many times the same was asked before."""
        if self.conditions.quota is not None and self.receipts.usd >= self.conditions.quota:
            return "quota", 0
        times = self.receipts.seen[asked.content]
        self.receipts.seen[asked.content] += 1
        return self.conditions.fault(asked.content, times), times

    def answer(self, asked: Asked) -> Completion:
        if self.conditions.canned:
            text = self.conditions.canned[int(asked.content, 16) % len(self.conditions.canned)]
            size = len(asked.prompt) + sum(len(m["content"]) for m in asked.messages)
            return Completion(text, "stop", max(1, size // 4), max(1, len(text) // 4))
        settings: dict[str, Any] = {
            "temperature": asked.temperature,
            "max_tokens": asked.max_tokens,
            "seed": asked.seed,
            "logprobs": asked.logprobs,
        }
        if asked.chat:
            return self.judge.chat(asked.model, asked.messages, **settings)
        return self.judge.complete(asked.model, asked.prompt, **settings)

    def _bytes(self, asked: Asked, done: Completion, fault: str | None) -> bytes:
        return faults.spoil(fault, answer_body(asked, done), asked.content)


def application(desk: Desk, token: str, folder: Path) -> web.Application:
    """The server. ``folder`` holds uploaded files; it is the caller's to remove."""
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_guard(token)])
    receipts, named = desk.receipts, desk.conditions.models

    async def answer(request: web.Request) -> web.StreamResponse:
        id = receipts.next_request()
        receipts.in_flight += 1
        try:
            client = request.headers.get("X-Client-Request-Id", "")[:200]
            served = desk.call(await request.read(), request.path, id, client or None)
            if served.seconds:
                await asyncio.sleep(served.seconds)
            headers = desk.limits.headers() | {_REQUEST_ID: id}
            if served.fault in ("drop", "hang", "lost"):
                return cut(request)
            if served.fault == "truncated":
                return await _truncated(request, served.data)
            return web.Response(body=served.data, content_type="application/json", headers=headers)
        finally:
            receipts.in_flight -= 1

    async def models(_: web.Request) -> web.Response:
        rows = [{"id": m, "object": "model", "created": 0, "owned_by": "farm"} for m in (*MODELS, *named)]
        return web.json_response({"object": "list", "data": rows})

    async def ledger(_: web.Request) -> web.Response:
        return web.json_response(receipts.totals())

    async def elsewhere(request: web.Request) -> web.Response:
        """Where the redirect fault points: whoever comes here has followed it, and the log shows it."""
        id = receipts.next_request()
        receipts.write(Receipt(id, desk.now(), request.path, "", 404, False, "", "followed"), desk.now())
        raise Refused(404, "this is where a redirect pointed; it should not have been followed")

    app.router.add_post(CHAT, answer)
    app.router.add_post(TEXT, answer)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/farm/ledger", ledger)
    app.router.add_route("*", "/elsewhere{path:.*}", elsewhere)
    batches = Batches(desk.conditions, receipts, desk.line, folder, desk.now)
    batches.add(app.router)

    async def life(_: web.Application) -> AsyncIterator[None]:
        yield
        await batches.stop()

    app.cleanup_ctx.append(life)
    return app


def cut(request: web.Request) -> web.Response:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _truncated(request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _guard(token: str) -> Any:
    """Checks Host and token before anything is read, and puts every error into OpenAI's shape."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
            if host.strip("[]") not in HOSTS:
                raise Refused(403, "this server answers to 127.0.0.1 and localhost only", "forbidden_host")
            given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not hmac.compare_digest(given, expected):
                raise Refused(401, "wrong or missing bearer token: use the one printed at start", "invalid_api_key")
            response: web.StreamResponse = await handler(request)
        except Refused as e:
            if e.status == 502:
                page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
                return web.Response(status=502, text=page, content_type="text/html")
            return web.json_response(e.body(), status=e.status, headers=e.headers)
        except web.HTTPException as e:
            error = Refused(e.status, e.reason or "error")
            return web.json_response(error.body(), status=e.status)
        except ConnectionError:  # the caller has gone
            raise
        except Exception as e:  # whatever it is, the caller gets JSON and the operator one line
            print(f"farm serve: {request.method} {request.path}: {type(e).__name__}: {e}", file=sys.stderr)
            return web.json_response(Refused(500, f"internal error ({type(e).__name__})").body(), status=500)
        return response

    return guard
