from __future__ import annotations

import asyncio
import json
from collections import Counter
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from local_server import Clock, Local, Serve, question

from farm.errors import DataError
from farm.world.faults import ANSWERING, BATCHES, LASTING, REFUSING, Conditions
from farm.world.limits import Bucket, Limits
from farm.world.wire import CHAT, TEXT


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"latency": -1}, "latency"),
        ({"latency": float("nan")}, "latency"),
        ({"rpm": 0}, "rpm"),
        ({"tpm": float("inf")}, "tpm"),
        ({"burst": 0}, "burst"),
        ({"quota": -1}, "quota"),
        ({"faults": {"418": 0.1}}, "no fault '418'"),
        ({"faults": {"hang": 1.1}}, "rate of fault hang"),
        ({"faults": {"hang": 0.6, "429": 0.6}}, "more than 1"),
        ({"prices": {"*": (1.0, -1.0)}}, "price"),
        ({"retry_after": "soon"}, "retry_after"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_conditions_that_cannot_be_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what):
        Conditions.from_json(settings)


def test_conditions_survive_the_way_to_a_child_process() -> None:
    made = Conditions(latency=0.3, faults={"429": 0.1}, prices={"*": (1.0, 2.0)}, canned=("A",), log=Path("x"))
    assert Conditions.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_faults_are_keyed_draws_at_their_rates() -> None:
    rates = {"429": 0.02, "hang": 0.1, "refusal": 0.05}
    conditions = Conditions(faults=rates)
    drawn = [conditions.fault(f"c{i}", 0) for i in range(20_000)]
    counts = Counter(drawn)
    for name, rate in rates.items():
        assert counts[name] == pytest.approx(20_000 * rate, rel=0.15)
    assert drawn == [conditions.fault(f"c{i}", 0) for i in range(20_000)]
    assert drawn != [Conditions(faults=rates, seed=1).fault(f"c{i}", 0) for i in range(20_000)]


def test_trouble_passes_when_asked_again_and_what_is_about_the_content_stays() -> None:
    conditions = Conditions(faults={"500": 0.5, "filter": 0.3})
    for i in range(200):
        faults = [conditions.fault(f"c{i}", time) for time in range(20)]
        assert "filter" in LASTING
        if faults[0] == "filter":
            assert set(faults) == {"filter"}
        else:
            assert set(faults) == {None, "500"}


def test_latency_spreads_around_its_median() -> None:
    conditions = Conditions(latency=0.3, spread=0.5)
    seconds = sorted(conditions.seconds(f"c{i}", 0) for i in range(2001))
    assert seconds[1000] == pytest.approx(0.3, rel=0.05)
    assert seconds[1682] / seconds[1000] == pytest.approx(1.6487, rel=0.1)  # one sigma above
    assert Conditions(latency=0.3).seconds("c", 0) == 0.3
    assert Conditions(spread=0.5).seconds("c", 0) == 0.0


def test_a_bucket_lets_through_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(600, 1.0, clock)
    passed = 0
    for _ in range(6000):  # a minute in steps of 10 ms
        clock.at += 0.01
        while bucket.wait(1.0) == 0:
            bucket.take(1.0)
            passed += 1
    assert passed == pytest.approx(600 + 10, abs=1)


def test_a_small_bucket_still_holds_one_request() -> None:
    clock = Clock()
    bucket = Bucket(6, 1.0, clock)
    assert bucket.wait(1.0) == 0
    bucket.take(1.0)
    assert bucket.wait(1.0) == pytest.approx(10)


def test_tokens_may_leave_a_debt_that_must_refill() -> None:
    clock = Clock()
    limits = Limits(None, 6000, 1.0, "ms", clock, clock)  # 100 tokens per second, as many in the bucket
    assert limits.admit() is None
    limits.pay(400)
    refused = limits.admit()
    assert refused is not None
    assert float(refused[0].headers["retry-after-ms"]) == pytest.approx(3000, abs=2)
    clock.at += 3.01
    assert limits.admit() is None


@pytest.mark.parametrize("form", ["seconds", "ms", "date"])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.999])
def test_whoever_waits_as_told_is_admitted(form: Any, fraction: float) -> None:
    clock = Clock(1_000_000 + fraction)
    limits = Limits(20, None, 1.0, form, clock, clock)
    assert limits.admit() is None
    clock.at += 0.3
    refusal = limits.admit()
    assert refusal is not None
    refused, until = refusal
    headers = refused.headers or {}
    if form == "date":
        told = parsedate_to_datetime(headers["Retry-After"]).timestamp()
    elif form == "ms":
        told = clock.at + float(headers["retry-after-ms"]) / 1000
        assert float(headers["Retry-After"]) >= float(headers["retry-after-ms"]) / 1000
    else:
        told = clock.at + float(headers["Retry-After"])
    assert told == pytest.approx(until, abs=1e-6)
    clock.at = told
    assert limits.admit() is None


