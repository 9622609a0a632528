"""Log-probabilities: padding is inert, EOS has a gradient, KL estimates agree with the exact sum."""

from __future__ import annotations

import pytest
import torch

from farm.lm.load import load_policy
from farm.lm.logprobs import logprobs, response_logits, sequence_kl, token_logprobs
from farm.lm.prompts import encode_prompts, encode_texts, lay_out
from farm.lm.sample import draw
from farm.records import Sampling


@pytest.fixture(scope="module")
def pair(toy):
    """The toy and a copy with moved weights."""
    policy, moved = load_policy(toy), load_policy(toy)
    with torch.no_grad():
        for p in moved.model.parameters():
            p.mul_(1.6)
    return policy, moved


def test_padding_on_either_side_changes_no_log_probability(pair):
    policy = pair[1]
    prompts, responses = [[4, 5, 6], [5, 8]], [[9, 10, 1], [11, 1]]
    pad = policy.tokenizer.pad_token_id
    plain = [logprobs(policy, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    for left, right in ((0, 0), (3, 0), (0, 4), (2, 5)):
        batch = lay_out(prompts, responses, pad, pad_left=left, pad_right=right)
        with torch.no_grad():
            logits, _ = response_logits(policy.model, batch)
        got = token_logprobs(logits, batch.targets).split(batch.lengths)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, plain, strict=True))


def test_the_end_token_is_learned_only_where_there_is_one(pair):
    policy = pair[0]
    eos, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
    done, cut = encode_texts(["a b", "a b"], [True, False], policy.tokenizer)
    assert done == [*cut, eos]
    batch = lay_out([[4, 5], [4, 5]], [done, cut], pad)
    assert int(batch.predicts.sum()) == len(done) + len(cut) == len(batch.targets)
    logits, _ = response_logits(policy.model, lay_out([[4, 5]], [done], pad))
    logits.retain_grad()
    token_logprobs(logits, torch.tensor(done)).sum().backward()
    assert logits.grad is not None
    assert float(logits.grad[-1, eos].abs()) > 0.1


def test_temperature_divides_the_logits(pair):
    logits = torch.randn(5, 7)
    targets = torch.tensor([0, 1, 2, 3, 4])
    expected = (logits / 0.7).log_softmax(1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(token_logprobs(logits, targets, 0.7), expected, atol=1e-6)


def test_kl_of_a_copy_is_zero_and_estimates_agree(pair, asks):
    policy, moved = pair
    prompts = encode_prompts(asks, policy.tokenizer) * 60
    draws = draw(moved, prompts, [str(i) for i in range(len(prompts))], 1, Sampling(max_tokens=6), purpose="kl")
    responses = [d.ids for d in draws]
    k1, full = sequence_kl(moved, moved, prompts, responses)
    assert float(k1.abs().max()) == float(full.abs().max()) == 0.0
    k1, full = sequence_kl(moved, policy, prompts, responses)
    assert float(full.min()) >= 0
    error = ((k1.var() + full.var()) / len(k1)) ** 0.5
    assert float(full.mean()) > 0.1
    assert abs(float(k1.mean() - full.mean())) < 3 * float(error)
