from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from local_server import Local, Serve, question

from farm.world import batches
from farm.world.faults import Conditions
from farm.world.wire import CHAT, TEXT


def line(number: int, **changes: Any) -> dict[str, Any]:
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": question(number)} | changes


async def upload(local: Local, lines: list[Any], purpose: str = "batch") -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("purpose", purpose)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in lines)
    form.add_field("file", text.encode(), filename="calls.jsonl", content_type="application/jsonl")
    async with local.client.post("/v1/files", data=form) as response:
        return response.status, await response.json()


async def create(local: Local, lines: list[Any], **changes: Any) -> dict[str, Any]:
    status, file = await upload(local, lines)
    assert status == 200
    order = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h", "metadata": {"tag": "x"}}
    status, batch, _ = await local.post("/v1/batches", order | changes)
    assert status == 200
    assert batch["status"] == "validating"
    return dict(batch)


async def ended(local: Local, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The batch at its end, and its output and error lines by custom id."""
    while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
        await asyncio.sleep(0)
        batch = (await local.get(f"/v1/batches/{batch['id']}"))[1]
    files: list[dict[str, Any]] = []
    for name in ("output_file_id", "error_file_id"):
        text = "" if batch[name] is None else await local.text(f"/v1/files/{batch[name]}/content")
        rows = [json.loads(row) for row in text.splitlines()]
        files.append({row["custom_id"]: row for row in rows})
        assert len(files[-1]) == len(rows)
    return batch, files[0], files[1]


def test_a_batch_is_answered_as_single_calls_are_at_half_the_price(serving: Serve) -> None:
    async def work(local: Local) -> None:
        batch, output, errors = await ended(local, await create(local, [line(i) for i in range(30)]))
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
        assert batch["metadata"] == {"tag": "x"}
        assert batch["completed_at"] >= batch["finalizing_at"] >= batch["in_progress_at"] >= batch["created_at"]
        assert errors == {}
        half = (await local.get("/v1/farm/ledger"))[1]["usd"]
        for i in range(30):
            body = (await local.post(CHAT, question(i)))[1]
            assert output[f"c{i}"]["response"] == {
                "status_code": 200, "request_id": output[f"c{i}"]["response"]["request_id"], "body": body,
            }  # fmt: skip
        totals = (await local.get("/v1/farm/ledger"))[1]
        assert totals["usd"] == pytest.approx(3 * half)
        assert totals["accepted"] == 60
        assert totals["repeated"] == 30

    serving(work, prices={"*": (1.0, 1.0)})


def test_refused_lines_stand_in_the_error_file(serving: Serve, tmp_path: Path) -> None:
    rates = {"500": 0.2, "filter": 0.2, "hang": 0.2}
    log = tmp_path / "log.jsonl"

    async def work(local: Local) -> None:
        asked = [line(i) for i in range(60)] + [line(99, body={"model": "scripted/a06"})]
        batch, output, errors = await ended(local, await create(local, asked))
        assert batch["status"] == "completed"
        assert batch["request_counts"]["failed"] == len(errors) > 5
        assert set(output) | set(errors) == {row["custom_id"] for row in asked}
        statuses = {id: row["response"]["status_code"] for id, row in errors.items()}
        assert statuses.pop("c99") == 400
        assert set(statuses.values()) == {500}
        assert any(r["response"]["body"]["choices"][0]["finish_reason"] == "content_filter" for r in output.values())
        rows = [json.loads(row) for row in log.read_text().splitlines()]
        assert sum(r["accepted"] for r in rows) == len(output)
        assert {r["batch"] for r in rows} == {batch["id"]}

    serving(work, faults=rates, log=log)


def test_an_expired_batch_keeps_what_was_done(serving: Serve) -> None:
    async def work(local: Local) -> None:
        batch, output, errors = await ended(local, await create(local, [line(i) for i in range(40)]))
        assert batch["status"] == "expired"
        assert min(len(output), len(errors)) > 10
        assert len(output) + len(errors) == 40
        assert {row["error"]["code"] for row in errors.values()} == {"batch_expired"}
        assert (await local.get("/v1/farm/ledger"))[1]["accepted"] == len(output)

    serving(work, faults={"batch:expired": 1.0})


def test_a_batch_can_be_cancelled(serving: Serve) -> None:
    async def work(local: Local) -> None:
        batch = await create(local, [line(i) for i in range(5)])
        while (await local.get(f"/v1/batches/{batch['id']}"))[1]["status"] != "in_progress":
            await asyncio.sleep(0)
        assert (await local.post(f"/v1/batches/{batch['id']}/cancel", {}))[1]["status"] == "cancelling"
        batch, output, errors = await ended(local, batch)
        assert (batch["status"], output, errors) == ("cancelled", {}, {})
        assert (await local.post(f"/v1/batches/{batch['id']}/cancel", {}))[0] == 409

    serving(work, faults={"batch:stuck": 1.0})


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["{"], "invalid_json_line"),
        (["[" * 5000], "invalid_json_line"),
        ([line(1), "null"], "invalid_json_line"),
        ([line(1), line(1)], "duplicate_custom_id"),
        ([line(1, custom_id=7)], "missing_required_parameter"),
        ([line(1, url=TEXT)], "invalid_url"),
        ([line(1, method="GET")], "invalid_url"),
        ([line(1), line(2, body=question(2, model="scripted/other"))], "mismatched_model"),
        ([line(1, body="x")], "invalid_json_line"),
        ([], "empty_file"),
    ],
)
def test_a_file_that_is_no_batch_fails_and_costs_nothing(serving: Serve, lines: list[Any], code: str) -> None:
    async def work(local: Local) -> None:
        batch, output, errors = await ended(local, await create(local, lines))
        assert batch["status"] == "failed"
        assert code in {e["code"] for e in batch["errors"]["data"]}
        assert output == errors == {}
        assert (await local.get("/v1/farm/ledger"))[1]["accepted"] == 0

    serving(work)


def test_too_many_lines(serving: Serve) -> None:
    async def work(local: Local) -> None:
        rows = [line(i, body={"model": "scripted/a06"}) for i in range(50_001)]
        batch, _, _ = await ended(local, await create(local, rows))
        assert batch["errors"]["data"][0]["code"] == "too_many_requests"

    serving(work)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_file_id": "file-none"},
        {"input_file_id": 3},
        {"endpoint": "/v1/embeddings"},
        {"completion_window": "1h"},
        {"metadata": {"a": 1}},
        {"metadata": ["a"]},
        {"metadata": {"a": "x" * 513}},
        {"metadata": {str(i): "x" for i in range(17)}},
    ],
)
def test_orders_that_cannot_be(serving: Serve, changes: dict[str, Any]) -> None:
    async def work(local: Local) -> None:
        _, file = await upload(local, [line(1)])
        order = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        status, body, _ = await local.post("/v1/batches", order | changes)
        assert status == 400
        assert body["error"]["message"]

    serving(work)


def test_files_and_batches_are_listed_in_pages(serving: Serve) -> None:
    async def work(local: Local) -> None:
        made = [(await create(local, [line(i)]))["id"] for i in range(5)]
        listed: list[str] = []
        after = ""
        while True:
            page = (await local.get(f"/v1/batches?limit=2{after}"))[1]
            listed += [row["id"] for row in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert listed == made[::-1]
        files = (await local.get("/v1/files?purpose=batch"))[1]["data"]
        assert [f["filename"] for f in files] == ["calls.jsonl"] * 5
        async with local.client.delete(f"/v1/files/{files[0]['id']}") as response:
            assert (await response.json())["deleted"] is True
        for path in (f"/v1/files/{files[0]['id']}", f"/v1/files/{files[0]['id']}/content", "/v1/batches/b"):
            assert (await local.get(path))[0] == 404
        for query in ("limit=0", "limit=x", "limit=-1", "after=nothing", "limit=99999999999999999999"):
            assert (await local.get(f"/v1/batches?{query}"))[0] == 400

    serving(work)


def test_uploads_that_are_none(serving: Serve, tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        assert (await upload(local, [line(1)], purpose="fine-tune"))[0] == 400
        assert (await local.post("/v1/files", {"purpose": "batch"}))[0] == 400
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        for data in (b"", b"--x", b"--x\r\n\r\n--x--", b"--y\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na"):
            async with local.client.post("/v1/files", data=data, headers=form) as response:
                assert response.status == 400
                assert (await response.json())["error"]["message"]
        async with local.client.post("/v1/files", data=b"a", headers={"Content-Type": "multipart/form-data"}) as r:
            assert r.status == 400
        assert list((tmp_path / "files").iterdir()) == []

    serving(work)


def test_a_file_that_is_too_large(serving: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        status, body = await upload(local, [line(i) for i in range(20)])
        assert (status, body["error"]["code"]) == (413, "file_too_large")
        assert list((tmp_path / "files").iterdir()) == []

    monkeypatch.setattr(batches, "MAX_BYTES", 3000)
    serving(work)


def test_trouble_with_calls_about_batches(serving: Serve) -> None:
    async def work(local: Local) -> None:
        for _ in range(40):
            try:
                status, _ = await upload(local, [line(1)])
                assert status in (200, 503)
            except aiohttp.ClientError:
                pass
        conditions = Conditions(faults={"batch:503": 0.3, "batch:lost": 0.3})
        drawn = [conditions.batch_fault({"503", "lost"}, "call", i) for i in range(1, 41)]
        while True:
            try:
                status, page = await local.get("/v1/files?limit=100")
            except aiohttp.ClientError:
                continue
            if status == 200:
                break
        assert len(page["data"]) == 40 - drawn.count("503")  # a lost upload has arrived all the same

    serving(work, faults={"batch:503": 0.3, "batch:lost": 0.3})
