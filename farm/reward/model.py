"""A learned reward: a sequence classifier with one output, normalised to the policy it was trained beside.

The folder holds an ordinary Hugging Face sequence classifier; ``reward_mean`` and ``reward_sd`` in its config are the
normalisation (absent: 0 and 1, so any one-output classifier from the Hub works).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from farm.errors import DataError, TrainError
from farm.lm import parallel
from farm.lm.load import load_hf, load_tokenizer
from farm.lm.logprobs import batches, positions_of
from farm.lm.prompts import Batch, Ids, encode_prompts, encode_responses, lay_out
from farm.records import Instruction, Response


@dataclass(frozen=True)
class RewardModel:
    """``score`` = (raw - mean) / sd, so that samples of the SFT policy have mean 0 and standard deviation 1."""

    model: Any
    tokenizer: Any
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def load(cls, source: str | Path, device: str = "cpu", dtype: str = "float32") -> RewardModel:
        """Load from a folder or Hub id. Raises DataError when nothing loadable is there or it has not one output."""
        from transformers import AutoModelForSequenceClassification

        tokenizer = load_tokenizer(source)
        model = load_hf(AutoModelForSequenceClassification, source, device, dtype)
        if model.config.num_labels != 1:
            raise DataError(f"{source}: a reward model has one output, this classifier has {model.config.num_labels}")
        model.config.pad_token_id = tokenizer.pad_token_id
        model.eval().requires_grad_(False)
        config = model.config
        return cls(model, tokenizer, getattr(config, "reward_mean", 0.0), getattr(config, "reward_sd", 1.0))

    def score(self, instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
        """Normalised rewards of responses to instructions, side by side. Text is encoded by this model's own
        tokenizer; whether a response is finished is visible to it as the end token.

        Raises TrainError when a reward is not finite.
        """
        distinct = {i.id: i for i in instructions}
        encoded = dict(zip(distinct, encode_prompts(list(distinct.values()), self.tokenizer), strict=True))
        prompts = [encoded[i.id] for i in instructions]
        raw = self.raw(prompts, encode_responses(responses, self.tokenizer))
        if not bool(torch.isfinite(raw).all()):
            bad = int((~torch.isfinite(raw)).nonzero()[0])
            raise TrainError(f"the reward model gives {float(raw[bad])} to response {responses[bad].id}")
        return ((raw - self.mean) / self.sd).tolist()

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
    out = model(input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions_of(batch), use_cache=False)
    return out.logits[:, 0].float()  # type: ignore[no-any-return]
