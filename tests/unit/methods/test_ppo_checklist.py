"""The details of PPO that go wrong silently, and the test that holds each.

Numbers are those of the list this implementation was built from (Huang et al. 2022 and 2024, and what later
implementations got wrong). Tests without a file name are here.

 1 ratio 1 before the first update         test_ppo: ratio_is_one_before_the_first_update_of_every_batch
 2 first policy loss 0                     test_ppo: one_small_step_goes_the_right_way
 3 KL starts at 0                          test_ppo: ratio_is_one...; test_conformance: before.kl
 4 no dropout                              no_dropout_anywhere
 5 log-probabilities at the temperature    lm/test_logprobs: temperature_divides_the_logits; lm/test_sample
 6 padding and position ids                lm/test_logprobs: padding_on_either_side_changes_no_log_probability
 7 pad differs from EOS                    lm/test_training: padding_never_shares_the_end_token
 8 cut after the first stop token          lm/test_sample: finished_rows_end_with_eos; rewards_stand_on_the_last_token
 9 missing-EOS rule                        test_ppo: unfinished_responses_lose_the_penalty
10 score once, at the last real token      rewards_stand_on_the_last_token
11 k1 in the reward, and its sign          moving_away_costs
12 KL is not clamped                       kl_is_neither_clamped_nor_biased
13 KL is a sum per sequence in nats        kl_is_neither_clamped_nor_biased
14 GAE                                     test_losses: gae_identities, gae_and_whitening_ignore_padding
15 returns = advantages + values           returns_are_advantages_plus_values
16 whitening over real tokens              test_losses: gae_and_whitening_ignore_padding
17 reward whitening                        left out: the reward model is normalised (reward/test_reward)
18 value clipping                          test_losses: value_loss_has_no_gradient...
19 start of the value function             test_ppo_options: a_value_network_starts_as_the_reward_model
20 start of the reward head                reward/test_reward: head_starts_at_the_stated_scale
21 score read at the last real token       reward/test_reward: scores_do_not_depend_on_company...
22 reward normalised                       reward/test_reward: learns_a_planted_preference_and_is_normalised
23 reward model: one epoch, both orders    reward/test_reward
24 Adam's eps 1e-5                         optimizer_settings
25 gradients are clipped                   test_ppo: gradient_clipping_is_real
26 rate per batch of rollouts              optimizer_settings
27 accumulation equals the big batch       parts_add_up_to_the_minibatch
28 frozen reference                        test_ppo: the_reference_never_moves...
29 statistics without padding              statistics_do_not_see_padding
30 processes draw different samples        slow/test_two_processes (draws are keyed by prompt, not by process)
31 full distribution while training        rollouts_come_from_the_full_distribution
32 fixed point                             test_fixed_points
33 it learns                               test_ppo: learns_to_say_one_word
34 direction                               test_ppo: one_small_step_goes_the_right_way
35 exact resume                            test_conformance: a_run_that_was_cut_off_goes_on_exactly

``tests/slow/test_mutations.py`` breaks these details one by one in a copy of the package and sees the tests fail.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farm import records
from farm.lm import logprobs as lm_logprobs
from farm.lm.load import copy_frozen, load_policy
from farm.lm.logprobs import sequence_kl
from farm.lm.prompts import encode_prompts
from farm.lm.sample import draw
from farm.methods import losses, ppo
from farm.methods.task import Task
from farm.records import Sampling

SAMPLING = Sampling(max_tokens=6)


def count_a(instructions, responses):
    return [r.text.lower().split().count("a") / max(1, r.n_tokens) for r in responses]


def task(toy, asks, folder, **more):
    given = {"seed": 0, "folder": folder, "sft": toy, "instructions": asks, "sampling": SAMPLING, "score": count_a}
    return Task(**given | more)


def rollouts(toy, asks, folder, config, policy=None, frozen=None):
    policy = policy or load_policy(toy)
    frozen = frozen or copy_frozen(policy)
    prompts = encode_prompts(asks, policy.tokenizer)
    return policy, ppo.roll_out(task(toy, asks, folder), policy, frozen, asks, prompts, 1, config)


def moved(toy, by=0.3):
    """The toy with its weights shaken: a policy some way off its reference."""
    policy = load_policy(toy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(by * p.std().nan_to_num(0.0) * torch.randn(p.shape, generator=generator))
    return policy


def test_no_dropout_anywhere(toy, asks, tmp_path):
    policy = load_policy(toy)
    critic = ppo.Critic(policy, task(toy, asks, tmp_path), ppo.Config(value="network", value_from="policy"))
    for model in (policy.model, critic.own.model):
        assert not model.training
    prompts = encode_prompts(asks[:1], policy.tokenizer)
    answer = [[policy.tokenizer.eos_token_id]]
    one, two = (lm_logprobs.logprobs(policy, prompts, answer)[0] for _ in range(2))
    assert torch.equal(one, two)


def test_rewards_stand_on_the_last_token():
    """Rows that stop in the middle, at the end, and at once; the sum of reward plus price is the score."""
    kl = [torch.tensor([0.1, -0.2]), torch.tensor([0.3, 0.1, 0.2, -0.4]), torch.tensor([0.5])]
    scores = torch.tensor([1.0, -2.0, 3.0])
    rewards = ppo.token_rewards(kl, scores, 0.5)
    for row, each, score in zip(rewards, kl, scores, strict=True):
        assert float((row[: len(each)] + 0.5 * each).sum()) == pytest.approx(float(score))
        assert float(row[len(each) - 1] + 0.5 * each[-1]) == pytest.approx(float(score))
        assert not bool(row[len(each) :].any())


def test_moving_away_costs(toy, asks, tmp_path):
    """Of a policy pushed off its reference, the reward without score is negative on average."""
    policy, data = rollouts(toy, asks * 16, tmp_path, ppo.Config(), moved(toy), load_policy(toy))
    assert data.kl > 0.05
    old = lm_logprobs.logprobs(policy, data.prompts, data.responses)
    price = [losses.k1(a, b) for a, b in zip(old, data.reference, strict=True)]
    assert float(ppo.token_rewards(price, torch.zeros(len(old)), 1.0).sum()) / len(old) == pytest.approx(
        -data.kl, abs=1e-4
    )


def test_kl_is_neither_clamped_nor_biased(toy, asks):
    """k1 summed over the sequence agrees with the sum over the vocabulary; single tokens may be negative."""
    policy, reference = moved(toy, 0.15), load_policy(toy)
    prompts = encode_prompts(asks, policy.tokenizer)
    draws = draw(policy, prompts, [i.id for i in asks], 400, SAMPLING, purpose="x")
    repeated = [row for row in prompts for _ in range(400)]
    k1, full = sequence_kl(policy, reference, repeated, [d.ids for d in draws])
    error = float((k1 - full).std() / len(k1) ** 0.5)
    assert abs(float((k1 - full).mean())) < 3 * error + 1e-6
    assert float(full.mean()) > 8 * error
    assert float(k1.min()) < 0


def test_returns_are_advantages_plus_values():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 5, generator=generator)
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] * 4 + [0], [1] + [0] * 4]).bool()
    advantages, returns = losses.gae(rewards, values, mask, 1.0, 0.9)
    assert torch.allclose(returns, (advantages + values) * mask, atol=1e-6)


def test_optimizer_settings(toy, asks, tmp_path, monkeypatch):
    made = []
    real = torch.optim.AdamW

    def kept(*arguments, **settings):
        made.append(real(*arguments, **settings))
        return made[-1]

    monkeypatch.setattr(torch.optim, "AdamW", kept)
    ppo.run(task(toy, asks, tmp_path), ppo.Config(steps=4, rollouts=16, lr=1e-3))
    (group,) = made[0].param_groups
    assert group["eps"] == 1e-5
    assert group["weight_decay"] == 0.0
    assert group["lr"] == pytest.approx(1e-3 / 4)  # falls linearly: the last of four steps has a quarter


def improved(toy, asks, tmp_path, tokens_per_part, monkeypatch):
    """Weights after one update whose minibatch goes through in parts of about so many tokens."""
    real = lm_logprobs.batches

    def batches(prompts, responses, tokens=tokens_per_part):
        return real(prompts, responses, tokens)

    monkeypatch.setattr(ppo, "batches", batches)
    config = ppo.Config(steps=1, rollouts=8, epochs=1, minibatches=1, lr=1e-2)
    policy, data = rollouts(toy, asks, tmp_path, config)
    critic = ppo.Critic(policy, task(toy, asks, tmp_path), config)
    parameters = ppo.trainable(policy) + critic.parameters()
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    log = ppo.improve(policy, critic, optimizer, parameters, data, 0.1, config, 0, 1)
    return log, torch.cat([p.detach().flatten() for p in parameters])


def test_parts_add_up_to_the_minibatch(toy, asks, tmp_path, monkeypatch):
    _, whole = improved(toy, asks, tmp_path, 10_000, monkeypatch)
    _, parts = improved(toy, asks, tmp_path, 12, monkeypatch)
    start = torch.cat([p.detach().flatten() for p in load_policy(toy).model.parameters()])
    assert float((whole[: len(start)] - start).abs().max()) > 1e-5
    assert torch.allclose(whole, parts, atol=1e-6)


def test_statistics_do_not_see_padding(toy, asks, tmp_path, monkeypatch):
    """One part of mixed lengths is padded, many parts of one row are not: their statistics agree."""
    one, _ = improved(toy, asks, tmp_path, 10_000, monkeypatch)
    many, _ = improved(toy, asks, tmp_path, 1, monkeypatch)
    for name in ("policy_loss", "value_loss", "clip_fraction", "kl", "mean_tokens", "explained_variance"):
        assert getattr(one, name) == pytest.approx(getattr(many, name), abs=1e-5), name


def test_rollouts_come_from_the_full_distribution(toy, asks, tmp_path):
    """Every token of the vocabulary can be drawn, at the softmax's own frequency."""
    policy = load_policy(toy)
    prompt = asks[:1] * 2000
    _, data = rollouts(toy, prompt, tmp_path, ppo.Config(), policy)
    first = torch.tensor([row[0] for row in data.responses])
    with torch.no_grad():
        wanted: Tensor = policy.model(torch.tensor([data.prompts[0]])).logits[0, -1].softmax(0)
    counts = torch.bincount(first, minlength=len(wanted)).double()
    expected = wanted.double() * len(first)
    enough = expected > 5
    chi2 = float(((counts - expected)[enough].square() / expected[enough]).sum())
    assert chi2 < 3 * int(enough.sum())
    assert int((counts > 0).sum()) > 0.8 * len(wanted)


def test_the_log_of_every_step_is_kept(toy, asks, tmp_path):
    ppo.run(task(toy, asks, tmp_path), ppo.Config(steps=3, rollouts=16))
    logs = records.read(tmp_path / "steps.jsonl", ppo.StepLog)
    assert [log.step for log in logs] == [1, 2, 3]
    assert {log.kl_coef for log in logs} == {0.1}
