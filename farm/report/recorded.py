"""Numbers of recorded best-of-n samples, in the form that the laboratory's page shows."""

from __future__ import annotations

from collections.abc import Sequence

from farm import resources
from farm.data.recorded import Recorded
from farm.report.overoptimization import Numbers
from farm.study import recorded
from farm.study.curves import bands, peak, shift
from farm.study.fits import fit
from farm.study.overoptimization import verdict
from farm.study.words import interval


def numbers(rows: Sequence[Recorded], source: str, *, seed: int) -> Numbers:
    """Curves of every proxy, their peaks and laws, picks of reward models, and whether the order of the file matters.

    Raises DataError where gold is missing.
    """
    curves = recorded.curves(rows, seed=seed)
    found = recorded.order(rows, seed=seed)
    size = len(next(iter(curves.values())).curve.points)
    notes = [
        "KL is the upper bound log n \u2212 (n \u2212 1)/n"
        if any(r.log_probs is None for r in rows)
        else "KL is Beirami et al.'s estimate from the samples' log-probabilities",
        f"per sample in the recorded order, gold changes by {interval(found.gold, digits=4)} and length by "
        f"{interval(found.length, digits=1)} characters: "
        + ("no sign that order matters" if found.exchangeable else "samples are not exchangeable and were shuffled"),
    ]
    longest = recorded.LENGTH
    return Numbers(
        farm_version=resources.installed() or "0",
        recipe=source,
        seeds=(seed,),
        gold="recorded",
        pool_instructions=len(rows),
        pool_size=size,
        curve_instructions=0,
        bands=tuple(b for c in curves.values() for b in bands([c], seed=seed)),
        peaks=tuple(peak([c], seed=seed) for c in curves.values()),
        verdicts=tuple(verdict([c], seed=seed) for c in curves.values()),
        fits=tuple(fit([c], seed=seed) for c in curves.values()),
        shifts=tuple(
            shift([c], [curves[longest]], seed=seed, name=name, against=longest, question="")
            for name, c in curves.items()
            if name != longest
        ),
        picks=tuple(recorded.picks(rows, seed=seed)),
        notes=tuple(n[0].upper() + n[1:] + "." for n in notes),
    )
