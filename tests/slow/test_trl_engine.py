"""TRL as the second engine: on one batch its losses are ours, and its trainers learn."""

from __future__ import annotations

import pytest

from farm.errors import DataError
from farm.lm import tiny
from farm.lm.load import Lora, load_policy
from farm.lm.sample import sample
from farm.lm.train import Optim
from farm.methods import dpo, sft
from farm.methods.task import Task
from farm.records import Instruction, Pair, Preference, Sampling, by_id
from farm.reward import train as reward
from farm.reward.model import RewardModel

pytestmark = pytest.mark.slow
SAMPLING = Sampling(max_tokens=6)
WORDS = ["say", "the", "word", "a", "b", "c", "d", "e", "f", "g", "h", "please", ".", "!"]
ASKS = [Instruction.make(f"please say {v} {w}", output=f"{w} {v}.") for w in "abcd" for v in "efgh"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    settings = tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=32, positions=32)
    return tiny.create(tmp_path_factory.mktemp("toy") / "model", settings, 0, vocabulary=WORDS)


def task(toy, folder, **more):
    return Task(**{"seed": 0, "folder": folder, "sft": toy, "instructions": ASKS, "sampling": SAMPLING} | more)


@pytest.fixture(scope="module")
def labelled(toy):
    responses = sample(load_policy(toy), ASKS, 2, SAMPLING, name="sft", purpose="pairs")
    preferences = []
    for a, b in zip(responses[::2], responses[1::2], strict=True):
        pair = Pair.of(a, b)
        preferences.append(
            Preference(
                pair_id=pair.id,
                instruction_id=a.instruction_id,
                responses=(pair.a, pair.b),
                winner_id=min(a, b, key=lambda r: (r.n_tokens, r.id)).id,
                origin="gold",
            )
        )
    return {"preferences": preferences, "responses": by_id(responses)}


ONE = Optim(lr=1e-4, epochs=1, batch=16, schedule="constant", warmup=0.0)
LONG = Optim(lr=5e-3, epochs=8, batch=16, schedule="constant", warmup=0.0)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_sft(toy, tmp_path, lora):
    ours, theirs = (
        sft.run(task(toy, tmp_path / engine), sft.Config(engine=engine, optim=ONE, lora=lora)).notes["first_loss"]
        for engine in ("farm", "trl")
    )
    assert theirs == pytest.approx(ours, abs=2e-4)
    learned = sft.run(task(toy, tmp_path / "long"), sft.Config(engine="trl", optim=LONG, lora=lora))
    assert learned.notes["final_loss"] < learned.notes["first_loss"] - 0.05
    assert load_policy(tmp_path / "long" / "policy").model is not None


def train_reward(toy, folder, labelled, preferences=None, **settings):
    config = reward.Config(held_out=0.0, **settings)
    rows = preferences or labelled["preferences"]
    return reward.train_reward(toy, rows, by_id(ASKS), labelled["responses"], config, seed=0, folder=folder)


@pytest.mark.parametrize("margin", ["none", "strength"])
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_reward(toy, tmp_path, labelled, lora, margin):
    """On one batch the loss is ours, with margins that differ from pair to pair as well."""
    clear = [p.model_copy(update={"strength": 1.0 + k % 3}) for k, p in enumerate(labelled["preferences"])]
    same = {"preferences": clear, "lora": lora, "margin": margin}
    ours, theirs = (
        train_reward(toy, tmp_path / engine, labelled, engine=engine, optim=ONE, **same).train_loss
        for engine in ("farm", "trl")
    )
    assert theirs == pytest.approx(ours, abs=2e-4)
    learned = train_reward(toy, tmp_path / "long", labelled, engine="trl", optim=LONG, **same)
    assert learned.train_loss < ours - 0.05
    assert RewardModel.load(tmp_path / "long").sd == pytest.approx(learned.reward_sd)
    assert [p.name for p in (tmp_path / "long").iterdir() if p.is_dir()] == []


def test_trl_refuses_what_it_does_not_know(toy, tmp_path, labelled):
    soft = [p.model_copy(update={"probability": 0.8}) for p in labelled["preferences"]]
    with pytest.raises(DataError, match="engine: farm"):
        train_reward(toy, tmp_path, labelled, soft, engine="trl", optim=ONE)
    report = train_reward(toy, tmp_path, labelled, soft, engine="trl", optim=ONE, margin="confidence")
    assert report.updates == 1


@pytest.mark.parametrize(("loss", "flip"), [("sigmoid", 0.0), ("hinge", 0.0), ("robust", 0.2)])
def test_dpo(toy, tmp_path, labelled, loss, flip):
    """At the start all margins are 0, so a second epoch at a large rate is compared as well."""
    settings = {"loss": loss, "flip": flip, "beta": 0.3, "curve_points": 0}
    two = Optim(lr=2e-3, epochs=3, batch=16, schedule="constant", warmup=0.0)
    ours, theirs = (
        dpo.run(task(toy, tmp_path / engine, **labelled), dpo.Config(engine=engine, optim=two, **settings)).notes
        for engine in ("farm", "trl")
    )
    assert theirs["first_loss"] == pytest.approx(ours["first_loss"], abs=2e-4)
    assert theirs["last_loss"] == pytest.approx(ours["last_loss"], abs=2e-3)
    assert ours["last_loss"] < ours["first_loss"] - 0.005


def test_more_losses_of_trl(toy, tmp_path, labelled):
    config = dpo.Config(engine="trl", optim=LONG, loss="apo_zero", curve_points=0, lora=Lora(rank=2))
    notes = dpo.run(task(toy, tmp_path, **labelled), config).notes
    assert notes["last_loss"] < notes["first_loss"]
    with pytest.raises(ValueError, match="engine: trl adds"):
        dpo.Config(loss="apo_zero")
    with pytest.raises(ValueError, match="loss must be one of"):
        dpo.Config(loss="smooth", engine="trl")
