"""Expert iteration (rejection sampling): best-of-n on training prompts, then SFT on the winners, from the SFT policy.

    y* = argmax over y_1..y_n ~ pi(. | x) of score(x, y_i);   loss = - log pi(y* | x)

Defaults follow AlpacaFarm (Dubois et al. 2023): n = 16, trained from the SFT policy (there with the settings of SFT,
here more gently); also known as RAFT and ReST. Unfinished winners are left out, since there is no end to learn from
them. With ``rounds`` above 1 each further round draws from the policy of the last one, on prompts not used before
while there are any, and goes on training it. Left out: thresholds, starting over from the SFT policy every round.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from farm.errors import DataError
from farm.lm.load import Lora, Policy, copy_frozen, load_policy, save_policy
from farm.lm.prompts import encode_prompts, encode_responses
from farm.lm.train import Optim
from farm.methods import sft
from farm.methods.best_of_n import CHUNK, best, scored
from farm.methods.curve import Track
from farm.methods.task import Clock, Result, Task
from farm.records import Budget, Instruction, Response
from farm.seeds import rng


class Config(BaseModel):
    """Settings of expert iteration. ``optim`` as for SFT, with fewer epochs, since winners are few."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(16, ge=2, description="samples per prompt")
    rounds: int = Field(1, ge=1, description="rounds of sampling and training")
    prompts: int = Field(2000, ge=1, description="unlabeled prompts used per round (all, if there are fewer)")
    optim: Optim = Field(Optim(lr=2e-3, epochs=3, batch=32), description="see lm.train.Optim")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")


def run(task: Task, config: Config) -> Result:
    """Writes the policy and a curve of one point before and one after each round.

    Raises DataError without prompts or reward or when no winner is finished, TrainError on a bad reward or loss.
    """
    task.need("expert_iteration", score=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="expert_iteration", seed=task.seed)
    track = Track(task, "epoch", policy, copy_frozen(policy) if config.lora is None else None)
    track.measure(0)
    order = rng(task.seed, "expert iteration prompts").permutation(len(task.instructions)).tolist()
    budget, kept = Budget(), 0
    for number in range(config.rounds):
        purpose = "expert iteration" + (f" {number + 1}" if number else "")
        first = number * config.prompts % len(order)
        chosen = [task.instructions[i] for i in (order[first:] + order[:first])[: config.prompts]]
        winners, drawn = _win(task, policy, chosen, config.n, purpose)
        examples = _examples(policy, chosen, winners)
        kept += len(examples)
        trained = sft.train(
            policy, examples, config.optim, seed=task.seed, purpose=purpose, progress=task.progress
        )  # fmt: skip
        track.measure((number + 1) * config.optim.epochs, (budget + drawn).generated_sequences)
        budget += drawn + Budget(train_tokens=trained.tokens, updates=trained.updates)
    save_policy(policy, task.folder / "policy")
    return Result(
        method="expert_iteration",
        policy="policy",
        curve=track.finish("expert_iteration"),
        budget=budget + Budget(seconds=clock.seconds),
        notes={"winners": kept},
    ).save(task.folder)


def _win(task: Task, policy: Policy, prompts: list[Instruction], n: int, purpose: str) -> tuple[list[Response], Budget]:
    """The best of ``n`` responses to each prompt, and what drawing them took."""
    winners, generated, tokens = list[Response](), 0, 0
    at_once = max(1, CHUNK // n)
    for start in range(0, len(prompts), at_once):
        chosen = prompts[start : start + at_once]
        responses = scored(task, policy, chosen, n, purpose)
        generated += len(responses)
        tokens += sum(r.n_tokens + r.finished for r in responses)
        winners += best(responses, [r.scores["proxy"] for r in responses], n)
        if task.progress is not None:
            task.progress(start + len(chosen), len(prompts), {})
    return winners, Budget(generated_sequences=generated, generated_tokens=tokens, reward_scorings=generated)


def _examples(policy: Policy, prompts: list[Instruction], winners: list[Response]) -> list[sft.Example]:
    """Finished winners as token rows. Raises DataError when there is none."""
    kept = [(i, w) for i, w in zip(prompts, winners, strict=True) if w.finished and w.text.strip()]
    if not kept:
        raise DataError("expert_iteration: no winning sample is finished; train SFT longer or raise policy.max_tokens")
    rows = encode_prompts([i for i, _ in kept], policy.tokenizer)
    answers = encode_responses([w for _, w in kept], policy.tokenizer)
    return [(prompt, answer, 1.0) for prompt, answer in zip(rows, answers, strict=True)]
