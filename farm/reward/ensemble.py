"""Rewards made of rewards: ensembles, averaged weights, and transforms. Each is a ``Score`` that methods can optimise.

    mean       average of R_1..R_k
    worst      min over i                                        (Coste et al. 2023, arXiv 2310.02743: WCO)
    variance   mean - strength * variance over members           (there UWO; population variance)
    soft       - strength * log mean exp(-R_i / strength)        (KL-robust; one knob that contains the others:
               strength to infinity is the mean, to 0 the worst case, to second order variance with 1/(2 strength))

Averaging weights instead of outputs (Rame et al. 2024, arXiv 2401.12187: WARM) makes one model of several that were
trained from the same start. Transforms act on one finished reward: see :func:`shaped`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from farm.errors import DataError
from farm.records import Instruction, Response

Score = Callable[[Sequence[Instruction], Sequence[Response]], list[float]]
Array = npt.NDArray[np.float64]
Combine = Literal["mean", "worst", "variance", "soft"]
Transform = Literal["none", "bounded", "clip", "quantile"]


def combined(scores: npt.ArrayLike, how: Combine = "mean", strength: float = 0.5) -> Array:
    """One reward per row from the members' rewards, shape (members, ...) to (...). With one member all agree.

    Raises DataError without members, on a negative ``strength``, or one of 0 for ``soft``.
    """
    rows = np.asarray(scores, dtype=float)
    if rows.ndim < 1 or not len(rows):
        raise DataError("an ensemble needs at least one reward model")
    if strength < 0 or (how == "soft" and strength == 0):
        raise DataError(f"ensemble strength must be positive, got {strength} (worst is the limit of soft at 0)")
    mean: Array = rows.mean(axis=0)
    if how == "mean":
        return mean
    if how == "variance":
        spread: Array = rows.var(axis=0)
        return mean - strength * spread
    worst: Array = rows.min(axis=0)
    if how == "worst":
        return worst
    soft: Array = worst - strength * np.log(np.exp(-(rows - worst) / strength).mean(axis=0))
    return soft


def ensemble(members: Sequence[Score], how: Combine = "mean", strength: float = 0.5) -> Score:
    """The members' combined reward as one ``Score``."""

    def score(instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
        return list(map(float, combined([m(instructions, responses) for m in members], how, strength)))

    return members[0] if len(members) == 1 else score


def shaped(
    score: Score,
    transform: Transform = "none",
    *,
    clip: float = 2.0,
    reference: npt.ArrayLike = (),
    length_penalty: float = 0.0,
) -> Score:
    """``score`` after a transform and a price per token.

    bounded    sigmoid(R - R_ref), R_ref the reward of the instruction's own reference output, or 0 (the SFT policy's
               mean) where it has none (Fu et al. 2025, arXiv 2502.18770)
    clip       R limited to [-clip, clip]
    quantile   the share of ``reference`` (rewards of SFT samples) that lie below R, in [0, 1] (Balashankar et al.
               2024, arXiv 2412.19792); ends in steps of one sample

    All three rise with R, so they never change what best-of-n picks among different rewards; they matter to methods
    that weigh rewards. ``length_penalty`` is subtracted per token afterwards. Raises DataError for ``quantile``
    without ``reference``.
    """
    ranked = np.sort(np.asarray(reference, dtype=float).ravel())
    if transform == "quantile" and not len(ranked):
        raise DataError("the quantile transform needs rewards of reference samples")
    against: dict[str, float] = {}

    def apply(instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
        values = np.array(score(instructions, responses))
        if transform == "clip":
            values = np.clip(values, -clip, clip)
        elif transform == "quantile":
            values = np.searchsorted(ranked, values) / len(ranked)
        elif transform == "bounded":
            _remember(against, score, instructions)
            values = 1 / (1 + np.exp(np.clip([against[i.id] for i in instructions] - values, -60, 60)))
        return list(map(float, values - length_penalty * np.array([r.n_tokens for r in responses])))

    return score if transform == "none" and length_penalty == 0 else apply


def _remember(known: dict[str, float], score: Score, instructions: Sequence[Instruction]) -> None:
    """Rewards of the instructions' reference outputs, each scored once."""
    fresh = list({i.id: i for i in instructions if i.id not in known}.values())
    with_output = [i for i in fresh if i.output.strip()]
    known.update(dict.fromkeys([i.id for i in fresh], 0.0))
    if with_output:
        outputs = [Response.make(i.id, i.output, "reference", n_tokens=0) for i in with_output]
        known.update(zip([i.id for i in with_output], score(with_output, outputs), strict=True))


def average_weights(
    models: Sequence[str | Path],
    folder: Path,
    instructions: Mapping[str, Instruction],
    reference: Sequence[Response],
) -> None:
    """Write to ``folder`` one reward model whose weights are the mean of those of ``models``.

    Members must share their architecture and start. The result is normalised anew on ``reference`` samples, whose
    instructions are looked up by id. Raises DataError without models or when their weights do not match.
    """
    from farm.reward.model import RewardModel
    from farm.reward.train import normalise

    if not models:
        raise DataError("averaging weights needs at least one reward model")
    members = [RewardModel.load(m) for m in models]
    states = [m.model.state_dict() for m in members]
    shapes = [{name: tuple(value.shape) for name, value in s.items()} for s in states]
    if any(s != shapes[0] for s in shapes):
        raise DataError("reward models of different shapes cannot be averaged: train them from the same policy")
    first = members[0]
    mean = {name: sum(s[name] for s in states) / len(states) for name in states[0]}
    first.model.load_state_dict(mean)
    plain = RewardModel(first.model, first.tokenizer)
    centre, sd = normalise(plain, reference, instructions)
    first.model.config.reward_mean, first.model.config.reward_sd = centre, sd
    folder.mkdir(parents=True, exist_ok=True)
    first.model.save_pretrained(str(folder), safe_serialization=True)
    first.tokenizer.save_pretrained(str(folder))
