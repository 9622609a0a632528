"""What passes between us and a judge over HTTP: requests, replies, errors, and how each answer is to be read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, quote_plus

MAX_REPLY_BYTES = 4_000_000
_MIN_SECRET = 8  # a shorter key would be found in ordinary words


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
    """What came back. ``finish_reason``: stop, length or content_filter; ``top_logprobs``: per token, token -> nats;
    ``limits``: requests and tokens per minute that the server says this account has."""

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: Sequence[Mapping[str, float]] | None = None
    limits: tuple[float | None, float | None] = field(default=(None, None), compare=False)


Kind = Literal["fatal", "rejected", "filtered", "retry", "limited", "lost", "connection"]


class CallError(Exception):
    """A call without answer.

    ``fatal``: every other call would fail, too (key, model or address wrong, quota used up). ``rejected``: the server
    refuses this request, ``filtered``: its content filter does. ``limited``: too many requests, come back after
    ``retry_after`` seconds if given. ``retry``: worth another try, and not billed. ``lost``: the call went out and no
    readable answer came back, so it may be billed; worth another try. ``connection``: nobody answers there.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        retry_after: float | None = None,
        limits: tuple[float | None, float | None] = (None, None),
    ) -> None:
        super().__init__(message)
        self.kind, self.retry_after, self.limits = kind, retry_after, limits


# What an HTTP status says, first match wins: statuses, words in the server's message or code (any, or none given),
# what follows, and advice. Everything not listed from 300 on is fatal (a redirect) and from 400 on rejected.
_TABLE: tuple[tuple[Sequence[int], tuple[str, ...], Kind, str], ...] = (
    ((429,), ("insufficient_quota", "billing_hard_limit", "exceeded your current quota"), "fatal",
     "The account's quota is used up; top it up or bind another model."),
    ((429,), (), "limited", ""),
    ((400,), ("content_filter", "content management policy", "content_policy"), "filtered", ""),
    ((401, 403), (), "fatal", "Check the key in {key} and what it may use."),
    ((402,), (), "fatal", "The account has no credit; top it up or bind another model."),
    ((404, 405), (), "fatal", "Check the model name, and that base_url ends as the server wants (/v1)."),
    ((408, 409, 425), (), "retry", ""),
    (range(500, 600), (), "retry", ""),
    (range(300, 400), (), "fatal", "Redirects are not followed: give the final address as base_url."),
    ((400,), ("model_not_found", "does not exist"), "fatal", "Check the model name."),
    (range(400, 500), (), "rejected", ""),
)  # fmt: skip


