"""Binary reward conditioning: learn both responses of a pair, each behind a cue that says how it was judged.

    loss = - log pi(y_w | x, good) - log pi(y_l | x, bad);   the policy answers behind the cue 'good'

As in AlpacaFarm (Dubois et al. 2023), which names it and publishes no code; the idea is that of Keskar et al. 2019
(CTRL) and of upside-down reinforcement learning. The cue is plain words after the prompt, so any tokenizer can carry
it; it is saved with the policy's tokenizer, and the policy reads it whenever it is asked. Of a tie, each side is
learned behind both cues at half weight.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from farm.lm.load import Lora, copy_frozen, load_policy, save_policy
from farm.lm.prompts import encode_cue, set_cue
from farm.lm.train import Optim
from farm.methods import sft
from farm.methods.curve import Track
from farm.methods.pairs import sides
from farm.methods.task import Clock, Result, Task
from farm.records import Budget

LEARNS_FROM_PREFERENCES = True  # the pipeline hands it the labelled pairs and their instructions


class Config(BaseModel):
    """Settings of binary reward conditioning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    good: str = Field("good", min_length=1, description="cue of the preferred response, and of every answer later")
    bad: str = Field("weak", min_length=1, description="cue of the other response")
    optim: Optim = Field(Optim(lr=1e-3, epochs=1, batch=32), description="see lm.train.Optim")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")


def run(task: Task, config: Config) -> Result:
    """Train on both sides of ``task.preferences``; writes the policy, its cue with it, and a curve of two points.

    Raises DataError without preferences, when one names something unknown, or when the tokenizer cannot tell the two
    cues apart; TrainError when the loss is not finite.
    """
    task.need("reward_conditioning", preferences=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="reward_conditioning", seed=task.seed)
    frozen = copy_frozen(policy) if config.lora is None else None
    good, bad = (encode_cue(cue, policy.tokenizer) for cue in (config.good, config.bad))
    examples = []
    for s in sides("reward_conditioning", task, policy, config.max_tokens):
        graded = ((good, s.wins), (bad, s.weight - s.wins))
        examples += [([*s.prompt, *cue], s.response, weight) for cue, weight in graded if weight > 0]
    track = Track(task, "epoch", policy, frozen)
    track.measure(0)
    set_cue(policy.tokenizer, config.good)
    purpose = "reward_conditioning"
    trained = sft.train(policy, examples, config.optim, seed=task.seed, purpose=purpose, progress=task.progress)
    track.measure(config.optim.epochs)
    save_policy(policy, task.folder / "policy")
    budget = Budget(
        comparisons=len(task.preferences), train_tokens=trained.tokens, updates=trained.updates, seconds=clock.seconds
    )
    return Result(method=purpose, policy="policy", curve=track.finish(purpose), budget=budget).save(task.folder)
