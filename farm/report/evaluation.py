"""The page of ``farm evaluate --judgements``: win rates, raw and length-controlled, alarms, pairs and ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farm.data.judged import Rejected
from farm.evaluate.bradley_terry import ELO, Rating
from farm.evaluate.paired import Paired
from farm.evaluate.table import Row
from farm.records import Estimate
from farm.report import page, plots
from farm.report.headline import Point
from farm.report.page import Chart, Column, Section, Table
from farm.study.words import interval, listed, number

MOST_LISTED, MOST_SAID = 20, 3

LIMITS = (
    "A win rate says what this judge prefers to this reference on these instructions, and nothing about other judges, "
    "other references or people.",
    "Intervals are over the instructions (and annotators and training seeds where a row has several). They do not know "
    "that a judge may be biased, was tuned on the same data, or would answer otherwise next month.",
    "Length control is an extrapolation to equal length by a model; where one side is nearly always longer it leans on "
    "the regulariser. Read it beside the raw rate.",
    "Models compared on the same instructions are compared more sharply by their paired difference than by eye.",
)


def render(
    rows: Sequence[Row],
    sources: Sequence[Row] = (),
    pairs: Sequence[Paired] = (),
    ratings: Mapping[str, Sequence[Rating]] | None = None,
    rejected: Sequence[Rejected] = (),
    *,
    about: str = "",
) -> str:
    """The page as HTML text."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.annotator, row.reference), []).append(row)
    sections = [_panel(panel) for panel in panels.values()]
    sections += [_pairs(pairs)] if pairs else []
    sections += [_ratings(annotator, found) for annotator, found in (ratings or {}).items()]
    sections += [_sources(sources)] if sources else []
    sections += [_rejected(rejected)] if rejected else []
    meta = f"{len(rows)} rows, {sum(r.judgements for r in rows):,} verdicts, {sum(r.failed for r in rows):,} failed"
    meta += f", {sum(r.rejected for r in rows):,} rows not used; {about}"
    return page.render(page.Page("Win rates", tuple(_points(panels, pairs)), tuple(sections), meta, LIMITS))


def _points(panels: Mapping[tuple[str, str], list[Row]], pairs: Sequence[Paired]) -> list[Point]:
    found = []
    for p in pairs[:MOST_SAID]:
        if p.difference.value is None:
            continue
        better, worse = (p.first, p.second) if p.difference.value >= 0 else (p.second, p.first)
        shown = f"({interval(p.difference, 100)} points for {p.first}, n = {p.n})"
        if p.separated:
            found.append(Point("good", f"{better} beats {worse} by {p.annotator} {shown}."))
        else:
            more = f"; about {p.needed:,} instructions would separate a difference of this size" if p.needed else ""
            found.append(
                Point("warning", f"{p.first} and {p.second} are not separated by {p.annotator} {shown}{more}.")
            )
    alarmed = [row for panel in panels.values() for row in panel if row.alarms]
    if alarmed:
        names = list(dict.fromkeys(row.model for row in alarmed))
        found.append(Point("warning", f"Something looks wrong about {listed(names[:5])}: see the alarms in the table."))
    for (annotator, reference), panel in list(panels.items())[:3]:
        known = sorted((r for r in panel if r.win_rate is not None), key=lambda r: -(r.win_rate or 0))
        if known:
            best = f"{known[0].model} has the highest win rate against {reference} by {annotator}"
            found.append(
                Point("plain", f"{best}: {interval(_rate(known[0]), digits=1)}% over {known[0].n} instructions.")
            )
        moved = _moved(known)
        if moved:
            found.append(Point("plain", moved))
    return found


def _moved(rows: Sequence[Row]) -> str:
    shifts = [(r.lc - r.win_rate, r) for r in rows if r.lc is not None and r.win_rate is not None]
    if not shifts:
        return ""
    _, row = max(shifts, key=lambda s: abs(s[0]))
    raw, lc = number(row.win_rate, 1), number(row.lc, 1)
    return f"Length control moves {row.model} most: {raw}% raw, {lc}% at equal length ({row.annotator})."


def _rate(row: Row) -> Estimate:
    return Estimate(value=row.win_rate, ci95_low=row.ci95_low, ci95_high=row.ci95_high, n=row.n)


def _lc(row: Row) -> Estimate:
    return Estimate(value=row.lc, ci95_low=row.lc_ci95_low, ci95_high=row.lc_ci95_high, n=row.lc_n)


