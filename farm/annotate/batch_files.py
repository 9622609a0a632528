"""The files of the Batch API: lines of calls going up, lines of answers and errors coming down."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Container, Mapping
from typing import IO, Any, BinaryIO, Generic

from farm.annotate.batch_book import Batch
from farm.annotate.calls import W
from farm.annotate.ledger import Answer
from farm.lm.endpoints import CallError, OpenAIEndpoint, Request

MAX_LINES, MAX_BYTES = 50_000, 200_000_000  # of one file, as OpenAI has them

Result = Answer | CallError


class Draft(Generic[W]):
    """Lines of a file that is being collected; on disk, since they may be many. Nobody else can read it."""

    def __init__(self, path: str) -> None:
        self.path, self.size = path, 0
        self.jobs: list[W] = []
        self._file = _scratch()

    def add(self, job: W, line: bytes) -> None:
        self.jobs.append(job)
        self.size += len(line)
        self._file.write(line)

    def split(self, keys: Container[str]) -> tuple[Draft[W], Draft[W]]:
        """The lines of these calls, and those of all others."""
        if all(job.key in keys for job in self.jobs):
            return self, Draft(self.path)
        parts = Draft[W](self.path), Draft[W](self.path)
        self._file.seek(0)
        for job, line in zip(self.jobs, self._file, strict=True):
            parts[job.key not in keys].add(job, line)
        return parts

    def open(self) -> BinaryIO:
        """A handle of its own: whoever sends a file closes it."""
        self._file.flush()
        return open(self._file.name, "rb")


def _scratch() -> IO[bytes]:
    """A file that vanishes when it is closed, with its owner's name or by the end of the process."""
    return tempfile.NamedTemporaryFile("w+b", prefix="farm-batch-")


def line_of(key: str, path: str, body: Mapping[str, Any]) -> bytes:
    row = {"custom_id": key, "method": "POST", "url": f"/v1{path}", "body": body}
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def read_results(endpoint: OpenAIEndpoint, batch: Batch, data: bytes) -> dict[str, Result]:
    """What the lines of an output or error file say about a batch's calls, by key; lines that cannot be read are left
    out."""
    chat = batch.path.startswith("/chat/")
    asked = Request(batch.model, messages=() if chat else None, prompt=None if chat else "")
    results: dict[str, Result] = {}
    for text in data.splitlines():
        try:
            row = json.loads(text)
            key, response, error = row["custom_id"], row.get("response"), row.get("error")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if isinstance(key, str) and key in batch.calls:
            results[key] = _result(endpoint, batch, asked, key, response, error)
    return results


def _result(endpoint: OpenAIEndpoint, batch: Batch, asked: Request, key: str, response: Any, error: Any) -> Result:
    if not isinstance(response, dict):
        return CallError("retry", _detail({"error": error}))
    body, status = response.get("body"), response.get("status_code")
    if status != 200:
        return endpoint.classify(status if isinstance(status, int) else 500, _detail(body), {})
    try:
        reply = endpoint.read(json.dumps(body).encode(), asked)
    except CallError as e:
        return e
    return batch.calls[key].answer(reply, 0.0)  # seconds mean nothing here


def _detail(body: Any) -> str:
    """Message and code of an error in OpenAI's shape, or whatever stands in its place; at most 500 characters."""
    error = body.get("error") if isinstance(body, dict) else body
    if isinstance(error, dict):
        return " ".join(str(error[n]) for n in ("message", "code") if error.get(n))[:500]
    return str(error or "no reason given")[:500]


def tag_of(shown: Mapping[str, Any]) -> object:
    metadata = shown.get("metadata")
    return metadata.get("farm") if isinstance(metadata, dict) else None


def errors_of(shown: Mapping[str, Any]) -> str:
    """What a batch's description says is wrong with it, at most 500 characters."""
    errors = shown.get("errors")
    rows = errors.get("data") if isinstance(errors, dict) else None
    named = [r for r in rows or () if isinstance(r, dict)]
    return "; ".join(" ".join(str(r[n]) for n in ("code", "message", "line") if r.get(n)) for r in named)[:500]


def json_object(data: bytes, path: str) -> dict[str, Any]:
    """A JSON object; raises CallError for anything else."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise CallError("retry", f"{path}: the answer is no JSON object")
    return body


def id_of(row: Mapping[str, Any]) -> str:
    """An id that can be a part of a path; raises CallError."""
    id = row.get("id")
    if not isinstance(id, str) or not re.fullmatch(r"[\w.:-]{1,200}", id):
        raise CallError("retry", f"the server gave {str(id)[:80]!r} as id of a file or batch")
    return id
