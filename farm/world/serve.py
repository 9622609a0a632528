"""The scripted judge behind an OpenAI-compatible server on this machine: the paid path without key and bill.

``POST /v1/chat/completions``, ``POST /v1/completions`` (log-probabilities in either format), ``GET /v1/models``. It
binds to loopback only, answers only requests that name it in the Host header (a web page that rebinds a name gets
nothing) and carry its bearer token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from farm.errors import DataError, FarmError
from farm.records import json_rows
from farm.world.judge import MODELS, Completion, ScriptedJudge

TOKEN_ENV = "FARM_SERVE_TOKEN"  # noqa: S105 - the variable's name
_HOSTS = ("127.0.0.1", "localhost", "::1")
_MAX_BODY = 1_000_000
_START_SECONDS = 60


@dataclass(frozen=True)
class _Bad(Exception):
    """A request we refuse: HTTP status and message, sent in OpenAI's error shape."""

    status: int
    message: str
    code: str = "invalid_request_error"


def application(judge: ScriptedJudge, token: str, latency: float = 0.0) -> web.Application:
    """The server as an aiohttp application. ``latency``: seconds each answer is held back."""
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_guard(token)])

    async def answer(request: web.Request, chat: bool) -> web.Response:
        asked = _Asked.read(await _body(request), chat)
        if latency:
            await asyncio.sleep(latency)
        settings: dict[str, Any] = {
            "temperature": asked.temperature,
            "max_tokens": asked.max_tokens,
            "seed": asked.seed,
            "logprobs": asked.logprobs,
        }
        if chat:
            done = judge.chat(asked.model, asked.messages, **settings)
        else:
            done = judge.complete(asked.model, asked.prompt, **settings)
        return web.json_response(_chat_body(asked, done) if chat else _text_body(asked, done))

    async def chat(request: web.Request) -> web.Response:
        return await answer(request, chat=True)

    async def completions(request: web.Request) -> web.Response:
        return await answer(request, chat=False)

    async def models(_: web.Request) -> web.Response:
        rows = [{"id": m, "object": "model", "created": 0, "owned_by": "farm"} for m in MODELS]
        return web.json_response({"object": "list", "data": rows})

    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/completions", completions)
    app.router.add_get("/v1/models", models)
    return app


def _guard(token: str) -> Any:
    """Checks Host and token before anything is read, and puts every error into OpenAI's shape."""

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
            if host.strip("[]") not in _HOSTS:
                raise _Bad(403, "this server answers to 127.0.0.1 and localhost only", "forbidden_host")
            given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                raise _Bad(401, "wrong or missing bearer token: use the one printed at start", "invalid_api_key")
            response: web.StreamResponse = await handler(request)
        except _Bad as e:
            return _error(e.status, e.message, e.code)
        except web.HTTPException as e:
            return _error(e.status, e.reason or "error", "invalid_request_error")
        return response

    return guard


def _error(status: int, message: str, code: str) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.json_response(body, status=status)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as e:
        raise _Bad(400, f"the body is not JSON ({type(e).__name__})") from None
    if not isinstance(body, dict):
        raise _Bad(400, "the body must be a JSON object")
    return body


@dataclass(frozen=True)
class _Asked:
    """A validated request of either kind."""

    model: str
    messages: list[dict[str, str]]
    prompt: str
    temperature: float
    max_tokens: int
    seed: int
    logprobs: int

    @classmethod
    def read(cls, body: Mapping[str, Any], chat: bool) -> _Asked:
        model = body.get("model")
        if not isinstance(model, str) or not model.startswith("scripted"):
            raise _Bad(
                404, f"no model {str(model)[:80]!r}: names start with 'scripted', see /v1/models", "model_not_found"
            )
        if body.get("stream"):
            raise _Bad(400, "streaming is not offered")
        if body.get("n") not in (None, 1):
            raise _Bad(400, "'n' must be 1")
        messages, prompt = (_messages(body.get("messages")), "") if chat else ([], body.get("prompt"))
        if not isinstance(prompt, str):
            raise _Bad(400, "'prompt' must be a string")
        limit = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
        if chat:
            wanted = _number(body, "top_logprobs", 0, 0, 20) if body.get("logprobs") else 0
            logprobs = int(wanted) or int(bool(body.get("logprobs")))
        else:
            logprobs = int(_number(body, "logprobs", 0, 0, 20))
        return cls(
            model=model,
            messages=messages,
            prompt=prompt,
            temperature=float(_number(body, "temperature", 1.0, 0, 2)),
            max_tokens=int(_number(body, limit, 256 if chat else 16, 1, 100_000)),
            seed=int(_number(body, "seed", 0, -(2**63), 2**63)),
            logprobs=logprobs,
        )


