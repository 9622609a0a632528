"""Whether the judge treats the compared policies alike: failures and indecision, policy by policy.

Verdicts that are missing more often for one policy than for another can make a win rate all by themselves. And judges
are undecided about outputs that fool them far more often than about answers, so a policy on which the judge wavers is
to be looked at before its win rate is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from farm.records import Judgement, Outcome, Record

LEVEL = 0.01  # of the corrected test; runs compare many policies and many seeds
CLEAR = 0.25  # a soft verdict between this and its complement is undecided
WAVERING = 0.5  # undecided verdicts are an alarm above it: a coin tossed for each order is at odds with itself as often


@dataclass(frozen=True)
class Counts:
    """Acts about one policy, those of them that failed, and verdicts that were undecided.

    ``units`` are (what counts, all) in what can be taken as independent, by measure: acts that shared a prompt fail
    together, and the two orders of a pair are undecided together.
    """

    acts: int
    failed: int
    undecided: int
    units: Mapping[str, tuple[float, float]]

    @classmethod
    def independent(cls, acts: int, failed: int, undecided: int) -> Counts:
        """Of acts that each had a prompt and a pair of their own."""
        return cls(acts, failed, undecided, {"failed": (failed, acts), "undecided": (undecided, acts - failed)})

    def of(self, measure: str) -> tuple[int, int]:
        """Acts that count, and acts in all; only verdicts can be undecided."""
        return (self.failed, self.acts) if measure == "failed" else (self.undecided, self.acts - self.failed)


class ArmAlarm(Record):
    """One policy against all others together. ``share`` and ``rest`` are in [0, 1]; ``p`` is Fisher's exact two-sided
    p-value after Holm's correction over policies, on prompts and not on acts."""

    policy: str
    measure: str
    share: float
    n: int
    rest: float
    n_rest: int
    p: float


def counts(judgements: Iterable[Judgement]) -> Counts:
    """Skipped acts were never asked and do not count. Undecided are ties, soft verdicts near one half, and both acts
    of a pair for which the same annotator named different winners in the two orders."""
    acts = [j for j in judgements if j.outcome is not Outcome.SKIPPED and j.outcome is not Outcome.IDENTICAL]
    winners: dict[tuple[str, str], set[str]] = {}
    for j in acts:
        if j.winner_id is not None:
            winners.setdefault((j.pair_id, j.annotator), set()).add(j.winner_id)
    calls = Counter[str]()
    asked = Counter(j.annotator for j in acts)
    for j in acts:
        calls[j.annotator] += j.cost.calls
    # A replayed or human act has no call of its own on record: it counts in full.
    weight = {name: min(1.0, calls[name] / n) if calls[name] else 1.0 for name, n in asked.items()}
    orders = 1 + any(j.draw for j in acts)
    failed = [j for j in acts if not j.outcome.judged]
    undecided = [
        j
        for j in acts
        if j.outcome is Outcome.TIE
        or (j.probability is not None and CLEAR < j.probability < 1 - CLEAR)
        or (j.winner_id is not None and len(winners[j.pair_id, j.annotator]) > 1)
    ]
    judged = [j for j in acts if j.outcome.judged]

    def units(some: Sequence[Judgement]) -> float:
        return sum(weight[j.annotator] for j in some)

    return Counts(
        acts=len(acts),
        failed=len(failed),
        undecided=len(undecided),
        units={
            "failed": (units(failed), units(acts)),
            "undecided": (units(undecided) / orders, units(judged) / orders),
        },
    )


def alarms(by_policy: Mapping[str, Counts]) -> list[ArmAlarm]:
    """Policies whose share of failures differs from that of the others, and those whose verdicts are undecided in
    more than half and more often than the others', at the 1% level; most significant first. Needs two policies."""
    found = []
    for measure in ("failed", "undecided"):
        tested = [a for name in by_policy if (a := _test(name, measure, by_policy)) is not None]
        for a, p in zip(tested, holm([a.p for a in tested]), strict=True):
            if p < LEVEL and (measure == "failed" or a.share > max(a.rest, WAVERING)):
                found.append(a.model_copy(update={"p": p}))
    return sorted(found, key=lambda a: (a.p, a.policy))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=lambda k: p[k])
    out, worst = [0.0] * len(p), 0.0
    for rank, k in enumerate(order):
        worst = max(worst, min(1.0, p[k] * (len(p) - rank)))
        out[k] = worst
    return out


def _test(name: str, measure: str, by_policy: Mapping[str, Counts]) -> ArmAlarm | None:
    from scipy.stats import fisher_exact

    mine, others = by_policy[name], [c for other, c in by_policy.items() if other != name]
    hits, n = mine.of(measure)
    rest, n_rest = (sum(c.of(measure)[k] for c in others) for k in (0, 1))
    if not n or not n_rest:
        return None
    units = [mine.units[measure], tuple(sum(c.units[measure][k] for c in others) for k in (0, 1))]
    table = np.array([[round(some), max(0, round(total - some))] for some, total in units])
    p = float(fisher_exact(table).pvalue)
    return ArmAlarm(policy=name, measure=measure, share=hits / n, n=n, rest=rest / n_rest, n_rest=n_rest, p=p)
