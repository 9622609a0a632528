"""Ensembles as ordinary reward models: trained together, saved as one, normalised as one, read back as one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from farm import records
from farm.errors import DataError
from farm.lm.train import Optim
from farm.reward.ensemble import SAVED, Ensemble, combined, combined_models, first_member, load_reward
from farm.reward.members import train_rewards
from farm.reward.model import RewardModel
from farm.reward.report import RewardReport
from farm.reward.train import Config, train_reward


def train(toy, world, folder, **settings):
    instructions, responses, preferences = world
    config = Config(optim=Optim(lr=1e-2, epochs=3, batch=16), held_out=0.25, members=3, **settings)
    return train_rewards(toy, preferences, instructions, responses, config, seed=0, folder=folder)


def scored(model, world):
    responses = list(world[1].values())
    return np.array(model.score([world[0][r.instruction_id] for r in responses], responses))


@pytest.mark.parametrize("combine", ["mean", "worst", "variance", "soft"])
def test_an_ensemble_is_one_normalised_reward(toy, world, tmp_path, combine):
    seen = []
    instructions, responses, preferences = world
    config = Config(optim=Optim(lr=1e-2, epochs=3, batch=16), held_out=0.25, members=3, combine=combine, strength=0.7)
    report = train_rewards(
        toy, preferences, instructions, responses, config,
        seed=0, folder=tmp_path, progress=lambda done, total, _: seen.append((done, total)),
    )  # fmt: skip
    model = load_reward(tmp_path)
    assert isinstance(model, Ensemble)
    assert (model.combine, model.strength, len(model.members)) == (combine, 0.7, 3)
    whole = scored(model, world)
    assert (whole.mean(), whole.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    each = [scored(m, world) for m in model.members]
    assert whole == pytest.approx((combined(each, combine, 0.7) - model.mean) / model.sd, abs=1e-6)
    assert np.abs(each[0] - each[1]).max() > 0.05  # members differ
    rows = records.read(tmp_path / "report.jsonl", RewardReport)
    assert rows[0] == report
    assert [r.member for r in rows] == [None, 0, 1, 2]
    assert {r.accuracy.n for r in rows} == {report.accuracy.n}  # one held-out set, which no member learned from
    assert {r.longer_wins.value for r in rows} == {report.longer_wins.value}
    assert report.combine == combine
    assert report.updates == sum(r.updates for r in rows[1:])
    assert seen[-1][0] == seen[-1][1] == report.updates
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert first_member(tmp_path) == tmp_path / "member-0"


def test_the_first_member_is_the_single_model_of_the_seed(toy, world, tmp_path):
    train(toy, world, tmp_path / "three")
    one = Config(optim=Optim(lr=1e-2, epochs=3, batch=16), held_out=0.25)
    for name, train_it in (("single", train_reward), ("one", train_rewards)):
        instructions, responses, preferences = world
        train_it(toy, preferences, instructions, responses, one, seed=0, folder=tmp_path / name)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("three/member-0", "single", "one")]
    assert weights[0] == weights[1] == weights[2]
    assert first_member(tmp_path / "one") == tmp_path / "one"
    assert isinstance(load_reward(tmp_path / "one"), RewardModel)


def test_averaged_weights_are_one_ordinary_model(toy, world, tmp_path):
    report = train(toy, world, tmp_path, combine="weights")
    model = load_reward(tmp_path)
    assert isinstance(model, RewardModel)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    values = scored(model, world)
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert model.max_tokens == 512
    assert len(records.read(tmp_path / "report.jsonl", RewardReport)) == 4
    assert report.reward_sd == pytest.approx(model.sd)
    assert report.accuracy.value > 0.6


def test_any_models_can_be_combined(toy, world, tmp_path):
    train(toy, world, tmp_path)
    members = [load_reward(tmp_path / f"member-{k}") for k in range(2)]
    together = combined_models([*members, load_reward(tmp_path)], "worst", 0.5)
    parts = [scored(m, world) for m in together.members]
    assert scored(together, world) == pytest.approx(np.min(parts, axis=0))
    with pytest.raises(DataError, match="positive"):
        combined_models(members, "soft", 0.0)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("{", "cannot be read"),
        ('{"members": ["a"]}', "KeyError"),
        ({"members": ["../a"]}, "folders beside it"),
        ({"members": []}, "folders beside it"),
        ({"members": ["a"], "combine": "sum"}, "mean, worst"),
        ({"members": ["a"], "reward_sd": float("nan")}, "finite"),
        ({"members": ["a"]}, "no model can be loaded"),
    ],
)
def test_a_broken_ensemble_folder_says_what_is_wrong(tmp_path, said, word):
    whole = {"combine": "mean", "strength": 0.5, "reward_mean": 0.0, "reward_sd": 1.0}
    text = said if isinstance(said, str) else json.dumps(whole | said)
    (tmp_path / SAVED).write_text(text)
    with pytest.raises(DataError, match=word):
        load_reward(tmp_path)
