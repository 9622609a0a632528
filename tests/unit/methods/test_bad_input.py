"""Rewards, checkpoints and models that fail in the middle of training: a clear error, and nothing lost."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_conformance import FROM_PAIRS, MANY, TRAINED, config, count_a, labelled, task

from farm.errors import DataError, TrainError
from farm.methods import NAMES, best_of_n, module, resume
from farm.methods.task import checked
from farm.records import Sampling

__all__ = ["labelled"]  # a fixture
FROM_REWARD = [n for n in TRAINED if n not in FROM_PAIRS]
RESUMABLE = [n for n in FROM_REWARD if n not in ("expert_iteration", "quark")]


@pytest.mark.parametrize("name", FROM_REWARD)
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda n: [0.5] * (n - 1), r"returned \d+ scores for \d+ responses; it must return one number per response"),
        (lambda n: [0.5] * (n + 1), r"returned \d+ scores for \d+ responses"),
        (lambda n: [0.5] * (n - 1) + [None], "of response r.* is None; the reward function must return finite numbers"),
        (lambda n: [0.5] * (n - 1) + [float("inf")], "is inf"),
    ],
)
def test_a_reward_that_is_not_one_number_per_response(name, returned, said, toy, tmp_path):
    broken = task(toy, MANY, tmp_path, {}, score=lambda i, r: returned(len(r)), val=())
    with pytest.raises(TrainError, match=rf"^(?:{name}|ppo|{name.replace('_', ' ')}).*{said}"):
        module(name).run(broken, config(name))


def test_best_of_n_names_such_a_reward_too(toy, asks, tmp_path):
    from farm.lm.load import load_policy

    given, policy = task(toy, asks, tmp_path, {}), load_policy(toy)
    for returned, said in (([0.1], "returned 1 scores for 16"), ([float("nan")] * 16, "is nan")):
        with pytest.raises(TrainError, match=said):
            best_of_n.respond(
                policy, asks, 2, Sampling(max_tokens=4), lambda i, r, x=returned: x, name="bon", purpose="t"
            )
    assert not (given.folder / "policy").exists()


def test_arrays_and_tensors_are_numbers(asks):
    from farm.records import Response

    rows = [Response.make(i.id, "a", "x", n_tokens=1) for i in asks[:2]]
    for scores in (np.array([0.5, 1.5], dtype=np.float32), torch.tensor([0.5, 1.5]), (0.5, 1.5)):
        kept = checked("m", scores, rows)
        assert kept == [0.5, 1.5]
        assert all(type(v) is float for v in kept)


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_reward_that_raises_leaves_the_checkpoint_and_the_run_resumes(name, toy, tmp_path, labelled):
    settings = config(name, steps=4, curve_every=2)
    calls = []

    def scored(limit):
        def score(instructions, responses):
            calls.append(len(responses))
            if len(calls) > limit:
                raise ConnectionError("the scorer is gone")
            return count_a(instructions, responses)

        calls.clear()
        return score

    module(name).run(task(toy, MANY, tmp_path / "whole", labelled, score=scored(1000)), settings)
    total = len(calls)
    with pytest.raises(ConnectionError, match="the scorer is gone"):
        module(name).run(task(toy, MANY, tmp_path / "cut", labelled, score=scored(total - 1)), settings)
    assert list((tmp_path / "cut" / "resume").glob("step-2"))
    module(name).run(task(toy, MANY, tmp_path / "cut", labelled, score=scored(1000)), settings)
    assert len(calls) < total
    weights = [(tmp_path / n / "policy" / "model.safetensors").read_bytes() for n in ("whole", "cut")]
    assert weights[0] == weights[1]


def cut_weights(step):
    data = (step / resume.STATE).read_bytes()
    (step / resume.STATE).write_bytes(data[: len(data) // 2])


def cut_numbers(step):
    text = (step / "numbers.json").read_text()
    (step / "numbers.json").write_text(text[: len(text) // 2])


def without_weights(step):
    (step / resume.STATE).unlink()


def of_another_model(step):
    tensors = load_file(step / resume.STATE)
    tensors["parameter.0"] = tensors["parameter.0"][:-1].contiguous()
    save_file(tensors, step / resume.STATE)


@pytest.mark.parametrize("name", ["ppo", "rloo"])
@pytest.mark.parametrize("spoil", [cut_weights, cut_numbers, without_weights, of_another_model])
def test_a_checkpoint_cut_off_in_the_middle_is_said_and_passed_over(name, spoil, toy, tmp_path, labelled, capsys):
    settings = config(name, steps=4, curve_every=2)
    calls = []

    def interrupted(instructions, responses):
        calls.append(len(responses))
        if len(calls) > 4:
            raise KeyboardInterrupt
        return count_a(instructions, responses)

    module(name).run(task(toy, MANY, tmp_path / "whole", labelled), settings)
    with pytest.raises(KeyboardInterrupt):
        module(name).run(task(toy, MANY, tmp_path / "cut", labelled, score=interrupted), settings)
    step = tmp_path / "cut" / "resume" / "step-2"
    shutil.copytree(step, tmp_path / "cut" / "resume" / "step-1")  # an older one that is whole
    spoil(step)
    capsys.readouterr()
    found = resume.load(tmp_path / "cut", *trainables(name, toy, settings))
    assert found is not None
    assert found[0] == 1
    shutil.rmtree(tmp_path / "cut" / "resume" / "step-1")
    again = module(name).run(task(toy, MANY, tmp_path / "cut", labelled), settings)
    assert f"{step} is cut off or of another model; training goes on from before it" in capsys.readouterr().err
    weights = [(tmp_path / n / "policy" / "model.safetensors").read_bytes() for n in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert again.budget.updates == settings.steps * settings.epochs * settings.minibatches


def trainables(name, toy, settings):
    """What a checkpoint is restored into."""
    from farm.lm.load import load_policy, trainable
    from farm.methods import ppo

    policy = load_policy(toy)
    parameters = trainable(policy)
    if name == "ppo":
        parameters += ppo.Critic(policy, task(toy, MANY, toy, {}), settings).parameters()
    return parameters, torch.optim.AdamW(parameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_cannot_be_loaded_is_named(name, toy, tmp_path, labelled):
    shutil.copytree(toy, tmp_path / "sft")
    torch.save(load_file(toy / "model.safetensors"), tmp_path / "sft" / "pytorch_model.bin")
    (tmp_path / "sft" / "model.safetensors").unlink()
    given = task(tmp_path / "sft", MANY, tmp_path, labelled)
    if name == "best_of_n":  # it loads nothing; whoever answers does
        from farm.lm.load import load_policy

        source = module(name).run(given, config(name)).policy_source(tmp_path)
        with pytest.raises(DataError, match="a pickle"):
            load_policy(source)
        return
    with pytest.raises(DataError, match=rf"{tmp_path}/sft.*pytorch_model\.bin, a pickle"):
        module(name).run(given, config(name))