def _messages(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _Bad(400, "'messages' must be a non-empty list")
    for m in value:
        if not isinstance(m, dict) or not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
            raise _Bad(400, "every message needs a 'role' and a 'content', both strings")
        if m["role"] not in ("system", "developer", "user", "assistant"):
            raise _Bad(400, f"unknown role {m['role'][:40]!r}")
    return value


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _Bad(400, f"'{name}' must be a number from {low} to {high}")
    return value


def _envelope(asked: _Asked, done: Completion, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    content = f"{asked}{done.text}".encode()
    return {
        "id": f"{kind.split('.')[0]}-{hashlib.blake2b(content, digest_size=12).hexdigest()}",
        "object": kind,
        "created": 0,
        "model": asked.model,
        "choices": [{"index": 0, "finish_reason": done.finish_reason, **choice}],
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
        },
    }


def _chat_body(asked: _Asked, done: Completion) -> dict[str, Any]:
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


def _text_body(asked: _Asked, done: Completion) -> dict[str, Any]:
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


def load_answers(path: Path) -> dict[str, str]:
    """Answer keys for real text: JSON lines with ``instruction`` (the full text) and ``answer``.

    Raises DataError naming file and line.
    """
    answers = {}
    for number, row in json_rows(path):
        instruction, answer = row.get("instruction"), row.get("answer")
        if set(row) != {"instruction", "answer"} or not isinstance(instruction, str) or not isinstance(answer, str):
            raise DataError(
                f"{path}, line {number}: a row is {{'instruction': text, 'answer': text}}, got {sorted(row)}"
            )
        answers[instruction] = answer
    return answers


def run(
    host: str = "127.0.0.1",
    port: int = 8321,
    token: str | None = None,
    answers: Mapping[str, str] | Path | None = None,
    latency: float = 0.0,
    *,
    machine: bool = False,
) -> None:
    """Serve until interrupted. Port 0 takes a free one; without ``token``, FARM_SERVE_TOKEN is used or one made up.

    ``machine``: announce as one JSON line and end when standard input closes, for a parent process. Raises DataError
    for a host that is not loopback or an address that is taken.
    """
    if host not in _HOSTS:
        raise DataError(
            f"the judge server is for this machine only: host must be one of {', '.join(_HOSTS)}, got {host!r}"
        )
    token = token or os.environ.get(TOKEN_ENV) or secrets.token_urlsafe(24)
    known = load_answers(answers) if isinstance(answers, Path) else answers
    app = application(ScriptedJudge(known), token, latency)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, host, port, token, machine))


async def _serve(app: web.Application, host: str, port: int, token: str, machine: bool) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as e:
            raise DataError(f"cannot listen on {host}:{port} ({e.strerror}); choose another --port") from None
        actual = runner.addresses[0][1]
        base_url = f"http://{f'[{host}]' if ':' in host else host}:{actual}/v1"
        stop = asyncio.Event()
        if machine:
            print(json.dumps({"base_url": base_url}), flush=True)
            loop = asyncio.get_running_loop()
            threading.Thread(target=_watch_parent, args=(loop, stop), daemon=True).start()
        else:
            print(f"scripted judge at {base_url}\n  export OPENAI_BASE_URL={base_url}\n  export OPENAI_API_KEY={token}")
            print(
                f"models: {MODELS[0]} ... {MODELS[-1]}, or any name that starts with scripted/. Stop with Ctrl-C.",
                flush=True,
            )
        await stop.wait()
    finally:
        await runner.cleanup()


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Standard input closes when the parent ends, however it ends."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop.set)


@contextlib.contextmanager
def background(
    answers: Mapping[str, str] | Path | None = None, *, latency: float = 0.0, token: str | None = None
) -> Iterator[tuple[str, str]]:
    """Run the server in a child process on a free port; yields (base URL, token) and always ends it.

    The child also ends when this process is killed. Raises FarmError when it does not come up.
    """
    token = token or secrets.token_urlsafe(24)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    with tempfile.TemporaryDirectory(prefix="farm-serve-") as scratch:
        command = [sys.executable, "-m", "farm.world.serve", "--port", "0", "--machine", "--latency", str(latency)]
        if answers is not None:
            command += ["--answers", str(answers if isinstance(answers, Path) else _spill(answers, Path(scratch)))]
        # A session of its own: Ctrl-C reaches this process first, which may still want answers in flight.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, TOKEN_ENV: token, "PYTHONPATH": path},
            text=True,
            start_new_session=True,
        )
        try:
            yield _address(child), token
        finally:
            _end(child)


def _spill(answers: Mapping[str, str], folder: Path) -> Path:
    path = folder / "answers.jsonl"
    with path.open("w", encoding="utf-8") as f:
        for instruction, answer in answers.items():
            f.write(json.dumps({"instruction": instruction, "answer": answer}) + "\n")
    return path


def _address(child: subprocess.Popen[str]) -> str:
    """The base URL a child announces."""
    assert child.stdout is not None
    assert child.stderr is not None
    timer = threading.Timer(_START_SECONDS, child.kill)
    timer.start()
    try:
        line = child.stdout.readline()
    finally:
        timer.cancel()
    if not line:
        child.kill()
        said = child.stderr.read().strip().splitlines()[-1:]
        raise FarmError(
            f"the judge server did not start within {_START_SECONDS} s: {''.join(said) or 'it said nothing'}"
        )
    # Nothing more is read from the child: keep its pipe from filling up.
    threading.Thread(target=child.stderr.read, daemon=True).start()
    return str(json.loads(line)["base_url"])


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def main() -> None:
    """``python -m farm.world.serve``: what ``background`` starts; people use ``farm serve``."""
    import argparse

    parser = argparse.ArgumentParser(description="the scripted judge as a local OpenAI-compatible server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8321)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--machine", action="store_true", help="for a parent process: JSON, end with standard input")
    args = parser.parse_args()
    try:
        run(args.host, args.port, None, args.answers, args.latency, machine=args.machine)
    except FarmError as e:
        sys.exit(f"farm: {e}")


if __name__ == "__main__":
    main()
