"""A learned reward: a sequence classifier with one output, normalised to the policy it was trained beside.

The folder holds an ordinary Hugging Face sequence classifier; ``reward_mean`` and ``reward_sd`` in its config are the
normalisation (absent: 0 and 1, so any one-output classifier from the Hub works), ``reward_max_tokens`` is where
training cut responses. Several as one: ``ensemble.load_reward``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Embedding

from farm.errors import DataError, TrainError
from farm.lm import parallel
from farm.lm.hub import load_hf, load_tokenizer, own_pad
from farm.lm.logprobs import batches
from farm.lm.prompts import Batch, Ids, encode_prompts, encode_responses, lay_out
from farm.lm.trunk import bare, hidden_at, lean, positions_of
from farm.records import Instruction, Response


@dataclass(frozen=True)
class RewardModel:
    """``score`` = (raw - mean) / sd, so that samples of the SFT policy have mean 0 and standard deviation 1."""

    model: Any
    tokenizer: Any
    mean: float = 0.0
    sd: float = 1.0
    max_tokens: int = 0

    @classmethod
    def load(cls, source: str | Path, device: str = "", dtype: str = "float32") -> RewardModel:
        """Load from a folder or Hub id. Raises DataError when nothing loadable is there or it has not one output."""
        from transformers import AutoModelForSequenceClassification

        tokenizer = load_tokenizer(source)
        model = load_hf(AutoModelForSequenceClassification, source, device, dtype)
        if model.config.num_labels != 1:
            raise DataError(f"{source}: a reward model has one output, this classifier has {model.config.num_labels}")
        own_pad(model, tokenizer)
        model.config.pad_token_id = tokenizer.pad_token_id
        model.eval().requires_grad_(False)
        said = model.config.to_dict()
        mean, sd = said.get("reward_mean", 0.0), said.get("reward_sd", 1.0)
        return cls(model, tokenizer, mean, sd, said.get("reward_max_tokens", 0))

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and normalisation to ``folder``, safetensors only."""
        config = self.model.config
        config.reward_mean, config.reward_sd, config.reward_max_tokens = self.mean, self.sd, self.max_tokens
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(folder), safe_serialization=True)
        self.tokenizer.save_pretrained(str(folder))

    def score(self, instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
        """Normalised rewards of responses to instructions, side by side. Text is encoded by this model's own
        tokenizer; whether a response is finished is visible to it as the end token.

        Raises TrainError when a reward is not finite.
        """
        raw = self.raw(*self.encode(instructions, responses))
        if not bool(torch.isfinite(raw).all()):
            bad = int((~torch.isfinite(raw)).nonzero()[0])
            raise TrainError(f"the reward model gives {float(raw[bad])} to response {responses[bad].id}")
        return ((raw - self.mean) / self.sd).tolist()

    def encode(self, instructions: Sequence[Instruction], responses: Sequence[Response]) -> tuple[list[Ids], list[Ids]]:
        """Prompts and responses as this model reads them: as in training, what is too long is cut (``fitting``)."""
        distinct = {i.id: i for i in instructions}
        encoded = dict(zip(distinct, encode_prompts(list(distinct.values()), self.tokenizer), strict=True))
        answers = encode_responses(responses, self.tokenizer, self.max_tokens)
        return fitting([encoded[i.id] for i in instructions], answers, places(self.model))

    def too_long(self, instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[bool]:
        """Which texts are longer than training's limit on responses or the positions that the model was made for."""
        distinct = {i.id: i for i in instructions}
        sizes = dict(zip(distinct, map(len, encode_prompts(list(distinct.values()), self.tokenizer)), strict=True))
        longest = getattr(self.model.config, "max_position_embeddings", None) or math.inf
        answers = [len(r) for r in encode_responses(responses, self.tokenizer)]
        return [
            (0 < self.max_tokens < n) or sizes[i.id] + n > longest for i, n in zip(instructions, answers, strict=True)
        ]

    @torch.no_grad()
    def raw(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> torch.Tensor:
        """Rewards before normalisation, float32 [rows]."""
        mine = parallel.share(range(len(prompts)))
        prompts, responses = [prompts[i] for i in mine], [responses[i] for i in mine]
        out = torch.empty(len(prompts))
        device = next(self.model.parameters()).device
        for rows in batches(prompts, responses):
            batch = lay_out(
                [prompts[i] for i in rows], [responses[i] for i in rows], self.tokenizer.pad_token_id, device
            )
            out[torch.tensor(rows)] = rewards(self.model, batch).cpu()
        return torch.tensor(parallel.gather(out.tolist()))


def rewards(model: Any, batch: Batch) -> torch.Tensor:
    """Reward [B] read at the last real token of each row."""
    if lean(model):
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        last = (place * batch.attention).argmax(1, keepdim=True)
        return bare(model).score(hidden_at(model, batch, place == last))[:, 0].float()  # type: ignore[no-any-return]
    out = model(input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions_of(batch), use_cache=False)
    return out.logits[:, 0].float()  # type: ignore[no-any-return]


def places(model: Any) -> int:
    """The number of positions a model has embeddings for, 0 where positions are rotary or relative and it can read on
    (what it makes of them is another matter)."""
    stated = getattr(model.config, "max_position_embeddings", None) or 0
    words = model.get_input_embeddings()
    learned = any(m is not words and m.num_embeddings >= stated for m in model.modules() if isinstance(m, Embedding))
    return stated if learned else 0


def fitting(prompts: Sequence[Ids], responses: Sequence[Ids], room: int) -> tuple[list[Ids], list[Ids]]:
    """Rows that fit in ``room`` positions (0 = any): a prompt loses its beginning first, so that the response and its
    end stay in sight; a response that has no room alone loses its end."""
    if not room:
        return list(prompts), list(responses)
    kept = [r[: room - 1] for r in responses]
    return [p[max(0, len(p) + len(r) - room) :] for p, r in zip(prompts, kept, strict=True)], kept