def classify(where: str, status: int, detail: str, headers: Mapping[str, str], key_name: str) -> CallError:
    """The error that an HTTP answer other than 200 is; ``detail`` is what the server says, scrubbed."""
    low = detail.lower()
    for statuses, words, kind, advice in _TABLE:
        if status in statuses and (not words or any(w in low for w in words)):
            more = f". {advice.format(key=key_name)}" if advice else ""
            return CallError(
                kind, f"{where} answered HTTP {status}: {detail}{more}", retry_after(headers), rates(headers)
            )
    return CallError("fatal", f"{where} answered HTTP {status}: {detail}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to wait: ``retry-after-ms``, ``retry-after`` in seconds or as a date, or the later of
    OpenAI's ``x-ratelimit-reset-*`` whose budget is used up. None when it does not say."""
    low = {k.lower(): v for k, v in headers.items()}
    seconds: float | None = None
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
            used_up = [what for what in ("requests", "tokens") if low.get(f"x-ratelimit-remaining-{what}") == "0"]
            waits = [_duration(low.get(f"x-ratelimit-reset-{what}", "")) for what in used_up]
            seconds = max((w for w in waits if w is not None), default=None)
    except (ValueError, TypeError, OverflowError):
        return None
    if seconds is None or seconds != seconds:
        return None
    return min(max(seconds, 0.0), 86_400.0)


_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _duration(text: str) -> float | None:
    """Seconds of ``120ms``, ``1.5s`` or ``6m0s``."""
    parts = _PARTS.findall(text.strip()[:40])
    return sum(float(n) * _UNITS[unit] for n, unit in parts) if parts else None


def rates(headers: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Requests and tokens per minute that the server states (``x-ratelimit-limit-*``)."""
    found = []
    for what in ("requests", "tokens"):
        text = headers.get(f"x-ratelimit-limit-{what}", "")
        found.append(float(text) if text.isdecimal() and 0 < len(text) < 12 else None)
    return found[0], found[1]


def body(r: Request) -> tuple[str, dict[str, Any]]:
    """Path below base_url and JSON body of a request."""
    settings: dict[str, Any] = {"model": r.model}
    if r.messages is None:
        settings["prompt"] = r.prompt or ""
    else:
        settings["messages"] = [{"role": role, "content": text} for role, text in r.messages]
    settings |= {"temperature": r.temperature, "max_tokens": r.max_tokens, "seed": r.seed}
    if r.logprobs:
        settings |= {"logprobs": r.logprobs} if r.messages is None else {"logprobs": True, "top_logprobs": r.logprobs}
    if r.response_format:
        settings["response_format"] = {"type": r.response_format}
    return ("/completions" if r.messages is None else "/chat/completions"), settings


def read_reply(data: bytes, chat: bool, model: str, limits: tuple[float | None, float | None] = (None, None)) -> Reply:
    """Raises ValueError, KeyError, IndexError or TypeError on anything that is not an OpenAI-style answer."""
    if len(data) > MAX_REPLY_BYTES:
        raise ValueError(f"{len(data)} bytes")
    answer = json.loads(data)
    choice = answer["choices"][0]
    if chat:
        text = choice["message"].get("content")
        content = (choice.get("logprobs") or {}).get("content")
        logprobs = None if content is None else [_alternatives(c) for c in content]
        if text is None and choice["message"].get("refusal"):
            text = str(choice["message"]["refusal"])
    else:
        text = choice["text"]
        logprobs = (choice.get("logprobs") or {}).get("top_logprobs")
    usage = answer.get("usage") or {}
    top = None if logprobs is None else [{str(t): float(p) for t, p in (row or {}).items()} for row in logprobs]
    return Reply(
        text=str(text or "").encode(errors="replace").decode(),  # half a surrogate pair cannot be stored
        finish_reason=str(choice.get("finish_reason") or "stop"),
        model=str(answer.get("model") or model),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        top_logprobs=top,
        limits=limits,
    )


class Secret:
    """Holds a key out of reprs and tracebacks, and takes it out of texts in all the forms it may be echoed in."""

    def __init__(self, value: str) -> None:
        self.value = value
        self._forms = _forms(value) if len(value) >= _MIN_SECRET else ()
        self._bytes = tuple(f.encode() for f in self._forms)

    def __repr__(self) -> str:
        return "****"

    def scrub(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "****")
        return text

    def scrub_bytes(self, data: bytes) -> bytes:
        for form in self._bytes:
            if form in data:
                data = data.replace(form, b"****")
        return data


def _forms(key: str) -> tuple[str, ...]:
    """The key as it is, URL-encoded, JSON-escaped, as hex digits, and as the part of a base64 text that only it
    determines, wherever it stands in what was encoded."""
    raw = key.encode()
    forms = {key, quote(key), quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1], raw.hex(), raw.hex().upper()}
    for lead in range(3):
        whole = base64.b64encode(b"\0" * lead + raw)
        first, last = (0, 2, 3)[lead], len(whole) // 4 * 4 - (4 if (lead + len(raw)) % 3 else 0)
        part = whole[first:last].decode()
        forms |= {part, part.replace("+", "-").replace("/", "_")}
    return tuple(sorted((f for f in forms if len(f) >= _MIN_SECRET), key=len, reverse=True))


def _alternatives(token: dict[str, Any]) -> dict[str, float]:
    """A generated token's alternatives, the chosen one among them even where it was not a likely one."""
    chosen = {token["token"]: token["logprob"]} if "logprob" in token else {}
    return chosen | {t["token"]: t["logprob"] for t in token["top_logprobs"]}
