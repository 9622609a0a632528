"""Options of reward modelling: margins, the order of a pair, another start than the SFT policy, texts too long."""

from __future__ import annotations

import math

import pytest
import torch

from farm import records
from farm.errors import DataError
from farm.lm.load import Lora
from farm.lm.train import Optim
from farm.records import Preference, Response
from farm.reward.model import RewardModel, fitting
from farm.reward.report import RewardReport
from farm.reward.train import Config, margins, pair_loss, start_of, train_reward

OPTIM = Optim(lr=1e-2, epochs=4, batch=16)


def train(start, world, folder, preferences=None, gold=None, **settings):
    instructions, responses, given = world
    config = Config(**({"optim": OPTIM, "held_out": 0.25} | settings))
    return train_reward(
        start, preferences or given, instructions, responses, config, seed=0, folder=folder, gold=gold
    )  # fmt: skip


def said(winner="r1", **more):
    base = {"pair_id": "p", "instruction_id": "i", "responses": ("r1", "r2"), "origin": "human"}
    return Preference(**base, winner_id=winner, **more)


def test_margins_come_from_strengths_or_from_soft_labels():
    strengths = [said(strength=3), said("r2", strength=1), said(), said(None, probability=0.5)]
    config = Config(margin="strength", margin_scale=3)
    assert margins(strengths, config) == pytest.approx([3, -1, 2, 0])  # nobody said: 2, clearly
    assert margins(strengths, Config(margin="strength")) == pytest.approx([1, -1 / 3, 2 / 3, 0])
    soft = [said(probability=0.9), said("r2", probability=0.6), said(None, probability=0.5)]
    assert margins(soft, Config(margin="confidence", margin_scale=2)) == pytest.approx([1.6, -0.4, 0])
    assert margins(strengths, Config()) == [0, 0, 0, 0]
    with pytest.raises(DataError, match="no preference has a strength"):
        margins(soft, Config(margin="strength"))
    with pytest.raises(DataError, match=r"annotate\.soft"):
        margins(strengths, Config(margin="confidence"))


def test_the_loss_is_bradley_terry_with_margin_soft_label_and_weight_and_has_no_first_place(toy):
    start = start_of(toy, 0)
    prompt, a, b = [5, 6, 7], [8, 9, 10, 2], [11, 12]
    with torch.no_grad():
        one = RewardModel(start.model, start.tokenizer).raw([prompt, prompt], [a, b])
    d = float(one[0] - one[1])
    for target, weight, margin in ((1.0, 1.0, 0.0), (0.8, 2.5, 0.0), (1.0, 1.0, 0.7), (0.0, 0.5, -0.7), (0.5, 1, 0)):
        loss, _ = pair_loss(start, [(prompt, a, b, target, weight, margin)])
        by_hand = -weight * (target * math.log(sigmoid(d - margin)) + (1 - target) * math.log(sigmoid(margin - d)))
        assert loss.item() == pytest.approx(by_hand, rel=1e-5)
        swapped, _ = pair_loss(start, [(prompt, b, a, 1 - target, weight, -margin)])
        assert swapped.item() == pytest.approx(loss.item(), rel=1e-5)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_preferences_in_the_other_order_train_the_same_model(toy, world, tmp_path):
    turned = [p.model_copy(update={"responses": p.responses[::-1]}) for p in world[2]]
    same, other = (
        train(toy, world, tmp_path / n, preferences=rows) for n, rows in (("one", world[2]), ("two", turned))
    )
    assert other.train_loss == pytest.approx(same.train_loss, abs=1e-4)
    assert other.accuracy == same.accuracy
    assert other.reward_sd == pytest.approx(same.reward_sd, rel=1e-3)


def test_a_margin_widens_the_differences_of_clear_preferences(toy, world, tmp_path):
    clear = [p.model_copy(update={"strength": 3.0}) if p.winner_id else p for p in world[2]]
    spread = {
        scale: train(
            toy, world, tmp_path / str(scale), preferences=clear, margin="strength", margin_scale=scale
        ).reward_sd
        for scale in (0.0, 3.0)
    }
    assert spread[3.0] > 1.2 * spread[0.0]


def test_confidence_as_margin_takes_the_label_hard(toy, world, tmp_path):
    soft = [p.model_copy(update={"probability": 0.75}) if p.winner_id else p for p in world[2]]
    hard = train(toy, world, tmp_path / "hard", margin="none")
    margin = train(toy, world, tmp_path / "margin", preferences=soft, margin="confidence", margin_scale=0.0)
    softly = train(toy, world, tmp_path / "soft", preferences=soft)
    assert margin.train_loss == hard.train_loss
    assert softly.reward_sd < hard.reward_sd


