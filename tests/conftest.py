"""Shared by all tests: one torch thread, nothing downloaded."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples in every run, so that a red test is about the change at hand; HYPOTHESIS_PROFILE=default explores.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """Folder of an untrained GPT-2 with 64 learned positions whose tokens are single characters: another family and
    another tokenizer than the toy's, without a pad token and with its own way to end."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    characters = " !#.,abcdefghijklmnopqrstuvwxyzASTW\n"
    vocabulary = {c: k for k, c in enumerate(["<unk>", "<|end|>", *characters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<|end|>")
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    folder = tmp_path_factory.mktemp("letters") / "model"
    GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), **size, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
