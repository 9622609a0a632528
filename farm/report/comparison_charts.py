"""Charts of several runs: one colour per run, its name in a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farm.report import plots
from farm.report.summary import Summary

Named = Sequence[tuple[str, Summary]]


def win_rates(found: Named) -> str | None:
    """Win rate of every method, a dot with its interval per run; None without rates."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "method": level.method,
            "run": name,
            "rate": 100 * e.value,
            "low": 100 * (e.value if e.ci95_low is None else e.ci95_low),
            "high": 100 * (e.value if e.ci95_high is None else e.ci95_high),
        }
        for name, s in found
        for level in s.levels
        if level.measure == "win_rate" and (e := level.estimate).value is not None
    ]
    if not rows:
        return None
    order = list(dict.fromkeys(row["method"] for row in sorted(rows, key=lambda row: -row["rate"])))
    names = [name for name, _ in found]
    y = alt.Y("method:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False, grid=True))
    offset = alt.YOffset("run:N", sort=names, scale=alt.Scale(paddingOuter=0.4))
    x = alt.X("rate:Q", title="win rate, percent", scale=alt.Scale(zero=False, nice=False, padding=12))
    base = alt.Chart(alt.Data(values=rows))
    half = alt.Chart(alt.Data(values=[{"v": 50}])).mark_rule(color=plots.AXIS, strokeDash=[2, 3]).encode(x=alt.X("v:Q"))
    line = base.mark_rule(strokeWidth=2.2).encode(
        y=y, yOffset=offset, x=alt.X("low:Q"), x2="high:Q", color=_tint(names)
    )
    dots = base.mark_point(filled=True, size=50, opacity=1).encode(y=y, yOffset=offset, x=x, color=_tint(names))
    height = alt.Step(max(24, 11 * len(names)), **{"for": "position"})
    return plots.svg(alt.layer(half, line, dots).properties(width=620, height=height))


def curves(found: Named, method: str, measure: str) -> str | None:
    """``measure`` ("gold" or "proxy") of one method against KL in every run that has its curve; None without any."""
    import altair as alt

    points = [
        p | {"run": name}
        for name, s in found
        for p in plots.averaged([c for c in s.curves if c.method == method])
        if p["kl"] is not None and p[measure] is not None
    ]
    if len(points) < 2:
        return None
    names = [name for name, _ in found]
    title = "KL from the SFT policy, nats per sequence (square-root axis)"
    axis = alt.Axis(values=plots.kl_ticks(max(p["kl"] for p in points)), format="~g")
    x = alt.X("kl:Q", title=title, scale=alt.Scale(type="sqrt", nice=False), axis=axis)
    y = alt.Y(f"{measure}:Q", title=f"{measure} reward", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=points))
    band = base.mark_errorband(opacity=0.14).encode(
        x=x, y=alt.Y(f"{measure}_low:Q", title=f"{measure} reward"), y2=f"{measure}_high:Q", color=_tint(names)
    )
    line = base.mark_line(
        strokeWidth=2,
        strokeDash=[5, 4] if measure == "proxy" else [1, 0],
        point=alt.OverlayMarkDef(filled=True, size=18),
    ).encode(x=x, y=y, color=_tint(names), order=alt.Order("k:Q"))
    return plots.svg((band + line).properties(width=440, height=250))


def _tint(names: Sequence[str]) -> Any:
    import altair as alt

    colours = [plots.SERIES[k % len(plots.SERIES)] for k in range(len(names))]
    return alt.Color("run:N", scale=alt.Scale(domain=list(names), range=colours), legend=plots.legend_of(names))
