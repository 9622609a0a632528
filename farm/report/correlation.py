"""The page of ``farm correlate``: the values with both intervals, the scatter, what they rest on, what would help."""

from __future__ import annotations

from typing import Any

from farm.report import plots
from farm.report.correlation_text import NAMES, bracket, plan_text, points, scale_of
from farm.report.page import Chart, Column, Page, Section, Table
from farm.study.correlation import Association
from farm.study.ranking import PairRanking
from farm.study.validity import Validity

SHOWN = 15  # rows of a table of pairs or methods; the JSON has all
LABELLED = 30  # methods up to which points and cells are labelled


def page(result: Validity) -> Page:
    """All findings of one comparison as a page."""
    main = result.associations[0]
    names = " and ".join(result.names)
    return Page(
        title=f"Do {names} scores rank methods alike?",
        points=tuple(points(result)),
        meta=" \u00b7 ".join(_meta(result)),
        sections=(
            Section(
                "Correlation",
                tuple(result.notes),
                tuple(_association(result, a) for a in result.associations),
                _charts(scatter(result), "Each method's score on both sides with 95% intervals of measurement error."),
            ),
            _pairs(result),
            _influence(result),
            _plan(result),
            *([_powered(result)] if result.prediction_powered else []),
            _scores(result),
            *([Section("Left out", result.left_out, open=False)] if result.left_out else []),
        ),
        limits=limits(main),
    )


def limits(main: Association) -> tuple[str, ...]:
    """What the numbers do not show."""
    return (
        f"'These methods' is about {main.these.about}: no other method enters, so it can be narrow with few of them.",
        f"'Methods like these' is about {main.like_these.about}. It supposes that the methods are a random sample.",
        "A high correlation over methods of very different quality says little about telling similar methods apart: "
        "look at the pairs, and at the rows trained in the farm.",
    )


def _meta(result: Validity) -> list[str]:
    left = [f"{len(result.left_out)} rows or groups of rows left out"] if result.left_out else []
    return [f"{len(result.scores)} methods", "; ".join(result.inputs), *left, f"seed {result.seed}"]


def _association(result: Validity, a: Association) -> Table:
    columns = (
        Column("statistic"),
        Column("value", digits=3),
        Column("these methods"),
        Column("methods like these"),
        Column("without noise", digits=3),
        Column("methods"),
    )
    rows = []
    for key, name in NAMES.items():
        these, over = getattr(a.these, key), getattr(a.like_these, key)
        scale = scale_of(result) if key == "mean_absolute_error" else 1.0
        free = a.without_noise.get(key)
        value = None if these.value is None else scale * these.value
        shown = (bracket(these, scale), bracket(over, scale))
        rows.append((name, value, *shown, None if free is None else scale * free, these.n))
    remarks = list(dict.fromkeys(e.note for e in (getattr(a.these, key) for key in NAMES) if e.note))
    return Table(columns, tuple(rows), title=a.label, note="; ".join(remarks) + ("." if remarks else ""))


def _pairs(result: Validity) -> Section:
    a, b = result.names
    columns = (
        Column(f"{a} ranks first"),
        Column("before"),
        Column(f"{a} difference", scale_of(result), 1),
        Column(f"{b} difference", scale_of(result), 1, signed=True),
        Column(f"{a} sure, %", 100, 1),
        Column("ranking right, %", 100, 1),
    )
    rows = tuple(
        (p.above, p.below, p.first_gap, p.second_gap, p.first_sure, p.second_agrees) for p in result.pairs[:SHOWN]
    )
    about = (
        f"The chance that the true {b} scores of a pair have the order in which the {a} scores put it, from the "
        "measured difference and its error alone."
    )
    note = f"The {SHOWN} least certain of {len(result.pairs)}." if len(result.pairs) > SHOWN else ""
    table = Table(columns, rows, note=note)
    caption = f"Rows and columns as {a} ranks them. Green: {b} scores agree; red: they point the other way."
    return Section("Is each pair ranked right?", (about,), (table,) if rows else (), _charts(matrix(result), caption))


