"""What a laboratory found: typed numbers for programs, and their page for people."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from farm.errors import DataError
from farm.records import Estimate, Record, problems
from farm.report import overoptimization_charts as charts
from farm.report.headline import Point
from farm.report.page import Cell, Chart, Column, Page, Section, Table
from farm.study.crossing import Crossing
from farm.study.curves import Band, Peak, Shift, Spending
from farm.study.fits import CurveFit
from farm.study.overoptimization import Verdict
from farm.study.recorded import Pick
from farm.study.warning import SIGNALS, Mark, Reliability
from farm.study.words import above_zero, interval, number, percent, position

SCHEMA_VERSION = 1

MEASURES = ("peak_gold", "arc_kl", "fall")  # of a shift, that findings speak of


class ModelRow(Record):
    """One reward model, over training seeds: its accuracy on held-out labels and that of "the longer one wins"."""

    reward: str
    n_train: int
    accuracy: Estimate
    longer_wins: Estimate


class Drift(Record):
    """What the responses are like at one place of a curve, averaged over seeds: gold by its terms where they are known,
    mean length in tokens, share of repeated words."""

    method: str
    where: str
    x: float
    proxy: float
    gold: float | None
    tokens: float
    repeats: float
    terms: dict[str, float] = Field(default_factory=dict)


class Example(Record):
    """One instruction answered at the start, at the gold peak and at the end of a curve."""

    method: str
    instruction: str
    where: str
    text: str
    proxy: float
    gold: float | None


class Numbers(Record):
    """Everything a laboratory concluded. ``gold`` says where gold came from; ``failures`` counts judgements without a
    verdict by outcome; ``models`` the reward models trained."""

    schema_version: int = SCHEMA_VERSION
    farm_version: str
    recipe: str
    seeds: tuple[int, ...]
    gold: str
    pool_instructions: int
    pool_size: int
    curve_instructions: int
    bands: tuple[Band, ...]
    peaks: tuple[Peak, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    fits: tuple[CurveFit, ...] = ()
    spending: tuple[Spending, ...] = ()
    shifts: tuple[Shift, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    marks: tuple[Mark, ...] = ()
    models: tuple[ModelRow, ...] = ()
    drifts: tuple[Drift, ...] = ()
    examples: tuple[Example, ...] = ()
    picks: tuple[Pick, ...] = ()
    outcomes: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(path: Path) -> Numbers:
    """Read saved numbers. Raises DataError when the file is absent or does not validate."""
    try:
        return Numbers.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    except ValidationError as e:
        raise DataError(f"{path}: " + problems(e)) from None


def findings(n: Numbers, *, every: bool = True) -> list[Point]:
    """The findings in words, the most important first; without ``every`` those that open a page: one law and one price
    per kind of method, and of the changes those that moved something."""
    points = [Point("warning" if v.over_optimized else "plain", v.sentence) for v in n.verdicts]
    points += [Point("plain", f.sentence) for f in n.fits[:2]]
    prices = [s for s in n.spending if s.second == n.spending[0].second]
    middle = len(prices) // 2
    points += [Point("plain", _spent(s)) for s in (prices if every else prices[middle : middle + 1])]
    points += [Point("plain", _moved(s)) for s in n.shifts if s.question and (every or any(map(s.moves, MEASURES)))]
    points += [
        Point("warning" if any(c.verdict.gold_falls for c in x.cells) else "plain", x.sentence) for x in n.crossings
    ]
    best = max(n.reliability, key=lambda r: r.saved.value or 0.0, default=None)
    if best is not None:
        points.append(Point("good" if above_zero(best.saved) else "plain", _light(best)))
    return points


def _spent(s: Spending) -> str:
    more = "more" if above_zero(s.difference) else "more in every seed" if s.in_each > 0 else "not measurably more"
    return (
        f"For a proxy gain of {number(s.gain, 1)} SD, {s.first} spends {interval(s.first_kl, digits=1)} nats of KL and "
        f"{s.second} {interval(s.second_kl, digits=1)}: {more}."
    )


def _moved(s: Shift) -> str:
    def way(what: str, up: str, down: str, same: str) -> str:
        said = (same, up, down)[s.moves(what)]
        each = s.only_in_each(what)
        return f"{said}{' in every seed' if each else ''} ({'on average ' if each else ''}{interval(getattr(s, what))})"

    return (
        f"{s.question} {s.name} against {s.against}: the gold peak is "
        f"{way('peak_gold', 'higher', 'lower', 'not measurably higher or lower')}, its KL "
        f"{way('arc_kl', 'larger', 'smaller', 'not measurably different')} (of its highest point "
        f"{interval(s.peak_kl)}), the fall after it "
        f"{way('fall', 'deeper', 'shallower', 'not measurably different')}."
    )


def _light(r: Reliability) -> str:
    return (
        f"Warning light: '{r.signal}' does best on unseen seeds: it went on for {r.fired} of {r.curves} curves, for "
        f"{r.in_time} of them before gold had passed its peak; stopping at its mark leaves {interval(r.left)} of gold "
        f"on the table, going to the end {interval(r.without)}."
    )


def page(n: Numbers) -> Page:
    """The page: findings, then curves, laws, shifts, the 2x2, the warning light, and what was exploited."""
    sections = [_curves(n), _peaks(n), _laws(n), _shifts(n), _crossing(n), _light_section(n), _exploits(n), _picks(n),
                _models(n)]  # fmt: skip
    names = ", ".join(map(str, n.seeds))
    trained = any(p.x_name != "n" for p in n.bands)
    policies = f"policies on {n.curve_instructions} instructions \u00b7 " if trained else ""
    meta = (
        f"{n.recipe} \u00b7 farm {n.farm_version} \u00b7 seeds {names} \u00b7 best-of-n from {n.pool_size:,} samples "
        f"of each of {n.pool_instructions} instructions \u00b7 {policies}gold: {n.gold}"
    )
    return Page(
        title=f"Over-optimization: {n.recipe}",
        points=tuple(findings(n, every=False)),
        sections=tuple(s for s in sections if s),
        meta=meta,
        limits=n.notes,
    )


def _curves(n: Numbers) -> Section | None:
    shown = tuple(Chart(svg, caption) for _, svg, caption in charts.main(n.bands, n.fits))
    return Section("Curves", charts=shown) if shown else None


def _peaks(n: Numbers) -> Section:
    names = ("method", "x", "peak at", "KL there", "KL, middle of the top", "KL, turn of the arc", "gold gain",
             "fall after it", "proxy gain")  # fmt: skip
    peaks = Table(
        columns=tuple(map(Column, names)),
        rows=tuple(
            (p.method, p.x_name, p.x, p.kl, p.middle_kl, p.arc_kl, p.gain, p.fall, p.proxy_gain) for p in n.peaks
        ),
        note="Three ways to say where a flat curve peaks: its highest point; the middle of the stretch where gold is "
        "within a tenth of its gain of the highest; the turn of the parabola in \u221aKL fitted from the start until "
        "gold has fallen as far below it as it had risen. The highest point is the noisiest. "
        "Gain = gold at the peak minus at the start, fall = at the peak minus at the end, both with the peak "
        "chosen on other instructions than it is measured on. KL in nats per sequence, proxy in standard deviations "
        "under SFT.",
    )
    spent = Table(
        title="KL paid for the same proxy gain",
        columns=(
            Column("proxy gain, SD", digits=1),
            *map(Column, ("first", "its KL", "second", "its KL ", "second pays more")),
        ),
        rows=tuple((s.gain, s.first, s.first_kl, s.second, s.second_kl, s.difference) for s in n.spending),
        note="Best-of-n by the very reward model that the policy was trained on, also where the curves above are means "
        "over several models.",
    )
    return Section("Where gold peaks", tables=(peaks, spent) if n.spending else (peaks,))


def _laws(n: Numbers) -> Section | None:
    if not n.fits:
        return None
    rows: list[tuple[Cell, ...]] = []
    for f in n.fits:
        law = "d(\u03b1 \u2212 \u03b2d)" if f.form == "best_of_n" else "d(\u03b1 \u2212 \u03b2 log d)"
        e = f.extrapolation
        rows.append(
            (
                f.method,
                law,
                f.alpha,
                f.beta,
                f.peak_kl,
                f.peak_gain,
                f.r2,
                f.r2_other,
                e.error if e else None,
                e.peak_kl if e else None,
            )
        )
    names = ("method", "law", "\u03b1", "\u03b2", "KL of its peak", "gain there", "R\u00b2", "R\u00b2 of the other law",
             "error at the end", "peak KL foreseen")  # fmt: skip
    table = Table(
        columns=tuple(map(Column, names)),
        rows=tuple(rows),
        note="d = square root of KL. The last two columns fit the first 60% of d only and predict the rest: error = "
        "measured \u2212 predicted gain at the last point.",
    )
    return Section("Laws", text=tuple(f.sentence for f in n.fits), tables=(table,))


def _shifts(n: Numbers) -> Section | None:
    if not n.shifts:
        return None
    table = Table(
        columns=(
            Column("change"),
            Column("against"),
            Column("KL, turn of the arc", signed=True),
            Column("KL, middle of the top", signed=True),
            Column("KL of the highest point", signed=True),
            Column("peak gold", signed=True),
            Column("gold at the end", signed=True),
            Column("fall", signed=True, less=True),
        ),
        rows=tuple(
            (s.name, s.against, s.arc_kl, s.middle_kl, s.peak_kl, s.peak_gold, s.end_gold, s.fall) for s in n.shifts
        ),
        note="Differences, paired by seed and instruction, with 95% intervals over both.",
    )
    svg = charts.shifts(n.shifts)
    found = tuple(_moved(s) for s in n.shifts if s.question)
    return Section("What moves the peak", text=found, tables=(table,), charts=(Chart(svg),) if svg else ())


def _crossing(n: Numbers) -> Section | None:
    if not n.crossings:
        return None
    tables = []
    for x in n.crossings:
        rows: list[tuple[Cell, ...]] = [
            (
                c.trained,
                f"{c.evaluated}: {c.judge}",
                position(c.verdict.peak_x) if c.verdict.peak_x else None,
                c.verdict.rise,
                c.verdict.fall,
                "yes" if c.verdict.gold_falls else "no",
            )
            for c in x.cells
        ]
        names = ("training judge", "evaluation judge", "peak at")
        columns = (
            *map(Column, names),
            Column("rise, points", 100, 1),
            Column("fall, points", 100, 1),
            Column("downturn"),
        )
        tables.append(Table(title=x.method, columns=columns, rows=tuple(rows)))
    return Section(
        "Noise, or another judge?",
        text=tuple(x.sentence for x in n.crossings),
        tables=tuple(tables),
    )


def _light_section(n: Numbers) -> Section | None:
    if not n.reliability and not n.marks:
        return None
    tables = []
    if n.reliability:
        rows: list[tuple[Cell, ...]] = [
            (
                r.signal,
                r.threshold,
                f"{r.fired} of {r.curves}",
                f"{r.in_time} of {r.curves}",
                r.left,
                r.without,
                r.saved,
            )
            for r in n.reliability
        ]
        names = ("signal", "threshold", "went on", "in time", "gold left", "gold lost without", "saved")
        tables.append(
            Table(
                columns=tuple(map(Column, names)),
                rows=tuple(rows),
                note="Threshold calibrated on the other seeds for every seed (shown: on all). In time = the mark is "
                "not beyond the gold peak. Gold left = at the peak minus at the mark.",
            )
        )
    if n.marks:
        columns = (Column("curve"), Column("seed"), Column("signal"), Column("safe up to"), Column("went on"))
        shown = tuple(
            (m.curve, str(m.seed), m.signal, f"{m.x_name} = {position(m.safe_x)}", "yes" if m.fired else "no")
            for m in n.marks
        )
        tables.append(Table(title="Safe up to here", columns=columns, rows=shown))
    return Section("Warning light", text=tuple(f"{k}: {v}." for k, v in SIGNALS.items()), tables=tuple(tables))


def _exploits(n: Numbers) -> Section | None:
    if not n.drifts:
        return None
    terms = list(dict.fromkeys(t for d in n.drifts for t in d.terms))
    names = ("method", "where", "proxy", "gold", "tokens", "repeated words", *terms)
    rows = tuple(
        (d.method, d.where, d.proxy, d.gold, d.tokens, percent(d.repeats, 0), *(d.terms.get(t) for t in terms))
        for d in n.drifts
    )
    shown = tuple((e.instruction, e.method, e.where, e.text, e.proxy, e.gold) for e in n.examples)
    tables = [
        Table(
            columns=tuple(map(Column, names)),
            rows=rows,
            note="Gold by its terms: what the policy sells and what it buys.",
        )
    ]
    if shown:
        prose = (Column("method"), Column("where"), Column("response", text=True))
        columns = (Column("instruction", text=True), *prose, Column("proxy"), Column("gold"))
        tables.append(Table(title="The same instructions along the way", columns=columns, rows=shown))
    return Section("What is exploited", tables=tuple(tables))


def _picks(n: Numbers) -> Section | None:
    if not n.picks:
        return None
    names = ("reward model", "picks judged")
    columns = (
        *map(Column, names),
        Column("share judged, %", 100, 0),
        Column("gold of the pick"),
        Column("against the mean", signed=True),
    )
    rows = tuple((p.model, p.n, p.judged, p.pick, p.gain) for p in n.picks)
    note = "Reward models known by the one sample they like best. Picks without gold are left out, which favours none."
    return Section("Picks of reward models", tables=(Table(columns=columns, rows=rows, note=note),))


def drawn(n: Numbers) -> dict[str, str]:
    """Every chart by a name fit for a file."""
    out = {name: svg for name, svg, _ in charts.main(n.bands, n.fits)}
    if svg := charts.shifts(n.shifts):
        out["shifts"] = svg
    return out


def _models(n: Numbers) -> Section | None:
    if not n.models:
        return None
    columns = (Column("reward"), Column("pairs"), Column("accuracy, %", 100, 1), Column("longer wins, %", 100, 1))
    rows = tuple((m.reward, m.n_train, m.accuracy, m.longer_wins) for m in n.models)
    note = "On held-out labels of the same kind (noise and all); mean over seeds of the first member."
    return Section("Reward models", tables=(Table(columns=columns, rows=rows, note=note),), open=False)


def terminal(n: Numbers) -> str:
    """A short table for the terminal: peak and fall of every method, then of every change."""
    lines = [f"{'method':<28}{'peak at KL':>22}{'gold gain':>24}{'fall':>24}"]
    for p in n.peaks:
        lines.append(f"{p.method[:27]:<28}{interval(p.arc_kl):>22}{interval(p.gain):>24}{interval(p.fall):>24}")
    return "\n".join(lines)
