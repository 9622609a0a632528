"""Rewards made of rewards: limits are exact, transforms do what their formulas say, averaged weights are a mean."""

from __future__ import annotations

import numpy as np
import pytest

from farm.errors import DataError
from farm.records import Instruction, Response
from farm.reward.ensemble import average_weights, combined, ensemble, shaped

R = np.random.default_rng(0).normal(size=(4, 50))
ASKS = [Instruction.make("say a", output="a a a"), Instruction.make("say b")]
TEXTS = ["a", "a a", "b b b b"]


def words(instructions, responses):
    """Reward: the number of words."""
    return [float(len(r.text.split())) for r in responses]


def responses():
    return [Response.make(ASKS[k == 2].id, t, "p", k, n_tokens=len(t.split())) for k, t in enumerate(TEXTS)]


def asked():
    return [ASKS[0], ASKS[0], ASKS[1]]


def test_limits_of_every_combination_are_exact():
    mean, worst = R.mean(axis=0), R.min(axis=0)
    assert combined(R, "mean") == pytest.approx(mean)
    assert combined(R, "worst") == pytest.approx(worst)
    assert combined(R, "variance", 0.0) == pytest.approx(mean)
    assert combined(R, "variance", 0.5) == pytest.approx(mean - 0.5 * R.var(axis=0))
    assert combined(R, "soft", 1e6) == pytest.approx(mean, abs=1e-5)
    assert combined(R, "soft", 1e-3) == pytest.approx(worst, abs=2e-3)
    # to second order soft is the variance penalty with 1 / (2 strength)
    assert combined(0.1 * R, "soft", 1.0) == pytest.approx(combined(0.1 * R, "variance", 0.5), abs=1e-3)
    assert combined(1000 * R, "soft", 0.1) == pytest.approx(1000 * worst, abs=1)  # no overflow


@pytest.mark.parametrize("how", ["mean", "worst", "variance", "soft"])
def test_one_member_or_equal_members_are_the_single_model(how):
    assert combined(R[:1], how, 0.7) == pytest.approx(R[0])
    assert combined(np.stack([R[0]] * 3), how, 0.7) == pytest.approx(R[0])
    assert ensemble([words], how)(asked(), responses()) == words(asked(), responses())


def test_an_ensemble_is_a_score():
    double = ensemble([words, lambda i, r: [3 * x for x in words(i, r)]], "mean")
    assert double(asked(), responses()) == [2.0, 4.0, 8.0]


@pytest.mark.parametrize(("scores", "how", "strength"), [([], "mean", 1), (R, "soft", 0.0), (R, "variance", -1)])
def test_ensembles_refuse_nonsense(scores, how, strength):
    with pytest.raises(DataError):
        combined(scores, how, strength)


def test_bounded_compares_with_the_reference_output_and_else_with_zero():
    calls = []

    def counted(instructions, rows):
        calls.append(len(rows))
        return words(instructions, rows)

    score = shaped(counted, "bounded")
    expected = [1 / (1 + np.exp(3 - 1)), 1 / (1 + np.exp(3 - 2)), 1 / (1 + np.exp(0 - 4))]
    assert score(asked(), responses()) == pytest.approx(expected)
    assert score(asked(), responses()) == pytest.approx(expected)
    assert sum(calls) == 3 + 1 + 3  # the reference output is scored once


def test_clip_quantile_and_length_penalty():
    assert shaped(words, "clip", clip=2)(asked(), responses()) == [1.0, 2.0, 2.0]
    assert shaped(words, "quantile", reference=[0, 1.5, 3, 9])(asked(), responses()) == [0.25, 0.5, 0.75]
    assert shaped(words, length_penalty=0.5)(asked(), responses()) == [0.5, 1.0, 2.0]
    assert shaped(words) is words
    with pytest.raises(DataError, match="reference"):
        shaped(words, "quantile")


def test_averaged_weights_are_the_mean_and_normalised(spoken, asks, tmp_path):
    from farm.lm.load import load_policy
    from farm.reward.model import RewardModel
    from farm.reward.train import from_policy

    policy = load_policy(spoken)
    for k in (0, 1):
        from_policy(policy, seed=k).save_pretrained(str(tmp_path / f"m{k}"), safe_serialization=True)
        policy.tokenizer.save_pretrained(str(tmp_path / f"m{k}"))
    rows = [Response.make(i.id, t, "p", n_tokens=2) for i, t in zip(asks, "abcdefgh", strict=True)]
    known = {i.id: i for i in asks}
    average_weights([tmp_path / "m0", tmp_path / "m1"], tmp_path / "mean", known, rows)
    one, two, mean = (RewardModel.load(tmp_path / n) for n in ("m0", "m1", "mean"))
    heads = [m.model.score.weight for m in (one, two, mean)]
    assert heads[2].numpy() == pytest.approx((heads[0] + heads[1]).numpy() / 2, abs=1e-6)
    scores = np.array(mean.score(asks, rows))
    assert (scores.mean(), scores.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))

    average_weights([tmp_path / "m0", tmp_path / "m0"], tmp_path / "same", known, rows)  # a mean of equals
    same = RewardModel.load(tmp_path / "same")
    assert same.model.score.weight.numpy() == pytest.approx(one.model.score.weight.numpy(), abs=1e-7)
    with pytest.raises(DataError):
        average_weights([], tmp_path / "none", known, rows)
