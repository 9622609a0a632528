"""Batches against the judge server, which keeps its own account of what it was asked and paid for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from judge_corpus import MODELS, Corpus

from farm.annotate.batch import BatchSender
from farm.annotate.batch_book import Batch, BatchBook
from farm.annotate.batch_files import read_results, tag_of
from farm.annotate.calls import Patience
from farm.annotate.engine import annotate
from farm.annotate.ledger import Answer, Call, Ledger
from farm.annotate.money import FREE, Price, Prices
from farm.annotate.pool import Pool
from farm.errors import AnnotatorError, BudgetError, RunError
from farm.lm.endpoints import OpenAIEndpoint, Request
from farm.records import Cost, Judgement
from farm.world import serve

PATIENCE = Patience(timeout=0.05, attempts=6, backoff=0.01, longest=0.05)
FENCED = "\n".join(
    f"<<{slot} 1 0a1b2c3d>>\n{{}}\n<<end 0a1b2c3d>>".format(text)
    for slot, text in (("instruction", "Name colour {}."), ("first", "Blue."), ("second", "I I I I."))
)


@dataclass
class Job:
    key: str
    request: Request
    call: Call


def jobs(numbers: Sequence[int], model: str = "scripted/a06", chat: bool = True, price: Price = FREE) -> list[Job]:
    made = []
    for n in numbers:
        text = FENCED.replace("{}", str(n)) + "\nReply format: A or B"
        request = (
            Request(model, messages=(("user", text),), temperature=0.0, max_tokens=16)
            if chat
            else Request(model, prompt=text, temperature=0.0, max_tokens=16)
        )
        key = f"k{n}-{model}-{chat}"
        made.append(Job(key, request, Call(key, "a06", "judge", model, price, price.at_most(request))))
    return made


@dataclass
class Outcome:
    answers: dict[str, Answer] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def send(server: tuple[str, str], path: Path, todo: Sequence[Job], **settings: Any) -> Outcome:
    """Run jobs through batches and check that each is settled once."""
    outcome = Outcome()
    settled: Counter[str] = Counter()

    def answered(job: Job, answer: Answer) -> None:
        settled[job.key] += 1
        outcome.answers[job.key] = answer

    def failed(job: Job, message: str) -> None:
        settled[job.key] += 1
        outcome.failures[job.key] = message

    async def stream() -> AsyncIterator[Job]:
        for job in todo:
            yield job

    budget, patience = settings.pop("budget", None), settings.pop("patience", PATIENCE)
    with Ledger(path, budget) as ledger:
        endpoint = OpenAIEndpoint(server[0], api_key=server[1], name="judge")
        sender: BatchSender[Job] = BatchSender(endpoint, ledger, patience, answered, failed, **settings)
        asyncio.run(asyncio.wait_for(sender.run(stream(), 4), 60))
    assert settled == Counter(j.key for j in todo)
    return outcome


def totals(server: tuple[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(f"{server[0]}/farm/ledger", headers={"Authorization": f"Bearer {server[1]}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        read: dict[str, Any] = json.load(response)
    return read


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log.jsonl"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[tuple[str, str]]:
    with serve.background(log=log, prices={"*": (10.0, 30.0)}) as address:
        yield address


def test_jobs_of_all_kinds_are_answered_in_files_within_the_limits(
    server: tuple[str, str], log: Path, tmp_path: Path
) -> None:
    before = len(rows(log)) if log.exists() else 0
    kinds = (("scripted/a06", True), ("scripted/a04", True), ("scripted/a06", False))
    todo = [job for n in range(100, 120) for model, chat in kinds for job in jobs([n], model, chat)]
    outcome = send(server, tmp_path / "l.sqlite", todo, lines=8)
    assert not outcome.failures
    assert {a.reply.text for a in outcome.answers.values()} <= {"A", "B"}
    billed = rows(log)[before:]
    sizes = Counter(r["batch"] for r in billed)
    assert sorted(sizes.values()) == [4, 4, 4, 8, 8, 8, 8, 8, 8]
    assert len({(r["batch"], r["model"], r["path"]) for r in billed}) == len(sizes)  # one model and path each
    again = send(server, tmp_path / "l.sqlite", todo, lines=8)
    assert again.answers == outcome.answers
    assert len(rows(log)) == before + 60  # all from the ledger


def test_a_file_keeps_to_its_size(server: tuple[str, str], log: Path, tmp_path: Path) -> None:
    before = len(rows(log)) if log.exists() else 0
    send(server, tmp_path / "l.sqlite", jobs(range(200, 210)), size=2000)
    sizes = Counter(r["batch"] for r in rows(log)[before:])
    assert 2 <= max(sizes.values()) <= 6
    assert len(sizes) >= 2


def test_half_the_price_is_booked_and_a_budget_holds(server: tuple[str, str], log: Path, tmp_path: Path) -> None:
    price = Price(10.0, 30.0) * 0.5
    todo = jobs(range(300, 340), price=price)
    worst = todo[0].call.reserved
    before = len(rows(log)) if log.exists() else 0
    with pytest.raises(BudgetError):
        send(server, tmp_path / "l.sqlite", todo, budget=10.5 * worst)
    billed = rows(log)[before:]
    assert len(billed) > 10  # what was reserved and not used paid for more
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.spent() == pytest.approx(sum(r["usd"] for r in billed))
        assert ledger.spent() <= 10.5 * worst < ledger.spent() + worst
        assert ledger.counts() == {"answered": len(billed)}
    more = send(server, tmp_path / "l.sqlite", todo, budget=100 * worst)
    assert len(more.answers) == 40
    assert len(rows(log)) == before + 40


def test_lines_that_failed_go_into_another_batch(tmp_path: Path) -> None:
    with serve.background(faults={"500": 0.3, "400": 0.2, "batch:expired": 0.5}) as server:
        outcome = send(
            server, tmp_path / "l.sqlite", jobs(range(80)), lines=20, patience=Patience(0.05, 40, 0.001, 0.002)
        )
        account = totals(server)
    assert account["repeated"] == 0
    assert account["accepted"] == len(outcome.answers)
    assert len(outcome.answers) + len(outcome.failures) == 80
    refused = [kind for kind in outcome.failures.values() if kind == "filtered"]
    assert len(refused) == account["faults"]["400"] > 8
    assert len(outcome.failures) == len(refused)  # everything else was answered in the end
    with Ledger(tmp_path / "l.sqlite") as ledger:
        counts = ledger.counts()
        assert counts["answered"] == len(outcome.answers)
        assert counts["filtered"] == len(refused)
        assert counts["retry"] > 20
        assert not ledger.unknown()


def test_an_account_that_answers_nothing_ends_the_run(tmp_path: Path) -> None:
    with serve.background(faults={"batch:failed": 1.0}) as server:
        with pytest.raises(AnnotatorError, match="Enqueued token limit"):
            send(server, tmp_path / "l.sqlite", jobs(range(10)))
        with Ledger(tmp_path / "l.sqlite") as ledger:
            assert ledger.counts() == {"retry": 60}  # asked again, six times in all
        assert totals(server)["accepted"] == 0


def test_trouble_on_the_way_costs_nothing_twice(tmp_path: Path) -> None:
    """Every call about files and batches may be refused, or do its work and lose its answer."""
    with serve.background(faults={"batch:503": 0.25, "batch:lost": 0.25}) as server:
        outcome = send(
            server, tmp_path / "l.sqlite", jobs(range(60)), lines=10, patience=Patience(0.05, 30, 0.001, 0.002)
        )
        account = totals(server)
    assert len(outcome.answers) == account["accepted"] == 60
    assert account["repeated"] == 0


def test_a_second_process_on_the_same_batches_is_refused(server: tuple[str, str], tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "l.sqlite.batches").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            send(server, tmp_path / "l.sqlite", jobs([1]))


def test_lines_that_cannot_be_read_count_as_missing() -> None:
    endpoint = OpenAIEndpoint("http://127.0.0.1:9/v1", name="judge")
    call = jobs([1])[0].call
    batch = Batch("t", "/chat/completions", call.model, FREE, "created", 0.0, calls={call.key: call})
    garbage = [
        "", "{", "null", "[]", "[" * 5000, '{"custom_id": []}', '{"custom_id": "other", "response": {}}', "\udcff",
        '{"custom_id": null, "response": null}',
    ]  # fmt: skip
    assert read_results(endpoint, batch, "\n".join(garbage).encode(errors="surrogateescape")) == {}
    limited = {"status_code": 429, "body": {"error": {"message": "m"}}}
    empty = {"status_code": 200, "body": {"choices": []}}
    for response in (None, 3, {}, {"status_code": 200}, {"status_code": "x", "body": 3}, empty, limited):
        data = json.dumps({"custom_id": call.key, "response": response}).encode()
        [(key, result)] = read_results(endpoint, batch, data).items()
        assert key == call.key
        assert getattr(result, "kind", None) in ("retry", "lost", "limited")


def test_a_batch_is_found_on_later_pages_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"id": f"batch_{i}", "metadata": {"farm": f"farm-{i}"} if i % 2 else None} for i in range(250)]
    asked = []

    async def pages(self: OpenAIEndpoint, method: str, path: str, content: bytes | None = None) -> bytes:
        asked.append(path)
        after = path.partition("&after=")[2]
        start = 0 if not after else 1 + [row["id"] for row in listed].index(after)
        return json.dumps({"data": listed[start : start + 100], "has_more": start + 100 < 250}).encode()

    monkeypatch.setattr(OpenAIEndpoint, "send", pages)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        endpoint = OpenAIEndpoint("http://127.0.0.1:9/v1", name="judge")
        sender: BatchSender[Job] = BatchSender(endpoint, ledger, PATIENCE, lambda *_: None, lambda *_: None)
        for wanted, found, count in (("farm-201", "batch_201", 3), ("farm-200", None, 3), ("farm-1", "batch_1", 1)):
            asked.clear()
            assert asyncio.run(sender._find("/batches?limit=100", lambda b, w=wanted: tag_of(b) == w)) == found
            assert len(asked) == count


# A process of its own that forks one child per scenario: each child runs the jobs of its number and kills itself at
# its n-th event, an event being a commit about a batch or either end of a call to the server.
KILLER = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import openai
from test_batch import PATIENCE, BatchBook, OpenAIEndpoint, jobs, send

def run(server, folder, scenario, fatal):
    events = 0
    def event():
        nonlocal events
        events += 1
        if events == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    def watched(method):
        def call(*args, **kwargs):
            event()
            result = method(*args, **kwargs)
            event()
            return result
        return call
    for name in ("prepare", "move", "close"):
        setattr(BatchBook, name, watched(getattr(BatchBook, name)))
    original = OpenAIEndpoint.send
    async def sending(*args, **kwargs):
        event()
        result = await original(*args, **kwargs)
        event()
        return result
    OpenAIEndpoint.send = sending
    todo = jobs(range(1000 * scenario, 1000 * scenario + 12))
    outcome = send(server, folder / f"{scenario}.sqlite", todo, lines=6)
    assert len(outcome.answers) == 12, outcome
    os._exit(0)

def fork(*args):
    child = os.fork()
    if child == 0:
        try:
            run(*args)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

openai.DefaultAioHttpClient()  # loads what the children need
server, folder = (sys.argv[1], os.environ["TOKEN"]), Path(sys.argv[2])
scenario = 0
while True:
    scenario += 1
    codes = [fork(server, folder, scenario, scenario)]  # the n-th scenario is killed at its n-th event
    if codes[0] == -signal.SIGKILL:
        codes.append(fork(server, folder, scenario, 1 + scenario % 7))  # and again on the way back
        if codes[-1] == -signal.SIGKILL:
            codes.append(fork(server, folder, scenario, 0))
    print(scenario, *codes, flush=True)
    if codes[0] == 0 or codes[-1] != 0:
        break
"""


