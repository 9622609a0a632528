"""What a run found, in a few sentences: first on the page, last on the terminal."""

from __future__ import annotations

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
    """The findings in order of importance: who beats the baseline, over-optimization, the best, the correlation."""
    points = (
        _against_baseline(summary),
        *_overoptimization(summary),
        _best(summary),
        _controls(summary),
        _correlation(summary),
        _canaries(summary),
        *_arms(summary),
        _failures(summary),
    )
    return [point for point in points if point]


def overall(summary: Summary, measure: str) -> dict[str, Contrast]:
    """Method -> its difference to the baseline in ``measure``: over all seeds where there are several."""
    found: dict[str, Contrast] = {}
    for row in summary.differences:
        if row.measure == measure and (row.seed is None or row.method not in found):
            found[row.method] = row
    return found


def _against_baseline(summary: Summary) -> Point | None:
    """Methods grouped by what they do to win rate and gold together, so that a disagreement of the two is seen."""
    measures = {"win rate": overall(summary, "win_rate"), "gold reward": overall(summary, "gold")}
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    aside = {*summary.yardsticks, *summary.controls}
    trained = [m for rows in measures.values() for m in rows if m not in aside]
    for method in dict.fromkeys(trained):
        signs = tuple((name, _sign(rows[method])) for name, rows in measures.items() if method in rows)
        groups.setdefault(signs, []).append(method)
    if not groups:
        return None
    base = summary.baseline
    ordered = sorted(groups.items(), key=lambda group: -sum(_WORTH[sign] for _, sign in group[0]))
    clauses = [f"{listed(methods)} {_clause(signs, len(methods), base)}" for signs, methods in ordered]
    seeds = any(len(row.seeds) > 1 for rows in measures.values() for row in rows.values())
    over = "instructions and seeds" if seeds else "instructions"
    won = any(sign == "above" for signs in groups for _, sign in signs)
    return Point("good" if won else "plain", f"{'; '.join(clauses)} (paired 95% intervals over {over}).")


_WORTH = {"above": 1, "open": 0, "below": -1}


def _sign(row: Contrast) -> str:
    return "above" if above_zero(row.estimate) else "below" if below_zero(row.estimate) else "open"


def _clause(signs: tuple[tuple[str, str], ...], count: int, base: str) -> str:
    names = {kind: [name for name, sign in signs if sign == kind] for kind in ("above", "below", "open")}
    verbs = ("beats", "falls below") if count == 1 else ("beat", "fall below")
    parts = [
        f"{verb} {base} in {listed(named)}"
        for verb, named in zip((*verbs, "cannot be told from"), names.values(), strict=True)
        if named
    ]
    return " but ".join(parts)


def _best(summary: Summary) -> Point | None:
    levels = [
        row
        for row in summary.levels
        if row.measure == "win_rate" and row.estimate.value is not None
        if row.method not in (*summary.yardsticks, *summary.controls)
    ]
    if not levels:
        return None
    best = max(levels, key=lambda row: row.estimate.value or 0.0)
    base = next((row for row in levels if row.method == summary.baseline), None)
    text = f"Highest win rate against {summary.reference}: {best.method} with {_share(best)}"
    if base is not None and base is not best:
        text += f"; {summary.baseline} has {_share(base)}"
    return Point("plain", text + ".")


def _controls(summary: Summary) -> Point | None:
    """What rows reach that optimise noise or length alone; a warning when one gains win rate."""
    gains = {m: row for m, row in overall(summary, "win_rate").items() if m in summary.controls}
    if not gains:
        return None
    said = [f"{m} {_signed(100 * (row.estimate.value or 0))} {_bounds(row)}".rstrip() for m, row in gains.items()]
    tone: Literal["warning", "plain"] = "warning" if any(_sign(r) == "above" for r in gains.values()) else "plain"
    return Point(tone, f"Controls, points of win rate over {summary.baseline}: {listed(said)}.")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 1)


