"""Kills a run against the judge server again and again, and settles the server's account with the ledger's.

As a program: the run itself, which writes down each answer's tag the moment it has it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_corpus import MODELS, Corpus, _instructions

from farm.annotate.engine import annotate
from farm.annotate.ledger import Ledger
from farm.annotate.pool import load_pool
from farm.lm.endpoints import OpenAIEndpoint, Reply, Request
from farm.records import Judgement, Pair, Response
from farm.world.serve import background
from farm.world.writers import write


def pairs(n: int) -> Corpus:
    """n pairs, several of each of the world's 805 evaluation instructions."""
    made = Corpus([], {}, {})
    for i in range(n):
        instruction = _instructions()[i % 805]
        a, b = (
            Response.make(instruction.id, f"{write(instruction, skill, i, 'kill')} {i}", name, i, n_tokens=9)
            for name, skill in (("good", 0.9), ("bad", 0.2))
        )
        made.instructions[instruction.id] = instruction
        made.responses |= {a.id: a, b.id: b}
        made.pairs.append(Pair.of(a, b))
    return made


class Noting(OpenAIEndpoint):
    """Notes tag and time of every answer as it arrives."""

    notes: Any = None

    async def complete(self, request: Request, tag: str = "") -> Reply:
        reply = await super().complete(request, tag)
        if self.notes is not None:
            os.write(self.notes, f"{tag} {time.time()}\n".encode())
        return reply


def judge(n: int, url: str, token: str, path: Path, concurrency: int, notes: Path | None = None) -> list[Judgement]:
    made, pool = pairs(n), load_pool("farm13")
    single = pool.model_copy(update={"annotators": tuple(a for a in pool.annotators if a.batch == 1)})
    endpoint = Noting(url, name="judge", api_key=token)
    if notes is not None:
        endpoint.notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Ledger(path) as ledger:
        return annotate(
            made.pairs, made.instructions, made.responses, single, models=MODELS, endpoint=endpoint, seed=1,
            purpose="train", ledger=ledger, concurrency=concurrency,
        )  # fmt: skip


@dataclass
class Account:
    """What both sides say in the end. ``late``: seconds from each answer that was asked for again to the kill."""

    judgements: list[Judgement]
    accepted: int
    server_tokens: int
    ledger_tokens: int
    unknown_tokens: int
    unlisted: int
    late: list[float]


def kill_and_resume(n: int, kills: int, concurrency: int, folder: Path, latency: float, seed: int) -> Account:
    """Judge n pairs, killed ``kills`` times at random numbers of calls, then settle."""
    log, ledger, notes = folder / "calls.jsonl", folder / "ledger.sqlite", folder / "notes.txt"
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(n // 20, n), kills))
    died: list[float] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with background(latency=latency, log=str(log)) as (url, token):
        for moment in moments:
            arguments = [sys.executable, __file__, str(n), url, token, str(ledger), str(concurrency), str(notes)]
            child = subprocess.Popen(arguments, env=environment)
            while child.poll() is None and _lines(log) < moment + concurrency * len(died):
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            child.wait()
            died.append(time.time())
        judgements = judge(n, url, token, ledger, concurrency)
    return _settle(judgements, log, ledger, notes, died)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _settle(judgements: list[Judgement], log: Path, path: Path, notes: Path, died: list[float]) -> Account:
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    accepted = [c for c in calls if c["accepted"]]
    with Ledger(path) as ledger:
        tag = f"farm-{ledger.tag}-"
        answered = {
            f"{tag}{id}": int(prompt + completion)
            for id, prompt, completion in ledger.rows(
                "SELECT id, prompt_tokens, completion_tokens FROM attempts WHERE status = 'answered'"
            )
        }
        unknown = {f"{tag}{u['id']}" for u in ledger.unknown()}
    tokens = [(c["client_request"], c["prompt_tokens"] + c["completion_tokens"]) for c in accepted]
    arrived = dict(line.split() for line in notes.read_text().splitlines())
    lost = [float(at) for name, at in arrived.items() if name in unknown]
    return Account(
        judgements=judgements,
        accepted=len(accepted),
        server_tokens=sum(t for _, t in tokens),
        ledger_tokens=sum(answered.values()),
        unknown_tokens=sum(t for name, t in tokens if name in unknown),
        unlisted=sum(name not in answered and name not in unknown for name, _ in tokens),
        late=[min(d - at for d in died if d > at) for at in lost],
    )


if __name__ == "__main__":
    n, url, token, ledger, concurrency, notes = sys.argv[1:]
    judge(int(n), url, token, Path(ledger), int(concurrency), Path(notes))
