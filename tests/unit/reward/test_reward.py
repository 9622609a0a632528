"""The reward model: learns a planted preference, honours soft labels and weights, is normalised, sees the end."""

from __future__ import annotations

import math

import pytest
import torch

from farm import records
from farm.errors import DataError, TrainError
from farm.lm.load import Lora, load_policy
from farm.lm.train import Optim
from farm.records import Preference, Response
from farm.reward.model import RewardModel
from farm.reward.report import RewardReport
from farm.reward.train import Config, from_policy, target, train_reward

OPTIM = Optim(lr=1e-2, epochs=4, batch=16)


def train(toy, world, folder, preferences=None, **settings):
    instructions, responses, given = world
    config = Config(**({"optim": OPTIM, "held_out": 0.25} | settings))
    return train_reward(toy, preferences or given, instructions, responses, config, seed=0, folder=folder)


def test_learns_a_planted_preference_and_is_normalised(toy, world, tmp_path):
    report = train(toy, world, tmp_path)
    assert report.accuracy.value is not None
    assert report.longer_wins.value is not None
    assert report.accuracy.value > 0.8 > report.longer_wins.value
    assert report.accuracy.n == report.longer_wins.n > 10
    model = RewardModel.load(tmp_path)
    responses = list(world[1].values())
    scores = torch.tensor(model.score([world[0][r.instruction_id] for r in responses], responses))
    assert abs(float(scores.mean())) < 1e-4
    assert abs(float(scores.std(correction=0)) - 1) < 1e-4
    assert records.read(tmp_path / "report.jsonl", RewardReport) == [report]
    assert (tmp_path / "model.safetensors").is_file()


def test_same_seed_same_bytes(toy, world, tmp_path):
    for name in ("one", "two"):
        train(toy, world, tmp_path / name)
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two


def test_scores_do_not_depend_on_company_and_see_whether_a_response_is_finished(toy, world, asks, tmp_path):
    train(toy, world, tmp_path)
    model = RewardModel.load(tmp_path)
    responses = [Response.make(a.id, t, "x", n_tokens=1) for a in asks[:2] for t in ("a", "b a g h", "")]
    instructions = [a for a in asks[:2] for _ in range(3)]
    together = model.score(instructions, responses)
    alone = [model.score([i], [r])[0] for i, r in zip(instructions, responses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)
    cut = model.score(instructions, [r.model_copy(update={"finished": False}) for r in responses])
    assert max(abs(a - b) for a, b in zip(cut, together, strict=True)) > 1e-3


def test_a_random_half_of_the_labels_of_weight_zero_teaches_nothing(toy, world, tmp_path):
    wrong = [
        p.model_copy(update={"winner_id": p.loser_id, "weight": 0.0, "pair_id": p.pair_id + "x"})
        for p in world[2]
        if p.winner_id
    ]
    report = train(toy, world, tmp_path, preferences=[*world[2], *wrong])
    model = RewardModel.load(tmp_path)
    ask = next(iter(world[0].values()))
    more, none = (Response.make(ask.id, t, "x", n_tokens=4) for t in ("a a a a", "g h g h"))
    assert report.n_train > 100
    assert model.score([ask], [more])[0] > model.score([ask], [none])[0]


def test_targets_of_hard_soft_and_tied_labels():
    base = {"pair_id": "p", "instruction_id": "i", "responses": ("r1", "r2"), "origin": "gold"}
    assert target(Preference(**base, winner_id="r1")) == 1.0
    assert target(Preference(**base, winner_id="r2")) == 0.0
    assert target(Preference(**base, winner_id="r2", probability=0.8)) == pytest.approx(0.2)
    assert target(Preference(**base, winner_id=None, probability=0.5)) == 0.5


def test_head_starts_at_the_stated_scale_and_the_trunk_is_the_policys(toy):
    policy = load_policy(toy)
    heads = torch.cat([from_policy(policy, s).score.weight.detach() for s in range(200)])
    assert float(heads.std()) == pytest.approx(1 / math.sqrt(17), rel=0.05)
    ours, theirs = from_policy(policy, 0).model.state_dict(), policy.model.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_adapters_are_merged_into_a_plain_saved_model(toy, world, tmp_path):
    report = train(toy, world, tmp_path, lora=Lora(rank=4), optim=Optim(lr=2e-2, epochs=4, batch=16))
    assert not (tmp_path / "adapter_config.json").exists()
    assert RewardModel.load(tmp_path).sd == pytest.approx(report.reward_sd)
    assert report.accuracy.value is not None
    assert report.accuracy.value > 0.7


def test_bad_input_is_named(toy, world, tmp_path):
    instructions, responses, preferences = world
    with pytest.raises(DataError, match="empty"):
        train_reward(toy, [], instructions, responses, Config(), seed=0, folder=tmp_path)
    with pytest.raises(DataError, match=preferences[0].instruction_id):
        train_reward(toy, preferences, {}, responses, Config(), seed=0, folder=tmp_path)
    train(toy, world, tmp_path)
    model = RewardModel.load(tmp_path)
    broken = RewardModel(model.model, model.tokenizer, float("nan"), 1.0)
    ask, response = next(iter(instructions.values())), next(iter(responses.values()))
    broken.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(TrainError, match=response.id):
        broken.score([ask], [response])
