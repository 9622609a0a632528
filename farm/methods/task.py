"""What a method is given, and what it must return."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from farm.errors import DataError, TrainError
from farm.lm.load import Policy
from farm.lm.sample import Draw, decode
from farm.records import (
    Budget,
    Instruction,
    Preference,
    Record,
    Response,
    RewardCurve,
    Sampling,
    problems,
    write,
)

Score = Callable[[Sequence[Instruction], Sequence[Response]], list[float]]
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Task:
    """The common input of all methods.

    ``folder`` is where the method writes; ``sft`` holds the policy it starts from (a folder or a Hub id).
    ``instructions`` are the prompts (for SFT with their outputs); ``preferences`` with the ``responses`` they name, by
    id, serve methods that learn from pairs. ``score`` is the proxy reward of instructions and responses, side by side,
    and ``reward`` the folder of the model behind it, where there is one; ``gold`` is the true reward where it is known.
    ``val`` are the prompts that curves are measured on, one response each, drawn as ``sampling`` says; with ``keep``
    the policy behind every point is kept.
    """

    seed: int
    folder: Path
    sft: str | Path
    instructions: Sequence[Instruction]
    sampling: Sampling
    preferences: Sequence[Preference] = ()
    responses: Mapping[str, Response] = field(default_factory=dict)
    score: Score | None = None
    reward: Path | None = None
    gold: Score | None = None
    val: Sequence[Instruction] = ()
    keep: bool = False
    progress: Progress | None = None

    def need(self, method: str, *, score: bool = False, preferences: bool = False) -> None:
        """Refuse an input the method cannot work with. Raises DataError saying what is missing."""
        if not preferences and not self.instructions:
            raise DataError(f"{method}: the set of instructions is empty; give at least one")
        if preferences and not self.preferences:
            raise DataError(f"{method}: the set of preferences is empty; label some pairs first")
        if score and self.score is None:
            raise DataError(f"{method}: no reward to optimise; train a reward model first or pass a scoring function")


class Result(Record):
    """What a method made. ``policy`` is a folder (relative to the result's own, or absolute) or a Hub id;
    ``best_of`` > 0 says that responses are decoded as the best of that many samples by the proxy reward."""

    method: str
    policy: str
    best_of: int = 0
    curve: RewardCurve | None = None
    budget: Budget = Budget()
    notes: dict[str, float] = Field(default_factory=dict)

    def save(self, folder: Path) -> Result:
        """Write ``result.json``, and ``curve.jsonl`` where there is a curve."""
        if self.curve is not None:
            write(folder / "curve.jsonl", self.curve.points)
        write(folder / "result.json", [self])
        return self

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Read a saved result. Raises DataError when there is none or it does not validate."""
        path = folder / "result.json"
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; the method has not been run") from None
        except json.JSONDecodeError as e:
            raise DataError(f"{path}: not JSON ({e.msg})") from None
        except ValidationError as e:
            raise DataError(f"{path}: " + problems(e)) from None

    def policy_source(self, folder: Path) -> str:
        """Where to load the policy from, given the folder the result lies in."""
        inside = folder / self.policy
        return str(inside.resolve()) if inside.is_dir() else self.policy


def source_from(folder: Path, source: str | Path) -> str:
    """``source`` as written into a result in ``folder``: relative when it is a local folder, so runs can be moved."""
    path = Path(source)
    return os.path.relpath(path.resolve(), folder.resolve()) if path.is_dir() else str(source)


class Clock:
    """Seconds of wall time since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self.start, 3)


def to_responses(
    policy: Policy, instructions: Sequence[Instruction], draws: Sequence[Draw], name: str, sampling: Sampling
) -> list[Response]:
    """Drawn token sequences, one per instruction, as records."""
    return [
        Response.make(i.id, text, name, n_tokens=len(d.ids) - d.finished, finished=d.finished, sampling=sampling)
        for i, d, text in zip(instructions, draws, decode(policy, draws), strict=True)
    ]


def checked(method: str, scores: Sequence[float], responses: Sequence[Response]) -> list[float]:
    """The scores as plain numbers, or TrainError when they are not one finite number per response."""
    scores = list(scores)
    if len(scores) != len(responses):
        raise TrainError(
            f"{method}: the reward function returned {len(scores)} scores for {len(responses)} responses; "
            "it must return one number per response, in their order"
        )
    for value, response in zip(scores, responses, strict=True):
        if not _finite(value):
            raise TrainError(
                f"{method}: the reward of response {response.id} (instruction {response.instruction_id}) is {value}; "
                "the reward function must return finite numbers"
            )
    return [float(value) for value in scores]


def _finite(value: object) -> bool:
    try:
        return -1e30 < float(value) < 1e30  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
