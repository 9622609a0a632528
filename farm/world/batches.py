"""OpenAI's files and batches: a file of calls goes up, is worked off at half the price, and two files come down.

A batch is validating, in_progress, finalizing and completed; or failed (its file is no batch), expired (with what was
done until then) or cancelled. Lines that were refused stand in the error file, the others in the output file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.web_urldispatcher import UrlDispatcher

from farm.seeds import digest, uniform
from farm.world.faults import Conditions
from farm.world.receipts import Receipts
from farm.world.wire import CHAT, TEXT, Refused, parse

MAX_LINES, MAX_BYTES = 50_000, 200_000_000
_DAY = 86_400
_ENDED = ("completed", "failed", "expired", "cancelled")

Line = Callable[[dict[str, Any], str, str, str], dict[str, Any]]  # body, path, request id, batch id -> answer


@dataclass
class _File:
    id: str
    path: Path
    filename: str
    purpose: str
    created_at: int

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "file", "bytes": self.path.stat().st_size, "created_at": self.created_at,
            "filename": self.filename, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass
class _Batch:
    id: str
    number: int
    input_file_id: str
    endpoint: str
    metadata: dict[str, str]
    created_at: int
    status: str = "validating"
    errors: list[dict[str, Any]] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"total": 0, "completed": 0, "failed": 0})
    times: dict[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.created_at + _DAY,
            **{f"{name}_at": self.times.get(name) for name in ("in_progress", "finalizing", "cancelling", *_ENDED)},
            "request_counts": self.counts,
            "metadata": self.metadata,
        }


class Batches:
    """Files and batches of one server. ``folder`` holds the files; ``line`` answers one call and logs it."""

    def __init__(
        self, conditions: Conditions, receipts: Receipts, line: Line, folder: Path, now: Callable[[], float]
    ) -> None:
        self.conditions, self.receipts, self.line, self.folder, self.now = conditions, receipts, line, folder, now
        self.files: dict[str, _File] = {}
        self.batches: dict[str, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = self._named = 0

    def add(self, router: UrlDispatcher) -> None:
        for method, path, handler in (
            ("POST", "/v1/files", self.upload),
            ("GET", "/v1/files", self.list_files),
            ("GET", "/v1/files/{id}", self.show_file),
            ("GET", "/v1/files/{id}/content", self.content),
            ("DELETE", "/v1/files/{id}", self.delete),
            ("POST", "/v1/batches", self.create),
            ("GET", "/v1/batches", self.list_batches),
            ("GET", "/v1/batches/{id}", self.show),
            ("POST", "/v1/batches/{id}/cancel", self.cancel),
        ):
            router.add_route(method, path, self._troubled(handler))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _troubled(self, handler: Callable[[web.Request], Any]) -> Any:
        async def wrapped(request: web.Request) -> web.StreamResponse:
            self._asked += 1
            fault = self.conditions.batch_fault({"503", "lost"}, "call", self._asked)
            if fault == "503":
                raise Refused(503, "The service is overloaded, please try again later.", "overloaded")
            response: web.StreamResponse = await handler(request)
            if fault == "lost" and request.transport is not None:
                request.transport.abort()
            return response

        return wrapped

    # -- files --------------------------------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.Response:
        if not request.content_type.startswith("multipart/"):
            raise Refused(400, "files are uploaded as multipart/form-data with fields 'purpose' and 'file'")
        try:
            purpose, file = await self._parts(request)
        except (ValueError, AssertionError, UnicodeError, KeyError) as e:
            raise Refused(400, f"the upload is no multipart/form-data ({type(e).__name__})") from None
        if file is None or purpose != "batch":
            if file is not None:
                file.path.unlink()
            raise Refused(400, "an upload needs a 'file' and the 'purpose' batch")
        self.files[file.id] = file
        return web.json_response(file.shown())

    async def _parts(self, request: web.Request) -> tuple[str, _File | None]:
        purpose, file = "", None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise ValueError("nested multipart")
            if part.name == "file" and file is None:
                file = self._new_file(part.filename or "upload.jsonl", "batch")
                size = 0
                with file.path.open("wb") as out:
                    while chunk := await part.read_chunk(65_536):
                        size += len(chunk)
                        if size <= MAX_BYTES:
                            out.write(chunk)
                if size > MAX_BYTES:
                    file.path.unlink()
                    raise Refused(413, f"a batch file may have {MAX_BYTES} bytes", "file_too_large")
            elif part.name == "purpose":
                purpose = (await part.read_chunk(100)).decode()
            else:
                await part.release()
        return purpose, file

    def _new_file(self, filename: str, purpose: str) -> _File:
        self._named += 1
        id = f"file-{self._named:06d}{digest(filename, self._named, size=4)}"
        path = self.folder / id
        path.touch()
        return _File(id, path, filename[:200], purpose, int(self.now()))

    def _file(self, request: web.Request) -> _File:
        file = self.files.get(request.match_info["id"])
        if file is None:
            raise Refused(404, "no such file", "not_found")
        return file

    async def list_files(self, request: web.Request) -> web.Response:
        wanted = request.query.get("purpose")
        return _page([f.shown() for f in self.files.values() if wanted in (None, f.purpose)], request, 10_000)

    async def show_file(self, request: web.Request) -> web.Response:
        return web.json_response(self._file(request).shown())

    async def content(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self._file(request).path, headers={"Content-Type": "application/octet-stream"})

    async def delete(self, request: web.Request) -> web.Response:
        file = self._file(request)
        del self.files[file.id]
        file.path.unlink()
        return web.json_response({"id": file.id, "object": "file", "deleted": True})

    # -- batches ------------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        body = parse(await request.read())
        file, endpoint, metadata = body.get("input_file_id"), body.get("endpoint"), body.get("metadata") or {}
        if not isinstance(file, str) or file not in self.files or self.files[file].purpose != "batch":
            raise Refused(400, "'input_file_id' names no uploaded file of purpose batch")
        if endpoint not in (CHAT, TEXT):
            raise Refused(400, f"'endpoint' must be {CHAT} or {TEXT}")
        if body.get("completion_window") != "24h":
            raise Refused(400, "'completion_window' must be 24h")
        if not isinstance(metadata, dict) or len(metadata) > 16 or not all(map(_metadatum, metadata.items())):
            raise Refused(400, "'metadata' holds up to 16 texts: names up to 64 characters, values up to 512")
        number = len(self.batches)
        batch = _Batch(
            f"batch_{number:06d}{digest(file, number, size=4)}", number, file, endpoint, metadata, int(self.now())
        )
        self.batches[batch.id] = batch
        task = asyncio.create_task(self._drive(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(batch.shown())

    def _batch(self, request: web.Request) -> _Batch:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            raise Refused(404, "no such batch", "not_found")
        return batch

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(self._batch(request).shown())

    async def list_batches(self, request: web.Request) -> web.Response:
        return _page([b.shown() for b in reversed(self.batches.values())], request, 20)

    async def cancel(self, request: web.Request) -> web.Response:
        batch = self._batch(request)
        if batch.status not in ("validating", "in_progress"):
            raise Refused(409, f"a batch that is {batch.status} cannot be cancelled")
        self._move(batch, "cancelling")
        return web.json_response(batch.shown())

    def _move(self, batch: _Batch, status: str) -> None:
        batch.status = status
        batch.times[status] = int(self.now())

    # -- the work -----------------------------------------------------------------------------------------------

    async def _drive(self, batch: _Batch) -> None:
        """The life of a batch: a third of ``batch_seconds`` in each of its states."""
        pause = self.conditions.batch_seconds / 3
        fate = self.conditions.batch_fault({"failed", "expired", "stuck"}, "batch", batch.number)
        await asyncio.sleep(pause)
        path = self.files[batch.input_file_id].path
        batch.counts["total"], batch.errors = _validated(path, batch.endpoint)
        if fate == "failed":
            batch.errors = [_error("token_limit_exceeded", "Enqueued token limit reached for this account.", None)]
        if batch.errors:
            self._move(batch, "failed")
            return
        if batch.status == "validating":
            self._move(batch, "in_progress")
        await asyncio.sleep(pause)
        while fate == "stuck" and batch.status == "in_progress":
            await asyncio.sleep(0.02)
        if not await self._work(batch, path, expires=fate == "expired"):
            self._move(batch, "cancelled")
            return
        self._move(batch, "finalizing")
        await asyncio.sleep(pause)
        self._move(batch, "expired" if fate == "expired" else "completed")

    async def _work(self, batch: _Batch, path: Path, expires: bool) -> bool:
        """Answer the lines into the two files; False when the batch was cancelled on the way."""
        good = self._new_file(f"{batch.id}_output.jsonl", "batch_output")
        bad = self._new_file(f"{batch.id}_error.jsonl", "batch_output")
        with (
            path.open("rb") as rows,
            good.path.open("w", encoding="utf-8") as output,
            bad.path.open("w", encoding="utf-8") as errors,
        ):
            for number, line in enumerate(map(json.loads, rows)):
                if batch.status == "cancelling":
                    break
                if expires and uniform(self.conditions.seed, "expired", batch.number, line["custom_id"]) < 0.5:
                    reason = "This request could not be executed before the completion window expired."
                    row: dict[str, Any] = {"response": None, "error": {"code": "batch_expired", "message": reason}}
                else:
                    row = self._row(batch, line)
                fine = row["response"] is not None and row["response"]["status_code"] == 200
                batch.counts["completed" if fine else "failed"] += 1
                named = {"id": f"batch_req_{batch.number:04d}{number:06d}", "custom_id": line["custom_id"]}
                (output if fine else errors).write(json.dumps({**named, **row}) + "\n")
                await asyncio.sleep(0)  # calls outside batches go on meanwhile
        for file, name in ((good, "output_file_id"), (bad, "error_file_id")):
            if file.path.stat().st_size:
                self.files[file.id] = file
                setattr(batch, name, file.id)
        return batch.status != "cancelling"

    def _row(self, batch: _Batch, line: dict[str, Any]) -> dict[str, Any]:
        request = self.receipts.next_request()
        try:
            status, body = 200, self.line(line["body"], batch.endpoint, request, batch.id)
        except Refused as e:
            status, body = e.status, e.body()
        return {"response": {"status_code": status, "request_id": request, "body": body}, "error": None}


def _metadatum(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, str) and len(name) <= 64 and len(value) <= 512


def _page(rows: list[dict[str, Any]], request: web.Request, default: int) -> web.Response:
    """One page of a list: ``limit`` rows from behind ``after`` on."""
    limit, after = request.query.get("limit", str(default)), request.query.get("after")
    if not limit.isdecimal() or not limit.isascii() or not 1 <= int(limit[:6]) <= 10_000:
        raise Refused(400, "'limit' must be a number from 1 to 10000")
    ids = [row["id"] for row in rows]
    if after is not None and after not in ids:
        raise Refused(400, "'after' names nothing in the list")
    start = 0 if after is None else ids.index(after) + 1
    shown = rows[start : start + int(limit)]
    return web.json_response(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": start + len(shown) < len(rows),
        }
    )


def _error(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


def _validated(path: Path, endpoint: str) -> tuple[int, list[dict[str, Any]]]:
    """How many lines a batch file has, and what is wrong with it (at most ten complaints)."""
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    models: set[str] = set()
    with path.open("rb") as f:
        for number, data in enumerate(f, 1):
            if number > MAX_LINES:
                errors.append(_error("too_many_requests", f"a batch has at most {MAX_LINES} lines", None))
            if len(errors) >= 10 or number > MAX_LINES:
                break
            row: Any = None
            with suppress(ValueError, RecursionError):
                row = json.loads(data)
            if not isinstance(row, dict) or not isinstance(row.get("body"), dict):
                errors.append(_error("invalid_json_line", "a line is a JSON object with a body", number))
                continue
            custom = row.get("custom_id")
            if not isinstance(custom, str) or not 1 <= len(custom) <= 512:
                errors.append(_error("missing_required_parameter", "custom_id is a text", number))
            elif custom in seen:
                errors.append(_error("duplicate_custom_id", f"custom_id {custom[:80]!r} occurs twice", number))
            elif row.get("method") != "POST" or row.get("url") != endpoint:
                errors.append(_error("invalid_url", f"method and url must be POST {endpoint}", number))
            else:
                seen.add(custom)
                models.add(str(row["body"].get("model"))[:200])
            if len(models) > 1:
                errors.append(_error("mismatched_model", "all lines of a batch ask the same model", number))
    if not seen and not errors:
        errors.append(_error("empty_file", "the file has no lines", None))
    return len(seen), errors
