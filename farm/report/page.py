"""A page of findings, tables and charts in the report's visual language, for every command that concludes something.

Tables first, charts second; no script, no request, hostile text shown as text (``farm/report/html.py`` says how).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from farm.records import Estimate
from farm.report import html, plots
from farm.report.headline import Point
from farm.study import words

Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """A table's column. Numbers and estimates are multiplied by ``scale`` and shown with ``digits`` decimals (whole
    numbers as they are when ``digits`` is 0); ``signed`` puts a plus sign before gains and colours them, the other way
    round where ``less`` is better. ``text`` is for prose: set from the left, and broken into lines."""

    name: str
    scale: float = 1.0
    digits: int = 2
    signed: bool = False
    less: bool = False
    text: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; an Estimate is shown with its interval, None as a dash. ``shaded`` names rows by
    number that are yardsticks and not results."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""
    shaded: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chart:
    """An SVG as :func:`farm.report.plots.svg` makes it, and what it shows."""

    svg: str
    caption: str = ""
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with sentences, tables and charts, in that order. ``open`` False folds it away."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    open: bool = True


@dataclass(frozen=True)
class Page:
    """``points`` are the findings in words, the first the most important; ``meta`` one line of n, seeds, judge, cost;
    ``limits`` what a reader must not conclude."""

    title: str
    points: tuple[Point, ...]
    sections: tuple[Section, ...]
    meta: str = ""
    limits: tuple[str, ...] = field(default=())


def render(page: Page) -> str:
    """The page as one HTML file's text. Raises ValueError when a row does not fit its table's columns."""
    for section in page.sections:
        for table in section.tables:
            if any(len(row) != len(table.columns) for row in table.rows):
                raise ValueError(
                    f"table {table.title or section.title!r}: a row does not have {len(table.columns)} cells"
                )
    environment = html.environment()
    environment.filters["cell"] = _cell
    environment.filters["drawn"] = html.drawn
    text = environment.get_template("page.html.j2").render(page=page, palette=plots.SERIES)
    return text.rstrip() + "\n"


def _cell(value: Cell, column: Column) -> str | Markup:
    if value is None:
        return html.MISSING
    if isinstance(value, str):
        return value
    middle = value.value if isinstance(value, Estimate) else float(value)
    bounds = html.FILTERS["bounds"](value, column.scale, column.digits) if isinstance(value, Estimate) else ""
    if isinstance(value, int) or middle is None:
        return Markup("{}{}").format(html.MISSING if middle is None else f"{value:,}", bounds)
    shown = html.FILTERS["signed" if column.signed else "num"](middle * column.scale, *_arguments(column))
    tone = _tone(value, column) if column.signed and isinstance(value, Estimate) else ""
    return Markup('<span class="{}">{}</span>{}').format(tone, shown, bounds)


def _arguments(column: Column) -> tuple[float, int] | tuple[int]:
    return (1.0, column.digits) if column.signed else (column.digits,)


def _tone(estimate: Estimate, column: Column) -> str:
    sign = words.shown_sign(estimate, column.scale, column.digits) * (-1 if column.less else 1)
    return ("", "up", "down")[sign]
