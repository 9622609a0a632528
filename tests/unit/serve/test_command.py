from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from local_server import question

from farm.cli import main
from farm.world import faults, serve
from farm.world.faults import Conditions


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``farm serve`` starts."""
    calls: list[dict[str, Any]] = []

    def run(host: str, port: int, **settings: Any) -> None:
        calls.append({"host": host, "port": port, **settings})

    monkeypatch.setattr(serve, "run", run)
    return calls


def test_every_condition_has_its_option(started: list[dict[str, Any]], tmp_path: Path) -> None:
    main(
        f"serve --port 0 --latency 0.3 --spread 0.2 --rpm 600 --tpm 9000 --burst 2 --retry-after date --pause 3 "
        f"--seed 7 --fault 429=0.02 --fault batch:lost=0.1 --price 1,2 --price m=3,4 --quota 5 "
        f"--batch-seconds 6 --model m --canned A --canned B --log {tmp_path}/log".split()
    )
    expected = Conditions(
        latency=0.3, spread=0.2, rpm=600, tpm=9000, burst=2, retry_after="date", pause=3, seed=7, quota=5,
        faults={"429": 0.02, "batch:lost": 0.1}, prices={"*": (1, 2), "m": (3, 4)}, batch_seconds=6, models=("m",),
        canned=("A", "B"), log=tmp_path / "log",
    )  # fmt: skip
    assert [c["conditions"] for c in started] == [expected]
    plain = Conditions().to_json()
    assert all(value != plain[name] for name, value in expected.to_json().items())  # so no option is forgotten above


def test_by_default_nothing_goes_wrong(started: list[dict[str, Any]]) -> None:
    main(["serve"])
    assert started[0]["conditions"] == Conditions()
    assert started[0]["port"] == 8321


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("--fault 429", "NAME=RATE"),
        ("--fault 429=often", "NAME=RATE"),
        ("--fault flood=0.1", "no fault 'flood'"),
        ("--fault 429=2", "from 0 to 1"),
        ("--price 3", "IN,OUT"),
        ("--price a=b,c", "IN,OUT"),
        ("--rpm 0", "rpm"),
    ],
)
def test_bad_options_are_explained(
    option: str, what: str, started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *option.split()])
    assert ended.value.code == 1
    assert what in capsys.readouterr().err
    assert not started


def test_the_faults_are_listed(started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "--fault", "list"])
    shown = capsys.readouterr().out
    for name in (*faults.REFUSING, *faults.ANSWERING, *(f"batch:{n}" for n in faults.BATCHES)):
        assert f"  {name} " in shown
    assert not started


def test_it_announces_itself_serves_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "farm", "serve", "--port", "0", "--model", "my-judge", "--log", f"{tmp_path}/log"]
    # A shell's background job ignores Ctrl-C, and its children inherit that.
    heeds = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heeds) as server:
        assert server.stdout is not None
        said = [server.stdout.readline() for _ in range(6)]
        text = "".join(said)
        address, token = re.search(r"http://([\d.:]+)/v1", text), re.search(r"OPENAI_API_KEY=(\S+)", text)
        assert address is not None
        assert token is not None
        connection = http.client.HTTPConnection(address[1], timeout=30)
        headers = {"Authorization": f"Bearer {token[1]}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(question(model="my-judge")), headers)
        assert json.loads(connection.getresponse().read())["choices"][0]["message"]["content"] in ("A", "B")
        connection.close()
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
    [row] = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert row["model"] == "my-judge"
    assert token[1] not in (tmp_path / "log").read_text()
