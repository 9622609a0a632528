"""A small corpus of the offline world, for tests of the annotation engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from farm.records import Instruction, Pair, Response
from farm.world.instructions import evaluation
from farm.world.writers import write

MODELS = dict.fromkeys(("strong", "medium", "completion"), "scripted/{annotator}")


@dataclass
class Corpus:
    pairs: list[Pair]
    instructions: dict[str, Instruction]
    responses: dict[str, Response]


def corpus(n: int) -> Corpus:
    """n <= 805 pairs of a skilled ("good") and a clumsy ("bad") writer; every 50th holds the same text twice."""
    made = Corpus([], {}, {})
    for i, instruction in enumerate(_instructions()[:n]):
        good = Response.make(instruction.id, write(instruction, 0.95, 1, "test"), "good", n_tokens=7)
        text = good.text if i % 50 == 49 else "um " + write(instruction, 0.1, 1, "test")
        bad = Response.make(instruction.id, text, "bad", n_tokens=9)
        made.instructions[instruction.id] = instruction
        made.responses |= {good.id: good, bad.id: bad}
        made.pairs.append(Pair.of(good, bad))
    return made


@cache
def _instructions() -> list[Instruction]:
    return evaluation()


def bare_pairs(n: int) -> list[Pair]:
    """Pairs without texts, for choices that depend on ids alone."""
    return [Pair(id=f"p{i}", instruction_id=f"i{i}", a=f"r{i}a", b=f"r{i}b") for i in range(n)]
