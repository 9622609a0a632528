"""What a row optimises: the reward model, or a control that knows nothing of quality.

    random:  the normal quantile of a hash of (prompt, text): a reward without any meaning, the same for equal texts
    length:  tokens of the response, in standard deviations from the mean of the SFT samples

A comparison needs both: what optimising noise does to a policy, and how much of a gain is length (Singhal et al. 2023,
arXiv 2310.03716, found most of PPO's gain to be).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist, fmean, pstdev
from typing import TYPE_CHECKING

from farm import records
from farm.errors import RecipeError
from farm.recipe import Recipe
from farm.records import Instruction, Response
from farm.seeds import uniform
from farm.stages.common import Made, proxy

if TYPE_CHECKING:
    from farm.methods.task import Score

MODEL = "model"


def learns_from_preferences(method: str) -> bool:
    """Whether a method reads labelled pairs instead of a reward."""
    from farm.methods import module

    return bool(getattr(module(method), "LEARNS_FROM_PREFERENCES", False))


def check(recipe: Recipe) -> None:
    """Raises RecipeError for a control of a method that optimises no reward."""
    for row, (method, _, what) in recipe.improve.items():
        if what.reward != MODEL and learns_from_preferences(method):
            raise RecipeError(
                f"improve.{row}.reward: {method} learns from the labelled pairs and optimises no reward; use a method "
                "such as ppo for the controls 'random' and 'length'"
            )


def scorer(reward: str, seed: int, made: Made) -> Score:
    """The reward that a row with ``reward`` "model", "random" or "length" optimises."""
    if reward == MODEL:
        return proxy(made)  # type: ignore[no-any-return]
    if reward == "random":
        return lambda asked, responses: _noise(seed, asked, responses)
    return _Length(records.read(made["sample"].file("responses.jsonl"), Response))


def _noise(seed: int, asked: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
    inverse = NormalDist().inv_cdf
    shares = [uniform(seed, "random reward", i.id, r.text) for i, r in zip(asked, responses, strict=True)]
    return [inverse(min(max(share, 1e-9), 1 - 1e-9)) for share in shares]


class _Length:
    def __init__(self, samples: Sequence[Response]) -> None:
        lengths = [float(r.n_tokens) for r in samples]
        self.mean, self.sd = fmean(lengths), pstdev(lengths) or 1.0

    def __call__(self, asked: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
        return [(r.n_tokens - self.mean) / self.sd for r in responses]
