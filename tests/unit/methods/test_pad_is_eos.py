"""A tokenizer whose pad token is its EOS token: the same numbers as with a pad token of its own, everywhere.

EOS is a token to learn and to count, padding is what lies beyond a row's length; nothing may tell padding by token.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from test_conformance import MANY, SAMPLING, TRAINED, config, count_a, task

from farm import records
from farm.lm.load import Lora, load_policy
from farm.lm.logprobs import logprobs, response_logits
from farm.lm.prompts import encode_prompts, lay_out
from farm.lm.sample import draw, sample
from farm.lm.train import Optim
from farm.methods import module, ppo, sft
from farm.methods.task import Task
from farm.records import Instruction, Pair, Preference
from farm.reward.model import RewardModel
from farm.reward.train import Config as RewardConfig
from farm.reward.train import train_reward

SPOKEN = [
    Instruction.make(f"say {v} {w}", output=" ".join(v * k) + f" {w}.") for k, v in enumerate("abcd") for w in "efgh"
]
RAGGED = [Instruction.make("say a"), Instruction.make("please say the word b"), Instruction.make("say the c")]


def with_eos_as_pad(model, folder):
    """The same weights, with settings that name EOS as the pad token."""
    policy = load_policy(model)
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    policy.model.config.pad_token_id = policy.tokenizer.eos_token_id
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 1
    return folder


@pytest.fixture(scope="module")
def twin(toy, tmp_path_factory):
    return with_eos_as_pad(toy, tmp_path_factory.mktemp("twin") / "model")


@pytest.fixture(scope="module")
def gpts(toy, tmp_path_factory):
    """A GPT-2 twice, with a pad token of its own and with EOS. (A Llama's pad token has a fixed embedding, which
    shows when an untrained model draws it in the middle of a response; that is no matter of padding.)"""
    import transformers

    folder = tmp_path_factory.mktemp("gpts")
    tokenizer = load_policy(toy).tokenizer
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "own")
    tokenizer.save_pretrained(folder / "own")
    return folder / "own", with_eos_as_pad(folder / "own", folder / "eos")


@pytest.fixture(scope="module")
def padless(twin, tmp_path_factory):
    """The same without any pad token, as many models on the Hub are."""
    folder = tmp_path_factory.mktemp("padless") / "model"
    policy = load_policy(twin)
    policy.tokenizer.pad_token = None
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(toy):
    responses = sample(load_policy(toy), MANY, 4, SAMPLING, name="sft", purpose="pairs")
    preferences = []
    for a, b in zip(responses[::2], responses[1::2], strict=True):
        if a.id != b.id:
            pair, winner = Pair.of(a, b), max(a, b, key=lambda r: (count_a(None, [r])[0], r.finished, r.id))
            preferences.append(
                Preference(
                    pair_id=pair.id,
                    instruction_id=a.instruction_id,
                    responses=(pair.a, pair.b),
                    winner_id=winner.id,
                    origin="gold",
                )
            )
    return {"preferences": preferences, "responses": records.by_id(responses)}


def weights(folder):
    return load_file(folder / "policy" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_vocabulary_is_not_touched(toy, twin, padless):
    for folder in (twin, padless):
        policy = load_policy(folder)
        assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id == 1
        assert policy.tokenizer.get_vocab() == load_policy(toy).tokenizer.get_vocab()
        assert policy.model.get_input_embeddings().weight.shape[0] == 18


def test_sampling_and_log_probabilities_are_the_same(toy, twin, padless):
    drawn, again = [], []
    for folder in (toy, twin, padless):
        policy = load_policy(folder)
        prompts = encode_prompts(RAGGED, policy.tokenizer)
        rows = draw(policy, prompts, ["x", "y", "z"], 20, SAMPLING, purpose="t")
        assert {d.finished for d in rows} == {True, False}
        drawn.append(rows)
        again.append(logprobs(policy, [p for p in prompts for _ in range(20)], [d.ids for d in rows]))
    assert drawn[0] == drawn[1] == drawn[2]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*again, strict=True))


def test_the_true_end_carries_loss_and_padding_carries_none(twin):
    policy = load_policy(twin)
    eos = policy.tokenizer.eos_token_id
    batch = lay_out([[4, 5], [4, 5, 6]], [[7, eos], [7, 8, 9, eos]], policy.tokenizer.pad_token_id)
    assert batch.targets.tolist() == [7, eos, 7, 8, 9, eos]
    assert batch.attention.sum(1).tolist() == [4, 7]  # EOS is seen, what lies behind it is not
    assert batch.last.tolist() == [3, 6]
    logits, _ = response_logits(policy.model, batch)
    alone = response_logits(policy.model, lay_out([[4, 5]], [[7, eos]], 0))[0]
    assert torch.allclose(logits[:2], alone, atol=1e-6)


@pytest.mark.parametrize("engine", ["farm", "lora"])
def test_sft_is_the_same(toy, twin, tmp_path, engine):
    settings = sft.Config(
        optim=Optim(lr=1e-2, epochs=3, batch=8, micro_batch=3), lora=Lora(rank=2) if engine == "lora" else None
    )
    results = [
        sft.run(Task(seed=0, folder=tmp_path / f.parent.name, sft=f, instructions=SPOKEN, sampling=SAMPLING), settings)
        for f in (toy, twin)
    ]
    assert results[0].notes == results[1].notes
    made = [load_policy(tmp_path / f.parent.name / "policy").model.state_dict() for f in (toy, twin)]
    assert same(*made)
    assert results[0].notes["final_loss"] < results[0].notes["first_loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_ends_at_the_same_weights(name, gpts, tmp_path, labelled):
    fields = module(name).Config.model_fields
    short = {"steps": 2, "curve_every": 1} if "steps" in fields else {"optim": Optim(lr=3e-3, batch=16)}
    short |= {"prompts": 12, "n": 4} if name == "expert_iteration" else {}
    results = [
        module(name).run(task(f, MANY, tmp_path / str(k), labelled, val=MANY[:8]), config(name, **short))
        for k, f in enumerate(gpts)
    ]
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert results[0].curve == results[1].curve
    untimed = [r.budget.model_copy(update={"seconds": 0.0}) for r in results]
    assert untimed[0] == untimed[1]


def test_the_reward_model_reads_its_score_at_the_true_end(gpts, tmp_path, labelled):
    """With transformers' own rule, the last token that is not padding, it would be the one before EOS."""
    asked, responses = records.by_id(MANY), labelled["responses"]
    rows = list(responses.values())[:60]
    scores = []
    for name, folder in zip(("own", "eos"), gpts, strict=True):
        settings = RewardConfig(optim=Optim(lr=1e-2, epochs=2, batch=16))
        train_reward(folder, labelled["preferences"], asked, responses, settings, seed=0, folder=tmp_path / name)
        model = RewardModel.load(tmp_path / name)
        assert model.tokenizer.pad_token_id != model.tokenizer.eos_token_id
        scores.append(model.score([asked[r.instruction_id] for r in rows], rows))
        cut = [r.model_copy(update={"finished": not r.finished}) for r in rows]
        other = model.score([asked[r.instruction_id] for r in rows], cut)
        assert min(abs(a - b) for a, b in zip(scores[-1], other, strict=True)) > 0
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    # Its padding token is no obstacle to a value network that starts from it.
    ppo_config = ppo.Config(steps=2, rollouts=16, value="network", lr=3e-3)
    for name, folder in zip(("own", "eos"), gpts, strict=True):
        score = RewardModel.load(tmp_path / name).score
        given = task(folder, MANY, tmp_path / f"ppo-{name}", {}, score=score, reward=tmp_path / name, val=MANY[:8])
        ppo.run(given, ppo_config)
    one, two = weights(tmp_path / "ppo-own"), weights(tmp_path / "ppo-eos")
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)
    assert not same(one, load_file(gpts[0] / "model.safetensors"))
