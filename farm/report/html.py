"""One HTML file that a reader can open, print and mail: no script, no network, light and dark.

All text that models, recipes or files provided is hostile: autoescaped, isolated from its surroundings' writing
direction, control characters made visible; a content security policy forbids scripts and every request.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from farm.records import Estimate
from farm.report import plots, tables
from farm.report.headline import headline
from farm.report.samples import Exhibit
from farm.report.summary import Summary, add_up
from farm.study import words

LONGEST = 4000
_KEEP = "\n\t"
_JOINERS = "\u200c\u200d"  # needed by several scripts and by emoji; harmless inside an isolated block


def visible(text: str) -> str:
    """Text with every control, format, unassigned or surrogate character replaced by a visible name, cut at 4000."""
    shown = "".join(map(_seen, text[:LONGEST]))
    return shown if len(text) <= LONGEST else f"{shown}\u2026 ({len(text) - LONGEST:,} more characters)"


def _seen(c: str) -> str:
    if c in _KEEP or c in _JOINERS or c.isprintable():
        return c
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return c if unicodedata.category(c) == "Zs" else f"\u27e8U+{code:04X}\u27e9"


def environment() -> Environment:
    """The templates, with hostile text escaped and made visible, and the numbers' formats as filters."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    made.filters |= FILTERS
    return made


def drawn(svg: str, name: str) -> Markup:
    """An SVG from :mod:`farm.report.plots`, themed and safe to put into a page under a ``name`` unique in it."""
    return Markup("".join(map(_seen, plots.themed(svg, name))))  # noqa: S704  (drawn by us; texts escaped by Vega)


def render(
    summary: Summary, *, exhibits: Sequence[Exhibit] = (), recipe: str = "", title: str = "", samples: str = ""
) -> str:
    """The report as HTML. ``recipe`` is the resolved recipe's text; ``title`` defaults to the recipe's name;
    ``samples`` names the file beside it that holds the sample browser."""
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            s=summary,
            title=title or f"{summary.recipe}: RLHF methods compared",
            points=headline(summary),
            methods=tables.methods(summary),
            spending=tables.spending(summary),
            affordable=tables.affordable(summary),
            failures=any(row.n_failed for row in summary.rows),
            sources=tables.sources(summary),
            outcomes=tables.outcomes(summary),
            annotators=tables.annotators(summary),
            soft=any(a.soft for a in summary.annotators),
            timed=any(a.seconds_per_call for a in summary.annotators),
            both_orders=any(a.consistent.n for a in summary.annotators),
            totals=add_up([row.outcomes for row in summary.rows]),
            charts=_charts(summary),
            exhibits=exhibits,
            recipe=recipe,
            samples=samples,
            series=plots.colours(summary),
            palette=plots.SERIES,
        )
    )
    return page.rstrip() + "\n"


def _charts(summary: Summary) -> dict[str, Any]:
    def chart(name: str, svg: str | None) -> Markup | None:
        return drawn(svg, name) if svg else None

    names = list(dict.fromkeys(c.method for c in summary.curves))
    curves = [(name, chart(f"curve{k}", plots.curve(summary, name))) for k, name in enumerate(names)]
    return {
        "win_rates": chart("rates", plots.win_rates(summary)),
        "gold_kl": chart("gold", plots.against(summary, "kl", "gold")),
        "proxy_kl": chart("proxy", plots.against(summary, "kl", "proxy")),
        "gold_drawn": chart("drawn", plots.against(summary, "sequences", "gold")),
        "curves": [(name, svg) for name, svg in curves if svg],
        "correlation": chart("correlation", plots.correlation(summary)),
    }


def write(path: Path, page: str) -> None:
    """Write the page atomically as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)


def _dash(formatter: Callable[..., str]) -> Callable[..., Any]:
    """A formatter that shows None as a dash, whose title says what it means."""

    def shown(value: Any, *args: Any) -> Any:
        return MISSING if value is None else formatter(value, *args)

    return shown


MISSING = Markup('<span class="none" title="not measured or not estimable">\u2013</span>')


def _bounds(estimate: Estimate | None, scale: float = 1.0, digits: int = 2) -> Any:
    if estimate is None or estimate.ci95_low is None or estimate.ci95_high is None:
        return ""
    low, high = words.number(scale * estimate.ci95_low, digits), words.number(scale * estimate.ci95_high, digits)
    return Markup('<span class="ci">[{}, {}]</span>').format(low, high)


def _signed(value: float, scale: float = 1.0, digits: int = 2) -> str:
    return ("+" if value > 0 else "") + words.number(scale * value, digits)


def _seconds(value: float) -> str:
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


FILTERS: dict[str, Callable[..., Any]] = {
    "position": _dash(words.position),
    "num": _dash(words.number),
    "hundred": _dash(lambda value, digits=1: words.number(100 * value, digits)),
    "signed": _dash(_signed),
    "count": _dash(lambda value: f"{value:,}"),
    "seconds": _dash(_seconds),
    "usd": _dash(lambda value: f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.4f}"),
    "bounds": _bounds,
}