def test_the_report_knows_gold_and_calibration(toy, world, tmp_path):
    def true(instructions, responses):
        return [float(r.text.lower().split().count("a")) for r in responses]

    report = train(toy, world, tmp_path, gold=true)
    assert report.labels_agree_with_gold.value == 1.0  # the labels are gold's
    assert report.agrees_with_gold.value == report.accuracy.value
    assert sum(b.right.n for b in report.calibration) == report.accuracy.n
    assert report.over_longer.value == pytest.approx(report.accuracy.value - report.longer_wins.value)
    assert records.read(tmp_path / "report.jsonl", RewardReport) == [report]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_another_family_and_tokenizer_learns_from_the_policys_texts_and_scores_them(world, letters, tmp_path, lora):
    """The toy policy is a Llama over words; this reward model is a GPT-2 over characters."""
    optim = Optim(lr=2e-2, epochs=6 if lora is None else 16, batch=16)
    report = train("nowhere", world, tmp_path, model=str(letters), optim=optim, lora=lora)
    assert report.accuracy.value is not None
    assert report.accuracy.value > 0.7
    model = RewardModel.load(tmp_path)
    assert model.model.config.model_type == "gpt2"
    responses = list(world[1].values())
    asked = [world[0][r.instruction_id] for r in responses]
    scores = torch.tensor(model.score(asked, responses))
    assert abs(float(scores.mean())) < 1e-4
    assert abs(float(scores.std(correction=0)) - 1) < 1e-4
    alone = [model.score([i], [r])[0] for i, r in zip(asked[:6], responses[:6], strict=True)]
    assert alone == pytest.approx(scores[:6].tolist(), abs=1e-4)


def test_training_goes_on_from_a_reward_model(toy, world, tmp_path):
    train(toy, world, tmp_path / "first")
    none = Optim(lr=1e-9, epochs=0.02, batch=16)
    train(toy, world, tmp_path / "second", model=str(tmp_path / "first"), optim=none)
    first, second = (RewardModel.load(tmp_path / n) for n in ("first", "second"))
    assert second.model.score.weight.numpy() == pytest.approx(first.model.score.weight.numpy(), abs=1e-6)
    assert (second.mean, second.sd) == (pytest.approx(first.mean, abs=1e-4), pytest.approx(first.sd, abs=1e-4))
    with pytest.raises(DataError, match="nowhere"):
        train(toy, world, tmp_path / "third", model=str(tmp_path / "nowhere"))


def test_scoring_cuts_a_response_where_training_did_and_says_so(toy, world, asks, tmp_path):
    report = train(toy, world, tmp_path, max_tokens=4)
    responses = world[1].values()
    assert report.too_long > 0
    model = RewardModel.load(tmp_path)
    assert model.max_tokens == 4
    short = Response.make(asks[0].id, "a b c d", "x", n_tokens=4, finished=False)
    long = Response.make(asks[0].id, "a b c d e f g", "x", n_tokens=7)
    assert model.score([asks[0]], [long]) == pytest.approx(model.score([asks[0]], [short]), abs=1e-5)
    assert model.too_long([asks[0]] * 2, [short, long]) == [False, True]
    assert sum(len(r.text.split()) > 3 for r in responses) > 0


def test_a_model_with_learned_positions_reads_the_end_of_a_text_that_is_too_long(world, letters, asks, tmp_path):
    train("nowhere", world, tmp_path, model=str(letters))
    model = RewardModel.load(tmp_path)
    long = [Response.make(asks[0].id, "a b " * 5 + "c " * n, "x", n_tokens=1) for n in (12, 40)]
    asked = [asks[0]] * 2
    prompts, rows = model.encode(asked, long)
    assert [len(p) + len(r) for p, r in zip(prompts, rows, strict=True)] == [64, 64]
    assert rows[0][-1] == model.tokenizer.eos_token_id  # the prompt gave way first
    assert len(prompts[1]) == 1
    assert model.too_long(asked, long) == [True, True]
    assert all(map(math.isfinite, model.score(asked, long)))
    assert fitting([[1, 2]], [[3]], 0) == ([[1, 2]], [[3]])


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="worst"):
        Config(combine="soft", strength=0)
    with pytest.raises(ValueError, match="members"):
        Config(members=0)
