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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from farm.errors import AnnotatorError, MissingExtra

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_MAX_REPLY_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """One call: ``messages`` as (role, content) for a chat model, or a ``prompt`` for a completion model.

    ``logprobs`` > 0 asks for that many alternatives per generated token; ``response_format`` for an answer of that
    type where the server knows it (``json_object``).
    """

    model: str
    messages: tuple[tuple[str, str], ...] | None = None
    prompt: str | None = None
    temperature: float = 1.0
    max_tokens: int = 100
    seed: int = 0
    logprobs: int = 0
    response_format: Literal["json_object"] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``finish_reason``: stop, length or content_filter; ``top_logprobs``: per token, token -> nats."""

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: Sequence[Mapping[str, float]] | None = None


class Endpoint(Protocol):
    """``name`` identifies the judge in the ledger's keys; ``complete`` raises CallError."""

    name: str

    async def complete(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...


class CallError(Exception):
    """A call without answer.

    ``fatal``: every other call would fail, too (key, model or address wrong, quota used up). ``rejected``: the server
    refuses this request. ``retry``: worth another try, after ``retry_after`` seconds if given. ``connection``: nobody
    answers there.
    """

    def __init__(
        self,
        kind: Literal["fatal", "rejected", "retry", "connection"],
        message: str,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


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

    async def complete(self, request: Request) -> Reply:
        return self.answer(request)

    async def close(self) -> None:
        return None


class OpenAIEndpoint:
    """Any OpenAI-compatible server through the ``openai`` package; its retries are off, the engine has its own.

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
        local = _is_loopback(parts.hostname)
        if parts.scheme == "http" and not local and not allow_insecure:
            raise AnnotatorError(
                f"base_url {url} would send the key and all texts unencrypted to another machine: use https, or set "
                "allow_insecure: true if the network between is yours"
            )
        key = api_key or os.environ.get(api_key_env, "")
        if not key and not local:
            raise AnnotatorError(f"no API key for {url}: set the environment variable {api_key_env}")
        self.base_url, self.name, self.timeout = url, name or url, timeout
        self._key_name, self._local = api_key_env, local
        self._secret = _Secret(key or "none")
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAIEndpoint({self.base_url!r}, api_key_env={self._key_name!r})"

    async def complete(self, request: Request) -> Reply:
        client = await self._open()
        import openai

        try:
            data = await self._call(client, request)
        except openai.APIConnectionError as e:
            raise self._unanswered(e) from None
        except openai.APIStatusError as e:
            raise self._classify(e.status_code, self._detail(e), dict(e.response.headers)) from None
        except openai.OpenAIError as e:
            raise CallError("fatal", f"{self.base_url}: {self._scrub(str(e))}") from None
        try:
            return _reply(data, request)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as e:
            raise CallError("retry", f"{self.base_url} sent a malformed answer ({type(e).__name__}: {e})") from None

    async def _call(self, client: AsyncOpenAI, r: Request) -> bytes:
        settings: dict[str, Any] = {
            "model": r.model, "temperature": r.temperature, "max_tokens": r.max_tokens, "seed": r.seed,
        }  # fmt: skip
        if r.messages is None:
            if r.logprobs:
                settings["logprobs"] = r.logprobs
            raw = await client.completions.with_raw_response.create(prompt=r.prompt or "", **settings)
        else:
            if r.logprobs:
                settings |= {"logprobs": True, "top_logprobs": r.logprobs}
            messages: Any = [{"role": role, "content": text} for role, text in r.messages]
            raw = await client.chat.completions.with_raw_response.create(messages=messages, **settings)
        return bytes(raw.content)

    async def _open(self) -> AsyncOpenAI:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                import openai
            except ImportError:
                raise MissingExtra("asking a judge over HTTP needs: pip install 'openai[aiohttp]'") from None
            self._loop = loop
            # Redirects would carry the prompts elsewhere; a proxy has no business between us and this machine.
            http = openai.DefaultAioHttpClient(follow_redirects=False, timeout=self.timeout, trust_env=not self._local)
            self._client = openai.AsyncOpenAI(
                api_key=self._secret.value,
                base_url=self.base_url,
                max_retries=0,
                timeout=self.timeout,
                http_client=http,
            )
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _unanswered(self, error: Exception) -> CallError:
        """No HTTP answer: nobody there, cut off, or too slow. The SDK calls most of it a timeout; the causes tell."""
        names: set[str] = set()
        cause: BaseException | None = error
        while cause is not None and len(names) < 100:
            names |= {c.__name__ for c in type(cause).__mro__}
            last, cause = cause, cause.__cause__
        if names & {"ClientConnectorError", "ConnectError", "ConnectionTimeoutError"}:
            return CallError("connection", f"{self.base_url} cannot be reached ({self._scrub(str(last))})")
        if names & {"ServerDisconnectedError", "ClientOSError", "ClientPayloadError"} or "APITimeoutError" not in names:
            return CallError("retry", f"{self.base_url} broke the connection ({self._scrub(str(last))})")
        return CallError("retry", f"{self.base_url} did not answer within {self.timeout:g} s")

    def _classify(self, status: int, detail: str, headers: Mapping[str, str]) -> CallError:
        where = f"{self.base_url} answered HTTP {status}: {detail}"
        if status == 429 and "insufficient_quota" in detail:
            return CallError("fatal", f"{where}. The account's quota is used up; top it up or bind another model.")
        if status in (408, 409, 429) or status >= 500:
            return CallError("retry", where, _retry_after(headers))
        if status in (401, 403):
            return CallError("fatal", f"{where}. Check the key in {self._key_name} and what it may use.")
        if status == 404:
            return CallError(
                "fatal", f"{where}. Check the model name, and that base_url ends as the server wants (/v1)."
            )
        if 300 <= status < 400:
            return CallError("fatal", f"{where}. Redirects are not followed: give the final address as base_url.")
        return CallError("rejected", where)

    def _detail(self, error: Any) -> str:
        body = error.body
        if isinstance(body, dict):
            body = " ".join(str(body[k]) for k in ("message", "code") if body.get(k)) or body
        return self._scrub(str(body or "no message"))

    def _scrub(self, text: str) -> str:
        if self._secret.value != "none":
            text = text.replace(self._secret.value, "****")
        return " ".join(text.split())[:500]


class _Secret:
    """Holds a key out of reprs and tracebacks."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "****"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as a date."""
    low = {k.lower(): v for k, v in headers.items()}
    try:
        if "retry-after-ms" in low:
            seconds = float(low["retry-after-ms"]) / 1000
        elif "retry-after" in low:
            try:
                seconds = float(low["retry-after"])
            except ValueError:
                from datetime import UTC, datetime
                from email.utils import parsedate_to_datetime

                seconds = (parsedate_to_datetime(low["retry-after"]) - datetime.now(UTC)).total_seconds()
        else:
            return None
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else None


def _reply(data: bytes, request: Request) -> Reply:
    """Raises ValueError, KeyError, IndexError or TypeError on anything that is not an OpenAI-style answer."""
    if len(data) > _MAX_REPLY_BYTES:
        raise ValueError(f"{len(data)} bytes")
    body = json.loads(data)
    choice = body["choices"][0]
    if request.messages is None:
        text = choice["text"]
        logprobs = (choice.get("logprobs") or {}).get("top_logprobs")
    else:
        text = choice["message"].get("content")
        content = (choice.get("logprobs") or {}).get("content")
        logprobs = None if content is None else [{t["token"]: t["logprob"] for t in c["top_logprobs"]} for c in content]
        if text is None and choice["message"].get("refusal"):
            text = str(choice["message"]["refusal"])
    usage = body.get("usage") or {}
    top = None if logprobs is None else [{str(t): float(p) for t, p in (row or {}).items()} for row in logprobs]
    return Reply(
        text=str(text or ""),
        finish_reason=str(choice.get("finish_reason") or "stop"),
        model=str(body.get("model") or request.model),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        top_logprobs=top,
    )