def test_killed_at_every_state_no_line_is_paid_twice(tmp_path: Path) -> None:
    import os

    log = tmp_path / "log.jsonl"
    with serve.background(log=log) as server:
        done = subprocess.run(
            [sys.executable, "-c", KILLER, server[0], str(tmp_path), str(Path(__file__).parent)],
            env={**os.environ, "TOKEN": server[1], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        account = totals(server)
    codes = [[int(c) for c in line.split()] for line in done.stdout.splitlines()]
    assert codes, done.stderr
    assert all(row[-1] == 0 for row in codes), (codes[-1], done.stderr)
    assert all(row[1] == -9 for row in codes[:-1])
    assert codes[-1][1] == 0  # it went on until a run had fewer events than that
    assert len(codes) > 30
    assert account["repeated"] == 0
    assert account["accepted"] == 12 * len(codes)
    billed = [r for r in rows(log) if r["accepted"]]
    for scenario, *_ in codes:
        with Ledger(tmp_path / f"{scenario}.sqlite") as ledger:
            assert ledger.counts()["answered"] == 12
            assert not ledger.unknown()
            books = BatchBook(ledger, "judge")
            assert not books.unfinished()
    tokens = sum(r["prompt_tokens"] + r["completion_tokens"] for r in billed)
    booked = 0
    for scenario, *_ in codes:
        with Ledger(tmp_path / f"{scenario}.sqlite") as ledger:
            query = "SELECT sum(prompt_tokens + completion_tokens) FROM attempts WHERE status = 'answered'"
            booked += int(ledger.rows(query)[0][0])
    assert booked == tokens


def test_the_engine_gets_the_same_judgements_from_batches_as_from_single_calls(
    server: tuple[str, str], pool: Pool, small: Corpus, tmp_path: Path
) -> None:
    found: list[list[Judgement]] = []
    spent: list[float] = []
    for batch in (False, True):
        endpoint = OpenAIEndpoint(server[0], api_key=server[1], name="judge")
        with Ledger(tmp_path / f"{batch}.sqlite") as ledger:
            judged = annotate(
                small.pairs[:60], small.instructions, small.responses, pool, models=MODELS, endpoint=endpoint, seed=1,
                purpose="train", ledger=ledger, batch=batch, patience=PATIENCE if batch else None,
                prices=Prices({"scripted*": (10.0, 30.0)}),
            )  # fmt: skip
        found.append([j.model_copy(update={"cost": Cost()}) for j in judged])
        spent.append(sum(j.cost.usd for j in judged))
    assert found[0] == found[1]
    assert spent[0] == pytest.approx(2 * spent[1])
    assert spent[1] > 0
