"""A method's curve keeps the responses behind every point, so that others can judge or score them later."""

from __future__ import annotations

import json

import pytest

from farm import records
from farm.lm.load import Lora, load_policy
from farm.lm.prompts import encode_prompts
from farm.lm.sample import draw
from farm.methods import expert_iteration, ppo
from farm.methods.task import Task
from farm.records import Response, Sampling


def words(instructions, responses):
    return [float(len(r.text.split())) for r in responses]


def test_responses_lie_point_by_point_beside_their_values(spoken, asks, tmp_path):
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


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_policies_behind_the_points_are_kept_on_request(lora, spoken, asks, tmp_path):
    def task(folder, keep):
        return Task(
            seed=0, folder=folder, sft=spoken, instructions=asks, sampling=Sampling(max_tokens=6), score=words,
            val=asks[:3], keep=keep,
        )  # fmt: skip

    config = ppo.Config(steps=4, rollouts=8, curve_every=1, lora=lora, lr=0.01)
    plain, kept = task(tmp_path / "plain", False), task(tmp_path / "kept", True)
    ppo.run(plain, config)
    result = ppo.run(kept, config)
    assert not (tmp_path / "plain" / "checkpoints").exists()
    assert sorted(p.name for p in (tmp_path / "kept" / "checkpoints").iterdir()) == ["1", "2", "3"]
    assert [p.sequences for p in result.curve.points] == [0, 8, 16, 24, 32]
    responses = records.read(tmp_path / "kept" / "curve_responses.jsonl", Response)
    policy = load_policy(tmp_path / "kept" / "checkpoints" / "2", name="ppo")  # the adapter finds its base from here
    prompts = encode_prompts(asks[:3], policy.tokenizer)
    again = draw(policy, prompts, [i.id for i in asks[:3]], 1, kept.sampling, purpose="curve")
    assert [policy.tokenizer.decode(d.ids, skip_special_tokens=True) for d in again] == [r.text for r in responses[6:9]]


def test_every_round_of_expert_iteration_is_kept_with_what_it_drew(spoken, asks, tmp_path):
    given = Task(
        seed=0, folder=tmp_path, sft=spoken, instructions=asks, sampling=Sampling(max_tokens=6), score=words,
        val=asks[:3], keep=True,
    )  # fmt: skip
    result = expert_iteration.run(given, expert_iteration.Config(n=2, prompts=4, rounds=2))
    assert [p.sequences for p in result.curve.points] == [0, 8, 16]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
