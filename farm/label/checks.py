"""Is an annotator reading? Known answers, repeats with swapped sides, speed, and a lean to one side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from farm.label.store import Label, Store

TOO_FAST = 3.0  # seconds in which nobody reads an instruction and two responses
_LEAN = 0.01  # two-sided p-value below which a lean to one side is called one
_FEW = 5  # showings below which a share is no reason to warn


@dataclass(frozen=True)
class Check:
    """One annotator so far. ``left`` of ``decided`` choices went to the left side, with the two-sided binomial p-value
    of an even chance; ``known_right`` of ``known`` pairs with a known answer; ``same`` of ``repeats`` pairs shown twice
    got the same answer; ``warnings`` in words."""

    annotator: str
    done: int
    total: int
    median_seconds: float | None
    too_fast: int
    left: int
    decided: int
    left_p: float | None
    known_right: int
    known: int
    same: int
    repeats: int
    ties: int
    skips: int
    warnings: tuple[str, ...]


def checks(store: Store) -> list[Check]:
    """One row per annotator, by name."""
    answers, labels = store.answers(), store.labels()
    return [
        _check(name, store.sheet(name).total, [x for x in labels if x.task.annotator == name], answers)
        for name in store.annotators()
    ]


def _check(name: str, total: int, labels: Sequence[Label], answers: dict[str, str]) -> Check:
    decided = [x for x in labels if x.choice == "decided"]
    left = sum(x.winner == x.task.first for x in decided)
    known = [x for x in labels if x.known and x.choice != "skip"]
    right = sum(x.winner == answers[x.task.pair_id] for x in known)
    once = {x.task.pair_id: x for x in labels if x.task.draw == 0 and x.choice != "skip"}
    again = [x for x in labels if x.task.draw == 1 and x.choice != "skip" and x.task.pair_id in once]
    same = sum(x.winner == once[x.task.pair_id].winner for x in again)
    fast = sum(x.seconds < TOO_FAST for x in labels)
    chance = _binomial(left, len(decided))
    warnings = []
    if len(labels) >= _FEW and fast / len(labels) > 0.1:
        warnings.append(f"{fast} of {len(labels)} labels took under {TOO_FAST:g} s")
    if chance is not None and chance < _LEAN:
        side = "left" if 2 * left > len(decided) else "right"
        warnings.append(f"leans to the {side}: {max(left, len(decided) - left)} of {len(decided)} (p = {chance:.2g})")
    if len(known) >= 3 and right / len(known) < 0.7:
        warnings.append(f"only {right} of {len(known)} known answers were right")
    if len(again) >= _FEW and same / len(again) < 0.5:
        warnings.append(f"only {same} of {len(again)} repeated pairs got the same answer")
    return Check(
        annotator=name,
        done=len(labels),
        total=total,
        median_seconds=statistics.median(x.seconds for x in labels) if labels else None,
        too_fast=fast,
        left=left,
        decided=len(decided),
        left_p=chance,
        known_right=right,
        known=len(known),
        same=same,
        repeats=len(again),
        ties=sum(x.choice == "tie" for x in labels),
        skips=sum(x.choice == "skip" for x in labels),
        warnings=tuple(warnings),
    )


def _binomial(k: int, n: int) -> float | None:
    """Two-sided p-value of k out of n at an even chance."""
    if n == 0:
        return None
    from scipy.stats import binomtest

    return float(binomtest(k, n).pvalue)
