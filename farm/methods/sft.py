"""Supervised fine-tuning: maximise the likelihood of a written response given its prompt.

    loss = - sum over response tokens of log pi(y_t | x, y_<t) / number of response tokens in the batch

Prompt tokens carry no loss. A response longer than the limit is cut and then carries no end token, so that the model
never learns to stop where it was cut. Left out: packing (batches of like length serve the same end here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from farm.errors import DataError
from farm.lm.load import Lora, Policy, load_policy, save_policy, trainable
from farm.lm.logprobs import response_logits, token_logprobs
from farm.lm.prompts import Ids, encode_prompts, encode_texts, lay_out
from farm.lm.train import Optim, Progress, Trained, fit
from farm.methods import losses
from farm.methods.task import Clock, Result, Task
from farm.records import Budget

Example = tuple[Ids, Ids, float]  # prompt, response with its end token, weight


class Config(BaseModel):
    """Settings of SFT. The default rate suits a tiny model from scratch; for a pretrained one start at 2e-5
    (full) or 2e-4 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optim: Optim = Field(Optim(lr=1e-2, epochs=5, batch=32), description="see lm.train.Optim")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    engine: Literal["farm", "trl"] = Field("farm", description="our loop, or TRL's SFTTrainer on the same token rows")


def run(task: Task, config: Config) -> Result:
    """Fine-tune ``task.sft`` on the outputs of ``task.instructions`` and save the policy in ``task.folder``/policy.

    Raises DataError when there are no instructions or one has no output, TrainError when the loss is not finite.
    """
    task.need("sft")
    empty = next((i for i in task.instructions if not i.output.strip()), None)
    if empty is not None:
        raise DataError(f"sft: instruction {empty.id} ({empty.text[:60]!r}) has no output to learn from")
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="sft", seed=task.seed)
    prompts = encode_prompts(task.instructions, policy.tokenizer)
    outputs = [i.output for i in task.instructions]
    answers = encode_texts(outputs, [True] * len(outputs), policy.tokenizer, config.max_tokens)
    examples = [(prompt, answer, 1.0) for prompt, answer in zip(prompts, answers, strict=True)]
    if config.engine == "trl":
        from farm.lm import trl_engine

        rows, scratch = [(p, r) for p, r, _ in examples], task.folder / "trl"
        trained = trl_engine.sft(
            policy, rows, config.optim, seed=task.seed, folder=scratch, progress=task.progress
        )  # fmt: skip
    else:
        trained = train(policy, examples, config.optim, seed=task.seed, purpose="sft", progress=task.progress)
    save_policy(policy, task.folder / "policy")
    budget = Budget(train_tokens=trained.tokens, updates=trained.updates, seconds=clock.seconds)
    last = trained.losses[-max(1, len(trained.losses) // 10) :]
    return Result(
        method="sft",
        policy="policy",
        budget=budget,
        notes={"first_loss": trained.losses[0], "final_loss": round(sum(last) / len(last), 6)},
    ).save(task.folder)


def train(
    policy: Policy,
    examples: Sequence[Example],
    optim: Optim,
    *,
    seed: int,
    purpose: str,
    progress: Progress | None = None,
) -> Trained:
    """Fine-tune ``policy`` in place on weighted (prompt, response) token rows; also what expert iteration, FeedME and
    reward conditioning do with theirs."""
    pad, device = policy.tokenizer.pad_token_id, policy.device

    def loss(rows: list[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        batch = lay_out([p for p, _, _ in rows], [r for _, r, _ in rows], pad, device)
        logits, _ = response_logits(policy.model, batch)
        if all(w == 1 for _, _, w in rows):
            return losses.sft(logits, batch.targets), {}
        weights = torch.tensor([w for _, r, w in rows for _ in r], device=device)
        return -(weights * token_logprobs(logits, batch.targets)).sum(), {}

    return fit(
        trainable(policy),
        examples,
        loss,
        optim,
        seed=seed,
        purpose=purpose,
        size=lambda e: len(e[0]) + len(e[1]),
        weight=lambda e: e[2] * len(e[1]),
        progress=progress,
    )
