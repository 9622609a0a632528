"""The labelling page on this machine: one private link per annotator, one for whoever runs the study.

Everything lies under ``/<token>/``. Every request is checked for Host (loopback names only: a page that rebinds a name
gets nothing), Origin and token before anything else happens; what changes something must be JSON from the same origin.
The pages allow no inline script or style and no other host. Annotators' replies hold texts, opaque task ids and their
own progress: no policy, no response id, no side, no hint at which pairs are checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import statistics
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from farm.errors import DataError
from farm.label.plan import Task
from farm.label.store import Choice, Sheet, Stale, Store, token

ADMIN = "(admin)"  # no annotator's name: names have no brackets
LONGEST_BODY = 16_384
LONGEST_REASON = 500
STRENGTHS = {1: "slightly", 2: "clearly", 3: "much"}
REASONS = ("both are unusable", "cannot tell without knowing more", "the instruction is unclear", "offensive content")
_HOSTS = ("127.0.0.1", "localhost", "::1")
_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "farm",
}
_NAME = web.RequestKey("name", str)
Figures = Callable[[Store], Mapping[str, Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class _Bad(Exception):
    """A request we refuse."""

    status: int
    message: str


def links(store: Store) -> dict[str, str]:
    """Name -> token of every annotator and of the admin."""
    secret = store.secret()
    return {name: token(secret, name) for name in (*store.annotators(), ADMIN)}


def application(store: Store, figures: Figures) -> web.Application:
    """The site as an aiohttp application. ``figures`` makes what the admin page shows."""
    app = web.Application(client_max_size=LONGEST_BODY, middlewares=[_guard(links(store))])
    site = _Site(store, figures, _templates())
    app.router.add_get("/{token}/", site.page)
    app.router.add_get("/{token}/task", site.task)
    app.router.add_post("/{token}/act", site.act)
    app.router.add_get("/{token}/count", site.count)
    app.router.add_get("/{token}/{file:[a-z]+\\.(?:js|css)}", site.file)
    app.on_response_prepare.append(_dress)
    return app


async def _dress(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["seen"] = visible
    return made


def visible(text: str, longest: int = 4000) -> str:
    """Text for the admin page: control and direction characters by name, as in label.js, cut at ``longest``."""
    text = text.replace("\r\n", "\n")
    shown = "".join(c if c in "\n\t\u200c\u200d" or not _hidden(c) else f"U+{ord(c):04X}" for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}\u2026"


def _hidden(c: str) -> bool:
    return unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"


def _guard(tokens: Mapping[str, str]) -> Any:
    """Checks Host, Origin and token of every request; puts the holder's name into it."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check_host(request)
            _check_origin(request)
            given = request.path.lstrip("/").split("/")[0].encode(errors="surrogateescape")
            holders = [name for name, one in tokens.items() if hmac.compare_digest(given, one.encode())]
            if not holders:
                raise _Bad(403, "this link is not valid: ask whoever runs the study for yours")
            request[_NAME] = holders[0]
            return await handler(request)
        except _Bad as e:
            return web.json_response({"error": e.message}, status=e.status)
        except web.HTTPException as e:
            return web.json_response({"error": e.reason}, status=e.status)

    return guard


def _check_host(request: web.Request) -> None:
    name, _, port = request.host.rpartition(":")
    if (name if port.isdigit() else request.host).strip("[]") not in _HOSTS:
        raise _Bad(403, "this server answers to 127.0.0.1 and localhost only")


