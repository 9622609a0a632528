"""Two policies compared on the same instructions, and what a study of this size can tell apart."""

from __future__ import annotations

import math

import numpy as np

from farm.data.verdicts import Verdicts
from farm.evaluate import intervals
from farm.records import Estimate, Record

POWER = 0.8
LEVEL = 0.05
QUANTILES = 1.959963984540054 + 0.8416212335729143  # normal quantiles of 1 - LEVEL / 2 and of POWER


class Paired(Record):
    """``first`` minus ``second``: win rates against the same reference by the same judge, as shares in [-1, 1].

    ``standard_error`` is that of the difference, ``unpaired_error`` what it would be had the two met different
    instructions. ``separable`` is the smallest true difference that ``n`` instructions show (two-sided 5% test) with
    80% power; ``needed`` the number of instructions that would show the observed one as often. None = not estimable.
    """

    annotator: str
    reference: str
    first: str
    second: str
    difference: Estimate
    standard_error: float | None = None
    unpaired_error: float | None = None
    correlation: float | None = None
    separable: float | None = None
    needed: int | None = None
    n: int

    @property
    def separated(self) -> bool:
        """Whether the 95% interval excludes zero."""
        d = self.difference
        return d.ci95_low is not None and d.ci95_high is not None and not d.ci95_low <= 0 <= d.ci95_high


def compare(first: Verdicts, second: Verdicts, *, seed: int) -> Paired:
    """Paired difference on the instructions (and training seeds) on which both have a verdict.

    All verdicts of one policy on one instruction (both orders, several judges or draws) are averaged first: they are
    one cluster. With several training seeds the interval is over instructions and seeds, paired by seed.
    """
    a, b = _means(first), _means(second)
    common = sorted(a.keys() & b.keys())
    x, y = np.array([a[k] for k in common]), np.array([b[k] for k in common])
    names = {"annotator": first.annotator, "reference": first.reference, "first": first.model, "second": second.model}
    n = len({i for i, _ in common})
    if not common:
        note = "not estimable: no instruction has a verdict on both"
        return Paired(**names, difference=Estimate(value=None, n=0, note=note), n=0)
    estimate, error = intervals.crossed(x - y, [[i for i, _ in common], [s for _, s in common]], seed=seed)
    if error is None:
        return Paired(**names, difference=estimate, n=n)
    varies = np.ptp(x) > 0 and np.ptp(y) > 0
    apart = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / n) if len({s for _, s in common}) == 1 else None
    return Paired(
        **names,
        difference=estimate,
        standard_error=error,
        unpaired_error=apart,
        correlation=float(np.corrcoef(x, y)[0, 1]) if varies else None,
        separable=QUANTILES * error,
        needed=instructions_needed(estimate.value or 0.0, error * math.sqrt(n)),
        n=n,
    )


def _means(v: Verdicts) -> dict[tuple[str, int], float]:
    groups: dict[tuple[str, int], list[float]] = {}
    for i, s, score in zip(v.ids, v.seeds, v.score, strict=True):
        if not math.isnan(score):
            groups.setdefault((i, s), []).append(float(score))
    return {k: sum(g) / len(g) for k, g in groups.items()}


def instructions_needed(difference: float, sd: float) -> int | None:
    """Instructions that show ``difference`` in a two-sided 5% test with 80% power when the per-instruction difference
    has standard deviation ``sd``: ((z_0.975 + z_0.8) sd / difference)^2, rounded up. None for no difference."""
    return math.ceil((QUANTILES * sd / difference) ** 2) if difference else None