def _influence(result: Validity) -> Section:
    columns = [Column("without")]
    columns += [
        c for key, name in NAMES.items() for c in (Column(name, digits=3), Column("change", digits=3, signed=True))
    ]
    scale = {key: scale_of(result) if key == "mean_absolute_error" else 1.0 for key in NAMES}

    def scaled(value: float | None, key: str) -> float | None:
        return None if value is None else scale[key] * value

    rows = []
    for r in result.influence[:SHOWN]:
        cells = [v for key in NAMES for v in (scaled(r.without[key], key), scaled(r.change[key], key))]
        rows.append((r.method, *cells))
    note = f"The {SHOWN} strongest of {len(result.influence)}." if len(result.influence) > SHOWN else ""
    text = ("Every statistic again with one method left out, the strongest influence on Spearman first.",)
    return Section("What one method does", text, (Table(tuple(columns), tuple(rows), note=note),) if rows else ())


def _plan(result: Validity) -> Section:
    b, plan = result.names[1], result.plan
    columns = (Column("times as many labels"), Column(f"{b} only", digits=3), Column("on both sides", digits=3))
    rows = tuple((f"{factor:g}", one, both) for factor, one, both in plan.expected)
    table = Table(columns, rows, title="Expected width of Spearman's interval, these methods")
    return Section("What would narrow the interval", tuple(plan_text(result)), (table,) if rows else ())


def _powered(result: Validity) -> Section:
    s = scale_of(result)
    columns = (
        Column("method"),
        Column("prediction-powered", s, 1),
        Column("human labels alone", s, 1),
        Column("simulated alone", s, 1),
        Column("weight"),
        Column("correlation"),
        Column("gain"),
        Column("n human"),
        Column("n simulated"),
    )
    rows = tuple(
        (
            *(p.method, p.estimate, p.human_only, p.simulated_only),
            *(p.weight, p.correlation, p.gain, p.n_human, p.n_simulated),
        )
        for p in result.prediction_powered
    )
    text = (
        "Human scores estimated from the human labels and all simulated ones (PPI++): valid whatever the simulator "
        "does. Gain: how many times as many human labels alone would be needed for the same precision.",
    )
    return Section("Prediction-powered human scores", text, (Table(columns, rows),))


def _scores(result: Validity) -> Section:
    s = scale_of(result)
    a, b = result.names
    columns = (Column("method"), Column(a, s, 1), Column("s.e.", s, 2), Column(b, s, 1), Column("s.e.", s, 2))
    rows = tuple((r.method, r.first, r.first_se, r.second, r.second_se) for r in result.scores)
    return Section("Scores", tables=(Table(columns, rows),), open=False)


def scatter(result: Validity) -> str | None:
    """Both scores of every method, error bars both ways; the diagonal where both sides have the same unit."""
    import altair as alt

    if len(result.scores) < 2:
        return None
    k, rows = scale_of(result), []
    for s in result.scores:
        row: dict[str, Any] = {"method": s.method, "x": k * s.first, "y": k * s.second}
        for axis, error in (("x", s.first_se), ("y", s.second_se)):
            half = 1.96 * k * (error or 0.0)
            row |= {f"{axis}0": row[axis] - half, f"{axis}1": row[axis] + half}
        rows.append(row)
    span_x, span_y = ([r[f"{a}{e}"] for r in rows for e in "01"] for a in "xy")
    if result.unit:
        span_x = span_y = [*span_x, *span_y]
    domains = [[min(s) - 0.04 * (max(s) - min(s)), max(s) + 0.04 * (max(s) - min(s))] for s in (span_x, span_y)]
    unit = {"share": ", percent", "percent": ", percent"}.get(result.unit, "")
    x = alt.X("x:Q", title=f"{result.names[0]}{unit}", scale=alt.Scale(domain=domains[0], nice=False))
    y = alt.Y("y:Q", title=f"{result.names[1]}{unit}", scale=alt.Scale(domain=domains[1], nice=False))
    base = alt.Chart(alt.Data(values=rows))
    colour = plots.SERIES[0]
    marks = []
    if result.unit:
        ends = [{"x": v, "y": v} for v in domains[0]]
        marks.append(alt.Chart(alt.Data(values=ends)).mark_line(color=plots.AXIS, strokeDash=[2, 3]).encode(x=x, y=y))
    marks.append(base.mark_rule(color=colour, opacity=0.6).encode(x=alt.X("x0:Q"), x2="x1:Q", y=y))
    marks.append(base.mark_rule(color=colour, opacity=0.6).encode(x=x, y=alt.Y("y0:Q"), y2="y1:Q"))
    marks.append(base.mark_point(filled=True, size=60, opacity=1, color=colour).encode(x=x, y=y))
    if len(rows) <= LABELLED:
        _place(rows, domains)
        styles: dict[str, dict[str, Any]] = {"left": {"align": "left", "dx": 9}, "right": {"align": "right", "dx": -9}}
        for side, style in styles.items():
            some = [r for r in rows if r["align"] == side]
            text = alt.Chart(alt.Data(values=some)).mark_text(
                baseline="middle", fontSize=11.5, color=plots.INK, **style
            )
            marks.append(text.encode(x=x, y=alt.Y("label:Q"), text="method:N"))
    return plots.svg(alt.layer(*marks).properties(width=620, height=460))