def test_a_limited_account_says_what_is_left(serving: Serve) -> None:
    async def work(local: Local) -> None:
        _, _, headers = await local.post(CHAT, question())
        assert headers["x-ratelimit-limit-requests"] == "120"
        assert headers["x-ratelimit-remaining-requests"] == "1"
        assert headers["x-ratelimit-reset-requests"] == "500ms"
        await local.post(CHAT, question())
        status, body, headers = await local.post(CHAT, question())
        assert status == 429
        assert body["error"]["code"] == "rate_limit_exceeded"
        assert headers["Retry-After"] == "1"
        assert headers["retry-after-ms"] == "500"
        await local.post(CHAT, question())  # within the pause: noted
        local.clock.at += 0.3
        await local.post(CHAT, question())
        local.clock.at += 0.21
        assert (await local.post(CHAT, question()))[0] == 200
        totals = (await local.get("/v1/farm/ledger"))[1]
        assert totals["accepted"] == 3
        assert totals["refused"] == {"429": 3}
        assert totals["early"] == 1

    serving(work, rpm=120)


def test_without_a_hint_a_429_has_none(serving: Serve) -> None:
    async def work(local: Local) -> None:
        await local.post(CHAT, question())
        status, _, headers = await local.post(CHAT, question())
        assert status == 429
        assert not {h.lower() for h in headers} & {"retry-after", "retry-after-ms"}

    serving(work, rpm=1, retry_after="none")


STATUS = {"quota": 429, "400": 400, "401": 401, "500": 500, "502": 502, "503": 503, "redirect": 307}


@pytest.mark.parametrize("fault", [f for f in REFUSING if f not in ("hang", "drop")])
@pytest.mark.parametrize("chat", [True, False])
def test_refusing_faults(serving: Serve, fault: str, chat: bool) -> None:
    async def work(local: Local) -> None:
        body = question() if chat else {"model": "scripted/a06", "prompt": question()["messages"][0]["content"]}
        path = CHAT if chat else TEXT
        async with local.client.post(path, json=body, allow_redirects=False) as response:
            assert response.status == STATUS.get(fault, 429)
            text = await response.text()
            headers = response.headers
        if fault == "502":
            assert text.startswith("<html>")
        else:
            assert json.loads(text)["error"]["message"]
        assert ("Retry-After" in headers) is (fault in ("429-seconds", "429-ms", "429-date"))
        assert ("retry-after-ms" in headers) is (fault == "429-ms")
        if fault == "quota":
            assert json.loads(text)["error"]["code"] == "insufficient_quota"
        if fault == "redirect":
            assert (await local.post(headers["Location"], body))[0] == 404
            assert (await local.get("/v1/farm/ledger"))[1]["faults"] == {"redirect": 1, "followed": 1}
        totals = (await local.get("/v1/farm/ledger"))[1]
        assert totals["accepted"] == totals["prompt_tokens"] == 0

    serving(work, faults={fault: 1.0})


@pytest.mark.parametrize("fault", list(ANSWERING))
@pytest.mark.parametrize("chat", [True, False])
def test_faults_of_an_answer_are_billed(serving: Serve, fault: str, chat: bool) -> None:
    async def work(local: Local) -> None:
        plain = question()["messages"][0]["content"]
        seen = []
        for i in range(24):
            body = question(i) if chat else {"model": "scripted/a06", "prompt": f"{plain}\n{i}", "temperature": 0}
            try:
                async with local.client.post(CHAT if chat else TEXT, json=body) as response:
                    assert response.status == 200
                    seen.append(await response.read())
            except aiohttp.ClientError:
                seen.append(b"cut")
        assert (await local.get("/v1/farm/ledger"))[1]["accepted"] == 24
        if fault in ("lost", "truncated"):
            assert set(seen) == {b"cut"}
        elif fault == "malformed":
            assert len({_shape(data) for data in seen}) >= 3
        else:
            for data in seen:
                _check_answer(fault, json.loads(data), chat)

    serving(work, faults={fault: 1.0})


def _shape(data: bytes) -> str:
    try:
        body = json.loads(data)
    except ValueError:
        return "html" if data.startswith(b"<") else "empty" if not data else "cut"
    assert not isinstance(body, dict) or not body.get("choices")
    return "JSON"


