"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): a reward model hidden in the policy.

    loss = - [t log s(m) + (1 - t) log s(-m)],   m = beta [log pi/pi_ref (y_1) - log pi/pi_ref (y_2)],
    t = P(y_1 preferred): 1 or 0 for a hard label, 1/2 for a tie, between for a soft one

Log-probabilities are sums over response tokens; those of the reference (the SFT policy) are computed once. The first
loss is ln 2. Its implicit reward over-optimises along the epoch like any other, so a curve is kept. ``loss`` picks a
relative (formulas in ``losses.dpo``): robust and smooth know the share of wrong labels, ipo does not saturate. IPO
here sums log-ratios over tokens as its paper does; TRL averages them, so its beta means something else.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from farm.errors import DataError
from farm.lm import trl_engine
from farm.lm.load import Lora, Policy, copy_frozen, load_policy, reference_of, save_policy, trainable
from farm.lm.logprobs import logprobs, response_logits, sequence_sums, token_logprobs
from farm.lm.prompts import Batch, Ids, lay_out
from farm.lm.train import Optim, Trained, fit
from farm.methods import losses
from farm.methods.curve import Track
from farm.methods.pairs import encode, target
from farm.methods.task import Clock, Result, Task
from farm.records import Budget

# prompt, first, second, reference log-probability of each, P(first preferred), weight
Example = tuple[Ids, Ids, Ids, float, float, float, float]


LEARNS_FROM_PREFERENCES = True  # the pipeline hands it the labelled pairs and their instructions


class Config(BaseModel):
    """Settings of DPO. The default rate suits a tiny model; for a pretrained one start at 1e-6 (full), 1e-5 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(0.1, gt=0, description="strength of the tie to the reference; smaller moves further")
    loss: str = Field("sigmoid", description="see losses.dpo; with engine trl, more of TRL's")
    flip: float = Field(0.0, ge=0, lt=0.5, description="share of wrong labels that smooth and robust assume")
    optim: Optim = Field(Optim(lr=3e-4, epochs=1, batch=32, schedule="linear"), description="see lm.train.Optim")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    curve_points: int = Field(6, ge=0, description="points of the curve after the first, evenly spaced")
    lora: Lora | None = Field(None, description="train adapters; the reference is then the model without them")
    engine: Literal["farm", "trl"] = Field("farm", description="our loop, or TRL's DPOTrainer on the same token rows")

    @model_validator(mode="after")
    def _known(self) -> Config:
        more = trl_engine.DPO_LOSSES if self.engine == "trl" else ()
        known = [name for name in (*losses.DPO_LOSSES, *more) if not (self.engine == "trl" and name == "smooth")]
        if self.loss not in known:
            hint = "" if self.engine == "trl" else f"; engine: trl adds {', '.join(trl_engine.DPO_LOSSES)}"
            raise ValueError(f"loss must be one of {', '.join(known)}{hint}")
        return self


def run(task: Task, config: Config) -> Result:
    """Train on ``task.preferences``; their instructions are looked up among ``task.instructions`` and their responses
    in ``task.responses``. Writes the policy and its curve.

    Raises DataError without preferences or when one names something unknown, TrainError when the loss is not finite.
    """
    task.need("dpo", preferences=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="dpo", seed=task.seed)
    frozen = copy_frozen(policy) if config.lora is None else None
    examples = prepare(task, policy, frozen, config.max_tokens)

    track = Track(task, "update", policy, frozen)
    track.measure(0)
    updates = max(1, round(len(examples) * config.optim.epochs / config.optim.batch))
    every = max(1, updates // config.curve_points) if config.curve_points else 0

    def after(done: int) -> None:
        if every and done % every == 0 and len(track.points) <= config.curve_points:
            track.measure(done)

    trained = (
        _with_trl(task, policy, frozen, examples, config)
        if config.engine == "trl"
        else fit(
            trainable(policy),
            examples,
            lambda rows: pair_loss(policy, rows, config),
            config.optim,
            seed=task.seed,
            purpose="dpo",
            size=lambda e: 2 * len(e[0]) + len(e[1]) + len(e[2]),
            weight=lambda e: e[6],
            progress=task.progress,
            after=after,
        )
    )
    track.measure(trained.updates)
    save_policy(policy, task.folder / "policy")
    budget = Budget(
        comparisons=len(examples), train_tokens=trained.tokens, updates=trained.updates, seconds=clock.seconds
    )
    return Result(
        method="dpo",
        policy="policy",
        curve=track.finish("dpo"),
        budget=budget,
        notes={"first_loss": trained.losses[0], "last_loss": trained.losses[-1]},
    ).save(task.folder)


def _with_trl(task: Task, policy: Policy, frozen: Policy | None, examples: list[Example], config: Config) -> Trained:
    """The same pairs through TRL's trainer. Raises DataError for labels it does not know."""
    if any(e[5] not in (0.0, 1.0) or e[6] != 1.0 for e in examples):
        raise DataError("dpo: TRL knows no ties, soft labels or weights; use engine: farm for these preferences")
    rows = [(p, a, b) if wanted == 1.0 else (p, b, a) for p, a, b, _, _, wanted, _ in examples]
    return trl_engine.dpo(
        policy,
        frozen,
        rows,
        config.optim,
        beta=config.beta,
        loss=config.loss,
        flip=config.flip,
        seed=task.seed,
        folder=task.folder / "trl",
        progress=task.progress,
    )


def prepare(task: Task, policy: Policy, frozen: Policy | None, max_tokens: int) -> list[Example]:
    """Preferences as token rows with the reference log-probabilities of both sides."""
    prompts, first, second = encode("dpo", task, policy, max_tokens)
    with reference_of(policy, frozen) as reference:
        theirs = [sequence_sums(logprobs(reference, prompts, side)).tolist() for side in (first, second)]
    wanted = [target(p) for p in task.preferences]
    weights = [p.weight for p in task.preferences]
    return list(zip(prompts, first, second, *theirs, wanted, weights, strict=True))


def sequence_logprobs(policy: Policy, batch: Batch) -> torch.Tensor:
    """Summed log-probability [B] of each response, with gradient."""
    logits, _ = response_logits(policy.model, batch)
    each = token_logprobs(logits, batch.targets)
    lengths = torch.tensor(batch.lengths, device=each.device)
    row = torch.arange(len(batch.lengths), device=each.device).repeat_interleave(lengths)
    return torch.zeros(len(batch.lengths), device=each.device).index_add(0, row, each)


def pair_loss(policy: Policy, rows: list[Example], config: Config) -> tuple[torch.Tensor, dict[str, float]]:
    """Summed weighted loss of some pairs, and how often the implicit reward agrees with the label."""
    device = policy.device
    batch = lay_out(
        [r[0] for r in rows] * 2, [r[1] for r in rows] + [r[2] for r in rows], policy.tokenizer.pad_token_id, device
    )
    first, second = sequence_logprobs(policy, batch).chunk(2)
    ref_first, ref_second, wanted, weight = (torch.tensor([r[k] for r in rows], device=device) for k in (3, 4, 5, 6))
    loss, margin = losses.dpo((first, second), (ref_first, ref_second), wanted, config.beta, config.loss, config.flip)
    agrees = ((margin > 0) == (wanted > 0.5)).float().sum()
    return (weight * loss).sum(), {"accuracy": float(agrees), "margin": float(margin.detach().sum())}
