"""A method's curve keeps the responses behind every point, so that others can judge or score them later."""

from __future__ import annotations

import json

from farm import records
from farm.methods import ppo
from farm.methods.task import Task
from farm.records import Response, Sampling


def test_responses_lie_point_by_point_beside_their_values(spoken, asks, tmp_path):
    def words(instructions, responses):
        return [float(len(r.text.split())) for r in responses]

    given = Task(
        seed=0, folder=tmp_path, sft=spoken, instructions=asks, sampling=Sampling(max_tokens=6), score=words,
        gold=words, val=asks[:3],
    )  # fmt: skip
    result = ppo.run(given, ppo.Config(steps=4, rollouts=8, curve_every=2))
    values = json.loads((tmp_path / "curve_values.json").read_text())
    responses = records.read(tmp_path / "curve_responses.jsonl", Response)
    assert [p.x for p in result.curve.points] == [0, 2, 4]
    assert [r.instruction_id for r in responses] == [i.id for i in asks[:3]] * 3
    assert words([], responses) == [v for point in values["proxy"] for v in point]
