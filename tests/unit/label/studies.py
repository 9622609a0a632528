"""A small labelling study, and its site on a free port."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from farm.label import material, select, serve
from farm.label.store import Store
from farm.records import Instruction, Judgement, Outcome, Pair, Response, by_id
from farm.study.labelling import figures

NOW = "2026-01-01T00:00:00.000+00:00"
POLICIES = ("secret-ppo-model", "secret-dpo-model")
POOL = "pool-judge-17"


def study(n: int = 12, texts: list[tuple[str, str]] | None = None, judged: bool = True) -> material.Material:
    """``n`` instructions, two policies compared with a reference on each, one simulated verdict per pair."""
    found = material.Material({}, {}, [], [], {})
    for k in range(n):
        asked = Instruction.make(f"Tell me about thing number {k}.", "in short" if k % 3 == 0 else "", split="eval")
        found.instructions[asked.id] = asked
        words = texts[k] if texts else (f"Thing {k} is red.", f"Thing {k} is blue and far away.")
        reference = Response.make(asked.id, words[1], "reference", n_tokens=4)
        for policy in POLICIES:
            mine = Response.make(asked.id, words[0] + ("" if texts else f" It is {policy[7]}."), policy, n_tokens=4)
            found.responses.update(by_id([mine, reference]))
            pair = Pair.of(mine, reference)
            found.pairs.append(pair)
            if judged:
                found.judgements.append(
                    Judgement(
                        pair_id=pair.id,
                        instruction_id=asked.id,
                        annotator=POOL,
                        shown=(pair.a, pair.b),
                        outcome=Outcome.DECIDED,
                        winner_id=(mine if k % 3 else reference).id,
                    )
                )
    return found


def opened(
    path: Path,
    found: material.Material | None = None,
    names: tuple[str, ...] = ("ann", "bob", "cat"),
    *,
    known: int = 0,
    repeats: int = 0,
    salt: str | None = "salt",
    seed: int = 1,
) -> Store:
    """A new store with all pairs of a study and a plan for everybody."""
    found = found or study()
    checks = material.mismatched(found, found.pairs, known, seed) if known else material.Material({}, {}, [], [], {})
    chosen = select.random(found, len(found.pairs), seed)
    store = Store.create(path, replace(found, answers={}), chosen, checks, repeats=repeats, seed=seed, salt=salt)
    for name in names:
        store.add_annotator(name)
    return store


def label_all(store: Store, name: str, choose: Any) -> None:
    """Label everything that is left; ``choose(task, left, right)`` says what."""
    while task := store.sheet(name).now:
        _, left, right = store.texts(task)
        store.act(name, task.id, store.sheet(name).turns[task.id], choose(task, left, right), seconds=5.0, time=NOW)


class Site:
    """The site of a store on a free port, and a plain client."""

    def __init__(self, store: Store, port: int) -> None:
        self.store, self.port = store, port
        self.tokens = serve.links(store)

    def call(
        self,
        name: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        token: str | None = None,
        method: str | None = None,
        **headers: str | None,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body, headers (lower-case names). ``headers`` of None are left out."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        host = f"127.0.0.1:{self.port}"
        usual = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
        sent = {k.replace("_", "-"): v for k, v in (usual | headers).items() if v is not None}
        if data is None and "Origin" not in headers:
            del sent["Origin"]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(
                method or ("GET" if data is None else "POST"), self.path(name, path, token), True, True
            )
            for k, v in sent.items():
                connection.putheader(k, v)
            if data is not None and "Transfer-Encoding" not in sent:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def path(self, name: str, path: str, token: str | None = None) -> str:
        return f"/{self.tokens[name] if token is None else token}/{path}"

    def task(self, name: str) -> dict[str, Any]:
        status, body, _ = self.call(name, "task")
        assert status == 200, body
        return json.loads(body)

    def act(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer, _ = self.call(name, "act", body)
        return status, json.loads(answer)


@contextmanager
def served(store: Store) -> Iterator[Site]:
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(serve.application(store, figures), access_log=None)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Site(store, port)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
