"""Losses and estimators against hand-worked numbers and identities."""

from __future__ import annotations

import math

import pytest
import torch

from farm.methods import losses
from farm.methods.ppo import token_rewards


def test_gae_identities():
    rewards, values = torch.randn(3, 6), torch.randn(3, 6)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5]).bool()
    full, returns = losses.gae(rewards, values, mask, 1.0, 1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    assert torch.allclose(full, (to_go - values) * mask, atol=1e-5)  # lambda 1: reward to go minus value
    assert torch.allclose(returns, to_go * mask, atol=1e-5)
    step, _ = losses.gae(rewards, values, mask, 0.9, 0.0)
    following = torch.cat([(values * mask)[:, 1:], torch.zeros(3, 1)], 1)
    assert torch.allclose(step, (rewards + 0.9 * following - values) * mask, atol=1e-6)  # lambda 0: one step
    some, back = losses.gae(rewards, values, mask, 1.0, 0.95)
    assert torch.allclose(back, (some + values) * mask, atol=1e-6)


def test_gae_and_whitening_ignore_padding():
    rewards, values = torch.randn(2, 4), torch.randn(2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    plain, _ = losses.gae(rewards, values, mask, 1.0, 0.9)
    junk = 1e3 * torch.ones(2, 3)
    padded = [torch.cat([x, junk], 1) for x in (rewards, values)]
    wide = torch.cat([mask, torch.zeros(2, 3).bool()], 1)
    more, _ = losses.gae(*padded, wide, 1.0, 0.9)
    assert torch.allclose(more[:, :4], plain, atol=1e-6)
    assert float(more[:, 4:].abs().max()) == 0
    white, wider = losses.whiten(plain, mask), losses.whiten(more + 7 * ~wide, wide)
    assert torch.allclose(wider[:, :4], white, atol=1e-5)
    inside = white[mask]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-6)
    assert float(inside.var(correction=0)) == pytest.approx(1, abs=1e-4)


def test_policy_loss_clips_only_what_would_gain():
    logp, old = torch.tensor([0.5, 0.5, -0.5, -0.5]), torch.zeros(4)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    logp.requires_grad_()
    loss, ratio, clipped = losses.ppo_policy(logp, old, advantage, 0.2)
    assert clipped.tolist() == [True, False, False, True]
    assert torch.allclose(loss.detach(), torch.tensor([-1.2, math.exp(0.5), -math.exp(-0.5), 0.8]), atol=1e-6)
    loss.sum().backward()
    assert logp.grad is not None
    assert [bool(g) for g in logp.grad] == [False, True, True, False]
    assert torch.equal(losses.ppo_policy(old, old, advantage, 0.2)[1], torch.ones(4))
    assert ratio.requires_grad


def test_value_loss_has_no_gradient_where_the_clipped_branch_is_larger():
    value, old, returns = (
        torch.tensor([0.0, 1.0], requires_grad=True),
        torch.tensor([-1.0, 0.9]),
        torch.tensor([0.0, 0.0]),
    )
    loss = losses.ppo_value(value, old, returns, 0.2)
    assert torch.allclose(loss.detach(), torch.tensor([0.5 * 0.8**2, 0.5]))
    loss.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, 1.0]


def test_dpo_starts_at_ln_2_and_soft_labels_mix():
    pair, target = (torch.tensor([-3.0]), torch.tensor([-5.0])), torch.tensor([1.0])
    loss, margin = losses.dpo(pair, pair, target, 0.1)
    assert float(loss) == pytest.approx(math.log(2))
    assert float(margin) == 0
    moved = (torch.tensor([-2.0]), torch.tensor([-6.0]))
    hard, margin = losses.dpo(moved, pair, target, 0.5)
    assert float(margin) == pytest.approx(1.0)
    other, _ = losses.dpo(moved, pair, 1 - target, 0.5)
    soft, _ = losses.dpo(moved, pair, 0.75 * target, 0.5)
    assert float(soft) == pytest.approx(0.75 * float(hard) + 0.25 * float(other))


