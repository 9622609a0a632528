"""Quark (Lu et al. 2022, arXiv 2205.13636): sort samples by reward, learn them behind a cue of their quantile.

    loss = sum over tokens of  - log pi(y_t | x, cue_k) + kl_coef KL_t - entropy_coef H_t,   KL, H over the vocabulary

``variant: quark`` is the original: all samples so far form a pool cut into ``len(cues)`` quantiles, each learned
behind its own cue; new samples, and all answers later, are drawn behind the best one.
``variant: alpacafarm`` is what AlpacaFarm published under this name (Dubois et al. 2023): of every batch of rollouts
only the best quarter is learned, no cue is shown and nothing is kept. The two are different methods.
Left out: the original's separate exploration frequency (here every step draws and learns once).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from farm.lm.load import Policy
from farm.lm.prompts import encode_cue, encode_prompts, set_cue
from farm.methods.on_policy import OnPolicy, Part, Rollouts, roll_out, train
from farm.methods.task import Result, Task
from farm.records import Instruction
from farm.seeds import rng


class Config(OnPolicy):
    """Settings of Quark; ``kl_coef`` is the weight of the full-vocabulary KL per token in the loss. The original makes
    many updates per batch, because what a cue means has to be learned before answers behind it are any good."""

    variant: Literal["quark", "alpacafarm"] = Field("quark", description="the original, or AlpacaFarm's variant")
    group: int = Field(4, ge=1, description="responses per prompt")
    epochs: int = Field(4, ge=1, description="passes over each batch")
    minibatches: int = Field(8, ge=1, description="updates per pass")
    kl_coef: float = Field(0.05, ge=0, description="weight of KL from the SFT policy in the loss")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus (the original: 0.06)")
    cues: tuple[str, ...] = Field(("1", "2", "3", "4", "5"), description="cues of the quantiles, worst first")

    @model_validator(mode="after")
    def _several(self) -> Config:
        if len(self.cues) < 2 or len(set(self.cues)) != len(self.cues):
            raise ValueError("cues must be at least two different texts, worst first")
        return self


def run(task: Task, config: Config) -> Result:
    """Train from ``task.sft`` against ``task.score``; see :func:`farm.methods.on_policy.train` for what it raises,
    and DataError when the tokenizer cannot express a cue."""

    def loss(part: Part) -> Tensor:
        assert part.full_kl is not None
        assert part.entropy is not None
        return (-part.logp + config.kl_coef * part.full_kl - config.entropy_coef * part.entropy).sum()

    original = config.variant == "quark"
    return train(
        task,
        config,
        "quark",
        group=config.group,
        signal=everything if original else best_quarter,
        loss=loss,
        per="tokens",
        roll=Pool(config.cues).roll if original else roll_out,
        full_kl=True,
        resumable=not original,  # the pool of all samples is not part of a checkpoint
    )


def everything(data: Rollouts) -> Tensor:
    """Every response is learned, [B]."""
    return torch.ones(len(data.scores))


def best_quarter(data: Rollouts) -> Tensor:
    """1 for the best quarter of the batch, NaN (left out) for the rest, [B]; of equal scores the earlier."""
    count = max(1, len(data.scores) // 4)
    chosen = data.scores.argsort(descending=True, stable=True)[:count]
    out = torch.full((len(data.scores),), torch.nan)
    out[chosen] = 1.0
    return out


@dataclass
class Pool:
    """All samples so far; a step adds its own and trains on as many drawn from the pool, cued by quantile."""

    cues: tuple[str, ...]
    rows: list[Rollouts] = field(default_factory=list)

    def roll(
        self,
        task: Task,
        policy: Policy,
        frozen: Policy | None,
        instructions: list[Instruction],
        number: int,
        config: OnPolicy,
        group: int,
    ) -> Rollouts:
        cues = [encode_cue(cue, policy.tokenizer) for cue in self.cues]
        if number > 1:  # before the first update the cue means nothing
            set_cue(policy.tokenizer, self.cues[-1])
        fresh = roll_out(task, policy, frozen, instructions, number, config, group)
        set_cue(policy.tokenizer, self.cues[-1])
        self.rows.append(fresh)
        scores = torch.cat([r.scores for r in self.rows])
        place = scores.argsort(stable=True).argsort() * len(cues) // len(scores)  # quantile of each, 0 = worst
        chosen = rng(task.seed, "quark pool", number).permutation(len(scores))[: len(fresh.scores)].tolist()
        size = len(fresh.scores)
        where = [(self.rows[i // size], i % size) for i in chosen]
        asked = [r.instructions[k] for r, k in where]
        plain = encode_prompts(asked, policy.tokenizer, cue=False)
        return replace(
            fresh,
            group=1,
            instructions=asked,
            prompts=[[*row, *cues[int(place[i])]] for row, i in zip(plain, chosen, strict=True)],
            responses=[r.responses[k] for r, k in where],
            scores=scores[chosen],
            finished=[r.finished[k] for r, k in where],
            reference=[r.reference[k] for r, k in where],
            sampled=torch.stack([r.sampled[k] for r, k in where]),
        )
