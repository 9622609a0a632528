"""Charts of over-optimization: gold and proxy against the square root of KL, the laws over them, shifts of the peak.

Each returns an SVG; :func:`save` writes SVG and PDF for papers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farm.records import Estimate
from farm.report.plots import AXIS, SERIES, svg
from farm.study.curves import Band, Shift
from farm.study.fits import CurveFit, predict

TITLE = "square root of KL from SFT, nats per sequence"


def main(bands: Sequence[Band], fits: Sequence[CurveFit]) -> list[tuple[str, str, str]]:
    """(name, SVG, caption) of every chart of curves that the bands allow."""
    first = next((b.method for b in bands if b.x_name == "n"), None)
    policies = list(dict.fromkeys(b.method for b in bands if b.x_name != "n"))
    shown = [*([first] if first else []), *policies][:4]  # more lines with bands cannot be told apart
    pools = list(dict.fromkeys(b.method for b in bands if b.x_name == "n"))[: len(SERIES)]
    out = []
    if gold := against_kl(bands, "gold", shown, fits):
        out.append(("gold", gold, "Gold, with 95% intervals over instructions and seeds; dashed: the fitted law."))
    if proxy := against_kl(bands, "proxy", shown):
        out.append(("proxy", proxy, "Proxy reward of the same curves, in standard deviations under SFT."))
    if len(pools) > 1 and (every := against_kl(bands, "gold", pools)):
        out.append(("rewards", every, "Gold of best-of-n by every reward, all from the same samples."))
    if first and (kl := bound(bands, first)):
        out.append(
            (
                "kl",
                kl,
                "KL of best-of-n as estimated, and the formula log n \u2212 (n \u2212 1)/n: an upper bound only.",
            )
        )
    return out


def against_kl(
    bands: Sequence[Band], measure: str, methods: Sequence[str], fits: Sequence[CurveFit] = ()
) -> str | None:
    """``measure`` ("gold" or "proxy") against d = sqrt(KL), with bands and, where given, the laws."""
    import altair as alt

    rows = [row for m in methods for row in _rows(bands, measure, m)]
    if len(rows) < 2:
        return None
    names = [m for m in methods if any(r["method"] == m for r in rows)]
    tint = _tint(names)
    base = alt.Chart(alt.Data(values=rows))
    x = alt.X("d:Q", title=TITLE, scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", title=f"{measure} reward", scale=alt.Scale(zero=False))
    layers = [
        base.mark_area(opacity=0.14).encode(x=x, y=alt.Y("low:Q", title=f"{measure} reward"), y2="high:Q", color=tint),
        base.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(filled=True, size=18)).encode(
            x=x, y=y, color=tint, order="k:Q"
        ),
    ]
    laws = [row for f in fits if f.method in names for row in _law(f, rows)]
    if laws:
        dashed = alt.Chart(alt.Data(values=laws)).mark_line(strokeDash=[4, 4], strokeWidth=1.5)
        layers.append(dashed.encode(x=x, y=y, color=tint, order="k:Q"))
    ends = [max((r for r in rows if r["method"] == m), key=lambda r: r["k"]) for m in names]
    _apart(ends, [r[bound] for r in rows for bound in ("low", "high")])
    labels = alt.Chart(alt.Data(values=ends)).mark_text(align="left", dx=7, fontSize=11.5, fontWeight=600)
    layers.append(labels.encode(x=x, y=alt.Y("label:Q"), text="method:N", color=tint))
    return svg(alt.layer(*layers).properties(width=405, height=290))


def _rows(bands: Sequence[Band], measure: str, method: str) -> list[dict[str, Any]]:
    rows = []
    for k, b in enumerate(b for b in bands if b.method == method):
        e: Estimate = getattr(b, measure)
        if e.value is None or b.kl is None:
            continue
        low = e.ci95_low if e.ci95_low is not None else e.value
        high = e.ci95_high if e.ci95_high is not None else e.value
        rows.append({"method": method, "k": k, "d": math.sqrt(b.kl), "value": e.value, "low": low, "high": high})
    return rows


def _law(f: CurveFit, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The law's line over the measured range, from the measured start."""
    import numpy as np

    mine = [r for r in rows if r["method"] == f.method]
    if f.refused or not mine or f.alpha.value is None or f.beta.value is None:
        return []
    d = np.linspace(min(f.d), max(f.d), 60)
    gains = predict(f.alpha.value, f.beta.value, d, f.form)
    start = mine[0]["value"]
    return [
        {"method": f.method, "k": k, "d": float(v), "value": float(start + g)}
        for k, (v, g) in enumerate(zip(d, gains, strict=True))
    ]


