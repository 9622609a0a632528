"""The short way through a Llama gives what its own forward gives, with the same gradients; and the log-probability of
a chosen token has the gradient that autograd finds, to the bit."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from farm.lm.load import Lora, Policy, add_lora, load_policy
from farm.lm.logprobs import response_logits, token_logprobs
from farm.lm.prompts import lay_out
from farm.lm.trunk import hidden_at, hidden_states, lean, positions_of
from farm.reward.model import rewards

SHAPE = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
ROWS = [[4, 5, 6], [7], [8, 9, 10, 11]], [[5, 4], [6, 7, 8, 9, 10], [3]]


def llama(kind=LlamaForCausalLM, **more):
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, pad_token_id=0, eos_token_id=1, num_labels=1, initializer_range=0.4, **more)
    return kind(config).eval()


def gradients(model, out):
    model.zero_grad()
    out.sin().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("pads", [(0, 0), (2, 3)])
@pytest.mark.parametrize("rows", [ROWS, ([[4, 5], [6, 7]], [[8, 9, 3], [5, 6, 7]])])
def test_the_short_way_is_the_models_own(attention, heads, pads, rows):
    model = llama(num_key_value_heads=heads, attn_implementation=attention)
    assert lean(model)
    batch = lay_out(*rows, 0, pad_left=pads[0], pad_right=pads[1])
    ours, theirs = hidden_at(model, batch, batch.predicts), hidden_states(model, batch)[batch.predicts]
    assert torch.allclose(ours, theirs, atol=2e-6)
    assert torch.allclose(gradients(model, ours), gradients(model, theirs), atol=2e-5)


def test_adapters_are_seen():
    policy = add_lora(Policy(llama(num_key_value_heads=4), None, "x", "x"), Lora(rank=2), 0)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    batch = lay_out(*ROWS, 0)
    ours, theirs = hidden_at(policy.model, batch, batch.predicts), hidden_states(policy.model, batch)[batch.predicts]
    assert torch.allclose(ours, theirs, atol=5e-6)
    assert torch.allclose(gradients(policy.model, ours), gradients(policy.model, theirs), rtol=1e-4, atol=1e-5)
    with policy.model.disable_adapter():
        assert not torch.allclose(hidden_at(policy.model, batch, batch.predicts), ours, atol=1e-2)


@pytest.mark.parametrize("pads", [(0, 0), (0, 3)])
def test_a_reward_is_the_classifiers_own(pads):
    model = llama(LlamaForSequenceClassification, num_key_value_heads=4)
    batch = lay_out(*ROWS, 0, pad_left=pads[0], pad_right=pads[1])
    own = model(batch.ids, batch.attention, position_ids=positions_of(batch)).logits[:, 0]
    assert torch.allclose(rewards(model, batch), own, atol=2e-6)


def test_models_that_drop_out_or_are_no_llama_go_their_own_way(toy):
    model = load_policy(toy).model
    assert lean(model)
    assert not lean(model.train())


def test_chosen_tokens_have_the_gradient_of_autograd():
    torch.manual_seed(0)
    logits = (3 * torch.randn(700, 900)).requires_grad_()  # several parts
    targets, weight = torch.randint(900, (700,)), torch.randn(700)
    plain = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
    ours = token_logprobs(logits, targets)
    assert torch.equal(ours, plain)
    one, two = (torch.autograd.grad((weight * x).sum(), logits)[0] for x in (ours, plain))
    assert torch.equal(one, two)


def test_logits_serve_more_than_one_use():
    model = llama(num_key_value_heads=4)
    batch = lay_out(*ROWS, 0)
    logits, _ = response_logits(model, batch)
    both = token_logprobs(logits, batch.targets).sum() + logits.softmax(1)[:, 0].sum()
    (gradient,) = torch.autograd.grad(both, logits)
    plain = logits.detach().requires_grad_()
    (expected,) = torch.autograd.grad(
        (plain.gather(1, batch.targets[:, None])[:, 0] - plain.logsumexp(1)).sum() + plain.softmax(1)[:, 0].sum(), plain
    )
    assert torch.allclose(gradient, expected, atol=1e-6)
