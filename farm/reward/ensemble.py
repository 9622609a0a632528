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

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from farm.errors import DataError
from farm.records import Instruction, Response

if TYPE_CHECKING:
    from farm.reward.model import RewardModel

Score = Callable[[Sequence[Instruction], Sequence[Response]], list[float]]
Array = npt.NDArray[np.float64]
Combine = Literal["mean", "worst", "variance", "soft"]
Transform = Literal["none", "bounded", "clip", "quantile"]
SAVED = "ensemble.json"  # in a folder of several models that are one reward


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


@dataclass(frozen=True)
class Ensemble:
    """Several reward models as one: (combined members' scores - mean) / sd, so that samples of the SFT policy have
    mean 0 and standard deviation 1. In a folder: ``ensemble.json`` and one folder per member."""

    members: tuple[RewardModel | Ensemble, ...]
    combine: Combine = "mean"
    strength: float = 0.5
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def load(cls, folder: Path, device: str = "", dtype: str = "float32") -> Ensemble:
        """Raises DataError when the folder is not whole."""
        from farm.reward.model import RewardModel

        said = _saved(folder)
        members = tuple(RewardModel.load(folder / name, device, dtype) for name in said["members"])
        return cls(members, said["combine"], said["strength"], said["reward_mean"], said["reward_sd"])

    def save(self, folder: Path, members: Sequence[str]) -> None:
        """Write ``ensemble.json`` beside the folders of the members, named in order."""
        said = {"members": list(members), "combine": self.combine, "strength": self.strength,
                "reward_mean": self.mean, "reward_sd": self.sd}  # fmt: skip
        (folder / SAVED).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    def score(self, instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
        """Normalised rewards. Raises TrainError when a member's reward is not finite."""
        each = [m.score(instructions, responses) for m in self.members]
        return list(map(float, (combined(each, self.combine, self.strength) - self.mean) / self.sd))

    def too_long(self, instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[bool]:
        """Which texts are longer than some member's limits (``RewardModel.too_long``)."""
        each = [m.too_long(instructions, responses) for m in self.members]
        return [any(row) for row in zip(*each, strict=True)]


def load_reward(source: str | Path, device: str = "", dtype: str = "float32") -> RewardModel | Ensemble:
    """One reward model or an ensemble, from a folder or Hub id. Raises DataError when neither is there."""
    from farm.reward.model import RewardModel

    if (Path(source) / SAVED).is_file():
        return Ensemble.load(Path(source), device, dtype)
    return RewardModel.load(source, device, dtype)


def combined_models(models: Sequence[RewardModel | Ensemble], combine: Combine, strength: float) -> Ensemble:
    """Any rewards as one, not normalised anew. Raises DataError on a strength that :func:`combined` refuses."""
    combined(np.zeros((1, 1)), combine, strength)
    return Ensemble(tuple(models), combine, strength)


def first_member(folder: Path) -> Path:
    """The folder of one ordinary classifier: the first member of an ensemble's, or ``folder`` itself."""
    return folder / _saved(folder)["members"][0] if (folder / SAVED).is_file() else folder


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / SAVED
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        names, how = said["members"], said["combine"]
        numbers = {k: float(said[k]) for k in ("strength", "reward_mean", "reward_sd")}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path}: cannot be read as an ensemble ({type(e).__name__}: {e}); train it anew") from None
    inside = isinstance(names, list) and names and all(isinstance(n, str) and Path(n).name == n for n in names)
    if not inside or how not in get_args(Combine) or not all(map(math.isfinite, numbers.values())):
        raise DataError(f"{path}: not an ensemble: members must be folders beside it, combine one of "
                        f"{', '.join(get_args(Combine))}, the numbers finite; train it anew")  # fmt: skip
    return {"members": names, "combine": how, **numbers}


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
    plain = RewardModel(first.model, first.tokenizer, max_tokens=first.max_tokens)
    centre, sd = normalise(plain, reference, instructions)
    RewardModel(first.model, first.tokenizer, centre, sd, first.max_tokens).save(folder)
