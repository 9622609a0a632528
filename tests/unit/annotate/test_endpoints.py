"""OpenAIEndpoint against a server that says whatever the test wants."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from farm.errors import AnnotatorError
from farm.lm.endpoints import CallError, OpenAIEndpoint, Reply, Request

KEY = "sk-sentinel-3f9a77c1"
CHAT = Request(model="m", messages=(("user", "hello"),), max_tokens=5)
TEXT = Request(model="m", prompt="hello", max_tokens=5)


def chat_body(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"} | changes
    return {"id": "x", "model": "m-1", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}


def ask(handler: Callable[[web.Request], web.Response], request: Request = CHAT, **settings: Any) -> Reply:
    """One call to a server on a free port that answers with ``handler``."""

    async def main() -> Reply:
        async def answer(r: web.Request) -> web.Response:
            await r.read()
            return handler(r)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        endpoint = OpenAIEndpoint(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", api_key=KEY, **settings)
        try:
            return await endpoint.complete(request)
        finally:
            await endpoint.close()
            await runner.cleanup()

    return asyncio.run(main())


def status(
    code: int, message: str = "no", headers: dict[str, str] | None = None
) -> Callable[[web.Request], web.Response]:
    body = {"error": {"message": message, "type": "t", "code": "c"}}
    return lambda r: web.json_response(body, status=code, headers=headers)


def test_what_is_sent_and_what_comes_back() -> None:
    seen: list[tuple[str, str, str]] = []

    def handler(r: web.Request) -> web.Response:
        body = r._read_bytes or b""
        seen.append((r.path, r.headers["Authorization"], body.decode()))
        return web.json_response(chat_body())

    reply = ask(
        handler, Request(model="m", messages=(("system", "s"), ("user", "u")), temperature=0.5, max_tokens=9, seed=3)
    )
    assert reply == Reply("A", "stop", "m-1", 7, 1, None)
    (path, key, body), *more = seen
    assert not more
    assert (path, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert json.loads(body) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
    }


def test_completions_and_log_probabilities() -> None:
    choice = {
        "index": 0,
        "text": " A",
        "finish_reason": "length",
        "logprobs": {"top_logprobs": [{" A": -0.1, " B": -2}]},
    }
    reply = ask(lambda r: web.json_response({"model": "m", "choices": [choice]}), TEXT)
    assert reply == Reply(" A", "length", "m", 0, 0, [{" A": -0.1, " B": -2.0}])
    content = [{"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "A", "logprob": -0.1}]}]
    reply = ask(lambda r: web.json_response(chat_body(logprobs={"content": content})))
    assert reply.top_logprobs == [{"A": -0.1}]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, "rejected"), (401, "fatal"), (403, "fatal"), (404, "fatal"), (408, "retry"), (409, "retry"),
        (422, "rejected"), (429, "limited"), (500, "retry"), (502, "retry"), (503, "retry"), (302, "fatal"),
        (307, "fatal"),
    ],
)  # fmt: skip
def test_every_status_has_its_class_and_is_tried_once(code: int, kind: str) -> None:
    calls = 0

    def handler(r: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return status(code, headers={"Location": "/v1/elsewhere"})(r)

    with pytest.raises(CallError, match=f"HTTP {code}") as caught:
        ask(handler)
    assert caught.value.kind == kind
    assert calls == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0.5s"}, 360.5),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "1e99"}, 86_400.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    with pytest.raises(CallError) as caught:
        ask(status(429, headers=headers))
    assert caught.value.retry_after == seconds


def test_a_used_up_quota_is_fatal() -> None:
    with pytest.raises(CallError, match="quota is used up") as caught:
        ask(status(429, "insufficient_quota"))
    assert caught.value.kind == "fatal"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"message": null}]}', b'{"choices": 3}',
        b"\xff\xfe", b'{"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{}]}}]}', b"[" * 100_000,
        b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": "many"}}',
    ],
)  # fmt: skip
def test_malformed_answers_are_worth_a_retry(body: bytes) -> None:
    with pytest.raises(CallError, match="malformed") as caught:
        ask(lambda r: web.Response(body=body, content_type="application/json"))
    assert caught.value.kind == "lost"


def test_empty_and_refused_content() -> None:
    assert ask(lambda r: web.json_response(chat_body(message={"content": None}))).text == ""
    refused = chat_body(message={"content": None, "refusal": "I cannot."})
    assert ask(lambda r: web.json_response(refused)).text == "I cannot."


def test_nobody_there_is_a_connection_error_with_the_address() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/v1"

        async def main() -> None:
            endpoint = OpenAIEndpoint(url, timeout=5)
            try:
                await endpoint.complete(CHAT)
            finally:
                await endpoint.close()

        with pytest.raises(CallError, match=url) as caught:
            asyncio.run(main())
    assert caught.value.kind == "connection"


def test_a_server_that_hangs_up_or_hangs_is_worth_a_retry() -> None:
    async def main(hang: float, timeout: float) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            await asyncio.sleep(hang)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        endpoint = OpenAIEndpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", timeout=timeout)
        try:
            await endpoint.complete(CHAT)
        finally:
            await endpoint.close()
            server.close()

    for hang, timeout, message in ((0.0, 5.0, "broke the connection"), (0.6, 0.2, "did not answer within 0.2 s")):
        with pytest.raises(CallError, match=message) as caught:
            asyncio.run(main(hang, timeout))
        assert caught.value.kind == "lost"


def test_the_key_shows_nowhere() -> None:
    def echo(r: web.Request) -> web.Response:
        return status(400, f"bad key {KEY}: headers {dict(r.headers)}")(r)

    with pytest.raises(CallError) as caught:
        ask(echo)
    endpoint = OpenAIEndpoint("http://localhost:1/v1", api_key=KEY)
    shown = f"{caught.value!r} {caught.value} {endpoint!r} {endpoint.__dict__} {caught.value.__cause__}"
    assert KEY not in shown
    assert base64.b64encode(KEY.encode()).decode() not in shown


ODD_KEY = "sk-sent/inel+3f9a 77c1=="


@pytest.mark.parametrize("key", [KEY, ODD_KEY])
def test_no_form_of_the_key_passes(key: str) -> None:
    import urllib.parse

    from farm.lm.messages import Secret

    for lead in range(4):
        encoded = base64.b64encode(b"x" * lead + key.encode() + b"yz").decode()
        shown = Secret(key).scrub(f"before {encoded} after")
        inner = base64.b64encode(key.encode())[4:16].decode()
        assert inner not in shown
        assert "****" in shown
    for form in (key, urllib.parse.quote(key), urllib.parse.quote(key, safe=""), urllib.parse.quote_plus(key),
                 json.dumps(key), key.encode().hex(), base64.urlsafe_b64encode(key.encode()).decode()):  # fmt: skip
        assert "****" in Secret(key).scrub(f"<{form}>")
        assert b"****" in Secret(key).scrub_bytes(f"<{form}>".encode())


def test_an_answer_that_repeats_the_key_is_stored_without_it() -> None:
    reply = ask(lambda r: web.json_response(chat_body(message={"content": f"A {r.headers['Authorization']}"})))
    assert reply.text == "A Bearer ****"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_there_is_no_default_host() -> None:
    with pytest.raises(AnnotatorError, match="OPENAI_BASE_URL"):
        OpenAIEndpoint()


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://judge.example/v1/")
    with pytest.raises(AnnotatorError, match="set the environment variable MY_KEY"):
        OpenAIEndpoint(api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", KEY)
    endpoint = OpenAIEndpoint(api_key_env="MY_KEY")
    assert endpoint.name == endpoint.base_url == "https://judge.example/v1"
    assert OpenAIEndpoint(api_key_env="MY_KEY", name="judge").name == "judge"


@pytest.mark.parametrize(
    "url",
    ["http://judge.example/v1", "http://localhost.evil.example/v1", "http://10.0.0.7/v1", "http://127.0.0.1.nip.io/v1"],
)
def test_plain_http_stays_on_this_machine(url: str) -> None:
    with pytest.raises(AnnotatorError, match="unencrypted"):
        OpenAIEndpoint(url, api_key=KEY)
    assert OpenAIEndpoint(url, api_key=KEY, allow_insecure=True).base_url == url


@pytest.mark.parametrize(
    "url",
    ["ftp://x/v1", "judge.example/v1", "https://", f"https://me:{KEY}@x/v1", f"https://x/v1?key={KEY}", "https://x/#a"],
)
def test_odd_addresses_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(AnnotatorError) as caught:
        OpenAIEndpoint(url, api_key="k")
    assert KEY not in str(caught.value)
