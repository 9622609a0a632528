"""Starting and stopping the judge server: the scripted judge behind OpenAI's interface, on this machine only.

The paid path without key and bill (``farm.world.api``), and what a paid judge does to its callers
(``farm.world.faults``): ``farm serve`` for people, ``background`` for programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from farm.errors import DataError, FarmError
from farm.records import json_rows
from farm.world.api import HOSTS, Desk, application
from farm.world.faults import Conditions
from farm.world.judge import MODELS, ScriptedJudge
from farm.world.receipts import Receipts

TOKEN_ENV = "FARM_SERVE_TOKEN"  # noqa: S105 - the variable's name
_START_SECONDS = 60


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
    conditions: Conditions | None = None,
    *,
    machine: bool = False,
) -> None:
    """Serve until interrupted. Port 0 takes a free one; without ``token``, FARM_SERVE_TOKEN is used or one made up.

    ``machine``: announce as one JSON line and end when standard input closes, for a parent process. Raises DataError
    for a host that is not loopback, an address that is taken, or a log that cannot be written.
    """
    if host not in HOSTS:
        raise DataError(
            f"the judge server is for this machine only: host must be one of {', '.join(HOSTS)}, got {host!r}"
        )
    token = token or os.environ.get(TOKEN_ENV) or secrets.token_urlsafe(24)
    known = load_answers(answers) if isinstance(answers, Path) else answers
    conditions = conditions or Conditions()
    with (
        Receipts(conditions.log) as receipts,
        tempfile.TemporaryDirectory(prefix="farm-files-") as folder,
        contextlib.suppress(KeyboardInterrupt),
    ):
        app = application(Desk(ScriptedJudge(known), conditions, receipts), token, Path(folder))
        asyncio.run(_serve(app, host, port, token, machine))


async def _serve(app: web.Application, host: str, port: int, token: str, machine: bool) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)  # a call that hangs must not hold up the end
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True, backlog=1024)
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
                f"models: {MODELS[0]} ... {MODELS[-1]}, or any name that starts with scripted/\n"
                f'totals: curl -H "Authorization: Bearer $OPENAI_API_KEY" {base_url}/farm/ledger\nStop with Ctrl-C.',
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
    answers: Mapping[str, str] | Path | None = None, *, token: str | None = None, port: int = 0, **conditions: Any
) -> Iterator[tuple[str, str]]:
    """Run the server in a child process on a free port; yields (base URL, token) and always ends it.

    ``conditions`` are fields of Conditions. The child also ends when this process is killed. Raises DataError for
    conditions that cannot be, FarmError when the server does not come up.
    """
    token = token or secrets.token_urlsafe(24)
    settings: dict[str, Any] = {"port": port, "conditions": Conditions.from_json(conditions).to_json()}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    with tempfile.TemporaryDirectory(prefix="farm-serve-") as scratch:
        if answers is not None:
            settings["answers"] = str(answers if isinstance(answers, Path) else _spill(answers, Path(scratch)))
        # A session of its own: Ctrl-C reaches this process first, which may still want answers in flight.
        child = subprocess.Popen(
            [sys.executable, "-m", "farm.world.serve", json.dumps(settings)],
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
    """``python -m farm.world.serve SETTINGS``: what ``background`` starts; people use ``farm serve``."""
    settings = json.loads(sys.argv[1])
    answers = settings.get("answers")
    try:
        run(
            port=settings["port"],
            answers=None if answers is None else Path(answers),
            conditions=Conditions.from_json(settings["conditions"]),
            machine=True,
        )
    except FarmError as e:
        sys.exit(f"farm: {e}")


if __name__ == "__main__":
    main()