def _panel(rows: Sequence[Row]) -> Section:
    ordered = sorted(rows, key=lambda r: (-(r.win_rate if r.win_rate is not None else -1), r.model))
    lc, compat = (any(getattr(r, name) is not None for r in rows) for name in ("lc", "lc_compat"))
    columns = [Column("model"), Column("win rate, %", digits=1), Column("SE", digits=2)]
    columns += [Column("length-controlled, %", digits=1)] if lc else []
    columns += [Column("as alpaca_eval, %", digits=1)] if compat else []
    columns += [
        Column("n"),
        Column("ties"),
        Column("failed"),
        Column("if failed lose / win, %"),
        Column("undecided, %"),
    ]
    columns += [Column("longer by", digits=0), Column("alarms and notes")]
    table = []
    for r in ordered:
        cells: list[page.Cell] = [r.model, _rate(r), r.standard_error]
        cells += [_lc(r)] if lc else []
        cells += [r.lc_compat] if compat else []
        bounds = f"{number(r.low_if_failed_lose, 1)} / {number(r.high_if_failed_win, 1)}" if r.failed else "\u2013"
        cells += [r.n, r.ties, r.failed, bounds, r.undecided, r.mean_length_difference]
        table.append((*cells, "; ".join((*r.alarms, *([r.note] if r.note else [])))))
    note = "Ties count half. 'Undecided': ties or, of a soft judge, verdicts between 0.05 and 0.95. 'Longer by': mean "
    note += "characters more than the reference."
    first = ordered[0]
    chart = _dots(ordered)
    return Section(
        f"{first.annotator}, against {first.reference}",
        tables=(Table(tuple(columns), tuple(table), note=note),),
        charts=(Chart(chart, "Dots: win rate with 95% interval; hollow: length-controlled."),) if chart else (),
    )


def _dots(rows: Sequence[Row]) -> str | None:
    """Dot plot of win rates with intervals, the length-controlled rate hollow."""
    import altair as alt

    known: list[dict[str, Any]] = [
        {
            "model": r.model,
            "rate": r.win_rate,
            "low": r.ci95_low if r.ci95_low is not None else r.win_rate,
            "high": r.ci95_high if r.ci95_high is not None else r.win_rate,
            "lc": r.lc,
        }
        for r in rows
        if r.win_rate is not None
    ]
    if not known:
        return None
    ends = [v for r in known for v in (r["low"], r["high"], r["lc"]) if v is not None]
    domain = [max(0.0, min(ends) - 2), min(100.0, max(ends) + 2)]
    order = [r["model"] for r in known]
    y = alt.Y("model:N", sort=order, title=None, axis=alt.Axis(labelLimit=260, ticks=False, domain=False, grid=True))
    x = alt.X("rate:Q", title=f"win rate against {rows[0].reference}, percent", scale=alt.Scale(domain=domain))
    base, colour = alt.Chart(alt.Data(values=known)), plots.SERIES[0]
    marks = [base.mark_rule(strokeWidth=2.5, color=colour).encode(y=y, x=alt.X("low:Q"), x2="high:Q")]
    marks.append(base.mark_point(filled=True, size=70, opacity=1, color=colour).encode(y=y, x=x))
    if any(r["lc"] is not None for r in known):
        marks.append(base.mark_point(size=70, strokeWidth=1.6, color=plots.SERIES[1]).encode(y=y, x=alt.X("lc:Q")))
    if domain[0] < 50 < domain[1]:
        half = alt.Chart(alt.Data(values=[{"v": 50}]))
        marks.insert(0, half.mark_rule(color=plots.AXIS, strokeDash=[2, 3]).encode(x=alt.X("v:Q")))
    return plots.svg(alt.layer(*marks).properties(width=600, height=alt.Step(22)))


def _pairs(pairs: Sequence[Paired]) -> Section:
    columns = (
        Column("first"),
        Column("second"),
        Column("judge"),
        Column("difference, points", 100, 1, signed=True),
        Column("n"),
        Column("separable, points", 100, 1),
        Column("needed"),
        Column("paired SE", 100, 2),
        Column("correlation"),
    )
    rows = tuple(
        (
            *(p.first, p.second, p.annotator, p.difference, p.n, p.separable, p.needed),
            *(p.standard_error, p.correlation),
        )
        for p in pairs
    )
    note = "'Separable': the smallest true difference that this many instructions show with 80% power at the 5% level. "
    note += "'Needed': instructions that would show a true difference as large as the observed one."
    return Section("Paired comparisons", tables=(Table(columns, rows, note=note),))


def _ratings(annotator: str, found: Sequence[Rating]) -> Section:
    columns = (Column("policy"), Column("Elo points", float(ELO), 0), Column("score, %", 100, 1), Column("contests"))
    rows = tuple((r.policy, r.rating, r.score, r.n) for r in found)
    notes = list(dict.fromkeys(r.rating.note for r in found if r.rating.note))
    note = "Bradley-Terry, ties as half a win each, mean 0; intervals over instructions. " + "; ".join(notes)
    return Section(f"Ratings by {annotator}", tables=(Table(columns, rows, note=note),))


def _sources(rows: Sequence[Row]) -> Section:
    names = list(dict.fromkeys(r.source for r in rows))
    models = list(dict.fromkeys((r.annotator, r.model) for r in rows))
    cells = {(r.annotator, r.model, r.source): _rate(r) for r in rows}
    columns = (Column("judge"), Column("model"), *(Column(f"{name}, %", digits=1) for name in names))
    table = tuple((*key, *(cells.get((*key, name)) for name in names)) for key in models)
    return Section("By sub-distribution", tables=(Table(columns, table),), open=len(table) <= MOST_LISTED)


def _rejected(rejected: Sequence[Rejected]) -> Section:
    rows = tuple((r.line, r.reason) for r in rejected[:MOST_LISTED])
    more = f"{len(rejected) - MOST_LISTED} more are not shown." if len(rejected) > MOST_LISTED else ""
    text = ("Rows of the files that could not be used as judgements; they enter no number.",)
    return Section("Rows not used", text, (Table((Column("line"), Column("reason")), rows, note=more),))
