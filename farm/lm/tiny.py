"""Small Llama models from scratch, with a tokenizer of their own, saved in the Hugging Face format.

``create`` takes either a vocabulary of words (the offline world: one token per word or mark, and decoding writes
English again) or texts to train a byte-level BPE tokenizer on (real text). What it writes loads like any Hub model.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farm.errors import DataError
from farm.seeds import key

PAD, EOS, UNK, SEP = "<pad>", "<eos>", "<unk>", "<sep>"
_SPECIAL = (PAD, EOS, UNK, SEP)
# A word or number, else one mark: the same split as farm.world.grammar.words.
_TOKEN = r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_"  # noqa: S105


class TinySettings(BaseModel):
    """Shape of a tiny Llama. The defaults give 0.13 million parameters on the offline world's vocabulary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(64, ge=8, description="width of the residual stream")
    layers: int = Field(2, ge=1, description="number of blocks")
    heads: int = Field(2, ge=1, description="attention heads; divides hidden into even parts")
    mlp: int = Field(192, ge=8, description="width of the gated MLP")
    positions: int = Field(128, ge=8, description="longest prompt + response in tokens")
    vocabulary: int = Field(4096, ge=300, description="size of a trained BPE vocabulary (unused for a word list)")

    @model_validator(mode="after")
    def _divides(self) -> TinySettings:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of 2 x heads ({2 * self.heads})")
        return self


def create(
    folder: Path,
    settings: TinySettings,
    seed: int,
    *,
    vocabulary: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> Path:
    """Write an untrained model and its tokenizer to ``folder``; give either ``vocabulary`` (words) or ``texts``.

    Weights are keyed by ``seed``. Raises DataError when neither or both are given, or nothing is in them.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (vocabulary is None) == (texts is None) or not (vocabulary or texts):
        raise DataError("a tiny model needs either a non-empty vocabulary of words or texts to train a tokenizer on")
    tokenizer = word_tokenizer(vocabulary) if vocabulary else bpe_tokenizer(texts or (), settings.vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.mlp,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.positions,
        tie_word_embeddings=True,
        initializer_range=settings.hidden**-0.5 / 2,  # the usual 0.02 is for widths above 500 and starts slowly here
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "tiny"))
        model = LlamaForCausalLM(config)
    tokenizer.model_max_length = settings.positions
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
    return folder


def _fast(tokenizer: Any) -> Any:
    import transformers

    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        sep_token=SEP,
        clean_up_tokenization_spaces=False,
    )


def word_tokenizer(vocabulary: Sequence[str]) -> Any:
    """One token per lower-case word or mark. Decoding attaches marks, breaks lines before bullets ("-") and
    capitalises the first word of a sentence or bullet and "I"."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    table = {token: i for i, token in enumerate([*_SPECIAL, *dict.fromkeys(vocabulary)])}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), "removed", invert=True)
    replace = decoders.Replace
    spacing = [
        replace(Regex("^"), " "),
        decoders.Fuse(),
        replace(Regex(r" (?=[.,!?:])"), ""),
        replace(Regex(r"(?<=.) -"), "\n-"),
        replace(Regex("^ "), ""),
        replace(Regex(r"(?<= )i(?= |[.,!?:]|$)"), "I"),
    ]
    # The letter after the start, a full stop or a bullet, with nothing but marks between.
    first = r"(?:\A|[.!?\-])[ \n.,!?:\-]*\K"
    capitals = [replace(Regex(first + letter), letter.upper()) for letter in string.ascii_lowercase]
    tokenizer.decoder = decoders.Sequence(spacing + capitals)
    return _fast(tokenizer)


def bpe_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Byte-level BPE trained on ``texts``: any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _fast(tokenizer)