def _check_answer(fault: str, body: dict[str, Any], chat: bool) -> None:
    choice = body["choices"][0]
    text = choice["message"]["content"] if chat else choice["text"]
    if fault == "drift":
        assert body["model"] == "scripted/a06-drifted"
        assert text in ("A", "B")
    elif fault == "refusal":
        assert (choice["message"]["refusal"] if chat else text).startswith("I'm sorry")
    elif fault == "length":
        assert choice["finish_reason"] == "length"
    else:
        assert not text
        assert choice["finish_reason"] == ("content_filter" if fault == "filter" else "stop")


def test_a_call_that_is_dropped_or_hangs_is_not_billed(serving: Serve) -> None:
    async def dropped(local: Local) -> None:
        with pytest.raises(aiohttp.ClientError):
            await local.post(CHAT, question())
        assert (await local.get("/v1/farm/ledger"))[1]["accepted"] == 0

    async def hangs(local: Local) -> None:
        calling = asyncio.create_task(local.client.post(CHAT, json=question()))
        while (totals := (await local.get("/v1/farm/ledger"))[1])["faults"] != {"hang": 1}:
            await asyncio.sleep(0)
        assert totals["in_flight"] == 1
        assert totals["accepted"] == 0
        assert not calling.done()
        calling.cancel()

    serving(dropped, faults={"drop": 1.0})
    serving(hangs, faults={"hang": 1.0})


def test_a_quota_ends_it_all(serving: Serve) -> None:
    async def work(local: Local) -> None:
        statuses = [(await local.post(CHAT, question(i)))[0] for i in range(12)]
        spent = (await local.get("/v1/farm/ledger"))[1]["usd"]
        first = statuses.index(429)
        assert set(statuses[:first]) == {200}
        assert set(statuses[first:]) == {429}
        assert spent >= 0.005

    serving(work, quota=0.005, prices={"scripted/a06": (10.0, 10.0)})


def test_the_log_has_every_call_and_adds_up(serving: Serve, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "calls.jsonl"

    async def work(local: Local) -> None:
        for i in range(60):
            body = question(i % 40)
            async with local.client.post(CHAT, json=body, headers={"X-Client-Request-Id": f"try-{i}"}) as response:
                await response.read()
                last = json.loads(path.read_bytes().splitlines()[-1])  # written before the answer came
                assert last["client_request"] == f"try-{i}"
                assert last["request"] == response.headers.get("x-request-id", last["request"])
        assert (await local.post(CHAT, {"model": "gpt-4"}))[0] == 404
        totals = (await local.get("/v1/farm/ledger"))[1]
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == 61
        billed = [r for r in rows if r["accepted"]]
        assert len(billed) == totals["accepted"]
        for name in ("prompt_tokens", "completion_tokens", "usd"):
            assert sum(r[name] for r in billed) == pytest.approx(totals[name])
        assert totals["usd"] == pytest.approx((totals["prompt_tokens"] + 4 * totals["completion_tokens"]) / 1e6)
        assert totals["repeated"] == len(billed) - len({r["content"] for r in billed}) > 5
        assert {r["status"] for r in rows} == {200, 404, 500}
        assert totals["faults"]["500"] == sum(r["status"] == 500 for r in rows) > 5

    serving(work, faults={"500": 0.3}, prices={"*": (1.0, 4.0)}, log=path)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path, serving: Serve) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        serving(lambda local: local.get("/v1/models"), log=tmp_path)


def test_canned_answers_need_no_judge(serving: Serve) -> None:
    async def work(local: Local) -> None:
        texts = [(await local.post(CHAT, question(i)))[1]["choices"][0]["message"]["content"] for i in range(40)]
        assert set(texts) == {"yes", "no"}
        again = [(await local.post(CHAT, question(i)))[1]["choices"][0]["message"]["content"] for i in range(40)]
        assert texts == again

    serving(work, canned=("yes", "no"))


def test_other_models_are_served_under_their_own_names(serving: Serve) -> None:
    async def work(local: Local) -> None:
        status, body, _ = await local.post(CHAT, question(model="gpt-x"))
        assert (status, body["model"]) == (200, "gpt-x")
        assert (await local.post(CHAT, question(model="gpt-y")))[0] == 404
        assert "gpt-x" in [row["id"] for row in (await local.get("/v1/models"))[1]["data"]]
        assert (await local.get("/v1/farm/ledger"))[1]["usd"] > 0

    serving(work, models=("gpt-x",), prices={"gpt-x": (1.0, 1.0)})


def test_batch_faults_have_their_own_names() -> None:
    for name in BATCHES:
        assert Conditions(faults={f"batch:{name}": 1.0}).batch_fault(set(BATCHES), 1) == name
        assert Conditions(faults={f"batch:{name}": 1.0}).fault("c", 0) is None
