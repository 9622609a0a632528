"""Which pairs to label: at random, or those whose labels tighten the win rates most.

A label tells most where the simulator is unsure: the best probability of drawing a pair is proportional to the standard
deviation of its label around what is known (Neyman 1934; active inference, Zrnic and Candes 2024, arXiv 2403.03208),
here sqrt(p (1 - p)) with p the simulator's chance, held back towards 1/2 because people agree less than a pool does.
Drawing along a list sorted by policy and chance spreads the sample over both. What was drawn unequally has to be
weighted: ``farm/study/survey.py`` does, with the simulator's verdicts on all pairs as covariates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.data.looks import relative_length
from farm.errors import DataError
from farm.label.material import Material
from farm.records import Pair
from farm.seeds import key, uniform

PRIOR = 4.0  # votes for an even chance, added to the simulator's

Array = npt.NDArray[np.float64]
Chosen = list[tuple[Pair, float | None]]


@dataclass(frozen=True)
class Unit:
    """A pair as a comparison of ``policy`` with ``reference``: ``wins`` of ``verdicts`` by the simulator went to the
    policy's response (a tie is half a win), which is ``longer`` by so much, in [-1, 1]."""

    pair_id: str
    policy: str
    reference: str
    wins: float
    verdicts: int
    longer: float

    @property
    def chance(self) -> float:
        """The simulator's chance that the policy's response is preferred, held back towards 1/2."""
        return (self.wins + PRIOR / 2) / (self.verdicts + PRIOR)


def units(material: Material) -> list[Unit]:
    """All pairs of the material as comparisons with the one policy that takes part in every pair; empty when there is
    no such policy. Of two such policies, the reference is the one called so, or else the last by name."""
    sides = [material.policies(p) for p in material.pairs]
    common = frozenset.intersection(*sides) if sides else frozenset()
    if not common or any(len(s) != 2 for s in sides):
        return []
    reference = "reference" if "reference" in common else max(common)
    votes: dict[str, list[float]] = defaultdict(list)
    for j in material.judgements:
        if j.outcome.judged:
            winner = None if j.winner_id is None else material.responses[j.winner_id].policy
            votes[j.pair_id].append(0.5 if winner is None else float(winner != reference))
    found = []
    for pair in material.pairs:
        mine, other = material.responses[pair.a], material.responses[pair.b]
        if mine.policy == reference:
            mine, other = other, mine
        said = votes[pair.id]
        longer = relative_length(mine.text, other.text)
        found.append(Unit(pair.id, mine.policy, reference, sum(said), len(said), longer))
    return found


def random(material: Material, count: int, seed: int) -> Chosen:
    """``count`` pairs, each as likely as any other."""
    order = sorted(material.pairs, key=lambda p: (key(seed, "label choice", p.id), p.id))
    return [(p, None) for p in order[:count]]


def informative(material: Material, count: int, seed: int) -> Chosen:
    """``count`` pairs with their probabilities of being drawn, higher where the simulator is unsure.

    Raises DataError when the pairs do not compare policies with one reference, or no simulated verdict is there.
    """
    frame = units(material)
    if not any(u.verdicts for u in frame):
        raise DataError(
            "--choose informative needs simulated verdicts on pairs that all compare a policy with one reference: give "
            "a run folder (with --from evaluate), or leave it out"
        )
    order = sorted(frame, key=lambda u: (u.policy, u.chance, key(seed, "label choice", u.pair_id)))
    probability = probabilities(np.array([u.chance for u in order]), count)
    taken = systematic(probability, uniform(seed, "label choice start"))
    pairs = {p.id: p for p in material.pairs}
    return [(pairs[order[k].pair_id], float(probability[k])) for k in taken]


def probabilities(chance: Array, count: int) -> Array:
    """Inclusion probabilities that sum to ``count``, proportional to sqrt(p (1 - p)) and capped at 1."""
    size = np.sqrt(chance * (1 - chance))
    result: Array = np.minimum(1.0, count * size / size.sum())
    while result.sum() < count - 1e-9 and (free := result < 1).any():
        result[free] = np.minimum(1.0, result[free] * (count - (~free).sum()) / result[free].sum())
    return result


def systematic(probability: Array, start: float) -> Sequence[int]:
    """Positions drawn by walking along the list in steps of 1: each with its probability, as many as they sum to."""
    ends = np.cumsum(probability)
    count = round(float(ends[-1]))
    ends *= count / ends[-1]
    ends[-1] = count
    step = np.arange(count)
    taken = np.searchsorted(ends, start + step, side="right")
    # A probability of 1 whose end was rounded up would be met twice; one step further is what it stands for.
    taken = np.maximum.accumulate(taken - step) + step
    return [int(k) for k in np.minimum(taken, len(ends) - count + step)]
