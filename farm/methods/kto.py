"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): single responses, desirable or not.

    loss = 1 - s(beta (log pi/pi_ref (y) - z))  for a desirable response,  1 - s(beta (z - log pi/pi_ref (y)))  else
    z = max(0, mean over the batch of log pi/pi_ref (y' | x)),  y' a response to another prompt of the batch

The winner of a pair is desirable and the loser is not; each side of a tie is both, at half weight. ``z`` is that of
the forward pass, so ``optim.micro_batch`` changes it slightly. Left out: unbalanced weights of the two kinds.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field

from farm.lm.load import Lora, Policy, copy_frozen, load_policy, reference_of, save_policy, trainable
from farm.lm.logprobs import logprobs, sequence_sums
from farm.lm.prompts import Ids, lay_out
from farm.lm.train import Optim, fit
from farm.methods import losses
from farm.methods.curve import Track
from farm.methods.dpo import sequence_logprobs
from farm.methods.pairs import sides
from farm.methods.task import Clock, Result, Task
from farm.records import Budget

# prompt, response, reference log-probability, desirable (1) or not (0), weight
Example = tuple[Ids, Ids, float, float, float]

LEARNS_FROM_PREFERENCES = True  # the pipeline hands it the labelled pairs and their instructions


class Config(BaseModel):
    """Settings of KTO. The default rate suits a tiny model; for a pretrained one start at 1e-6 (full), 1e-5 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(0.1, gt=0, description="strength of the tie to the reference; smaller moves further")
    optim: Optim = Field(Optim(lr=5e-4, epochs=1, batch=64, schedule="linear"), description="see lm.train.Optim")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    lora: Lora | None = Field(None, description="train adapters; the reference is then the model without them")


def run(task: Task, config: Config) -> Result:
    """Train on both sides of ``task.preferences``; writes the policy and a curve of two points.

    Raises DataError without preferences or when one names something unknown, TrainError when the loss is not finite.
    """
    task.need("kto", preferences=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="kto", seed=task.seed)
    frozen = copy_frozen(policy) if config.lora is None else None
    examples = prepare(task, policy, frozen, config.max_tokens)
    track = Track(task, "epoch", policy, frozen)
    track.measure(0)
    trained = fit(
        trainable(policy),
        examples,
        lambda rows: loss(policy, frozen, rows, config.beta),
        config.optim,
        seed=task.seed,
        purpose="kto",
        size=lambda e: 2 * (len(e[0]) + len(e[1])),
        weight=lambda e: e[4],
        progress=task.progress,
    )
    track.measure(config.optim.epochs)
    save_policy(policy, task.folder / "policy")
    budget = Budget(
        comparisons=len(task.preferences), train_tokens=trained.tokens, updates=trained.updates, seconds=clock.seconds
    )
    return Result(method="kto", policy="policy", curve=track.finish("kto"), budget=budget).save(task.folder)


def prepare(task: Task, policy: Policy, frozen: Policy | None, max_tokens: int) -> list[Example]:
    """Single responses with their reference log-probability, each as desirable, undesirable, or (tie) both."""
    rows = sides("kto", task, policy, max_tokens)
    with reference_of(policy, frozen) as reference:
        theirs = sequence_sums(logprobs(reference, [s.prompt for s in rows], [s.response for s in rows])).tolist()
    out: list[Example] = []
    for s, log_reference in zip(rows, theirs, strict=True):
        graded = ((1.0, s.wins), (0.0, s.weight - s.wins))
        out += [(s.prompt, s.response, log_reference, kind, weight) for kind, weight in graded if weight > 0]
    return out


def loss(
    policy: Policy, frozen: Policy | None, rows: list[Example], beta: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Summed weighted loss of some responses; the next row's response serves as each prompt's mismatched one."""
    pad, device = policy.tokenizer.pad_token_id, policy.device
    prompts, responses = [r[0] for r in rows], [r[1] for r in rows]
    ours = sequence_logprobs(policy, lay_out(prompts, responses, pad, device))
    theirs, desirable, weight = (torch.tensor([r[k] for r in rows], device=device) for k in (2, 3, 4))
    shifted = responses[1:] + responses[:1]
    with reference_of(policy, frozen) as reference:
        other = sequence_sums(logprobs(reference, prompts, shifted))
    mismatched = (sequence_sums(logprobs(policy, prompts, shifted)) - other).float().to(device)
    each = losses.kto(ours - theirs, mismatched, desirable, beta)
    return (weight * each).sum(), {"z": float(mismatched.mean().clamp(min=0)) * len(rows)}
