"""What a run found, in a few sentences: first on the page, last on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from farm.report.summary import Summary
from farm.study.contrasts import Contrast
from farm.study.words import above_zero, below_zero, interval, listed, number, percent


@dataclass(frozen=True)
class Point:
    """One finding. ``tone`` colours it: good news, a warning, or neither."""

    tone: Literal["good", "warning", "plain"]
    text: str


def headline(summary: Summary) -> list[Point]:
    """The findings in order of importance: who beats the baseline, who is best, over-optimization, the correlation."""
    points = [_against_baseline(summary, "win_rate", "win rate"), _against_baseline(summary, "gold", "gold reward")]
    return [
        p
        for p in (*points, _best(summary), *_overoptimization(summary), _correlation(summary), _failures(summary))
        if p
    ]


def overall(summary: Summary, measure: str) -> dict[str, Contrast]:
    """Method -> its difference to the baseline in ``measure``: over all seeds where there are several."""
    found: dict[str, Contrast] = {}
    for row in summary.differences:
        if row.measure == measure and (row.seed is None or row.method not in found):
            found[row.method] = row
    return found


def _against_baseline(summary: Summary, measure: str, name: str) -> Point | None:
    rows = overall(summary, measure)
    if not rows:
        return None
    better = [m for m, row in rows.items() if above_zero(row.estimate)]
    worse = [m for m, row in rows.items() if below_zero(row.estimate)]
    open_ = [m for m in rows if m not in better and m not in worse]
    clauses = []
    if better:
        clauses.append(f"{listed(better)} {_verb(better, 'beats', 'beat')} {summary.baseline}")
    if worse:
        clauses.append(f"{listed(worse)} {_verb(worse, 'does', 'do')} worse than {summary.baseline}")
    if open_:
        clauses.append(f"{listed(open_)} cannot be told from {summary.baseline}")
    over = "instructions and seeds" if any(len(row.seeds) > 1 for row in rows.values()) else "instructions"
    text = f"In {name}, {'; '.join(clauses)} (paired 95% intervals over {over})."
    return Point("good" if better and not worse else "plain", text)


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _best(summary: Summary) -> Point | None:
    levels = [row for row in summary.levels if row.measure == "win_rate" and row.estimate.value is not None]
    if not levels:
        return None
    best = max(levels, key=lambda row: row.estimate.value or 0.0)
    base = next((row for row in levels if row.method == summary.baseline), None)
    text = f"Highest win rate against {summary.reference}: {best.method} with {_share(best)}"
    if base is not None and base is not best:
        text += f"; {summary.baseline} has {_share(base)}"
    return Point("plain", text + ".")


def _share(row: Contrast) -> str:
    e = row.estimate
    if e.ci95_low is None or e.ci95_high is None:
        return percent(e.value)
    return f"{percent(e.value)} [{number(100 * e.ci95_low, 1)}, {number(100 * e.ci95_high, 1)}]"


def _overoptimization(summary: Summary) -> list[Point]:
    if not summary.verdicts:
        return []
    seen = [v for v in summary.verdicts if v.over_optimized]
    calm = [v.method for v in summary.verdicts if not v.over_optimized and v.fall.value is not None]
    points = [Point("warning", v.sentence) for v in seen]
    if calm:
        points.append(
            Point("plain", f"No over-optimization was seen for {listed(calm)} within the range that was run.")
        )
    return points


def _correlation(summary: Summary) -> Point | None:
    c = summary.correlation
    if c is None:
        return None
    if c.spearman.value is None:
        return Point("plain", f"Rank correlation of {c.first} and {c.second} win rates: {c.spearman.note}.")
    text = (
        f"{c.first.capitalize()} and {c.second} win rates rank {len(c.methods)} methods with Spearman "
        f"{interval(c.spearman)}; on average they differ by {number(100 * (c.mean_absolute_error.value or 0), 1)} points."
    )
    return Point("plain", text)


def _failures(summary: Summary) -> Point | None:
    failed = sum(row.n_failed for row in summary.rows)
    total = failed + sum(row.n for row in summary.rows)
    if not failed:
        return None
    text = f"{failed:,} of {total:,} acts of judging gave no verdict ({percent(failed / total)}); they are left out of the rates."
    return Point("warning" if failed > 0.05 * total else "plain", text)
