"""The shared loop: schedules, accumulation, clipping, errors; loading and saving policies."""

from __future__ import annotations

import json
import os

import pytest
import torch

from farm.errors import DataError, TrainError
from farm.lm.load import Lora, load_policy, save_policy, trainable
from farm.lm.logprobs import logprobs
from farm.lm.train import Optim, fit, mixed_precision, rate, schedule, step


def test_every_epoch_uses_every_row_once_and_batches_have_like_lengths():
    sizes = [1 + (7 * i) % 50 for i in range(1000)]
    plan = schedule(sizes, 16, 2, seed=0, purpose="t")
    assert sorted(i for rows in plan[: len(plan) // 2] for i in rows) == list(range(1000))
    spread = sum(max(sizes[i] for i in rows) - min(sizes[i] for i in rows) for rows in plan) / len(plan)
    assert spread < 5
    assert plan == schedule(sizes, 16, 2, seed=0, purpose="t") != schedule(sizes, 16, 2, seed=1, purpose="t")
    assert sum(len(rows) for rows in schedule(sizes, 16, 0.25, seed=0, purpose="t")) == 250


def test_rate_warms_up_and_ends_near_zero():
    for shape in ("cosine", "linear"):
        rates = [rate(u, 100, 0.1, shape) for u in range(100)]
        assert rates[0] < rates[5] < max(rates) == rates[10] == 1.0
        assert 0 < rates[-1] < 0.02
    assert rate(99, 100, 0.0, "constant") == 1.0


def test_accumulated_gradient_equals_that_of_the_big_batch():
    rows = [(float(i), 1.0 + i % 3) for i in range(12)]  # value, weight
    moved = []
    for micro in (0, 1, 5):
        w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

        def loss(part, w=w):
            return sum(k * (w - x) ** 2 for x, k in part), {}

        optim = Optim(lr=0.1, batch=6, micro_batch=micro, clip=1e9, schedule="constant", warmup=0)
        fit([w], rows, loss, optim, seed=0, purpose="t", size=lambda e: 1, weight=lambda e: e[1])
        moved.append(float(w.detach()))
    assert moved[0] == pytest.approx(moved[1], abs=1e-12)
    assert moved[0] == pytest.approx(moved[2], abs=1e-12)


def test_gradient_clipping_is_real():
    w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    (1000 * w.sum()).backward()
    assert step(torch.optim.SGD([w], lr=1.0), [w], clip=1e-9) > 1000
    assert torch.allclose(w.detach(), torch.tensor([3.0, 4.0]), atol=1e-8)
    assert w.grad is None


def test_a_loss_that_is_not_finite_stops_training_before_the_update():
    w = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(TrainError, match="update 1"):
        fit([w], [1], lambda _: (w * float("nan"), {}), Optim(), seed=0, purpose="t", size=int, weight=float)
    assert float(w.detach()) == 1.0
    with pytest.raises(DataError, match="no examples"):
        fit([w], [], lambda _: (w, {}), Optim(), seed=0, purpose="t", size=int, weight=float)


def test_missing_model_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="no model can be loaded"):
        load_policy(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=str(tmp_path)):
        load_policy(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(toy, tmp_path):
    policy = load_policy(toy)
    policy.tokenizer.eos_token = None
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TrainError, match="EOS"):
        load_policy(tmp_path)


def test_adapters_start_as_the_base_are_saved_alone_and_move_with_the_run(toy, tmp_path):
    import shutil

    home = tmp_path / "run"
    shutil.copytree(toy, home / "base")
    base, policy = load_policy(home / "base"), load_policy(home / "base", lora=Lora(rank=2), seed=3)
    row = ([[4, 5]], [[6, 7, 1]])
    assert torch.equal(logprobs(policy, *row)[0], logprobs(base, *row)[0])
    assert 0 < sum(p.numel() for p in trainable(policy)) < sum(p.numel() for p in base.model.parameters())
    with torch.no_grad():
        for p in trainable(policy):
            p.add_(0.3)
    save_policy(policy, home / "adapter")
    assert (home / "adapter" / "adapter_model.safetensors").is_file()
    assert not (home / "adapter" / "model.safetensors").exists()
    assert str(tmp_path) not in json.dumps(json.loads((home / "adapter" / "adapter_config.json").read_text()))
    home.rename(tmp_path / "moved")
    again = load_policy(tmp_path / "moved" / "adapter")
    assert torch.allclose(logprobs(again, *row)[0], logprobs(policy, *row)[0], atol=1e-5)
    nested = load_policy(tmp_path / "moved" / "adapter", lora=Lora(rank=2))  # an adapter on an adapter
    save_policy(nested, tmp_path / "moved" / "second")
    deep = load_policy(tmp_path / "moved" / "second")
    assert torch.allclose(logprobs(deep, *row)[0], logprobs(policy, *row)[0], atol=1e-5)


def test_bfloat16_on_a_processor_bounds_the_caches_of_product_shapes(monkeypatch):
    """A user's own setting stays, and nothing changes in float32."""
    ours, theirs = "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(theirs, "7")
    monkeypatch.setenv(ours, "")  # so that what is set below is taken back after the test
    monkeypatch.delenv(ours)
    mixed_precision("cpu", "float32")
    assert ours not in os.environ
    mixed_precision("cpu", "bfloat16")
    assert (int(os.environ[ours]), os.environ[theirs]) == (32, "7")