def test_score_falls_on_the_last_real_token_and_kl_on_all():
    old = [torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.0])]
    reference = [torch.tensor([-1.5, -1.0, -0.5]), torch.tensor([-3.0])]
    kl = [losses.k1(ours, theirs) for ours, theirs in zip(old, reference, strict=True)]
    rewards = token_rewards(kl, torch.tensor([2.0, -1.0]), 0.1)
    assert torch.allclose(rewards, torch.tensor([[-0.05, 0.1, 2.0], [-1.2, 0.0, 0.0]]))
    k1 = torch.stack([(a - b).sum() for a, b in zip(old, reference, strict=True)])
    assert torch.allclose(rewards.sum(1) + 0.1 * k1, torch.tensor([2.0, -1.0]))


def test_the_dpo_family_by_hand():
    policy, reference = (torch.tensor([1.2]), torch.tensor([0.2])), (torch.tensor([0.5]), torch.tensor([0.5]))
    yes, no, beta = torch.tensor([1.0]), torch.tensor([0.0]), 0.4
    m = beta * 1.0
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    wanted = {
        ("sigmoid", 0.0): (-math.log(s(m)), -math.log(s(-m))),
        ("smooth", 0.1): (-0.9 * math.log(s(m)) - 0.1 * math.log(s(-m)), -0.9 * math.log(s(-m)) - 0.1 * math.log(s(m))),
        ("robust", 0.25): (
            (-0.75 * math.log(s(m)) + 0.25 * math.log(s(-m))) / 0.5,
            (-0.75 * math.log(s(-m)) + 0.25 * math.log(s(m))) / 0.5,
        ),
        ("hinge", 0.0): (1 - m, 1 + m),
        ("ipo", 0.0): ((1.0 - 1 / 0.8) ** 2, (-1.0 - 1 / 0.8) ** 2),
    }
    for (kind, flip), (won, lost) in wanted.items():
        assert float(losses.dpo(policy, reference, yes, beta, kind, flip)[0]) == pytest.approx(won, abs=1e-6), kind
        assert float(losses.dpo(policy, reference, no, beta, kind, flip)[0]) == pytest.approx(lost, abs=1e-6), kind


def test_the_robust_loss_is_unbiased_under_flips():
    policy, reference = (torch.tensor([1.2]), torch.tensor([0.2])), (torch.tensor([0.5]), torch.tensor([0.5]))
    robust = [float(losses.dpo(policy, reference, torch.tensor([t]), 0.4, "robust", 0.25)[0]) for t in (1.0, 0.0)]
    clean = float(losses.dpo(policy, reference, torch.tensor([1.0]), 0.4)[0])
    assert 0.75 * robust[0] + 0.25 * robust[1] == pytest.approx(clean, abs=1e-6)


def test_kto_by_hand_and_without_gradient_through_z():
    ratio, mismatched = torch.tensor([0.5, -0.2], requires_grad=True), torch.tensor([0.3, 0.1], requires_grad=True)
    each = losses.kto(ratio, mismatched, torch.tensor([1.0, 0.0]), 0.5)
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert each.tolist() == pytest.approx([1 - s(0.5 * (0.5 - 0.2)), 1 - s(0.5 * (0.2 + 0.2))], abs=1e-6)
    each.sum().backward()
    assert mismatched.grad is None
    below = losses.kto(ratio, -mismatched, torch.tensor([1.0, 0.0]), 0.5)
    assert float(below[0].detach()) == pytest.approx(1 - s(0.25), abs=1e-6)  # z is not below 0


def test_k3_is_never_negative_and_unbiased():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 7, generator=generator).double() * 0.7).softmax(1)
    k3 = losses.k3(p.log(), q.log())
    assert bool((k3 >= 0).all())
    assert float((p * k3).sum()) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-9)
