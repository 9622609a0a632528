"""Signs that a judge was fooled rather than convinced, read off recorded verdicts and outputs.

A null model with one constant output can win 86% of AlpacaEval 2 (Zheng et al. 2024, arXiv 2410.07137), and judges
are undecided about such outputs far more often than about answers. None of these signs is a proof; each is a reason to
read samples before citing the number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from farm.data.verdicts import Verdicts
from farm.evaluate import intervals
from farm.evaluate.paired import compare

CONSTANT, UNDECIDED, FAILED = 0.1, 0.5, 0.05
SURE = 0.05  # a soft verdict between this and its complement is undecided
FEWEST = 10
CONTROLS = ("-shuffled", "_shuffled", ":shuffled", "/shuffled")
CANARY = "canary/"  # policies that deserve to lose (farm/evaluate/canaries.py)


def undecided(v: Verdicts) -> float | None:
    """Share of verdicts that are ties or, of a soft judge, between 0.05 and 0.95; None without a verdict."""
    score = v.score[~np.isnan(v.score)]
    return float(((score > SURE) & (score < 1 - SURE)).mean()) if len(score) else None


def constant(v: Verdicts) -> float | None:
    """Share of instructions that got the model's most frequent output, blanks aside; None where texts are unknown."""
    texts = Counter(" ".join(text.split()) for text in v.outputs.values())
    return texts.most_common(1)[0][1] / texts.total() if texts.total() >= FEWEST else None


def control_of(model: str, names: Iterable[str]) -> str | None:
    """The shuffled-response control among ``names``: the model's own outputs to other instructions, judged as answers
    to these, or else a run's canary with good answers to other instructions."""
    known = set(names)
    if model.startswith(CANARY) or model.endswith(CONTROLS):
        return None
    wanted = [*(model + end for end in CONTROLS), CANARY + "shuffled"]
    return next((name for name in wanted if name in known), None)


def alarms(v: Verdicts, others: Mapping[str, Verdicts], *, seed: int) -> list[str]:
    """What looks wrong about the verdicts on one model; ``others`` are the verdicts of the same judge on all models."""
    found = []
    share, most = undecided(v), constant(v)
    if most is not None and most >= CONSTANT:
        found.append(f"the same output for {most:.0%} of the instructions")
    if share is not None and share >= UNDECIDED:
        found.append(f"the judge is undecided on {share:.0%} of them")
    if v.model.startswith(CANARY) and v.score[~np.isnan(v.score)].size:
        _, score, _ = v.by_instruction()
        high = intervals.mean(score, seed=seed).ci95_high
        if (score.mean() if high is None else high) >= 0.5:
            found.append("a canary that should lose may win half of its comparisons")
    failed = float(np.isnan(v.score).mean()) if len(v.score) else 0.0
    if failed >= FAILED:
        found.append(f"{failed:.0%} of the judgements failed")
    control = control_of(v.model, others)
    if control is not None:
        gap = compare(v, others[control], seed=seed)
        if not (gap.difference.ci95_low or 0) > 0:
            found.append("answers to other instructions do as well: the judge ignores the instruction")
    return found
