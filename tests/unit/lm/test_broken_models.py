"""Models that cannot be used as they are: each a clear error that names the file and says what to do."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm.errors import DataError
from farm.lm import hub, tiny
from farm.lm.load import Lora, load_policy, save_policy
from farm.lm.logprobs import logprobs
from farm.lm.sample import sample
from farm.records import Sampling
from farm.reward.model import RewardModel


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def pickle_only(folder, weights):
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def without_one_weight(folder, weights):
    tensors = load_file(weights)
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})


def of_another_shape(folder, weights):
    tensors = {k: v[..., :-2].contiguous() for k, v in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def not_finite(folder, weights):
    tensors = load_file(weights)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (pickle_only, r"only pytorch_model\.bin, a pickle.*save_pretrained"),
        (lambda f, w: halve(w), r"model\.safetensors: cut off.*every other step is kept"),
        (lambda f, w: w.write_bytes(b""), r"model\.safetensors: cut off"),
        (lambda f, w: w.unlink(), "no file named model.safetensors.*safetensors weights"),
        (lambda f, w: halve(f / "config.json"), "config.json"),
        (lambda f, w: halve(f / "tokenizer.json"), "no model can be loaded"),
        (without_one_weight, r"1 are missing, the first is 'model\.layers\.0\.mlp\.down_proj\.weight'"),
        (of_another_shape, "other shapes than its config.json says"),
        (not_finite, r"'model\.norm\.weight' is not finite"),
    ],
)
def test_a_broken_folder_is_named_with_what_to_do(toy, tmp_path, spoil, said):
    folder = tmp_path / "model"
    shutil.copytree(toy, folder)
    spoil(folder, folder / "model.safetensors")
    with pytest.raises(DataError, match=rf"(?s){folder}.*{said}"):
        load_policy(folder)


def test_a_policy_is_no_reward_model(toy):
    with pytest.raises(DataError, match=r"'score\.weight'.*SequenceClassification"):
        RewardModel.load(toy)


def test_a_missing_folder_and_an_unknown_id(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder"):
        load_policy(tmp_path / "nowhere")

    def unreachable(*_, **__):
        raise socket.gaierror("no network here")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    asked = []
    monkeypatch.setattr("time.sleep", asked.append)  # the Hub's client would try again for a minute
    for load in (load_policy, RewardModel.load):
        with pytest.raises(DataError, match=r"no-such-owner/no-such-model: no model.*Hub \(which needs a network\)"):
            load("no-such-owner/no-such-model")
    assert asked == []


def test_an_adapter_that_only_the_hub_has_is_named(toy, monkeypatch):
    class Auto:
        @staticmethod
        def from_pretrained(*_, **__):
            return load_policy(toy, lora=Lora(rank=2)).model, {"missing_keys": []}

    with pytest.raises(DataError, match="some/adapter: an adapter on the Hub"):
        hub.load_hf(Auto, "some/adapter", "cpu", "float32")


@pytest.fixture
def adapter(toy, tmp_path):
    folder = tmp_path / "adapter"
    save_policy(load_policy(toy, lora=Lora(rank=2)), folder)
    return folder


def rebase(adapter, base):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))


def other_base(folder, **shape):
    words = ["say", "the", "word", "a", "b", "c", "d", "e", "f", "g", "h", "please", ".", "!"]
    settings = {"hidden": 16, "layers": 1, "heads": 2, "mlp": 32, "positions": 32} | shape
    return tiny.create(folder, tiny.TinySettings(**settings), 0, vocabulary=words)


def test_an_adapter_for_a_base_of_another_shape(adapter, tmp_path):
    rebase(adapter, other_base(tmp_path / "wide", hidden=32))
    with pytest.raises(DataError, match=rf"{adapter}: this adapter was trained on another base.*size mismatch"):
        load_policy(adapter)


def test_an_adapter_for_a_base_with_more_layers(adapter, tmp_path):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["q_proj", "v_proj"]}))
    rebase(adapter, other_base(tmp_path / "deep", layers=2))
    with pytest.raises(DataError, match=r"another base.*no counterpart.*base_model_name_or_path"):
        load_policy(adapter)


def test_an_adapter_for_another_family(adapter, toy, tmp_path):
    import transformers

    vocabulary = len(load_policy(toy).tokenizer)
    config = transformers.GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    rebase(adapter, tmp_path / "gpt2")
    with pytest.raises(DataError, match="another base"):
        load_policy(adapter)


def test_an_adapter_whose_base_is_gone_or_is_itself(adapter, tmp_path):
    rebase(adapter, tmp_path / "gone")
    with pytest.raises(DataError, match=rf"{adapter}/adapter_config.json.*base_model_name_or_path.*no such folder"):
        load_policy(adapter)
    rebase(adapter, ".")
    with pytest.raises(DataError, match="leads back to the adapter itself"):
        load_policy(adapter)


def test_an_adapter_is_read_from_whole_safetensors_only(adapter):
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    halve(weights)
    with pytest.raises(DataError, match=rf"{weights}: cut off"):
        load_policy(adapter)
    weights.write_bytes(whole)
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(DataError, match=r"only adapter_model\.bin, a pickle"):
        load_policy(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match=r"adapter_config\.json: not the settings of an adapter"):
        load_policy(adapter)


def test_an_adapter_without_a_tokenizer_has_its_bases(adapter, toy):
    for path in adapter.glob("*token*"):
        path.unlink()
    assert load_policy(adapter).tokenizer.get_vocab() == load_policy(toy).tokenizer.get_vocab()


def test_more_tokens_than_embeddings(toy, tmp_path):
    policy = load_policy(toy)
    policy.tokenizer.add_tokens(["zebra"])
    save_policy(policy, tmp_path)
    with pytest.raises(DataError, match=r"knows 19 tokens.*embeddings for 18.*resize_token_embeddings\(19\)"):
        load_policy(tmp_path)


def test_rows_longer_than_learned_positions(toy, asks, tmp_path):
    import transformers

    tokenizer = load_policy(toy).tokenizer
    for name, config in (
        ("GPT2LMHeadModel", transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=12)),
        (
            "OPTForCausalLM",
            transformers.OPTConfig(
                hidden_size=16,
                word_embed_proj_dim=16,
                ffn_dim=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
            ),
        ),
    ):
        config.vocab_size = len(tokenizer)
        torch.manual_seed(0)
        getattr(transformers, name)(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        policy = load_policy(tmp_path / name)
        row = [4, 5, 6, 7]
        assert len(logprobs(policy, [row], [row * 2])[0]) == 8  # exactly as long as there are positions
        with pytest.raises(DataError, match=r"take 13 tokens, this model has 12 positions.*max_tokens"):
            logprobs(policy, [row], [[*row, *row, 8]])
        with pytest.raises(DataError, match="this model has 12 positions"):
            sample(policy, asks, 8, Sampling(max_tokens=30), name="x", purpose="p")


def test_models_are_put_where_the_environment_says(toy, monkeypatch):
    monkeypatch.setenv("FARM_DEVICE", "meta")  # a device that every torch has
    assert load_policy(toy).device.type == "meta"
    assert load_policy(toy, device="cpu").device.type == "cpu"
    monkeypatch.setenv("FARM_DEVICE", "")
    assert load_policy(toy).device.type == "cpu"
    for unknown in ("cuda:99", "banana"):
        monkeypatch.setenv("FARM_DEVICE", unknown)
        with pytest.raises(DataError, match=f"FARM_DEVICE={unknown}: no such device here"):
            load_policy(toy)
