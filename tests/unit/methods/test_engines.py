"""Parts of a batch add up to the batch, and other families than the toy's are sampled and trained alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_conformance import MANY, SAMPLING, config, count_a, labelled, task

from farm import records
from farm.lm.load import Lora, load_policy
from farm.lm.logprobs import logprobs
from farm.lm.prompts import encode_prompts
from farm.lm.sample import draw
from farm.lm.train import Optim
from farm.methods import module, ppo, sft
from farm.records import Instruction, Sampling
from farm.reward.train import Config as RewardConfig
from farm.reward.train import train_reward

__all__ = ["labelled"]  # a fixture
RAGGED = [
    Instruction.make(f"please say {v} {w}", output=" ".join(v * k) + f" {w}.")
    for k, v in enumerate("abcd")
    for w in "efgh"
]


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "feedme", "reward_conditioning"])
def test_accumulating_is_the_big_batch(name, toy, tmp_path, labelled):
    """Examples of unlike lengths, and parts that do not divide the batch. (KTO compares within a part, as it says.)"""
    for folder, part in (("whole", 0), ("parts", 3)):
        optim = Optim(lr=1e-3, epochs=1, batch=8, micro_batch=part)
        given = task(toy, RAGGED if name == "sft" else MANY, tmp_path / folder, labelled, val=())
        if name == "sft":
            sft.run(given, sft.Config(optim=optim))
        elif name == "reward":
            train_reward(
                toy,
                labelled["preferences"],
                records.by_id(MANY),
                labelled["responses"],
                RewardConfig(optim=optim),
                seed=0,
                folder=tmp_path / folder / "policy",
            )
        else:
            module(name).run(given, config(name, optim=optim))
    start = load_file(toy / "model.safetensors")
    one, two = (load_file(tmp_path / n / "policy" / "model.safetensors") for n in ("whole", "parts"))
    moved = max(float((one[k] - start[k]).abs().max()) for k in start if k in one)
    apart = max(float((one[k] - two[k]).abs().max()) for k in one)
    assert moved > 1e-3
    assert apart < 0.02 * moved


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def family(request, toy, tmp_path_factory):
    """A model of a few hundred thousand parameters of another family, weights random, in the toy's words."""
    import transformers

    tokenizer = load_policy(toy).tokenizer
    ends = {"bos_token_id": 1, "eos_token_id": 1, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    if request.param == "qwen2":
        model = transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(
                hidden_size=96,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.3,
                **ends,
            )
        )
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=96, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, **ends)
        )
    assert 150_000 < sum(p.numel() for p in model.parameters()) < 500_000
    folder = tmp_path_factory.mktemp(request.param) / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_another_family_samples_with_the_log_probabilities_it_drew_with(family, temperature):
    policy = load_policy(family)
    prompts = encode_prompts([*MANY[:6], Instruction.make("say a")], policy.tokenizer)  # two lengths
    sampling = Sampling(max_tokens=16, temperature=temperature)
    draws = draw(policy, prompts, [str(i) for i in range(7)], 12, sampling, purpose="t")
    again = logprobs(policy, [p for p in prompts for _ in range(12)], [d.ids for d in draws], temperature)
    assert {d.finished for d in draws} == {True, False}  # some end by themselves, so rows leave the batch
    assert np.std([v for d in draws for v in d.logprobs]) > 0.5  # far from uniform, so that a mistake shows
    for d, other in zip(draws, again, strict=True):
        assert np.allclose(d.logprobs, other.numpy(), atol=5e-5)


@pytest.mark.parametrize("how", ["head", "network", "lora"])
def test_another_family_makes_a_step_of_ppo(family, tmp_path, how):
    more = {"lora": Lora(rank=2)} if how == "lora" else {"value": how, "value_from": "policy"}
    given = task(family, MANY, tmp_path, {}, score=count_a, val=MANY[:8], sampling=SAMPLING)
    result = ppo.run(given, ppo.Config(steps=1, rollouts=16, lr=1e-3, curve_every=1, **more))
    (step,) = map(json.loads, (tmp_path / "steps.jsonl").read_text().splitlines())
    assert step["first_ratio_error"] < 1e-4  # what was sampled with is what is trained
    assert result.budget.updates == 4
    assert result.curve.points[0].kl == pytest.approx(0, abs=1e-4)
    assert abs(result.curve.points[-1].kl) > 1e-6
