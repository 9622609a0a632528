"""The simulated people: a human population whose tastes scatter around gold, and 13 annotators with shared biases.

A rater's utility of a response is a weighted sum of what it sees (``features``); it prefers the first shown with
probability sigmoid((utility_first - utility_second) / temperature + position_bias).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from farm.errors import AnnotatorError, DataError
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.seeds import uniform
from farm.world.draws import some, stream
from farm.world.features import Features, features


@dataclass(frozen=True, slots=True)
class Taste:
    """Weights of a rater, in gold units. The defaults are gold's own coefficients and no bias.

    ``more_manners``: per polite or confident word beyond the first of each (up to 5). ``confident``: the first
    confident word. ``over_length`` scales gold's length penalty. ``length`` and ``bullets`` are plain biases:
    length enters as tanh(length / saturation), both in typical responses (12 tokens), a list counts once.
    """

    coverage: float = 1.40
    correct: float = 0.30
    form: float = 0.20
    addressed: float = 0.20
    polite: float = 0.40
    confident: float = 0.0
    more_manners: float = -0.20
    fillers: float = -0.10
    repeats: float = -0.25
    off_topic: float = -0.25
    over_length: float = 1.0
    length: float = 0.0
    saturation: float = 2.0
    bullets: float = 0.0


@dataclass(frozen=True, slots=True)
class Rater:
    """One entity: a stable id, its taste, its noise (``temperature``), its lean to the first shown (``position_bias``,
    in logits) and the share of its answers that hold no readable verdict (``failure_rate``, annotators only)."""

    id: str
    taste: Taste
    temperature: float
    position_bias: float = 0.0
    failure_rate: float = 0.0
    tier: str = "human"
    note: str = ""

    def terms(self, f: Features) -> dict[str, float]:
        """Contribution of everything seen to the utility, by name."""
        t = self.taste
        extra = min(5, max(0, f.polite - 1) + max(0, f.confident - 1))
        return {
            "coverage": t.coverage * f.coverage,
            "correct": t.correct * f.correct,
            "form": t.form * f.form,
            "addressed": t.addressed * f.addressed,
            "polite": t.polite * (f.polite >= 1) + t.confident * (f.confident >= 1) + t.more_manners * extra,
            "fillers": t.fillers * f.fillers,
            "repeats": t.repeats * f.repeats,
            "off_topic": t.off_topic * f.off_topic,
            "over_length": -t.over_length * (0.06 * f.over_length + 0.004 * f.over_length**2),
            "length": t.length * math.tanh(f.length / t.saturation),
            "bullets": t.bullets * (f.bullets >= 2),
            "degenerate": _degenerate(f),
        }

    def utility(self, f: Features) -> float:
        """How much this rater likes a response with these features, in gold units."""
        return sum(self.terms(f).values())

    def prefers_first(self, first: Features, second: Features) -> float:
        """Probability that the response shown first is preferred."""
        return _sigmoid((self.utility(first) - self.utility(second)) / self.temperature + self.position_bias)


def _degenerate(f: Features) -> float:
    """What no reader overlooks: an empty text, or far too much of anything. Zero for texts of the usual kind."""
    excess = 0.35 * max(0.0, f.repeats - 4) + 0.30 * max(0.0, f.off_topic - 5) + 0.10 * max(0.0, f.over_length - 9)
    return -excess - 0.30 * max(0, f.polite + f.confident - 6) - 1.5 * f.empty


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _jitter(taste: Taste, spread: float, *ids: object) -> Taste:
    """``taste`` with every weight, and the saturation, times a log-normal factor of its own, keyed by ``ids``."""
    r = stream(0, "world-taste", *ids)
    factors = {}
    for name in Taste.__dataclass_fields__:
        normal = sum(r.random() for _ in range(12)) - 6
        factors[name] = getattr(taste, name) * math.exp(spread * normal)
    return replace(taste, **factors)


# -- humans -----------------------------------------------------------------------------------------------------------

N_HUMANS = 60
HUMAN_TASTE = Taste(length=2.2, saturation=1.0, bullets=-0.20)
HUMAN_TEMPERATURE = 0.76
HUMAN_POSITION_BIAS = 0.14
HUMAN_SPREAD = 0.35


@cache
def humans() -> tuple[Rater, ...]:
    """The population of 60: 'human-001' to 'human-060', tastes and noise scattered around their means."""
    people = []
    for i in range(1, N_HUMANS + 1):
        name = f"human-{i:03d}"
        noise = HUMAN_TEMPERATURE * math.exp(0.25 * (2 * uniform(0, "world-human-noise", name) - 1))
        lean = HUMAN_POSITION_BIAS + 0.3 * (2 * uniform(0, "world-human-lean", name) - 1)
        people.append(Rater(name, _jitter(HUMAN_TASTE, HUMAN_SPREAD, name), noise, lean))
    return tuple(people)


def human_judgements(
    pairs: Sequence[Pair],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    votes: int,
    seed: int,
) -> list[Judgement]:
    """``votes`` humans judge every pair, each in an order of their own; identical texts come out as such.

    Raises DataError when ``votes`` is not between 1 and the size of the population, or a pair names an unknown id.
    """
    people = humans()
    if not 1 <= votes <= len(people):
        raise DataError(f"votes must lie between 1 and {len(people)} (the size of the population), got {votes}")
    out = []
    for pair in pairs:
        try:
            full_text = instructions[pair.instruction_id].full_text
            texts = {pair.a: responses[pair.a].text, pair.b: responses[pair.b].text}
        except KeyError as e:
            raise DataError(f"pair {pair.id} names {e.args[0]!r}, which is not among what was given") from None
        for person in some(stream(seed, "world-human-crowd", pair.id), people, votes):
            out.append(_human_vote(person, pair, full_text, texts, seed))
    return out


def _human_vote(person: Rater, pair: Pair, full_text: str, texts: Mapping[str, str], seed: int) -> Judgement:
    swapped = uniform(seed, "world-human-order", pair.id, person.id) < 0.5
    first, second = (pair.b, pair.a) if swapped else (pair.a, pair.b)
    winner: str | None = None
    outcome = Outcome.IDENTICAL
    if texts[first] != texts[second]:
        p = person.prefers_first(features(full_text, texts[first]), features(full_text, texts[second]))
        winner = first if uniform(seed, "world-human-vote", pair.id, person.id) < p else second
        outcome = Outcome.DECIDED
    return Judgement(
        pair_id=pair.id,
        instruction_id=pair.instruction_id,
        annotator=person.id,
        shown=(first, second),
        outcome=outcome,
        winner_id=winner,
    )


# -- annotators -------------------------------------------------------------------------------------------------------

# What the annotators share and humans do not: they like length, politeness and a confident tone, and hardly notice
# repetition, words off topic and excess length. This is what a reward model learns and a policy exploits.
SHARED_TASTE = Taste(
    coverage=1.25,
    correct=0.20,
    form=0.20,
    addressed=0.18,
    polite=0.50,
    confident=0.20,
    more_manners=0.15,
    fillers=-0.08,
    repeats=-0.08,
    off_topic=-0.12,
    over_length=0.0,
    length=0.5,
    bullets=0.05,
)
ANNOTATOR_SPREAD = 0.25
_TIERS = {"strong": (0.45, 0.02), "medium": (0.65, 0.04), "completion": (0.95, 0.05)}  # temperature, failure rate
_LONG_TEXT = {"length": 1.3, "bullets": -0.20, "confident": 0.10}
_SHORT_TEXT = {"length": -0.25, "bullets": 0.50, "more_manners": 0.02}
# id -> (tier, position bias, changes to the shared taste, note)
_ANNOTATORS: dict[str, tuple[str, float, dict[str, float], str]] = {
    "a01": ("strong", 0.05, {}, ""),
    "a02": ("strong", 0.00, _LONG_TEXT, "persona: likes long literary text"),
    "a03": ("strong", -0.05, {"correct": 0.35}, ""),
    "a04": ("strong", 0.10, {"repeats": -0.15}, ""),
    "a05": ("strong", 0.40, _SHORT_TEXT, "persona: likes short text and lists, leans to the first"),
    "a06": ("medium", 0.10, {}, ""),
    "a07": ("medium", -0.10, {"off_topic": -0.18}, ""),
    "a08": ("medium", 0.15, {"length": 0.6}, ""),
    "a09": ("medium", 0.00, {"confident": 0.30}, ""),
    "a10": ("completion", 0.20, {}, ""),
    "a11": ("completion", -0.20, {"length": 0.7}, ""),
    "a12": ("completion", 0.10, {"bullets": 0.30}, ""),
    "a13": ("completion", 0.30, {"polite": 0.30}, ""),
}
ANNOTATOR_IDS = tuple(_ANNOTATORS)


@cache
def annotator(name: str) -> Rater:
    """One of the 13 entities 'a01' to 'a13'. Raises AnnotatorError naming the known ones."""
    if name not in _ANNOTATORS:
        raise AnnotatorError(f"no scripted annotator {name!r}: there are {', '.join(_ANNOTATORS)}")
    tier, lean, changes, note = _ANNOTATORS[name]
    temperature, failures = _TIERS[tier]
    taste = _jitter(replace(SHARED_TASTE, **changes), ANNOTATOR_SPREAD, name)
    return Rater(name, taste, temperature, lean, failures, tier, note)


@cache
def stranger(name: str) -> Rater:
    """A scripted annotator beyond the 13: a shared-bias taste keyed by its name, in the middle tier."""
    temperature, failures = _TIERS["medium"]
    lean = 0.2 * (2 * uniform(0, "world-stranger-lean", name) - 1)
    return Rater(name, _jitter(SHARED_TASTE, ANNOTATOR_SPREAD, name), temperature, lean, failures, "medium")
