"""Charts as static SVG: Altair describes them, vl-convert draws them without a browser or a network.

Colours are written as the light theme's hex values, so that a saved SVG is complete on its own; :func:`themed` swaps
them for CSS variables in the HTML page, which then follows the reader's light or dark theme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from farm.report.summary import CurveRow, Summary
from farm.study.contrasts import Contrast

INK, MUTED, GRID, AXIS = "#1f2733", "#5b6675", "#e4e8ed", "#98a3b0"
SERIES = ("#2563a8", "#c2492f", "#2a8a5c", "#8a4fb0", "#b0791a", "#1b8f9e", "#b03a76", "#6b7a1f", "#7a5a44", "#55607a")
THEME = {INK: "ink", MUTED: "muted", GRID: "grid", AXIS: "axis"} | {c: f"s{k}" for k, c in enumerate(SERIES)}


def themed(svg: str, name: str) -> str:
    """An SVG made fit for a page: colours as CSS variables, ids made unique by ``name``, width left to the page."""
    for colour, variable in THEME.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{variable})"')
    svg = re.sub(r'id="([\w-]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([\w-]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    return svg.replace('class="marks"', 'class="chart"', 1)


def colours(summary: Summary) -> dict[str, str]:
    """Method -> colour, the same in every chart; the palette repeats after ten methods."""
    names = list(dict.fromkeys([r.method for r in summary.rows] + [c.method for c in summary.curves]))
    return {name: SERIES[k % len(SERIES)] for k, name in enumerate(names)}


def win_rates(summary: Summary) -> str | None:
    """Dot plot of win rates with intervals; the length-controlled rate as a hollow dot, the human one as a diamond."""
    import altair as alt

    rows = [_rate_row(summary, level) for level in summary.levels if level.measure == "win_rate"]
    rows = [row for row in rows if row["rate"] is not None]
    if not rows:
        return None
    order = [row["method"] for row in sorted(rows, key=lambda row: -row["rate"])]
    y = alt.Y("method:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False, grid=True))
    domain = _domain([v for row in rows for v in (row["low"], row["high"], row["lc"], row["human"], 50.0)])
    x = alt.X(
        "rate:Q", title=f"win rate against {summary.reference}, percent", scale=alt.Scale(domain=domain, nice=False)
    )
    base = alt.Chart(alt.Data(values=rows))
    tint = _tint(summary)
    marks = [alt.Chart(alt.Data(values=[{"v": 50}])).mark_rule(color=AXIS, strokeDash=[2, 3]).encode(x=alt.X("v:Q"))]
    marks.append(base.mark_rule(strokeWidth=2.5).encode(y=y, x=alt.X("low:Q"), x2="high:Q", color=tint))
    marks.append(base.mark_point(filled=True, size=75, opacity=1).encode(y=y, x=x, color=tint))
    marks.append(base.mark_point(size=75, strokeWidth=1.6, opacity=1).encode(y=y, x=alt.X("lc:Q"), color=tint))
    if any(row["human"] is not None for row in rows):
        marks.append(
            base.mark_point(shape="diamond", size=75, strokeWidth=1.6, opacity=1).encode(
                y=y, x=alt.X("human:Q"), color=alt.value(INK)
            )
        )
    return svg(alt.layer(*marks).properties(width=640, height=alt.Step(27)))


def _rate_row(summary: Summary, level: Contrast) -> dict[str, Any]:
    e = level.estimate
    rows = [row for row in summary.rows if row.method == level.method]
    lc = [row.lc_win_rate for row in rows if row.lc_win_rate is not None]
    human = [row.human_win_rate.value for row in rows if row.human_win_rate and row.human_win_rate.value is not None]
    return {
        "method": level.method,
        "rate": _hundred(e.value),
        "low": _hundred(e.ci95_low if e.ci95_low is not None else e.value),
        "high": _hundred(e.ci95_high if e.ci95_high is not None else e.value),
        "lc": _hundred(sum(lc) / len(lc)) if lc else None,
        "human": _hundred(sum(human) / len(human)) if human else None,
    }


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _domain(values: Sequence[float | None]) -> list[float]:
    """A range of percentages with some air, within 0..100."""
    known = [v for v in values if v is not None]
    air = 2 + 0.03 * (max(known) - min(known))
    return [max(0.0, min(known) - air), min(100.0, max(known) + air)]


def curve(summary: Summary, method: str) -> str | None:
    """Gold (solid, left axis) and proxy (dashed, right axis) of one method against its own x, with 95% bands."""
    import altair as alt

    points = averaged([c for c in summary.curves if c.method == method])
    if len(points) < 2:
        return None
    colour, name = colours(summary)[method], points[0]["x_name"]
    log = name == "n" and points[0]["x"] > 0
    scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(nice=False)
    ticks = [p["x"] for p in points if math.log2(p["x"]) % 1 == 0] if log else alt.Undefined
    whole = all(p["x"] % 1 == 0 for p in points)
    axis = alt.Axis(
        grid=False, values=ticks, format="d" if whole else "~g", tickCount=6, tickMinStep=1 if whole else alt.Undefined
    )
    x = alt.X("x:Q", title=f"{name} (log scale)" if log else name, scale=scale, axis=axis)
    base = alt.Chart(alt.Data(values=points))
    layers = []
    if all(p["gold"] is not None for p in points):
        y = alt.Y("gold:Q", title="gold (solid)", scale=alt.Scale(zero=False), axis=alt.Axis(titleColor=colour))
        band = base.mark_area(opacity=0.18, color=colour).encode(
            x=x, y=alt.Y("gold_low:Q", title="gold (solid)"), y2="gold_high:Q"
        )
        line = base.mark_line(color=colour, strokeWidth=2.4, point=_dot(colour)).encode(x=x, y=y)
        layers.append(band + line + _peak_rule(summary, method, x, log))
    y = alt.Y(
        "proxy:Q",
        title="proxy (dashed)",
        scale=alt.Scale(zero=False),
        axis=alt.Axis(grid=False, orient="right", titleColor=MUTED),
    )
    band = base.mark_area(opacity=0.14, color=MUTED).encode(
        x=x, y=alt.Y("proxy_low:Q", title="proxy (dashed)"), y2="proxy_high:Q"
    )
    layers.append(band + base.mark_line(color=MUTED, strokeWidth=1.8, strokeDash=[5, 4]).encode(x=x, y=y))
    return svg(alt.layer(*layers).resolve_scale(y="independent").properties(width=244, height=190))


def _peak_rule(summary: Summary, method: str, x: Any, log: bool) -> Any:
    import altair as alt

    found = [v for v in summary.verdicts if v.method == method and v.over_optimized and v.peak_x is not None]
    values = [{"x": v.peak_x} for v in found if v.peak_x or not log]
    return alt.Chart(alt.Data(values=values)).mark_rule(color=AXIS, strokeDash=[2, 3]).encode(x=x)


def _dot(colour: str) -> Any:
    import altair as alt

    return alt.OverlayMarkDef(filled=True, size=22, color=colour)


MANY = 8  # lines in one chart beyond which bands would hide them
_AXES = {
    "kl": "KL from the SFT policy, nats per sequence (square-root axis)",
    "sequences": "responses drawn for training",
}


def against(summary: Summary, along: Literal["kl", "sequences"], measure: Literal["gold", "proxy"]) -> str | None:
    """``measure`` of all methods against KL (square-root axis) or drawn responses; 95% bands unless there are many."""
    import altair as alt

    points = [
        p
        for m in dict.fromkeys(c.method for c in summary.curves)
        for p in averaged([c for c in summary.curves if c.method == m])
        if p[along] is not None and p[measure] is not None
    ]
    moved = {p["method"] for p in points if p[along]}
    points = [p for p in points if p["method"] in moved]
    if len(points) < 2:
        return None
    top = max(p[along] for p in points)
    how: dict[str, Any] = (
        {"scale": alt.Scale(type="sqrt", nice=False), "axis": alt.Axis(values=kl_ticks(top), format="~g")}
        if along == "kl"
        else {"scale": alt.Scale(nice=False), "axis": alt.Axis(tickCount=6, format=",d")}
    )
    x = alt.X(f"{along}:Q", title=_AXES[along], **how)
    names = list(dict.fromkeys(p["method"] for p in points))
    # Vega would sort a line by x; the order of optimisation matters, because KL need not increase.
    axes: dict[str, Any] = {"x": x, "color": _tint(summary, legend=names), "order": alt.Order("k:Q")}
    axes["strokeDash"] = _dashes(summary) if measure == "gold" else alt.value([5, 4])
    y = alt.Y(f"{measure}:Q", title=f"{measure} reward", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=points))
    dots = alt.OverlayMarkDef(filled=True, size=20)
    chart: Any = base.mark_line(strokeWidth=2.2, point=dots).encode(y=y, **axes)
    if len(names) <= MANY:
        low = alt.Y(f"{measure}_low:Q", title=f"{measure} reward")
        chart = (
            base.mark_errorband(opacity=0.15).encode(x=x, y=low, y2=f"{measure}_high:Q", color=axes["color"]) + chart
        )
    return svg(chart.properties(width=500, height=290))


def _dashes(summary: Summary) -> Any:
    """Broken lines for methods beyond the palette's ten colours, so that a colour used again is told apart."""
    import altair as alt

    names = list(colours(summary))
    patterns = [[1, 0], [7, 3], [2, 2]]
    scale = alt.Scale(domain=names, range=[patterns[min(k // len(SERIES), 2)] for k in range(len(names))])
    return alt.StrokeDash("method:N", scale=scale, legend=None)


def kl_ticks(top: float) -> list[float]:
    """Where to label a square-root axis from 0 to ``top`` nats."""
    return [t for t in (0, *(m * 10**e for e in range(-1, 6) for m in (1, 2, 5))) if top / 200 < t <= top or t == 0]


def averaged(rows: Sequence[CurveRow]) -> list[dict[str, Any]]:
    """Mean over seeds at every x of one method, with 95% bounds from the larger of seed spread and standard errors."""
    groups: dict[float, list[CurveRow]] = {}
    for row in rows:
        groups.setdefault(row.x, []).append(row)
    points = []
    for k, x in enumerate(sorted(groups)):
        group = groups[x]
        point: dict[str, Any] = {"k": k, "x": x, "x_name": group[0].x_name, "method": group[0].method}
        kl = _mean([row.kl for row in group])
        drawn = _mean([row.sequences for row in group])
        point["sequences"] = drawn
        point["kl"] = None if kl is None else max(kl, 0.0)  # sampled estimates of a small KL can fall below zero
        for name in ("gold", "proxy"):
            values = [getattr(row, name) for row in group]
            middle = _mean(values)
            half = _half([v for v in values if v is not None], [getattr(row, f"{name}_se") for row in group])
            point[name] = middle
            point[f"{name}_low"] = None if middle is None else middle - half
            point[f"{name}_high"] = None if middle is None else middle + half
        points.append(point)
    return points


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _half(values: Sequence[float], errors: Sequence[float | None]) -> float:
    n = len(values)
    within = sum(e * e for e in errors if e is not None) / n**2 if n else 0.0
    middle = sum(values) / n if n else 0.0
    between = sum((v - middle) ** 2 for v in values) / (n - 1) / n if n > 1 else 0.0
    return 1.96 * math.sqrt(max(within, between))


def correlation(summary: Summary) -> str | None:
    """Simulated against human win rate of every method, error bars both ways, the diagonal for comparison."""
    import altair as alt

    sides: dict[str, dict[str, Contrast]] = {"win_rate": {}, "human_win_rate": {}}
    for level in summary.levels:
        if level.measure in sides and level.estimate.value is not None:
            sides[level.measure][level.method] = level
    rows = [
        _corner(m, sides["win_rate"][m], sides["human_win_rate"][m])
        for m in sides["win_rate"]
        if m in sides["human_win_rate"]
    ]
    if len(rows) < 2:
        return None
    domain = _domain([r[k] for r in rows for k in ("x0", "x1", "y0", "y1")])
    _spread_labels(rows, domain[1] - domain[0])
    x = alt.X("x:Q", title="simulated win rate, percent", scale=alt.Scale(domain=domain, nice=False))
    y = alt.Y("y:Q", title="human win rate, percent", scale=alt.Scale(domain=domain, nice=False))
    base = alt.Chart(alt.Data(values=rows))
    tint = _tint(summary)
    diagonal = alt.Chart(alt.Data(values=[{"x": v, "y": v} for v in domain])).mark_line(color=AXIS, strokeDash=[2, 3])
    chart = alt.layer(
        diagonal.encode(x=x, y=y),
        base.mark_rule(strokeWidth=1.4, opacity=0.75).encode(x=alt.X("x0:Q"), x2="x1:Q", y=y, color=tint),
        base.mark_rule(strokeWidth=1.4, opacity=0.75).encode(x=x, y=alt.Y("y0:Q"), y2="y1:Q", color=tint),
        base.mark_point(filled=True, size=65, opacity=1).encode(x=x, y=y, color=tint),
        base.mark_text(align="left", baseline="middle", dx=9, fontSize=12, fontWeight=600).encode(
            x=x, y=alt.Y("label:Q"), text="method:N", color=tint
        ),
    )
    return svg(chart.properties(width=430, height=340))


def _spread_labels(rows: list[dict[str, Any]], width: float) -> None:
    """Set ``label``, the height of each row's label: a little above its point, and clear of labels beside it."""
    placed: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: r["y"]):
        row["label"] = row["y"] + 0.03 * width
        for other in placed:
            if abs(other["x"] - row["x"]) < 0.3 * width:
                row["label"] = max(row["label"], other["label"] + 0.045 * width)
        placed.append(row)


def _corner(method: str, first: Contrast, second: Contrast) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method}
    for name, e in (("x", first.estimate), ("y", second.estimate)):
        row[name] = _hundred(e.value)
        row[f"{name}0"] = _hundred(e.ci95_low if e.ci95_low is not None else e.value)
        row[f"{name}1"] = _hundred(e.ci95_high if e.ci95_high is not None else e.value)
    return row


def _tint(summary: Summary, legend: Sequence[str] = ()) -> Any:
    """The colour of a row's method; ``legend`` names the methods to explain above the chart."""
    import altair as alt

    palette = colours(summary)
    scale = alt.Scale(domain=list(palette), range=list(palette.values()))
    return alt.Color("method:N", scale=scale, legend=legend_of(legend) if legend else None)


def legend_of(names: Sequence[str]) -> Any:
    """A legend above a chart: a dot and its name, in rows of four."""
    import altair as alt

    return alt.Legend(
        title=None,
        values=list(names),
        orient="top",
        columns=4,
        labelColor=INK,
        labelFontSize=12,
        labelLimit=200,
        symbolType="circle",
        symbolOpacity=1,
        symbolStrokeWidth=0,
    )


def svg(chart: Any) -> str:
    """Draw an Altair chart in the report's style."""
    import vl_convert

    chart = chart.configure(background="transparent", font="system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif")
    chart = chart.configure_axis(
        labelColor=MUTED,
        titleColor=INK,
        gridColor=GRID,
        domainColor=AXIS,
        tickColor=AXIS,
        labelFlush=False,
        labelOverlap="greedy",
        labelFontSize=12,
        titleFontSize=12.5,
        titleFontWeight="normal",
        titlePadding=8,
    )
    drawn: str = vl_convert.vegalite_to_svg(chart.configure_view(stroke=None).to_json())
    return drawn
