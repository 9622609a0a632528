"""A small corpus of the offline world, for tests of the annotation engine."""

from __future__ import annotations

from dataclasses import dataclass

from farm.records import Instruction, Pair, Response

MODELS = {role: "scripted/{annotator}" for role in ("strong", "medium", "completion")}


@dataclass
class Corpus:
    pairs: list[Pair]
    instructions: dict[str, Instruction]
    responses: dict[str, Response]


def corpus(n: int) -> Corpus:
    """n pairs: the second response names two things, the first one or (every 50th) just the same."""
    made = Corpus([], {}, {})
    for i in range(n):
        instruction = Instruction.make(f"List two animals for case {i}.")
        good = Response.make(instruction.id, f"A cat and a dog, case {i}.", "good", n_tokens=7)
        bad = Response.make(
            instruction.id, good.text if i % 50 == 49 else f"A cat, a cat, a cat, case {i}.", "bad", n_tokens=9
        )
        made.instructions[instruction.id] = instruction
        made.responses |= {good.id: good, bad.id: bad}
        made.pairs.append(Pair.of(good, bad))
    return made
