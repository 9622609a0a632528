"""The shapes of OpenAI's HTTP interface as the judge server speaks them: requests read and checked, answers written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from farm.world.judge import Completion

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(eq=False)
class Refused(Exception):
    """A request that is not served: HTTP status and message, sent in OpenAI's error shape with these headers."""

    status: int
    message: str
    code: str = "invalid_request_error"
    headers: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        kind = {429: "requests", 401: "authentication_error"}.get(self.status, "invalid_request_error")
        if self.code == "insufficient_quota":
            kind = "insufficient_quota"
        elif self.status >= 500:
            kind = "server_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


def parse(data: bytes) -> dict[str, Any]:
    """A request's JSON object. Raises Refused."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise Refused(400, f"the body is not JSON ({type(e).__name__})") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    return body


@dataclass(frozen=True, slots=True)
class Asked:
    """A validated request of either kind; ``content`` identifies what was asked, settings included."""

    chat: bool
    model: str
    messages: list[dict[str, str]]
    prompt: str
    temperature: float
    max_tokens: int
    seed: int
    logprobs: int
    content: str

    @classmethod
    def read(cls, body: Mapping[str, Any], chat: bool, models: Collection[str] = ()) -> Asked:
        """``models``: names that are served besides scripted ones. Raises Refused with what is wrong."""
        model = body.get("model")
        if not isinstance(model, str) or not (model.startswith("scripted") or model in models):
            shown = repr(str(model)[:80])
            raise Refused(404, f"no model {shown}: names start with 'scripted', see /v1/models", "model_not_found")
        if body.get("stream"):
            raise Refused(400, "streaming is not offered")
        if body.get("n") not in (None, 1):
            raise Refused(400, "'n' must be 1")
        messages, prompt = (_messages(body.get("messages")), "") if chat else ([], body.get("prompt"))
        if not isinstance(prompt, str):
            raise Refused(400, "'prompt' must be a string")
        limit = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
        if chat:
            wanted = _number(body, "top_logprobs", 0, 0, 20) if body.get("logprobs") else 0
            logprobs = int(wanted) or int(bool(body.get("logprobs")))
        else:
            logprobs = int(_number(body, "logprobs", 0, 0, 20))
        temperature = float(_number(body, "temperature", 1.0, 0, 2))
        max_tokens = int(_number(body, limit, 256 if chat else 16, 1, 100_000))
        seed = int(_number(body, "seed", 0, -(2**63), 2**63))
        texts = [(m["role"], m["content"]) for m in messages]
        asked = repr((chat, model, texts, prompt, temperature, max_tokens, seed, logprobs))
        try:
            content = hashlib.blake2b((asked + "".join(t for m in texts for t in m) + prompt).encode(), digest_size=12)
        except UnicodeEncodeError:
            raise Refused(400, "a text holds half of a surrogate pair, which is no character") from None
        return cls(chat, model, messages, prompt, temperature, max_tokens, seed, logprobs, content.hexdigest())


def _messages(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise Refused(400, "'messages' must be a non-empty list")
    for m in value:
        if not isinstance(m, dict) or not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
            raise Refused(400, "every message needs a 'role' and a 'content', both strings")
        if m["role"] not in ("system", "developer", "user", "assistant"):
            raise Refused(400, f"unknown role {m['role'][:40]!r}")
    return value


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(400, f"'{name}' must be a number from {low} to {high}")
    return value


def answer_body(asked: Asked, done: Completion) -> dict[str, Any]:
    """A chat completion or a text completion, as was asked."""
    return _chat_body(asked, done) if asked.chat else _text_body(asked, done)


def _envelope(asked: Asked, done: Completion, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{asked.content}",
        "object": kind,
        "created": 0,
        "model": asked.model,
        "choices": [{"index": 0, "finish_reason": done.finish_reason, **choice}],
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
        },
        "system_fingerprint": "fp_scripted",
    }


def _chat_body(asked: Asked, done: Completion) -> dict[str, Any]:
    logprobs = None
    if done.top_logprobs is not None:

        def row(token: str, value: float) -> dict[str, Any]:
            return {"token": token, "logprob": value, "bytes": list(token.encode())}

        content = []
        for token, top in _chosen(done):
            ranked = sorted(top.items(), key=lambda item: -item[1])[: asked.logprobs]
            content.append({**row(token, top[token]), "top_logprobs": [row(*item) for item in ranked]})
        logprobs = {"content": content, "refusal": None}
    message = {"role": "assistant", "content": done.text, "refusal": None}
    return _envelope(asked, done, "chat.completion", {"message": message, "logprobs": logprobs})


def _text_body(asked: Asked, done: Completion) -> dict[str, Any]:
    logprobs = None
    if done.top_logprobs is not None:
        chosen = list(_chosen(done))
        offsets = [len(asked.prompt)]
        for token, _ in chosen[:-1]:
            offsets.append(offsets[-1] + len(token))
        logprobs = {
            "tokens": [token for token, _ in chosen],
            "token_logprobs": [top[token] for token, top in chosen],
            "top_logprobs": [top for _, top in chosen],
            "text_offset": offsets[: len(chosen)],
        }
    return _envelope(asked, done, "text_completion", {"text": done.text, "logprobs": logprobs})


def _chosen(done: Completion) -> Iterator[tuple[str, dict[str, float]]]:
    """(generated token, alternatives) along the text; the generated one is the alternative the text goes on with."""
    at = 0
    for top in done.top_logprobs or ():
        fits = [t for t in top if done.text.startswith(t, at)] or list(top)
        token = max(fits, key=len)
        at += len(token)
        yield token, top
