"""Several runs on one page: methods by runs, paired differences, curves overlaid, settings that differ, costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from farm.records import Estimate
from farm.report import comparison_charts as charts
from farm.report import tables
from farm.report.compared import Compared, Gap, gaps
from farm.report.headline import Point
from farm.report.page import Cell, Chart, Column, Page, Section, Table
from farm.report.tables import MethodLine
from farm.study.words import above_zero, below_zero, interval, listed

MEASURES = {"win_rate": ("win rate", 100.0, 1), "gold": ("gold", 1.0, 2)}
LONGEST = 120  # characters of a setting's value


def page(found: Sequence[Compared], *, seed: int = 0) -> Page:
    """The comparison page of at least two runs."""
    taken = gaps(found, seed=seed)
    labels = [one.name for one in found]
    sections = (_runs(found), _methods(found), _differences(taken), _curves(found), _settings(found), _costs(found))
    total = sum(row.n for one in found for row in one.summary.rows)
    return Page(
        title=f"{len(found)} runs compared",
        points=tuple(_findings(found, taken)),
        sections=tuple(s for s in sections if s.tables or s.charts or s.text),
        meta=f"{', '.join(labels)} · differences are to {labels[0]} · {total:,} verdicts · bootstrap seed {seed}",
        limits=(
            "Each difference has its own 95% interval. With many methods and runs, one in twenty such intervals lies "
            "beside zero by chance: read a lone finding with that in mind.",
            "A difference between runs is one of everything in which they differ, the training seeds and the "
            "annotators' draws included, not only of the setting you had in mind.",
            "Proxy scores are not compared: every run trains its own reward model.",
            "Time depends on the machine and on what else it did.",
        ),
    )  # fmt: skip


def _findings(found: Sequence[Compared], taken: Sequence[Gap]) -> list[Point]:
    """Per run and measure what lies above, what below; what cannot be told apart; what was not compared, and why."""
    points = []
    for one in found[1:]:
        mine = [g for g in taken if g.run == one.name and g.method not in one.summary.yardsticks]
        still = []
        for measure, (name, _, _) in MEASURES.items():
            some = [(g, g.estimate) for g in mine if g.measure == measure and g.estimate is not None]
            above, below = [g for g, e in some if above_zero(e)], [g for g, e in some if below_zero(e)]
            points += [Point("good", _sentence(above, "above"))] if above else []
            points += [Point("warning", _sentence(below, "below"))] if below else []
            still += [name] if some and not above and not below else []
        if still:
            text = f"{one.name} cannot be told from {found[0].name} in any method's {listed(still)}."
            points.append(Point("plain", text))
        if reasons := {f"{MEASURES[g.measure][0]} ({g.why})" for g in mine if g.estimate is None}:
            text = f"{one.name} is not compared with {found[0].name} in {listed(sorted(reasons))}."
            points.append(Point("plain", text))
    if not taken:
        points.append(Point("plain", "The runs have no method in common, so there are no differences to take."))
    return points


def _sentence(some: Sequence[Gap], side: str) -> str:
    name, scale, digits = MEASURES[some[0].measure]
    parts = [f"{g.method} by {interval(_absolute(g.estimate), scale, digits)}" for g in some if g.estimate]
    unit = ", in points" if scale == 100 else ""
    return f"{some[0].run} lies {side} {some[0].base} in {name}{unit}: {listed(parts)} (paired 95% intervals)."


def _absolute(e: Estimate) -> Estimate:
    if (e.value or 0.0) >= 0 or e.value is None or e.ci95_low is None or e.ci95_high is None:
        return e
    return e.model_copy(update={"value": -e.value, "ci95_low": -e.ci95_high, "ci95_high": -e.ci95_low})


def _runs(found: Sequence[Compared]) -> Section:
    columns = (
        "run", "recipe", "training seeds", "instructions", "judge", "reference", "methods", "judge calls", "USD",
        "seconds", "farm",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        s = one.summary
        calls, usd = sum(c.cost.calls for c in s.costs), sum(c.cost.usd for c in s.costs)
        seeds = ", ".join(map(str, s.seeds))
        methods = len({r.method for r in s.rows})
        rows.append(
            (one.name, s.recipe, seeds, s.n_instructions, s.judge, s.reference, methods, calls, usd, s.wall_seconds,
             s.farm_version)
        )  # fmt: skip
    return Section("Runs", tables=(Table(tuple(_column(c) for c in columns), tuple(rows)),))


def _column(name: str) -> Column:
    return Column(name, digits=0 if name == "seconds" else 2)


_OfLine = Callable[[MethodLine], Estimate | float | None]


def _methods(found: Sequence[Compared]) -> Section:
    lines = [{line.method: line for line in tables.methods(one.summary)} for one in found]
    methods = list(dict.fromkeys(m for some in lines for m in some))
    yardsticks = {m for one in found for m in one.summary.yardsticks}

    def table(title: str, scale: float, digits: int, cell: _OfLine, note: str = "") -> Table:
        columns = [Column("method")]
        for one in found:
            columns += [Column(one.name, scale, digits), Column("n")]
        rows: list[tuple[Cell, ...]] = []
        for m in methods:
            row: list[Cell] = [m]
            for some in lines:
                row += [cell(some[m]), some[m].n] if m in some else [None, None]
            rows.append(tuple(row))
        shaded = frozenset(k for k, m in enumerate(methods) if m in yardsticks)
        return Table(tuple(columns), tuple(rows), title, note, shaded)

    rates = (
        "95% intervals over instructions, and over training seeds where there are several. n counts verdicts. Shaded: "
        "yardsticks, not trained."
    )
    out = [table("Win rate, %", 100, 1, lambda line: line.win_rate, rates)]
    more: list[tuple[str, float, int, _OfLine]] = [
        ("Length-controlled win rate, %", 100, 1, lambda line: line.lc_win_rate),
        ("Gold reward", 1, 2, lambda line: line.gold if line.gold.value is not None else None),
        ("KL from the SFT policy, nats per sequence", 1, 1, lambda line: line.kl),
    ]
    for title, scale, digits, cell in more:
        if any(cell(line) is not None for some in lines for line in some.values()):
            out.append(table(title, scale, digits, cell))
    drawn = charts.win_rates([(one.name, one.summary) for one in found])
    chart = (
        [Chart(drawn, "Win rates with 95% intervals, by run. Dotted line: as good as the reference.")] if drawn else []
    )
    return Section("Methods by runs", tables=tuple(out), charts=tuple(chart))


def _differences(taken: Sequence[Gap]) -> Section:
    columns = [Column("method"), Column("run"), Column("minus"), Column("win rate, points", 100, 1, signed=True)]
    columns += [Column("gold", 1, 2, signed=True), Column("instructions"), Column("how")]
    cells: dict[tuple[str, str, str], dict[str, Gap]] = {}
    for g in taken:
        cells.setdefault((g.method, g.run, g.base), {})[g.measure] = g
    rows: list[tuple[Cell, ...]] = []
    for (method, run, base), by in cells.items():
        rate, gold = by.get("win_rate"), by.get("gold")
        sizes = [g.estimate.n for g in by.values() if g.estimate is not None]
        how = list(dict.fromkeys(f"{MEASURES[m][0]}: {g.why}" if g.estimate is None else g.why for m, g in by.items()))
        values = (rate.estimate if rate else None, gold.estimate if gold else None)
        rows.append((method, run, base, *values, max(sizes, default=None), ", ".join(how)))
    note = (
        "Paired by instruction, and by training seed where the runs share seeds. Coloured where the interval excludes "
        "zero."
    )
    return Section(
        "The same method in different runs", tables=(Table(tuple(columns), tuple(rows), note=note),) if rows else ()
    )


def _curves(found: Sequence[Compared]) -> Section:
    methods = dict.fromkeys(c.method for one in found for c in one.summary.curves)
    drawn = []
    for method in methods:
        for measure in ("gold", "proxy"):
            chart = charts.curves([(one.name, one.summary) for one in found], method, measure)
            if chart:
                drawn.append(Chart(chart, f"{measure} reward of {method} against KL, by run. Bands: 95%.", method))
    return Section("Curves", charts=tuple(drawn))


def _settings(found: Sequence[Compared]) -> Section:
    flat = [flattened(one.recipe) for one in found]
    keys = [k for k in dict.fromkeys(k for one in flat for k in one) if len({one.get(k) for one in flat}) > 1]
    columns = (Column("setting"), *(Column(one.name) for one in found))
    rows = tuple((key, *(_short(one.get(key)) for one in flat)) for key in keys)
    if not rows:
        return Section("Settings that differ", ("The resolved recipes are the same.",))
    note = "Of the resolved recipes, defaults included. A dash: that recipe has no such setting."
    return Section("Settings that differ", tables=(Table(columns, rows, note=note),))


def flattened(recipe: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted key -> value as JSON text."""
    out: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):  # a method and its settings
            out[f"{above}{key}"] = str(value[0])
            value = value[1]
        if isinstance(value, dict) and value:
            out |= flattened(value, f"{above}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            out.setdefault(f"{above}{key}", shown)
    return out


def _short(value: str | None) -> str | None:
    return value if value is None or len(value) <= LONGEST else value[: LONGEST - 1] + "\u2026"


def _costs(found: Sequence[Compared]) -> Section:
    stages = list(dict.fromkeys(c.stage for one in found for c in one.summary.costs))
    by = [{c.stage: c for c in one.summary.costs} for one in found]
    columns = [Column("stage")]
    for one in found:
        columns += [Column(f"{one.name}: seconds", digits=0), Column("calls"), Column("tokens"), Column("USD")]
    rows: list[tuple[Cell, ...]] = []
    for stage in stages:
        row: list[Cell] = [stage]
        for some in by:
            c = some.get(stage)
            cost = c.cost if c else None
            row += [c.seconds if c else None]
            row += [cost.calls, cost.prompt_tokens + cost.completion_tokens, cost.usd] if cost else [None, None, None]
        rows.append(tuple(row))
    note = "Seconds are summed over steps, which may run side by side. Calls are to judges."
    return Section("Costs", tables=(Table(tuple(columns), tuple(rows), note=note),) if rows else ())