def _bounds(row: Contrast) -> str:
    e = row.estimate
    if e.ci95_low is None or e.ci95_high is None:
        return ""
    return f"[{number(100 * e.ci95_low, 1)}, {number(100 * e.ci95_high, 1)}]"


def _share(row: Contrast) -> str:
    e = row.estimate
    return f"{percent(e.value)} {_bounds(row)}".rstrip()


def _overoptimization(summary: Summary) -> list[Point]:
    if not summary.verdicts:
        return []
    seen = [v for v in summary.verdicts if v.over_optimized and v.method not in summary.controls]
    calm = [v.method for v in summary.verdicts if not v.over_optimized and v.fall.value is not None]
    calm = [m for m in calm if m not in summary.controls]
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
    gap = number(100 * (c.mean_absolute_error.value or 0), 1)
    rho, inside = interval(c.spearman), True
    if c.spearman.ci95_low is not None and c.spearman.ci95_high is not None:
        inside = c.spearman.ci95_low <= c.spearman.value <= c.spearman.ci95_high
    if not inside:  # the interval is for the true scores, and here the value owes more to errors of measurement
        rho = f"{number(c.spearman.value)} as measured; with so few judgements that is mostly measurement error"
    text = (
        f"{c.first.capitalize()} and {c.second} win rates rank {len(c.methods)} methods with Spearman {rho}; "
        f"they differ by {gap} points on average."
    )
    return Point("plain", text)


def _canaries(summary: Summary) -> Point | None:
    """Texts that deserve to lose: those that may win more than allowed, or that none did."""
    if not summary.canaries:
        return None
    limit = percent(summary.canary_limit, 0)
    bad = [c for c in summary.canaries if c.alarm]
    if bad:
        named = "; ".join(f"{c.kind} {interval(c.rate, 100, 1)}% of {c.rate.n}" for c in bad)
        also = _undecided(summary)
        text = f"Canaries: texts that deserve to lose may beat the reference in more than {limit} of cases: {named}"
        return Point("warning", f"{text}. Win rates by this judge can be won without answering{also}.")
    worst = max(summary.canaries, key=lambda c: c.rate.ci95_high or 0.0)
    text = (
        f"Canaries: none of {len(summary.canaries)} kinds of text that deserve to lose may win more than {limit}; "
        f"the most successful, {worst.kind}, wins {interval(worst.rate, 100, 1)}% of {worst.rate.n}."
    )
    return Point("plain", text)


def _undecided(summary: Summary) -> str:
    """Judges waver over outputs that fool them; said where they do so on canaries that should be easy."""
    shares = [(c.kind, c.undecided) for c in summary.canaries if c.alarm and (c.undecided or 0) >= _WAVERING]
    named = listed([f"{kind}: {percent(share)}" for kind, share in shares])
    return f", and the judge is undecided on them ({named})" if shares else ""


_WAVERING = 0.25


def _arms(summary: Summary) -> list[Point]:
    """Policies that the judge failed on, or wavered on, more or less than on the others."""
    points = []
    for a in summary.arms:
        what = "acts without a verdict" if a.measure == "failed" else "undecided verdicts (ties, both orders at odds)"
        more = "more" if a.share > a.rest else "fewer"
        text = (
            f"{a.policy} has {more} {what} than the other policies: {percent(a.share)} of {a.n:,} against "
            f"{percent(a.rest)} of {a.n_rest:,} (Fisher's exact test, Holm-corrected p {_p(a.p)})"
        )
        advice = (
            "its win rate leaves them out" if a.measure == "failed" else "read its samples: the judge may be fooled"
        )
        points.append(Point("warning", f"{text}; {advice}."))
    return points


def _p(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _failures(summary: Summary) -> Point | None:
    failed = sum(row.n_failed for row in summary.rows)
    total = failed + sum(row.n for row in summary.rows)
    if not failed:
        return None
    text = f"{failed:,} of {total:,} acts of judging gave no verdict ({percent(failed / total)}) and are left out."
    return Point("warning" if failed > 0.05 * total else "plain", text)
