"""Labelled pairs as methods read them: token rows of both sides, and how much each side won."""

from __future__ import annotations

from dataclasses import dataclass

from farm.errors import DataError
from farm.lm.load import Policy
from farm.lm.prompts import Ids, encode_prompts, encode_responses
from farm.methods.task import Task
from farm.records import Preference


def encode(method: str, task: Task, policy: Policy, max_tokens: int) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Token rows of prompt, first and second response of every preference of ``task``.

    Raises DataError when a preference names an instruction or response that is not given.
    """
    asked = {i.id: i for i in task.instructions}
    try:
        instructions = [asked[p.instruction_id] for p in task.preferences]
        both = [[task.responses[p.responses[k]] for p in task.preferences] for k in (0, 1)]
    except KeyError as e:
        raise DataError(f"{method}: a preference names {e}, which is not among the instructions or responses") from None
    first, second = (encode_responses(side, policy.tokenizer, max_tokens) for side in both)
    return encode_prompts(instructions, policy.tokenizer), first, second


def target(preference: Preference) -> float:
    """P(first of ``preference.responses`` preferred): 1/2 for a tie."""
    if preference.winner_id is None:
        return 0.5
    first = preference.winner_id == preference.responses[0]
    return preference.probability if first else 1 - preference.probability


@dataclass(frozen=True)
class Side:
    """One response of a labelled pair. ``wins`` is the share of the pair's ``weight`` with which it won."""

    prompt: Ids
    response: Ids
    wins: float
    weight: float


def sides(method: str, task: Task, policy: Policy, max_tokens: int) -> list[Side]:
    """Both sides of every preference, first and second in turn. Raises as :func:`encode` does."""
    prompts, first, second = encode(method, task, policy, max_tokens)
    out = []
    for p, prompt, one, two in zip(task.preferences, prompts, first, second, strict=True):
        wanted = target(p)
        out.append(Side(prompt, one, p.weight * wanted, p.weight))
        out.append(Side(prompt, two, p.weight * (1 - wanted), p.weight))
    return out
