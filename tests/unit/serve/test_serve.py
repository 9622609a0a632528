from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from farm.annotate.engine import annotate
from farm.annotate.ledger import Ledger
from farm.annotate.pool import load_pool
from farm.errors import AnnotatorError, DataError
from farm.lm.endpoints import InProcess, OpenAIEndpoint
from farm.records import Cost, Instruction, Judgement, Outcome, Pair, Response
from farm.world import serve
from farm.world.instructions import evaluation
from farm.world.judge import ScriptedJudge
from farm.world.writers import write

POOL = load_pool("farm13")
MODELS = dict.fromkeys(("strong", "medium", "completion"), "scripted/{annotator}")
CHAT = "/v1/chat/completions"
PROMPT = "\n".join(
    f"<<{slot} 1 0a1b2c3d>>\n{text}\n<<end 0a1b2c3d>>"
    for slot, text in (("instruction", "Name a colour."), ("first", "Blue."), ("second", "I I I I."))
)
GOOD = {"model": "scripted/a06", "messages": [{"role": "user", "content": f"{PROMPT}\nReply format: A or B"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    with serve.background() as address:
        yield address


def call(
    server: tuple[str, str], path: str, body: Any = None, *, raw: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    url, token = server
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    try:
        connection.request(
            "GET" if data is None else "POST",
            path,
            data,
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers,
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def corpus() -> tuple[list[Pair], dict[str, Instruction], dict[str, Response]]:
    instructions = {i.id: i for i in evaluation()[:120]}
    responses: dict[str, Response] = {}
    pairs = []
    for i in instructions.values():
        two = [Response.make(i.id, write(i, skill, 2, "serve"), f"w{skill}", n_tokens=5) for skill in (0.2, 0.9)]
        responses |= {r.id: r for r in two}
        pairs.append(Pair.of(*two))
    return pairs, instructions, responses


def test_all_annotators_answer_over_http_as_they_do_in_process(
    server: tuple[str, str],
    corpus: tuple[list[Pair], dict[str, Instruction], dict[str, Response]],
    tmp_path: Path,
) -> None:
    url, token = server
    judged: list[list[Judgement]] = []
    for endpoint in (OpenAIEndpoint(url, api_key=token, name="judge"), InProcess(ScriptedJudge())):
        with Ledger(tmp_path / f"{endpoint.name}.sqlite") as ledger:
            found = annotate(
                *corpus, POOL, models=MODELS, endpoint=endpoint, per_pair=2, seed=1, purpose="evaluate", ledger=ledger
            )
        judged.append([j.model_copy(update={"cost": without_seconds(j.cost)}) for j in found])
    assert judged[0] == judged[1]
    outcomes = Counter(j.outcome for j in judged[0])
    assert outcomes.total() == 240
    assert outcomes[Outcome.FAILED] == 0
    assert {j.annotator for j in judged[0] if j.outcome is Outcome.DECIDED} == {a.id for a in POOL.annotators}
    assert token.encode() not in (tmp_path / "judge.sqlite").read_bytes()


def without_seconds(cost: Cost) -> Cost:
    return cost.model_copy(update={"seconds": 0.0})


def test_soft_verdicts_come_over_both_kinds_of_endpoint(
    server: tuple[str, str],
    corpus: tuple[list[Pair], dict[str, Instruction], dict[str, Response]],
    tmp_path: Path,
) -> None:
    url, token = server
    for id in ("a04", "a11"):
        soft = POOL.annotator(id).model_copy(update={"logprobs": 5})
        pool = POOL.model_copy(update={"annotators": (soft,)})
        found: list[list[float | None]] = []
        for endpoint in (OpenAIEndpoint(url, api_key=token), InProcess(ScriptedJudge())):
            with Ledger(tmp_path / f"{id}-{type(endpoint).__name__}.sqlite") as ledger:
                judged = annotate(
                    *corpus, pool, models=MODELS, endpoint=endpoint, seed=1, purpose="evaluate", ledger=ledger
                )
            found.append([j.probability for j in judged])
        assert found[0] == found[1]
        assert sum(p is not None for p in found[0]) > 90


def test_a_wrong_token_ends_the_run_at_once(
    server: tuple[str, str],
    corpus: tuple[list[Pair], dict[str, Instruction], dict[str, Response]],
    tmp_path: Path,
) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(AnnotatorError, match=r"HTTP 401.*OPENAI_API_KEY"):
            annotate(
                *corpus, POOL, models=MODELS, endpoint=OpenAIEndpoint(server[0], api_key="wrong"), seed=1,
                purpose="train", ledger=ledger, concurrency=4,
            )  # fmt: skip
        assert sum(ledger.counts().values()) <= 4


def test_models_are_listed(server: tuple[str, str]) -> None:
    status, body = call(server, "/v1/models")
    assert status == 200
    assert [m["id"] for m in body["data"]] == [f"scripted/a{i:02d}" for i in range(1, 14)]


def test_usage_adds_up(server: tuple[str, str]) -> None:
    _, body = call(server, CHAT, GOOD)
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 10
    assert body["choices"][0]["message"]["role"] == "assistant"


def test_log_probabilities_in_both_shapes(server: tuple[str, str]) -> None:
    _, chat = call(server, CHAT, GOOD | {"logprobs": True, "top_logprobs": 2, "temperature": 0})
    content = chat["choices"][0]["logprobs"]["content"]
    assert "".join(t["token"] for t in content) == chat["choices"][0]["message"]["content"]
    assert {t["token"] for t in content[0]["top_logprobs"]} == {"A", "B"}
    text = {"model": "scripted/a06", "prompt": GOOD["messages"][0]["content"], "logprobs": 2, "temperature": 0}
    _, done = call(server, "/v1/completions", text)
    logprobs = done["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == done["choices"][0]["text"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["text_offset"])


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_another_host_name_is_refused(server: tuple[str, str], host: str) -> None:
    status, body = call(server, CHAT, GOOD, Host=host)
    assert status in (400, 403)
    assert "choices" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "[::1]:5"])
def test_its_own_names_are_accepted(server: tuple[str, str], host: str) -> None:
    assert call(server, CHAT, GOOD, Host=host)[0] == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer wrong", "bearer x", "Bearer ä"])
def test_a_wrong_token_is_refused(server: tuple[str, str], value: str) -> None:
    status, body = call(server, CHAT, GOOD, Authorization=value)
    assert status == 401
    assert body["error"]["code"] == "invalid_api_key"
    for path in ("/v1/models", "/v1/farm/ledger", "/v1/files", "/v1/batches"):
        assert call(server, path, Authorization=value)[0] == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 404),
        ({"model": "gpt-4"}, 404),
        ({"model": "scripted/a01"}, 400),
        (GOOD | {"messages": []}, 400),
        (GOOD | {"messages": "hello"}, 400),
        (GOOD | {"messages": [{"role": "user"}]}, 400),
        (GOOD | {"messages": [{"role": "root", "content": "x"}]}, 400),
        (GOOD | {"max_tokens": -1}, 400),
        (GOOD | {"max_tokens": "many"}, 400),
        (GOOD | {"temperature": 9}, 400),
        (GOOD | {"temperature": True}, 400),
        (GOOD | {"stream": True}, 400),
        (GOOD | {"n": 2}, 400),
        ([1], 400),
        ("x", 400),
    ],
)
def test_bad_requests_get_an_error_in_openai_shape(server: tuple[str, str], body: Any, status: int) -> None:
    got, answer = call(server, CHAT, body)
    assert got == status
    assert answer["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"model": NaN}'])
def test_malformed_json(server: tuple[str, str], raw: bytes) -> None:
    status, body = call(server, CHAT, raw=raw)
    assert status in (400, 404)
    assert "error" in body


def test_a_body_that_is_too_large_is_refused(server: tuple[str, str]) -> None:
    status, body = call(server, CHAT, raw=b'{"model": "' + b"x" * 1_100_000 + b'"}')
    assert status == 413
    assert "error" in body


def test_unknown_paths_and_methods(server: tuple[str, str]) -> None:
    assert call(server, "/v1/embeddings", {})[0] == 404
    assert call(server, CHAT)[0] == 405


def test_answers_reach_the_judge(tmp_path: Path) -> None:
    answers = {"What is the code of this test?": "The word is quartz seventeen."}
    texts = (
        ("instruction", next(iter(answers))),
        ("first", "The word is quartz seventeen."),
        ("second", "It is blue."),
    )
    prompt = "\n".join(f"<<{slot} 1 0a1b2c3d>>\n{text}\n<<end 0a1b2c3d>>" for slot, text in texts)
    ask = {"model": "scripted/a06", "prompt": f"{prompt}\nReply format: A or B", "logprobs": 2, "temperature": 0}
    sure: list[float] = []
    for known in (None, answers):
        with serve.background(known) as server:
            _, body = call(server, "/v1/completions", ask)
        sure.append(body["choices"][0]["logprobs"]["top_logprobs"][0]["A"])
    assert sure[1] > sure[0]


def test_a_bad_answer_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"instruction": "a", "answer": "b"}\n{"instruction": "a"}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl, line 2"):
        serve.load_answers(path)


def test_it_binds_to_this_machine_only() -> None:
    with pytest.raises(DataError, match="this machine only"):
        serve.run("0.0.0.0")


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(Exception, match=r"did not start.*missing\.jsonl"),
        serve.background(tmp_path / "missing.jsonl"),
    ):
        pass


PARENT = """
import sys
from farm.world import serve
with serve.background() as (url, token):
    print(url, flush=True)
    sys.stdin.read()
"""


def test_the_child_ends_when_its_parent_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    url = parent.stdout.readline().strip()
    assert call((url, ""), "/v1/models")[0] == 401
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            call((url, ""), "/v1/models")
        except ConnectionError:
            return
        time.sleep(0.05)
    pytest.fail("the server outlived its parent")