def _apart(ends: list[dict[str, Any]], values: Sequence[float]) -> None:
    """Labels at the ends of lines, moved apart where lines end together; ``values`` span the axis."""
    room = 0.05 * (max(values) - min(values))
    last = -math.inf
    for row in sorted(ends, key=lambda r: r["value"]):
        row["label"] = last = max(row["value"], last + room)


def bound(bands: Sequence[Band], method: str) -> str | None:
    """KL of best-of-n against n, with the upper bound."""
    import altair as alt

    rows = [
        {"n": b.x, "kl": kl, "what": what}
        for b in bands
        if b.method == method and b.kl_bound is not None and b.kl is not None
        for what, kl in (("estimate", b.kl), ("upper bound", b.kl_bound))
    ]
    if len(rows) < 4:
        return None
    dash = alt.StrokeDash(
        "what:N", scale=alt.Scale(domain=["estimate", "upper bound"], range=[[1, 0], [4, 4]]),
        legend=alt.Legend(title=None, orient="top-left"),
    )  # fmt: skip
    chart = alt.Chart(alt.Data(values=rows)).mark_line(color=SERIES[0], strokeWidth=2)
    x = alt.X("n:Q", title="n (log scale)", scale=alt.Scale(type="log", base=2, nice=False))
    return svg(chart.encode(x=x, y=alt.Y("kl:Q", title="KL, nats"), strokeDash=dash).properties(width=300, height=210))


def shifts(rows: Sequence[Shift]) -> str | None:
    """Dots with intervals: how every change moves the gold at the peak and at the end."""
    import altair as alt

    values = []
    for s in rows:
        for what, e in (("at the peak", s.peak_gold), ("at the end", s.end_gold)):
            if e.value is not None:
                low, high = (v if v is not None else e.value for v in (e.ci95_low, e.ci95_high))
                values.append({"name": s.name, "what": what, "value": e.value, "low": low, "high": high})
    if not values:
        return None
    base = alt.Chart(alt.Data(values=values))
    y = alt.Y("name:N", sort=[s.name for s in rows], title=None, axis=alt.Axis(labelLimit=220, ticks=False))
    tint = alt.Color(
        "what:N", scale=alt.Scale(domain=["at the peak", "at the end"], range=[SERIES[0], SERIES[1]]),
        legend=alt.Legend(title=None, orient="top"),
    )  # fmt: skip
    offset = alt.YOffset("what:N")
    zero = alt.Chart(alt.Data(values=[{"v": 0}])).mark_rule(color=AXIS, strokeDash=[2, 3]).encode(x=alt.X("v:Q"))
    bars = base.mark_rule(strokeWidth=2).encode(
        y=y, yOffset=offset, x=alt.X("low:Q", title="gold, difference"), x2="high:Q", color=tint
    )
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(y=y, yOffset=offset, x="value:Q", color=tint)
    return svg(alt.layer(zero, bars, dots).properties(width=430, height=alt.Step(11)))


def _tint(names: Sequence[str]) -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(names), range=[SERIES[k % len(SERIES)] for k in range(len(names))])
    return alt.Color("method:N", scale=scale, legend=None)


def save(folder: Path, drawn: Mapping[str, str]) -> list[Path]:
    """Write every chart as ``<name>.svg`` and ``<name>.pdf``; returns the files."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in drawn.items():
        files += [folder / f"{name}.svg", folder / f"{name}.pdf"]
        files[-2].write_text(text, encoding="utf-8")
        files[-1].write_bytes(vl_convert.svg_to_pdf(text))
    return files
