"""Charts of the agreement and the calibration page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farm.records import Agreement
from farm.report.plots import AXIS, MUTED, SERIES, svg
from farm.study.held_out import Bin, SplitShare
from farm.study.people import Splits

YARDSTICKS = ("human", "longest", "first", "random")
CALIBRATED, UNIFORM = SERIES[0], SERIES[1]


def agreement(rows: Sequence[Agreement]) -> str | None:
    """Dot plot of the agreement with the majority, intervals as lines; the yardsticks are grey diamonds."""
    import altair as alt

    known = [r for r in rows if r.agreement.value is not None]
    if not known:
        return None
    data: list[dict[str, Any]] = []
    for r in known:
        e = r.agreement
        value = 100 * (e.value or 0.0)
        bottom, top = (value if b is None else 100 * b for b in (e.ci95_low, e.ci95_high))
        kind = "yardstick" if r.annotator in YARDSTICKS else "judge"
        data.append({"who": r.annotator, "value": value, "low": bottom, "high": top, "kind": kind})
    order = [d["who"] for d in sorted(data, key=lambda d: -d["value"])]
    y = alt.Y("who:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False, grid=True))
    air = 2.0
    domain = [max(0, min(d["low"] for d in data) - air), min(100, max(d["high"] for d in data) + air)]
    scale = alt.Scale(domain=domain, nice=False)
    title = "agreement with the majority of people, percent"
    x, low = (alt.X(f"{field}:Q", title=title, scale=scale) for field in ("value", "low"))
    kinds = ["judge", "yardstick"]
    tint = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[SERIES[0], MUTED]), legend=None)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=["circle", "diamond"]), legend=None)
    base = alt.Chart(alt.Data(values=data))
    human = alt.Chart(alt.Data(values=[d for d in data if d["who"] == "human"]))
    marks = [
        human.mark_rule(color=AXIS, strokeDash=[2, 3]).encode(x=x),
        base.mark_rule(strokeWidth=2.5).encode(y=y, x=low, x2="high:Q", color=tint),
        base.mark_point(filled=True, size=85, opacity=1).encode(y=y, x=x, color=tint, shape=shape),
    ]
    return svg(alt.layer(*marks).properties(width=620, height=alt.Step(25)))


def reliability(calibrated: Sequence[Bin], uniform: Sequence[Bin]) -> str:
    """How often people voted for the favoured side against the predicted chance, before and after calibration."""
    import altair as alt

    data: list[dict[str, Any]] = [
        {"x": 100 * b.predicted, "y": 100 * b.observed, "n": b.n, "who": who}
        for who, bins in (("calibrated", calibrated), ("25% flips", uniform))
        for b in bins
    ]
    low = min(45.0, *(d["y"] - 3 for d in data))
    diagonal = alt.Chart(alt.Data(values=[{"x": 50, "y": 50}, {"x": 100, "y": 100}]))
    base = alt.Chart(alt.Data(values=data))
    across, up = alt.Scale(domain=[50, 100], nice=False), alt.Scale(domain=[low, 100], nice=False)
    x = alt.X("x:Q", title="predicted chance of the favoured side, percent", scale=across)
    y = alt.Y("y:Q", title="people who voted so, percent", scale=up)
    tint = _tint(["calibrated", "25% flips"])
    size = alt.Size("n:Q", legend=None, scale=alt.Scale(range=[25, 160]))
    marks = [
        diagonal.mark_line(color=AXIS, strokeDash=[2, 3]).encode(x=x, y=y),
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=tint),
        base.mark_point(filled=True, opacity=1).encode(x=x, y=y, color=tint, size=size),
    ]
    return svg(alt.layer(*marks).properties(width=330, height=300))


def splits(rows: Sequence[SplitShare]) -> str | None:
    """Vote splits of the most frequent number of votes: share of pairs for people and for both populations."""
    if not rows:
        return None
    total = {v: sum(r.people for r in rows if r.votes == v) for v in {r.votes for r in rows}}
    votes = max(sorted(total), key=lambda v: (total[v] > 0, v > 2, total[v]))
    some = [r for r in rows if r.votes == votes]
    names = ("people", "calibrated", "25% flips")
    data = [
        {"split": f"{votes - r.minority} : {r.minority}", "who": who, "share": 100 * value / max(total[votes], 1)}
        for r in some
        for who, value in zip(names, (r.people, r.calibrated, r.uniform), strict=True)
    ]
    return _bars(data, list(names), [MUTED, CALIBRATED, UNIFORM], f"vote split ({votes} votes)")


def people_splits(rows: Sequence[Splits]) -> str | None:
    """Vote splits of people, one bar per split, for the most frequent number of votes."""
    if not rows:
        return None
    total = {v: sum(r.pairs for r in rows if r.votes == v) for v in {r.votes for r in rows}}
    votes = max(sorted(total), key=lambda v: total[v])
    data = [
        {"split": f"{votes - r.minority} : {r.minority}", "who": "people", "share": 100 * r.pairs / total[votes]}
        for r in rows
        if r.votes == votes
    ]
    return _bars(data, ["people"], [MUTED], f"vote split ({votes} decided votes, {total[votes]} pairs)")


def _bars(data: list[dict[str, Any]], names: list[str], colours: list[str], title: str) -> str:
    import altair as alt

    base = alt.Chart(alt.Data(values=data))
    x = alt.X("split:N", title=title, axis=alt.Axis(labelAngle=0, ticks=False), sort=None)
    y = alt.Y("share:Q", title="pairs, percent")
    tint = _tint(names, colours)
    chart = base.mark_bar().encode(x=x, y=y, color=tint, xOffset=alt.XOffset("who:N", sort=names))
    return svg(chart.properties(width=330, height=300))


def _tint(names: list[str], colours: Sequence[str] = (CALIBRATED, UNIFORM)) -> Any:
    import altair as alt

    legend = alt.Legend(orient="top", title=None, labelFontSize=12, labelColor=MUTED) if len(names) > 1 else None
    return alt.Color("who:N", scale=alt.Scale(domain=names, range=list(colours)), legend=legend, sort=names)
