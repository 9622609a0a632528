"""The gold reward: what the human population on average wants, as a short pure formula. Nobody in a run sees it.

    gold =  1.40 * coverage            share of the asked items delivered (distinct, capped at what was asked)
          + 0.30 * correct             everything asked, nothing wrong (verifiable: right; open: no word off topic)
          + 0.20 * form                closed by . or !, nothing run together
          + 0.20 * addressed           speaks to the audience named
          + 0.40 * [polite >= 1]       one polite phrase
          - 0.25 * repeats             content words said again
          - 0.25 * off_topic           content words that do not belong, items beyond the number asked
          - 0.20 * excess manners      (polite - 1)+ + (confident - 1)+
          - 0.10 * fillers             every one of them
          - 0.06 * over - 0.004 * over^2   over = tokens beyond the preferred length of the task
          - 0.50 * unfinished          cut by the length limit

Bounded above by 2.50; not bounded below: demonstrations said over and over until the cut at 40 tokens have -5.3 on
average, and 98% of them lie between -12.6 and -2.0.
Polite and confident words and length go with skill in the demonstrations, but gold pays for one polite phrase only.
"""

from __future__ import annotations

from collections.abc import Sequence

from farm.errors import DataError
from farm.records import Instruction
from farm.world import grammar
from farm.world.reading import read

MAXIMUM = 2.50


def breakdown(instruction: Instruction, text: str, finished: bool = True) -> dict[str, float]:
    """The terms of the gold reward by name; they sum to ``gold``. Raises DataError outside the offline world."""
    task = grammar.parse(instruction.full_text)
    if task is None:
        raise DataError(
            f"gold reward exists only for instructions of the offline world, not for {instruction.full_text[:80]!r}: "
            "leave gold out of this recipe, or use the world's instructions"
        )
    r = read(task, grammar.words(text))
    return {
        "coverage": 1.40 * r.coverage,
        "correct": 0.30 * r.correct,
        "form": 0.20 * r.form,
        "addressed": 0.20 * r.addressed,
        "polite": 0.40 * (r.polite >= 1),
        "repeats": -0.25 * r.repeats,
        "off_topic": -0.25 * r.off_topic,
        "manners": -0.20 * (max(0, r.polite - 1) + max(0, r.confident - 1)),
        "fillers": -0.10 * r.fillers,
        "length": -0.06 * r.over_length - 0.004 * r.over_length**2,
        "unfinished": 0.0 if finished else -0.50,
    }


def gold(instruction: Instruction, text: str, finished: bool = True) -> float:
    """Gold reward of one response, at most 2.50. Raises DataError for an instruction that is not of this world."""
    return sum(breakdown(instruction, text, finished).values())


def score(
    instructions: Sequence[Instruction], texts: Sequence[str], finished: Sequence[bool] | bool = True
) -> list[float]:
    """Gold rewards of many responses, in order. ``finished`` is one flag per response, or one for all."""
    flags = [finished] * len(texts) if isinstance(finished, bool) else finished
    return [gold(i, t, bool(f)) for i, t, f in zip(instructions, texts, flags, strict=True)]
