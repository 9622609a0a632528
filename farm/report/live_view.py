"""A look at a run (``farm/report/live.py``) as lines for a terminal and as a page."""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from farm.records import CurvePoint
from farm.report import html, plots
from farm.report.live import Live, LiveCurve, StageState, Working
from farm.study import words

TONES = {"running": "plain", "done": "good", "stopped": "plain", "failed": "warning", "crashed": "warning"}
_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_BAR = 24


def terminal(live: Live, width: int = 100) -> list[str]:
    """Lines of at most ``width`` characters, without control characters whatever the run folder says."""
    lines = [f"{live.recipe}  {live.run}", f"{live.state}: {live.message}", ""]
    lines += [f"  {s.stage:<14}{_bar(s)}" for s in live.stages]
    if live.working:
        lines += ["", "under way"]
        wide = max(len(w.step) for w in live.working)
        lines += [f"  {w.step:<{wide}}  {progress(w)}" for w in live.working]
    if live.curves:
        long = max(len(c.step) for c in live.curves)
        lines += ["", f"  {'curves':<{long}}  {'proxy':<13}  {'gold':<13}  last point"]
        lines += [f"  {c.step:<{long}}  {_lines(c.points)}  {last(c)}" for c in live.curves]
    if live.outcomes:
        lines += ["", f"  judged    {counts(live.outcomes)}"]
    if live.spend:
        lines += [f"  calls     {counts(live.spend.calls)}", f"  spent     {spent(live)}"]
    if live.state == "running":
        lines += ["", f"  time left {left(live)}"]
    if live.report:
        lines += ["", f"  report    {live.report}"]
    return [_cut(html.visible(line).replace("\n", " ").replace("\t", " "), width) for line in lines]


def page(live: Live, refresh: int | None) -> str:
    """The look as an HTML page that loads itself again every ``refresh`` seconds; None: no more."""
    text = (
        html.environment()
        .get_template("watch.html.j2")
        .render(
            live=live,
            refresh=refresh,
            palette=plots.SERIES,
            tone=TONES.get(live.state, "plain"),
            clock=time.strftime("%H:%M:%S", time.localtime(live.at)),
            took=None if live.since is None else live.at - live.since,
            progress=progress,
            counts=counts,
            spent=spent(live),
            left=left(live),
            last=last,
            spark=spark,
        )
    )
    return text.rstrip() + "\n"


def progress(w: Working) -> str:
    """How far a step is, in words."""
    if w.done is None:
        return "begun"
    text = f"{w.done:,} of {w.total:,}" if w.total is not None else f"{w.done:,}"
    text += f" ({100 * w.done // w.total}%)" if w.total else ""
    text += "" if w.left is None else f", {seconds(w.left)} left"
    shown = ", ".join(f"{name} {value:.3g}" for name, value in w.figures.items())
    return f"{text}; {shown}" if shown else text


def counts(table: dict[str, int]) -> str:
    """Counts by name in one line, with their total."""
    return f"{sum(table.values()):,}: " + ", ".join(f"{name} {n:,}" for name, n in table.items())


def spent(live: Live) -> str:
    """USD in the ledger, out of what is allowed."""
    if live.spend is None:
        return ""
    allowed = "" if live.spend.budget is None else f" of {live.spend.budget:g} allowed"
    return f"{live.spend.usd:.4f} USD{allowed}"


def left(live: Live) -> str:
    """The time left, in words."""
    if live.left is None:
        return "unknown: no step like those left has finished yet"
    return ("at least " if live.left_at_least else "about ") + seconds(live.left)


def seconds(value: float) -> str:
    return str(html.FILTERS["seconds"](value))


def last(curve: LiveCurve) -> str:
    """The last point of a curve, in words."""
    p = curve.points[-1]
    values = [("proxy", p.proxy), ("gold", p.gold), ("KL", p.kl)]
    shown = ", ".join(f"{name} {words.number(v, 2)}" for name, v in values if v is not None)
    return f"{curve.x_name} {words.position(p.x)}: {shown}{'' if curve.whole else ' (going on)'}"


def spark(points: Sequence[CurvePoint], measure: str) -> Markup:
    """A small line of one measure along a curve; empty below two points."""
    values = [v for p in points if (v := getattr(p, measure)) is not None]
    if len(values) < 2:
        return Markup("")
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = 150 / (len(values) - 1)
    line = " ".join(f"{k * step + 3:.1f},{27 - 24 * (v - low) / span:.1f}" for k, v in enumerate(values))
    return Markup(
        '<svg class="spark" width="156" height="30" role="img"><title>{}</title><polyline points="{}"/></svg>'
    ).format(f"{measure}: {words.number(values[0], 2)} to {words.number(values[-1], 2)}", line)


def _bar(s: StageState) -> str:
    if not s.wanted:
        return f"{s.done} done"
    full = _BAR * min(s.done, s.wanted) // s.wanted
    return f"[{'#' * full}{'.' * (_BAR - full)}] {s.done} of {s.wanted}"


def _lines(points: Sequence[CurvePoint]) -> str:
    return "  ".join(
        f"{_blocks([v for p in points if (v := getattr(p, m)) is not None]):<13}" for m in ("proxy", "gold")
    )


def _blocks(values: Sequence[float]) -> str:
    """A line of at most 13 blocks, the lowest value at the bottom."""
    if len(values) > 13:
        values = [values[round(k * (len(values) - 1) / 12)] for k in range(13)]
    low, span = min(values, default=0.0), (max(values, default=0.0) - min(values, default=0.0)) or 1.0
    return "".join(_BLOCKS[round(7 * (v - low) / span)] for v in values)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(0, width - 1)] + "\u2026"
