"""Expert iteration (rejection sampling): best-of-n on training prompts, then SFT on the winners, from the SFT policy.

    y* = argmax over y_1..y_n ~ pi_sft(. | x) of score(x, y_i);   loss = - log pi(y* | x), one round

Defaults follow AlpacaFarm (Dubois et al. 2023): n = 16, trained from the SFT policy (there with the settings of SFT,
here more gently); also known as RAFT and ReST. Unfinished winners are left out, since there is no end to learn from
them. Left out: more than one round, thresholds.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from farm.errors import DataError
from farm.lm.load import Lora, copy_frozen, load_policy, save_policy
from farm.lm.prompts import encode_prompts, encode_responses
from farm.lm.train import Optim
from farm.methods import sft
from farm.methods.best_of_n import CHUNK, best, scored
from farm.methods.curve import Track
from farm.methods.task import Clock, Result, Task
from farm.records import Budget, Response
from farm.seeds import rng


class Config(BaseModel):
    """Settings of expert iteration. ``optim`` as for SFT, with fewer epochs, since winners are few."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(16, ge=2, description="samples per prompt")
    prompts: int = Field(2000, ge=1, description="unlabeled prompts used (all, if there are fewer)")
    optim: Optim = Field(Optim(lr=2e-3, epochs=3, batch=32), description="see lm.train.Optim")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")


def run(task: Task, config: Config) -> Result:
    """One round; writes the policy and a curve of two points (before and after).

    Raises DataError without prompts or reward or when no winner is finished, TrainError on a bad reward or loss.
    """
    task.need("expert_iteration", score=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="expert_iteration", seed=task.seed)
    order = rng(task.seed, "expert iteration prompts").permutation(len(task.instructions)).tolist()
    prompts = [task.instructions[i] for i in order[: config.prompts]]
    winners, generated, tokens = list[Response](), 0, 0
    at_once = max(1, CHUNK // config.n)
    for start in range(0, len(prompts), at_once):
        chosen = prompts[start : start + at_once]
        responses = scored(task, policy, chosen, config.n, "expert iteration")
        generated += len(responses)
        tokens += sum(r.n_tokens + r.finished for r in responses)
        winners += best(responses, [r.scores["proxy"] for r in responses], config.n)
        if task.progress is not None:
            task.progress(start + len(chosen), len(prompts), {})
    kept = [(i, w) for i, w in zip(prompts, winners, strict=True) if w.finished and w.text.strip()]
    if not kept:
        raise DataError("expert_iteration: no winning sample is finished; train SFT longer or raise policy.max_tokens")
    track = Track(task, "epoch", policy, copy_frozen(policy) if config.lora is None else None)
    track.measure(0)
    examples = list(
        zip(
            encode_prompts([i for i, _ in kept], policy.tokenizer),
            encode_responses([w for _, w in kept], policy.tokenizer),
            strict=True,
        )
    )
    trained = sft.train(
        policy, examples, config.optim, seed=task.seed, purpose="expert iteration", progress=task.progress
    )
    track.measure(config.optim.epochs)
    save_policy(policy, task.folder / "policy")
    budget = Budget(
        generated_sequences=generated,
        generated_tokens=tokens,
        reward_scorings=generated,
        train_tokens=trained.tokens,
        updates=trained.updates,
        seconds=clock.seconds,
    )
    return Result(
        method="expert_iteration",
        policy="policy",
        curve=track.finish("expert_iteration"),
        budget=budget,
        notes={"winners": len(kept)},
    ).save(task.folder)
