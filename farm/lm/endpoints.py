"""Where a judge answers: in this process, or behind any OpenAI-compatible server.

An endpoint turns a Request into a Reply and nothing else: no retries, no cache, no parsing. What goes wrong is a
CallError whose ``kind`` says what a caller may do about it. There is no default host, and the API key is read from
the environment by name, sent to that host only, and appears in no repr, error or record.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from farm.errors import AnnotatorError, MissingExtra
from farm.lm import messages
from farm.lm.messages import CallError, Reply, Request, Secret

if TYPE_CHECKING:
    import httpx2

__all__ = ["CallError", "Endpoint", "InProcess", "Judge", "OpenAIEndpoint", "Reply", "Request"]

_CONNECT_SECONDS = 10.0


class Endpoint(Protocol):
    """``name`` identifies the judge in the ledger's keys; ``complete`` raises CallError. ``tag`` names the attempt
    to the server, where there is one that keeps such names."""

    name: str

    async def complete(self, request: Request, tag: str = "") -> Reply: ...

    async def close(self) -> None: ...


class Judge(Protocol):
    """What answers in process: the scripted judge, or a double of it."""

    def chat(
        self,
        model: str,
        messages: list[dict[str, str]],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        logprobs: int = 0,
    ) -> Any: ...

    def complete(
        self, model: str, prompt: str, *, temperature: float, max_tokens: int, seed: int, logprobs: int = 0
    ) -> Any: ...


class InProcess:
    """A judge object in this process; ``answer`` is the same call without an event loop."""

    def __init__(self, judge: Judge, name: str = "in-process") -> None:
        self.judge, self.name = judge, name

    def answer(self, request: Request) -> Reply:
        r = request
        settings: dict[str, Any] = {"temperature": r.temperature, "max_tokens": r.max_tokens, "seed": r.seed}
        if r.logprobs:
            settings["logprobs"] = r.logprobs
        if r.messages is None:
            done = self.judge.complete(r.model, r.prompt or "", **settings)
        else:
            done = self.judge.chat(r.model, [{"role": role, "content": text} for role, text in r.messages], **settings)
        return Reply(
            done.text, done.finish_reason, r.model, done.prompt_tokens, done.completion_tokens, done.top_logprobs
        )

    async def complete(self, request: Request, tag: str = "") -> Reply:
        return self.answer(request)

    async def close(self) -> None:
        return None


class OpenAIEndpoint:
    """Any OpenAI-compatible server, through the ``openai`` package's client with its aiohttp transport.

    Raw requests and answers: building and checking the package's typed objects would cost five times the call.

    ``base_url`` falls back to OPENAI_BASE_URL; there is no default host. The key is read from the environment variable
    named by ``api_key_env``; a loopback server may do without. ``api_key`` is for the token of a server this process
    started itself. ``name`` (default: the URL) enters the ledger's keys: give one when the same judge may come back at
    another address, as a local server on a free port does.

    Raises AnnotatorError when the address or key is missing, or when plain http would leave this machine.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        *,
        name: str | None = None,
        allow_insecure: bool = False,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").rstrip("/")
        if not url:
            raise AnnotatorError(
                "no judge to ask: set the judge's base_url in the recipe or OPENAI_BASE_URL in the environment, for "
                "instance https://api.openai.com/v1 or http://127.0.0.1:8000/v1 (farm has no default host)"
            )
        parts = urlsplit(url)
        extras = parts.username or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or extras:
            raise AnnotatorError(
                f"base_url of scheme {parts.scheme!r} and host {parts.hostname!r} is not usable: give "
                "http(s)://host[:port]/v1 without user name, query or fragment"
            )
        local = is_loopback(url)
        if parts.scheme == "http" and not local and not allow_insecure:
            raise AnnotatorError(
                f"base_url {url} would send the key and all texts unencrypted to another machine: use https, or set "
                "insecure_http: true if the network between is yours"
            )
        key = api_key or os.environ.get(api_key_env, "")
        if not key and not local:
            raise AnnotatorError(f"no API key for {url}: set the environment variable {api_key_env}")
        self.base_url, self.name, self.timeout = url, name or url, timeout
        self._key_name, self.local = api_key_env, local
        self._secret = Secret(key)
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAIEndpoint({self.base_url!r}, api_key_env={self._key_name!r})"

    def body(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Path below base_url and JSON body of a request."""
        return messages.body(request)

    async def complete(self, request: Request, tag: str = "") -> Reply:
        path, body = messages.body(request)
        headers = {"Content-Type": "application/json"}
        if tag:
            headers["X-Client-Request-Id"] = tag
        response = await self._ask("POST", path, headers, content=json.dumps(body).encode())
        return self.read(response.content, request, messages.rates(response.headers))

    def read(self, data: bytes, request: Request, limits: tuple[float | None, float | None] = (None, None)) -> Reply:
        """A judge's answer, without our key should it hold it. Raises CallError on anything else."""
        try:
            data = self._secret.scrub_bytes(data)
            return messages.read_reply(data, request.messages is not None, request.model, limits)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as e:
            what = self._scrub(f"{type(e).__name__}: {e}")
            raise CallError("lost", f"{self.base_url} sent a malformed answer ({what})") from None

    async def send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        fields: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Any other call below base_url; the body as JSON bytes, or as a form with ``files`` by field as (name, file,
        type). Returns the body of the answer, of any size. Raises CallError."""
        headers = {"Content-Type": "application/json"} if content is not None else {}
        response = await self._ask(method, path, headers, content=content, data=fields, files=files)
        return response.content

    def classify(self, status: int, detail: str, headers: Mapping[str, str]) -> CallError:
        """The error that an HTTP answer other than 200 is."""
        return messages.classify(self.base_url, status, self._scrub(detail), headers, self._key_name)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, method: str, path: str, headers: dict[str, str], **content: Any) -> httpx2.Response:
        """An answer with status 2xx, read whole. Raises CallError."""
        client = self._open()
        try:
            response = await client.request(method, self.base_url + path, headers=headers, **content)
        except Exception as e:
            raise self._unanswered(e) from None
        if 200 <= response.status_code < 300:
            return response
        raise self.classify(response.status_code, _detail(response.content), response.headers)

    def _open(self) -> httpx2.AsyncClient:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                import httpx2
                import openai
            except ImportError:
                raise MissingExtra("asking a judge over HTTP needs: pip install 'openai[aiohttp]'") from None
            self._loop = loop
            # Redirects would carry the prompts elsewhere; a proxy has no business between us and this machine. The
            # engine bounds the calls at a time, so the pool of connections shall not (without a limit: aiohttp's 100).
            self._client = openai.DefaultAioHttpClient(
                follow_redirects=False,
                trust_env=not self.local,
                timeout=httpx2.Timeout(self.timeout, connect=min(_CONNECT_SECONDS, self.timeout)),
                limits=httpx2.Limits(max_connections=4096, max_keepalive_connections=4096, keepalive_expiry=60.0),
                headers={"Authorization": f"Bearer {self._secret.value or 'none'}", "User-Agent": "rlhf-farm"},
            )
        return self._client

    def _unanswered(self, error: Exception) -> CallError:
        """No HTTP answer: nobody there, cut off, or too slow. The causes tell which."""
        names: set[str] = set()
        cause: BaseException | None = error
        while cause is not None and len(names) < 100:
            names |= {c.__name__ for c in type(cause).__mro__}
            last, cause = cause, cause.__cause__
        said = self._scrub(f"{type(last).__name__}: {last}")
        if names & {"ClientConnectorError", "ConnectError", "ConnectionTimeoutError"}:
            return CallError("connection", f"{self.base_url} cannot be reached ({said})")
        if names & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "ProxyError"}:
            return CallError("fatal", f"{self.base_url} cannot be asked ({said})")
        if names & {"SocketTimeoutError", "ReadTimeout", "WriteTimeout", "TimeoutError"}:
            return CallError("lost", f"{self.base_url} did not answer within {self.timeout:g} s")
        return CallError("lost", f"{self.base_url} broke the connection ({said})")

    def _scrub(self, text: str) -> str:
        return " ".join(self._secret.scrub(text).split())[:500]


def _detail(data: bytes) -> str:
    """What a server says about an error: message and code of OpenAI's shape, or the beginning of the body."""
    text = data[:10_000].decode(errors="replace")
    try:
        error = json.loads(data)["error"]
        return " ".join(str(error[k]) for k in ("message", "code") if error.get(k)) or text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text or "no message"


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine, by its literal name or address."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
