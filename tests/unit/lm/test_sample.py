"""The sampler: right distribution, honest log-probabilities, keyed draws that do not depend on company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from farm.lm import sample as sampler
from farm.lm.decoder import HubSteps, LlamaSteps
from farm.lm.load import Lora, load_policy
from farm.lm.logprobs import logprobs
from farm.lm.prompts import encode_prompts
from farm.lm.sample import Draw, choose, draw, sample, uniforms
from farm.records import Instruction, Sampling

SAMPLING = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def policy(toy):
    policy = load_policy(toy)
    with torch.no_grad():  # an untrained model is nearly uniform; sharpen it so that mistakes show
        for p in policy.model.parameters():
            p.mul_(2.0)
    return policy


def test_uniforms_are_uniform_and_independent_of_how_many_are_drawn():
    u = uniforms(np.arange(2000, dtype=np.uint64), 20)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.08
    assert (uniforms(np.arange(2000, dtype=np.uint64), 5) == u[:, :5]).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_follow_the_softmax(policy, asks, temperature):
    prompts = encode_prompts(asks[:1], policy.tokenizer)
    sampling = Sampling(max_tokens=1, temperature=temperature)
    draws = draw(policy, prompts, ["x"], 4000, sampling, purpose="t")
    with torch.no_grad():
        logits = policy.model(torch.tensor(prompts)).logits[0, -1] / temperature
    expected = logits.softmax(0).double().numpy() * 4000
    seen = np.bincount([d.ids[0] for d in draws], minlength=len(expected))
    common = expected > 5
    parts = [np.append(x[common], x[~common].sum()) for x in (seen, expected)]
    assert stats.chisquare(parts[0], parts[1] * parts[0].sum() / parts[1].sum()).pvalue > 1e-3


def test_kept_log_probabilities_equal_recomputed_ones(policy, asks):
    prompts = encode_prompts([*asks, Instruction.make("please say the word a")], policy.tokenizer)  # two lengths
    for temperature in (1.0, 0.7):
        draws = draw(
            policy, prompts, [str(i) for i in range(9)], 3, Sampling(max_tokens=8, temperature=temperature), purpose="t"
        )
        again = logprobs(policy, [p for p in prompts for _ in range(3)], [d.ids for d in draws], temperature)
        for d, other in zip(draws, again, strict=True):
            assert np.allclose(d.logprobs, other.numpy(), atol=2e-5)


def test_a_response_does_not_depend_on_its_company(policy, asks):
    together = sample(policy, asks, 5, SAMPLING, name="x", purpose="p")
    alone = [r for i in reversed(asks) for r in sample(policy, [i], 3, SAMPLING, name="x", purpose="p")]
    assert {r.id for r in alone} <= {r.id for r in together}
    assert [r.instruction_id for r in together] == [i.id for i in asks for _ in range(5)]
    assert [r.draw for r in together[:5]] == [0, 1, 2, 3, 4]
    other = sample(policy, asks, 5, SAMPLING, name="x", purpose="q")
    assert {r.text for r in other} != {r.text for r in together}


def test_small_batches_and_one_prompt_in_parts_change_nothing(policy, asks, monkeypatch):
    whole = sample(policy, asks[:3], 40, SAMPLING, name="x", purpose="p")
    monkeypatch.setattr(sampler, "CACHE_BYTES", 1)  # at the floor of 32 rows, so 40 draws need two batches
    assert sample(policy, asks[:3], 40, SAMPLING, name="x", purpose="p") == whole


def test_finished_rows_end_with_eos_and_others_at_the_limit(policy, asks):
    prompts = encode_prompts(asks, policy.tokenizer)
    eos = policy.tokenizer.eos_token_id
    draws = draw(policy, prompts, [i.id for i in asks], 30, SAMPLING, purpose="p")
    assert {d.finished for d in draws} == {True, False}
    for d in draws:
        assert len(d.logprobs) == len(d.ids)
        assert eos not in d.ids[:-1]
        assert (d.ids[-1] == eos) == d.finished
        assert d.finished or len(d.ids) == SAMPLING.max_tokens
    records = sample(policy, asks, 30, SAMPLING, name="x", purpose="p")
    assert [(r.n_tokens, r.finished) for r in records] == [(len(d.ids) - d.finished, d.finished) for d in draws]


def test_greedy_is_the_argmax_and_draws_agree(policy, asks):
    greedy = draw(
        policy,
        encode_prompts(asks, policy.tokenizer),
        [i.id for i in asks],
        2,
        Sampling(max_tokens=3, temperature=0),
        purpose="p",
    )
    with torch.no_grad():
        for k, prompt in enumerate(encode_prompts(asks, policy.tokenizer)):
            assert greedy[2 * k] == greedy[2 * k + 1]
            assert greedy[2 * k].ids[0] == int(policy.model(torch.tensor([prompt])).logits[0, -1].argmax())


def test_top_p_and_top_k_keep_only_the_head():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(1000, 1)
    u = torch.linspace(0, 0.999999, 1000, dtype=torch.float64)
    for cut, kept in (
        (Sampling(top_p=0.6), {0, 1}),
        (Sampling(top_p=0.45), {0}),
        (Sampling(top_k=3), {0, 1, 2}),
        (Sampling(), {0, 1, 2, 3}),
    ):
        chosen, logp = choose(logits, u, cut)
        assert set(chosen.tolist()) == kept
        assert torch.allclose(logp, logits[0][chosen])
    share = (choose(logits, u, Sampling(top_p=0.6))[0] == 0).float().mean()
    assert abs(float(share) - 0.5 / 0.8) < 0.01  # renormalised over what is kept


def test_both_engines_give_the_same_draws(policy, asks, monkeypatch):
    assert LlamaSteps.fits(policy.model)
    lean = sample(policy, asks, 4, SAMPLING, name="x", purpose="p")
    monkeypatch.setattr(sampler, "engine", lambda p: HubSteps(p.model))
    assert sample(policy, asks, 4, SAMPLING, name="x", purpose="p") == lean


def test_lean_engine_sees_adapters(toy, asks):
    policy = load_policy(toy, lora=Lora(rank=2))
    before = sample(policy, asks, 2, SAMPLING, name="x", purpose="p")
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.add_(1.0)
    prompts = encode_prompts(asks, policy.tokenizer)
    draws: list[Draw] = draw(policy, prompts, [i.id for i in asks], 1, SAMPLING, purpose="p")
    assert sample(policy, asks, 2, SAMPLING, name="x", purpose="p") != before
    again = logprobs(policy, prompts, [d.ids for d in draws])
    assert all(np.allclose(d.logprobs, o.numpy(), atol=2e-5) for d, o in zip(draws, again, strict=True))


@pytest.mark.parametrize("name", ["GPT2", "Gemma2"])
def test_other_architectures_keep_honest_log_probabilities(toy, asks, tmp_path, name):
    import transformers

    tokenizer = load_policy(toy).tokenizer
    shapes = {
        "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
        "Gemma2": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "final_logit_softcapping": 0.5,  # bends every logit: its head is more than a matrix
        },
    }
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, **shapes[name]
    )
    torch.manual_seed(0)
    head = "GPT2LMHeadModel" if name == "GPT2" else "Gemma2ForCausalLM"
    getattr(transformers, head)(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    prompts = encode_prompts([*asks, Instruction.make("please say the word a")], tokenizer)
    draws = draw(policy, prompts, [str(i) for i in range(9)], 2, SAMPLING, purpose="t")
    again = logprobs(policy, [p for p in prompts for _ in range(2)], [d.ids for d in draws])
    assert all(np.allclose(d.logprobs, o.numpy(), atol=2e-5) for d, o in zip(draws, again, strict=True))
