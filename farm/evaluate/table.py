"""One row per judge, reference and model: win rate, length-controlled win rate, what failed and what looks wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from farm.data.length_control import Material
from farm.data.verdicts import Verdicts
from farm.evaluate import alarms, alpaca_lc, intervals
from farm.evaluate.length_control import Measured, lc_win_rates
from farm.records import Estimate, Record


class Row(Record):
    """Percent throughout; counts are counts. None = not estimable or not asked for.

    ``n`` counts instructions with a verdict, ``judgements`` verdicts, ``ties`` and ``failed`` acts, ``rejected`` rows
    of the file. ``standard_error`` is that of the mean over instructions, or the clustered one where several annotators
    or training seeds are behind the row. ``low_if_failed_lose`` and ``high_if_failed_win`` bound the win rate. ``lc``
    is the recommended length-controlled value, ``lc_basis`` says where its difficulties come from; ``lc_compat`` is
    what alpaca_eval would publish. ``undecided`` and ``constant`` are shares behind the ``alarms``.
    """

    annotator: str
    reference: str
    model: str
    source: str = ""
    n: int
    win_rate: float | None
    standard_error: float | None
    ci95_low: float | None
    ci95_high: float | None
    discrete_win_rate: float | None
    judgements: int
    ties: int
    failed: int
    rejected: int
    low_if_failed_lose: float | None
    high_if_failed_win: float | None
    lc: float | None = None
    lc_standard_error: float | None = None
    lc_ci95_low: float | None = None
    lc_ci95_high: float | None = None
    lc_n: int = 0
    lc_basis: str = ""
    lc_compat: float | None = None
    lc_compat_c: float | None = None
    lc_compat_choice: str = ""
    mean_length_difference: float | None = None
    undecided: float | None = None
    constant: float | None = None
    alarms: tuple[str, ...] = ()
    note: str = ""


Tick = Callable[[int, int], None]


def rows(
    verdicts: Sequence[Verdicts],
    *,
    seed: int,
    material: Material | None = None,
    lengths: bool = False,
    c: float | None = None,
    tick: Tick | None = None,
) -> list[Row]:
    """The table, in the order of ``verdicts``.

    ``lengths`` asks for length control: by :mod:`farm.evaluate.alpaca_lc` where ``material`` has difficulties, else by
    :mod:`farm.evaluate.length_control`, which estimates them from all models of a judge together. ``c`` fixes the
    penalty of ``lc_compat``.
    """
    panels: dict[tuple[str, str], dict[str, Verdicts]] = {}
    for v in verdicts:
        panels.setdefault((v.annotator, v.reference), {})[v.model] = v
    joint: dict[tuple[str, str, str], Estimate] = {}
    if lengths and not (material and material.difficulty):
        for (annotator, reference), panel in panels.items():
            found = lc_win_rates([_measured(v) for v in panel.values()], seed=seed)
            joint |= {(annotator, reference, model): e for (model, _), e in found.items()}
    made = []
    for k, v in enumerate(verdicts):
        row = _row(v, seed) | _signs(v, panels[v.annotator, v.reference], seed)
        if v.name in joint:
            row |= _joint(joint[v.name], row)
            row["lc_basis"] = f"difficulty estimated from {len(panels[v.annotator, v.reference])} models"
        elif lengths and material:
            row |= _controlled(v, material, seed, c, row)
        made.append(Row(**row))
        if tick:
            tick(k + 1, len(verdicts))
    return made


def by_source(verdicts: Sequence[Verdicts], sources: Mapping[str, str], *, seed: int) -> list[Row]:
    """Raw win rates per sub-distribution (instruction id -> source), sorted by source within each model."""
    made = []
    for v in verdicts:
        of = np.array([sources.get(i, "") for i in v.ids], dtype=object).astype(str)
        for source in sorted(set(of) - {""}):
            made.append(Row(**_row(v.take(of == source), seed) | {"source": str(source), "rejected": 0}))
    return made


def estimate(v: Verdicts, *, seed: int) -> tuple[Estimate, float | None]:
    """Win rate in [0, 1] with its interval, and its standard error.

    One annotator and one seed: the sample SD over the root of n and a bootstrap over instructions. Several: clustered
    over instructions, annotators and seeds (:func:`farm.evaluate.intervals.crossed`).
    """
    if len(set(v.judges)) > 1 or len(set(v.seeds)) > 1:
        kept = v.take(~np.isnan(v.score))
        return intervals.crossed(kept.score, [kept.ids, kept.judges, kept.seeds], seed=seed)
    _, score, _ = v.by_instruction()
    return intervals.mean(score, seed=seed), intervals.standard_error(score)


def _row(v: Verdicts, seed: int) -> dict[str, object]:
    found, error = estimate(v, seed=seed)
    failed, valid = np.isnan(v.score), v.score[~np.isnan(v.score)]
    return {
        "annotator": v.annotator,
        "reference": v.reference,
        "model": v.model,
        "n": len({i for i, bad in zip(v.ids, failed, strict=True) if not bad}),
        "win_rate": _percent(found.value),
        "standard_error": _percent(error),
        "ci95_low": _percent(found.ci95_low),
        "ci95_high": _percent(found.ci95_high),
        "discrete_win_rate": _percent(_discrete(v)),
        "judgements": len(valid),
        "ties": int((valid == 0.5).sum()),
        "failed": int(failed.sum()),
        "rejected": v.rejected,
        "low_if_failed_lose": _percent(_imputed(v, 0.0)),
        "high_if_failed_win": _percent(_imputed(v, 1.0)),
        "note": found.note,
    }


def _imputed(v: Verdicts, failed: float) -> float | None:
    _, score, _ = replace(v, score=np.where(np.isnan(v.score), failed, v.score)).by_instruction()
    return float(score.mean()) if len(score) else None


def _discrete(v: Verdicts) -> float | None:
    score = np.where(np.isnan(v.score), np.nan, 0.5 + 0.5 * np.sign(v.score - 0.5))
    _, hard, _ = replace(v, score=score).by_instruction()
    return float(hard.mean()) if len(hard) else None


def _signs(v: Verdicts, panel: Mapping[str, Verdicts], seed: int) -> dict[str, object]:
    longer = v.longer_by[~np.isnan(v.longer_by)]
    return {
        "undecided": _percent(alarms.undecided(v)),
        "constant": _percent(alarms.constant(v)),
        "alarms": tuple(alarms.alarms(v, panel, seed=seed)),
        "mean_length_difference": float(longer.mean()) if len(longer) else None,
    }


def _controlled(
    v: Verdicts, material: Material, seed: int, c: float | None, row: Mapping[str, object]
) -> dict[str, object]:
    found, published = alpaca_lc.lc(v, material, seed=seed), alpaca_lc.lc_compat(v, material, c)
    return {
        **_joint(found.estimate, row, published.note),
        "lc_basis": "difficulty given" + (", regulariser rows" if len(material.regulariser) else ""),
        "lc_standard_error": _percent(found.standard_error),
        "lc_compat": _percent(published.value),
        "lc_compat_c": published.c,
        "lc_compat_choice": published.chosen,
    }


def _joint(found: Estimate, row: Mapping[str, object], more: str = "") -> dict[str, object]:
    notes = [str(row["note"]), f"lc {found.note}" if found.note else "", f"lc_compat {more}" if more else ""]
    return {
        "lc": _percent(found.value),
        "lc_ci95_low": _percent(found.ci95_low),
        "lc_ci95_high": _percent(found.ci95_high),
        "lc_n": found.n,
        "note": "; ".join(filter(None, notes)),
    }


def _measured(v: Verdicts) -> Measured:
    ids, score, longer = v.by_instruction()
    known = ~np.isnan(longer)
    kept = [i for i, k in zip(ids, known, strict=True) if k]
    return Measured(
        v.model,
        v.annotator,
        dict(zip(kept, score[known].tolist(), strict=True)),
        dict(zip(kept, longer[known].tolist(), strict=True)),
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def columns(made: Iterable[Row]) -> list[str]:
    """Names of the CSV's columns, in order; ``source`` only where rows have one."""
    return [name for name in Row.model_fields if name != "source" or any(r.source for r in made)]


def cells(row: Row, names: Sequence[str]) -> list[object]:
    """One CSV line: numbers in full, '' for what is not estimable, alarms joined by semicolons."""
    values = [getattr(row, name) for name in names]
    return ["" if v is None else "; ".join(v) if isinstance(v, tuple) else v for v in values]