def _check_origin(request: web.Request) -> None:
    """What changes something must say that it comes from our own page; nothing may say that it comes from another."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is not None and origin != f"http://{request.host}":
        raise _Bad(403, "a request from another site")
    if request.method not in ("GET", "HEAD"):
        if origin is None or site not in (None, "same-origin"):
            raise _Bad(403, "a request from another site")
    elif site not in (None, "none", "same-origin") and request.headers.get("Sec-Fetch-Mode") != "navigate":
        raise _Bad(403, "a request from another site")


@dataclass(frozen=True)
class _Site:
    """The handlers. The database calls take about a millisecond, so they run where they are."""

    store: Store
    figures: Figures
    templates: Environment

    async def page(self, request: web.Request) -> web.Response:
        if request[_NAME] == ADMIN:
            found = await asyncio.to_thread(self._figures)
            text = self.templates.get_template("admin.html.j2").render(found)
        else:
            text = self.templates.get_template("label.html.j2").render(strengths=STRENGTHS, reasons=REASONS)
        return web.Response(text=text, content_type="text/html")

    def _figures(self) -> Mapping[str, Any]:
        """In a thread and on a connection of its own, so that nobody's label waits for it."""
        store = Store(self.store.path)
        try:
            return self.figures(store)
        finally:
            store.close()

    async def file(self, request: web.Request) -> web.Response:
        path = _HERE / "static" / request.match_info["file"]
        if not path.is_file():
            raise _Bad(404, "not found")
        kind = {".js": "text/javascript", ".css": "text/css"}[path.suffix]
        return web.Response(text=path.read_text(encoding="utf-8"), content_type=kind)

    async def count(self, request: web.Request) -> web.Response:
        """For the admin page: has anything changed?"""
        if request[_NAME] != ADMIN:
            raise _Bad(403, "for the admin page only")
        return web.json_response({"acts": self.store.count()})

    async def task(self, request: web.Request) -> web.Response:
        return web.json_response(self._sheet(_annotator(request)))

    async def act(self, request: web.Request) -> web.Response:
        name = _annotator(request)
        if request.content_type != "application/json":
            raise _Bad(415, "the body must be application/json")
        asked = _Act.read(await _body(request))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self.store.act(
                name,
                asked.task,
                asked.turn,
                asked.choice,
                strength=asked.strength,
                reason=asked.reason,
                seconds=asked.seconds,
                time=now,
            )
        except Stale as e:
            return web.json_response({"error": str(e), **self._sheet(name)}, status=409)
        return web.json_response(self._sheet(name))

    def _sheet(self, name: str) -> dict[str, Any]:
        sheet = self.store.sheet(name)
        middle = statistics.median(sheet.seconds) if sheet.seconds else None
        return {
            "done": sheet.done,
            "total": sheet.total,
            "median_seconds": None if middle is None else round(middle, 1),
            "seconds_left": None if middle is None else round(middle * (sheet.total - sheet.done)),
            "now": self._shown(sheet, sheet.now),
            "next": self._shown(sheet, sheet.next),
            "undo": None if sheet.previous is None else _reference(sheet, sheet.previous),
        }

    def _shown(self, sheet: Sheet, task: Task | None) -> dict[str, Any] | None:
        if task is None:
            return None
        asked, left, right = self.store.texts(task)
        texts = {"instruction": asked.text, "input": asked.input, "left": left.text, "right": right.text}
        return _reference(sheet, task) | texts


def _reference(sheet: Sheet, task: Task) -> dict[str, Any]:
    return {"task": task.id, "turn": sheet.turns[task.id]}


def _annotator(request: web.Request) -> str:
    name = request[_NAME]
    if name == ADMIN:
        raise _Bad(403, "the admin link does not label")
    return name


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise _Bad(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _Bad(400, "the body must be a JSON object")
    return body


@dataclass(frozen=True)
class _Act:
    """A validated act."""

    task: str
    turn: int
    choice: Choice
    strength: int | None
    reason: str
    seconds: float

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> _Act:
        fields = {"task", "turn", "choice", "strength", "reason", "seconds"}
        if unknown := set(body) - fields:
            raise _Bad(400, f"unknown field {min(unknown)[:40]!r}")
        task, turn, choice = body.get("task"), body.get("turn"), body.get("choice")
        strength, reason, seconds = body.get("strength"), body.get("reason", ""), body.get("seconds", 0)
        if not isinstance(task, str) or type(turn) is not int or not 0 <= turn < 2**31:
            raise _Bad(400, "'task' must be a text and 'turn' a whole number")
        choices: dict[object, Choice] = {
            "left": "first", "right": "second", "tie": "tie", "skip": "skip", "undo": "undo"
        }  # fmt: skip
        if not isinstance(choice, str) or choice not in choices:
            raise _Bad(400, f"'choice' must be one of {', '.join(map(str, choices))}")
        if strength is not None and (type(strength) is not int or strength not in STRENGTHS):
            raise _Bad(400, f"'strength' must be one of {', '.join(map(str, STRENGTHS))} or null")
        if strength is not None and choice not in ("left", "right"):
            raise _Bad(400, "only a choice of a side has a 'strength'")
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON or (reason and choice != "skip"):
            raise _Bad(400, f"'reason' must be a text of at most {LONGEST_REASON} characters, and belongs to a skip")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86_400:
            raise _Bad(400, "'seconds' must be a number from 0 to 86400")
        return cls(task, turn, choices[choice], strength, reason.strip(), float(seconds))


def run(store: Store, figures: Figures, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve until interrupted; prints the private links. Port 0 takes the one of the last time, or a free one, so that
    links stay good. Raises DataError for a host that is not loopback or an address that is taken."""
    if host not in _HOSTS:
        raise DataError(
            f"the labelling page is for this machine only: host must be one of {', '.join(_HOSTS)}, got {host!r}"
        )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(store, figures, host, port or int(store.meta("port") or 0)))


async def _serve(store: Store, figures: Figures, host: str, port: int) -> None:
    runner = web.AppRunner(application(store, figures), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as e:
            raise DataError(f"cannot listen on {host}:{port} ({e.strerror}); choose another --port") from None
        actual = runner.addresses[0][1]
        store.set_meta("port", str(actual))
        print(announcement(store, host, actual), flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def announcement(store: Store, host: str, port: int) -> str:
    """The private links, one per line."""
    base = urlsplit(f"http://{f'[{host}]' if ':' in host else host}:{port}").geturl()
    rows = [f"  {'admin' if name == ADMIN else name:<12} {base}/{one}/" for name, one in links(store).items()]
    return "\n".join(["private links (who has one can label in that name):", *rows, f"labels go to {store.path}"])
