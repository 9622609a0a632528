"""The report's tables: what the summary holds, folded for reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farm.records import Budget, Estimate, Outcome
from farm.report.headline import overall
from farm.report.summary import MethodRow, Summary
from farm.study.annotators import AnnotatorRow
from farm.study.budgets import Affordable


@dataclass(frozen=True)
class MethodLine:
    """One line of the method table: a method over its seeds, or one seed of it. Sums for counts, cost and seconds."""

    method: str
    seed: int | None
    seeds: int
    win_rate: Estimate
    lc_win_rate: float | None
    human: Estimate | None
    gold: Estimate
    gold_gain: Estimate | None
    rate_gain: Estimate | None
    proxy: float | None
    kl: float | None
    tokens: float | None
    finished: float | None
    n: int
    failed: int
    usd: float
    seconds: float | None
    parts: tuple[MethodLine, ...] = ()


def methods(summary: Summary) -> list[MethodLine]:
    """One line per method in order of appearance; ``parts`` holds its seeds where there are several."""
    names = list(dict.fromkeys(row.method for row in summary.rows))
    return [_line(summary, name, [row for row in summary.rows if row.method == name]) for name in names]


def _line(summary: Summary, method: str, rows: Sequence[MethodRow]) -> MethodLine:
    single = len(rows) == 1
    gains = {m: overall(summary, m).get(method) for m in ("win_rate", "gold")} if not single else {}
    level = {c.measure: c.estimate for c in summary.levels if c.method == method}
    parts = tuple(_of_seed(summary, row) for row in rows)
    if single:
        only = parts[0]
        return MethodLine(**{**only.__dict__, "gold": level.get("gold", only.gold)})
    rate, gold = gains.get("win_rate"), gains.get("gold")
    return MethodLine(
        method=method,
        seed=None,
        seeds=len(rows),
        win_rate=level.get("win_rate", _bare(_mean(rows, lambda r: r.win_rate), rows)),
        lc_win_rate=_mean(rows, lambda r: r.lc_win_rate),
        human=level.get("human_win_rate"),
        gold=level.get("gold", _bare(_mean(rows, lambda r: r.gold), rows)),
        gold_gain=gold.estimate if gold else None,
        rate_gain=rate.estimate if rate else None,
        proxy=_mean(rows, lambda r: r.proxy),
        kl=_mean(rows, lambda r: r.kl),
        tokens=_mean(rows, lambda r: r.mean_tokens),
        finished=_mean(rows, lambda r: r.finished),
        n=sum(r.n for r in rows),
        failed=sum(r.n_failed for r in rows),
        usd=sum(r.cost_usd for r in rows),
        seconds=_total([r.seconds for r in rows]),
        parts=parts,
    )


def _of_seed(summary: Summary, row: MethodRow) -> MethodLine:
    gain = {c.measure: c.estimate for c in summary.differences if c.method == row.method and c.seed == row.seed}
    return MethodLine(
        method=row.method,
        seed=row.seed,
        seeds=1,
        win_rate=Estimate(value=row.win_rate, ci95_low=row.ci95_low, ci95_high=row.ci95_high, n=row.n),
        lc_win_rate=row.lc_win_rate,
        human=row.human_win_rate,
        gold=Estimate(value=row.gold, n=row.n),
        gold_gain=gain.get("gold"),
        rate_gain=gain.get("win_rate"),
        proxy=row.proxy,
        kl=row.kl,
        tokens=row.mean_tokens,
        finished=row.finished,
        n=row.n,
        failed=row.n_failed,
        usd=row.cost_usd,
        seconds=row.seconds,
    )


def _bare(value: float | None, rows: Sequence[MethodRow]) -> Estimate:
    return Estimate(value=value, n=sum(r.n for r in rows))


def _mean(rows: Sequence[MethodRow], field: Callable[[MethodRow], float | None]) -> float | None:
    return _average([field(row) for row in rows])


def _average(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _total(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def sources(summary: Summary) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Sub-distribution names, and per method its win rate on each (mean over seeds)."""
    names = sorted({name for row in summary.rows for name in row.by_source})
    lines = []
    for method in dict.fromkeys(row.method for row in summary.rows):
        rows = [row for row in summary.rows if row.method == method]
        cells = [_average([r.by_source[name].value for r in rows if name in r.by_source]) for name in names]
        lines.append((method, cells))
    return names, lines if names else []


def outcomes(summary: Summary) -> tuple[list[str], list[tuple[str, list[int], int]]]:
    """Outcome names that occur, and per method (summed over seeds) the counts and their total."""
    present = {name for row in summary.rows for name in row.outcomes} | set(summary.training_outcomes)
    names = [str(o) for o in Outcome if str(o) in present]
    lines = []
    for method in dict.fromkeys(row.method for row in summary.rows):
        counts = [sum(row.outcomes.get(name, 0) for row in summary.rows if row.method == method) for name in names]
        lines.append((method, counts, sum(counts)))
    if summary.training_outcomes:
        counts = [summary.training_outcomes.get(name, 0) for name in names]
        lines.append(("training labels", counts, sum(counts)))
    return names, lines


@dataclass(frozen=True)
class SpendingLine:
    """What a row spent, each figure the mean over its training seeds; ``best_of`` responses are drawn per answer."""

    method: str
    budget: Budget
    selecting: float
    best_of: int


def spending(summary: Summary) -> list[SpendingLine]:
    """One line per trained row, where the recipe selects, so that rows can be held against each other."""
    if not summary.choices:
        return []
    rows = [r for r in summary.rows if r.budget is not None and r.method != summary.baseline]
    return [_spent(summary, m, [r for r in rows if r.method == m]) for m in dict.fromkeys(r.method for r in rows)]


def _spent(summary: Summary, method: str, rows: Sequence[MethodRow]) -> SpendingLine:
    budgets = [r.budget for r in rows if r.budget is not None]
    total = sum(budgets, Budget()).model_dump()
    mean = {n: round(v / len(budgets)) if isinstance(v, int) else v / len(budgets) for n, v in total.items()}
    asked = sum(c.comparisons for c in summary.choices if c.method == method)
    return SpendingLine(method, Budget(**mean), asked / len(rows), max(r.best_of for r in rows))


def affordable(summary: Summary) -> tuple[list[int], list[tuple[str, list[Affordable | None]]]]:
    """The generation budgets, and per row what it reaches with each (None: nothing to show within it)."""
    budgets = sorted({a.sequences for a in summary.affordable})
    found = {(a.method, a.sequences): a for a in summary.affordable}
    shown = {a.method for a in summary.affordable}
    names = [m for m in dict.fromkeys(row.method for row in summary.rows) if m in shown]
    return budgets, [(m, [found.get((m, n)) for n in budgets]) for m in names]


@dataclass(frozen=True)
class AnnotatorLine:
    """A row of the annotator table with what is derived from it: ``failed`` is the share of acts without verdict."""

    row: AnnotatorRow
    failed: float | None
    failures: list[tuple[str, int]]
    tokens: float | None


def annotators(summary: Summary) -> list[AnnotatorLine]:
    """One line per annotator, the pool last."""
    lines = []
    for a in summary.annotators:
        failures = [(str(o), a.outcomes[o]) for o in Outcome if not o.judged and a.outcomes.get(o)]
        asked = a.acts - a.outcomes.get(Outcome.SKIPPED, 0)
        failed = sum(count for name, count in failures if name != Outcome.SKIPPED)
        tokens = (a.prompt_tokens + a.completion_tokens) / a.calls if a.calls else None
        lines.append(AnnotatorLine(a, failed / asked if asked else None, failures, tokens))
    return lines
