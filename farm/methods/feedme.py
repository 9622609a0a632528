"""Binary FeedME: supervised fine-tuning on the preferred response of every pair, from the SFT policy.

    loss = - log pi(y_w | x)

The simplest way to learn from preferences, and the control for the others: OpenAI's FeedME with two grades, as in
AlpacaFarm (Dubois et al. 2023), which names it and publishes no code. A pair with a tie teaches both responses at
half weight. Unfinished winners are learned without an end token.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from farm.lm.load import Lora, copy_frozen, load_policy, save_policy
from farm.lm.train import Optim
from farm.methods import sft
from farm.methods.curve import Track
from farm.methods.pairs import sides
from farm.methods.task import Clock, Result, Task
from farm.records import Budget

LEARNS_FROM_PREFERENCES = True  # the pipeline hands it the labelled pairs and their instructions


class Config(BaseModel):
    """Settings of binary FeedME; ``optim`` as for SFT, more gently, since it goes on from there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optim: Optim = Field(Optim(lr=1e-3, epochs=1, batch=32), description="see lm.train.Optim")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")


def run(task: Task, config: Config) -> Result:
    """Train on the winners of ``task.preferences``; writes the policy and a curve of two points.

    Raises DataError without preferences or when one names something unknown, TrainError when the loss is not finite.
    """
    task.need("feedme", preferences=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="feedme", seed=task.seed)
    frozen = copy_frozen(policy) if config.lora is None else None
    rows = sides("feedme", task, policy, config.max_tokens)
    examples = [(s.prompt, s.response, s.wins) for s in rows if s.wins > 0]
    track = Track(task, "epoch", policy, frozen)
    track.measure(0)
    trained = sft.train(policy, examples, config.optim, seed=task.seed, purpose="feedme", progress=task.progress)
    track.measure(config.optim.epochs)
    save_policy(policy, task.folder / "policy")
    budget = Budget(
        comparisons=len(task.preferences), train_tokens=trained.tokens, updates=trained.updates, seconds=clock.seconds
    )
    return Result(method="feedme", policy="policy", curve=track.finish("feedme"), budget=budget).save(task.folder)