def _place(rows: list[dict[str, Any]], domains: list[list[float]]) -> None:
    """Give each label a side, away from the diagonal where there is room, and a height clear of its neighbours."""
    wide, high = (d[1] - d[0] for d in domains)
    placed: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: r["y"]):
        x, y = (row["x"] - domains[0][0]) / wide, (row["y"] - domains[1][0]) / high
        row["align"] = "right" if x > 0.72 or (y > x and x > 0.3) else "left"
        row["label"] = row["y"] + (0.012 if y > x else -0.012) * high
        for other in placed:
            if other["align"] == row["align"] and abs(other["x"] - row["x"]) < 0.28 * wide:
                row["label"] = max(row["label"], other["label"] + 0.042 * high)
        placed.append(row)


def matrix(result: Validity) -> str | None:
    """A cell per pair: the chance that the first side's ranking of it is right, green above and red below a half."""
    import altair as alt

    known = [p for p in result.pairs if p.second_agrees is not None]
    if not known:
        return None
    order = [s.method for s in sorted(result.scores, key=lambda s: -s.first)]
    rows = [_cell(p) for p in known]
    side = max(16, min(38, 640 // len(order)))
    axis = alt.Axis(labelLimit=150, ticks=False, domain=False, labelAngle=-40, grid=False, labelOverlap=False)
    x = alt.X("below:N", sort=order[1:], title=None, axis=axis)
    y = alt.Y(
        "above:N",
        sort=order[:-1],
        title=None,
        axis=alt.Axis(labelLimit=150, ticks=False, domain=False, grid=False, labelOverlap=False),
    )
    base = alt.Chart(alt.Data(values=rows))
    cells = base.mark_rect(stroke=plots.GRID).encode(
        x=x,
        y=y,
        color=alt.Color("agrees:N", legend=None, scale=alt.Scale(domain=[True, False], range=_TONES)),
        opacity=alt.Opacity("strength:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.06, 0.75])),
    )
    size = {"width": alt.Step(side), "height": alt.Step(min(side, 26))}
    if len(order) > LABELLED:
        return plots.svg(cells.properties(**size))
    texts = base.mark_text(fontSize=10.5, color=plots.INK).encode(x=x, y=y, text="shown:N")
    return plots.svg((cells + texts).properties(**size))


_TONES = [plots.SERIES[2], plots.SERIES[1]]


def _cell(p: PairRanking) -> dict[str, Any]:
    chance = p.second_agrees or 0.0
    shown = "\u2265.99" if chance >= 0.985 else f"{chance:.2f}".lstrip("0")
    agrees = chance >= 0.5
    return {"above": p.above, "below": p.below, "agrees": agrees, "strength": abs(2 * chance - 1), "shown": shown}


def _charts(svg: str | None, caption: str) -> tuple[Chart, ...]:
    return (Chart(svg, caption),) if svg else ()
