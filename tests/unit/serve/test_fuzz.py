"""Whatever is thrown at the server, it answers with JSON of OpenAI's shape and goes on."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_server import Local, Serve, question

from farm.world.wire import CHAT, TEXT

scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\ud800", "\x00", "scripted/a01", "scripted/\udfff", "user", "<<first 1 0a1b2c3d>>", "9" * 40]),
)
value = st.recursive(scalar, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=9), v, max_size=3))
FIELDS = [
    "model", "messages", "prompt", "temperature", "max_tokens", "max_completion_tokens", "seed", "logprobs",
    "top_logprobs", "stream", "n", "input_file_id", "endpoint", "completion_window", "metadata",
]  # fmt: skip
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]) | scalar, "content": scalar})
changed = st.builds(
    lambda changes, messages, gone: {
        k: v for k, v in (question() | changes | ({"messages": messages} if messages else {})).items() if k not in gone
    },
    st.dictionaries(st.sampled_from(FIELDS), value, max_size=4),
    st.lists(message, max_size=3),
    st.sets(st.sampled_from(FIELDS), max_size=2),
)
body = st.one_of(
    changed.map(lambda b: json.dumps(b).encode()),
    value.map(lambda v: json.dumps(v).encode()),
    st.builds(lambda b, at: json.dumps(b).encode()[:at], changed, st.integers(0, 400)),
    st.binary(max_size=60),
    st.integers(1, 3000).map(lambda n: b"[" * n),
    st.integers(1, 3000).map(lambda n: b'{"model":' * n + b"1" + b"}" * n),
    st.just(b'{"model": "scripted", "seed": ' + b"9" * 5000 + b"}"),
)
PATHS = (CHAT, TEXT, "/v1/batches", "/v1/files", "/v1/batches/x/cancel")


def test_malformed_bodies_get_a_json_error(serving: Serve) -> None:
    bodies: list[tuple[str, bytes]] = []

    @settings(max_examples=600, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(PATHS), body)
    def collect(path: str, data: bytes) -> None:
        bodies.append((path, data))

    async def work(local: Local) -> None:
        statuses: dict[int, int] = {}
        for path, data in bodies:
            async with local.client.post(path, data=data, headers={"Content-Type": "application/json"}) as response:
                answer: Any = json.loads(await response.read())
            statuses[response.status] = statuses.get(response.status, 0) + 1
            if response.status == 200:
                assert answer["choices"]
            else:
                assert response.status in (400, 404), (path, data)
                assert answer["error"]["message"]
        assert statuses[400] > 100
        assert (await local.post(CHAT, question()))[0] == 200

    collect()
    serving(work)
