"""``farm correlate``: does a simulator rank methods as people do, and how sure can one be of that?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farm.data.judged import Judged
    from farm.data.method_scores import LongTable, ScoreTable
    from farm.evaluate.win_rate import Comparison
    from farm.records import Judgement, Response
    from farm.study.correlation import Measured
    from farm.study.prediction_powered import PredictionPowered
    from farm.study.validity import Validity

    Tables = Mapping[str, Mapping[str, float]]  # method -> instruction -> score


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "correlate",
        help="rank correlation of simulated and human method scores, with what it rests on",
        description="Spearman, Kendall, Pearson and mean absolute error between two sets of method scores.",
    )
    p.set_defaults(work=run)
    p.add_argument(
        "scores", type=Path, help="a table (CSV) with both sides, the simulated side's table, or a run folder"
    )
    p.add_argument("human_scores", type=Path, nargs="?", metavar="human", help="the human side's table, joined by name")
    p.add_argument("--method", metavar="COL", help="column that names the methods")
    p.add_argument("--simulated", metavar="COL", help="column of the simulated scores")
    p.add_argument("--human", metavar="COL", help="column of the human scores")
    p.add_argument("--simulated-se", metavar="COL", help="column of the simulated scores' standard errors")
    p.add_argument("--human-se", metavar="COL", help="column of the human scores' standard errors")
    p.add_argument("--simulated-rows", metavar="COL=VALUE", help="use these rows only for the simulated side")
    p.add_argument("--human-rows", metavar="COL=VALUE", help="use these rows only for the human side")
    p.add_argument("--votes", type=Path, metavar="FILE", help="people's votes on a run's pairs (see docs/agreement.md)")
    p.add_argument(
        "--only", metavar="WHICH", help="trained, preference-trained, a column, COLUMN=VALUE, or methods A,B,C"
    )
    p.add_argument("--target-width", type=float, default=0.1, metavar="W", help="plan for this width (default: 0.1)")
    p.add_argument(
        "--prediction-powered", action="store_true", help="human scores from few human and many simulated labels"
    )
    p.add_argument("--human-labels", type=int, metavar="N", help="use the human labels of N random instructions only")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    p.add_argument("--report", type=Path, metavar="FILE", help="write a page (HTML)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")


@dataclass(frozen=True)
class Loaded:
    """Both sides as measured, and what is known about the rows."""

    measured: Measured
    cells: dict[str, dict[str, str]]
    inputs: list[str]
    left_out: list[str]
    notes: list[str]
    unit: str
    labels: float | None = None
    powered: Sequence[PredictionPowered] = ()


def run(args: argparse.Namespace) -> None:
    from farm.errors import DataError

    if not 0 < args.target_width < 2:
        raise DataError(f"--target-width {args.target_width}: a correlation's interval has a width between 0 and 2")
    if args.human_labels is not None and args.human_labels < 3:
        raise DataError(f"--human-labels {args.human_labels}: at least 3 instructions are needed")
    result = _study(args, _load(args))
    print(text(result))
    if args.json:
        from farm.runs import write_json

        write_json(args.json, result.model_dump(mode="json"))
    if args.report:
        from farm.report import correlation, html, page

        html.write(args.report, page.render(correlation.page(result)))
        print(f"\n{args.report}")


def _study(args: argparse.Namespace, loaded: Loaded) -> Validity:
    from farm.data.method_subsets import PREFERENCE, TRAINED, choose
    from farm.study.validity import validity

    methods, notes = loaded.measured.methods, list(loaded.notes)
    whole = {f"all {len(methods)} methods": methods}
    subsets: dict[str, Sequence[str]] = {} if args.only else dict(whole)
    for only in [args.only] if args.only else [TRAINED, PREFERENCE]:
        found = choose(methods, loaded.cells, only)
        label = f"{found.label} ({len(found.methods)} of {len(methods)}, {found.rule})"
        if args.only or 0 < len(found.methods) < len(methods):
            subsets[label] = found.methods
            notes.append(f"{label}: {', '.join(found.methods) or 'none'}.")
        elif not found.methods and only == TRAINED:
            notes.append("No row is known to be trained in the farm; name such rows with --only.")
    return validity(
        loaded.measured,
        subsets | whole,
        target=args.target_width,
        labels=loaded.labels,
        inputs=loaded.inputs,
        left_out=loaded.left_out,
        notes=notes,
        unit=loaded.unit,
        powered=loaded.powered,
        seed=args.seed,
    )


def _load(args: argparse.Namespace) -> Loaded:
    from farm.data.method_scores import Columns, ScoreTable, read
    from farm.errors import DataError

    if args.scores.is_dir():
        return _folder(args)
    columns = Columns(
        args.method,
        args.simulated,
        args.human,
        args.simulated_se,
        args.human_se,
        _rows(args.simulated_rows, "--simulated-rows"),
        _rows(args.human_rows, "--human-rows"),
    )
    table = read(args.scores, args.human_scores, columns)
    if not isinstance(table, ScoreTable):
        return _long(args, table)
    if args.prediction_powered or args.human_labels:
        raise DataError(
            f"{args.scores}: prediction-powered estimates need one row per method and instruction (a column "
            "'instruction_id' beside the scores, the human one empty where nobody was asked), or a run folder"
        )
    return _table(args, table)


def _rows(given: str | None, option: str) -> tuple[str, str] | None:
    from farm.errors import DataError

    if given is None:
        return None
    column, equals, value = given.partition("=")
    if not equals:
        raise DataError(f"{option} {given}: say COLUMN=VALUE")
    return column, value


def _table(args: argparse.Namespace, table: ScoreTable) -> Loaded:
    import numpy as np

    from farm.study.correlation import from_errors
    from farm.study.validity import unit_of

    sides = (table.simulated, table.human)
    values = np.array([[side.values[m] for m in table.methods] for side in sides]).reshape(2, -1)
    found = [[side.errors[m] for m in table.methods] for side in sides]
    blank = [[m for m, v in zip(table.methods, row, strict=True) if v is None] for row in found]
    errors = None if any(blank) else np.array([[v for v in row if v is not None] for row in found]).reshape(2, -1)
    source, notes = "standard errors of both sides", []
    if errors is None:
        lacks = [
            side.used if len(b) == len(table.methods) else f"{side.used}: none for {', '.join(b)}"
            for side, b in zip(sides, blank, strict=True)
            if b
        ]
        source = f"without standard errors on both sides ({'; '.join(dict.fromkeys(lacks))})"
        notes.append(f"Intervals are over methods only, {source}.")
    unit, unlike = unit_of(values.tolist())
    labels = [table.human.labels[m] for m in table.methods if m in table.human.labels]
    left = [f"line {r.line}: {r.reason}" if r.line else r.reason for r in table.left_out]
    measured = from_errors(
        table.methods, values, errors, names=("simulated", "human"), seed=args.seed, source=source, unlike=unlike
    )
    known = float(np.mean(labels)) if labels and len(labels) == len(table.methods) else None
    return Loaded(measured, table.cells, [s.used for s in sides], left, notes, unit, known or _implied(measured, unit))


def _implied(measured: Measured, unit: str) -> float | None:
    """Labels per method that binomial standard errors of this size imply; None unless scores are win rates."""
    import numpy as np

    if measured.errors is None or unit not in ("share", "percent") or not measured.methods:
        return None
    scale = 1.0 if unit == "share" else 100.0
    p, variance = measured.values[1] / scale, np.square(measured.errors[:, 1]).mean(axis=0) / scale**2
    if not (variance > 0).all():
        return None
    return float(np.median(p * (1 - p) / variance))


def _long(args: argparse.Namespace, table: LongTable) -> Loaded:
    return _scored(args, table.simulated, table.human, [table.used], [])


def _scored(
    args: argparse.Namespace,
    simulated: Tables,
    human: Tables,
    inputs: list[str],
    notes: list[str],
    cells: Mapping[str, dict[str, str]] | None = None,
) -> Loaded:
    """Scores per instruction: errors by bootstrap over instructions, prediction-powered where asked."""
    from farm.seeds import key
    from farm.study.correlation import from_scores
    from farm.study.prediction_powered import prediction_powered
    from farm.study.validity import unit_of

    if args.human_labels:
        ids = sorted({i for side in human.values() for i in side}, key=lambda i: (key(args.seed, "labelled", i), i))
        kept = set(ids[: args.human_labels])
        human = {m: {i: v for i, v in side.items() if i in kept} for m, side in human.items()}
        notes = [*notes, f"Human labels of {len(kept)} of {len(ids)} instructions, drawn at random, were used."]
    measured = from_scores(simulated, human, names=("simulated", "human"), seed=args.seed)
    left = [f"{m}: scores on one side only" for m in dict.fromkeys([*simulated, *human]) if m not in measured.methods]
    unit, unlike = unit_of(measured.values.tolist())
    powered = []
    if args.prediction_powered:
        powered = [prediction_powered(human.get(m, {}), side, method=m) for m, side in simulated.items()]
    per_method = [len(human[m]) for m in measured.methods]
    labels = sum(per_method) / len(per_method) if per_method else None
    measured = replace(measured, unlike=unlike)
    known = {m: cells[m] if cells else {} for m in measured.methods}
    return Loaded(measured, known, inputs, left, notes, unit, labels, powered)


def _folder(args: argparse.Namespace) -> Loaded:
    """The policies of a run: the pool's judgements against people's votes, averaged over training seeds."""
    from farm.data import human
    from farm.errors import DataError
    from farm.evaluate.scores import average
    from farm.stages.common import SFT, WRITERS

    steps = sorted(p for p in args.scores.glob("6-evaluate/*/seed-*") if (p / "step.json").is_file())
    if not steps:
        raise DataError(f"{args.scores}: neither a table nor a run folder with finished evaluations (6-evaluate/*)")
    votes = human.read(args.votes) if args.votes else None
    sides: tuple[dict[str, list[dict[str, float]]], ...] = ({}, {})
    for step in steps:
        for side, comparison in zip(sides, _compared(step, votes), strict=True):
            side.setdefault(step.parent.name, []).append(comparison.scores)
    simulated, people = ({m: average(t) for m, t in side.items()} for side in sides)
    if not any(people.values()):
        raise DataError(
            f"{args.scores}: no human votes to compare with. Label some of its pairs (farm label) and give the "
            "exported votes with --votes FILE"
        )
    notes = ["Scores are conditional on the policies that were trained: other training seeds are not in the intervals."]
    inputs = [f"{args.scores}: judgements of {len(steps)} evaluations against {args.votes or 'the votes beside them'}"]
    cells = {
        m: {"trained": _yes(m not in WRITERS), "preference_trained": _yes(m not in (SFT, *WRITERS))} for m in simulated
    }
    return _scored(args, simulated, {m: h for m, h in people.items() if h}, inputs, notes, cells)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _compared(step: Path, given: Judged | None) -> tuple[Comparison, Comparison]:
    """The pool's and people's comparison of one policy with the reference; people's from ``given`` or beside it."""
    from farm import records
    from farm.evaluate.win_rate import compare
    from farm.records import Judgement, Response
    from farm.stages.common import REFERENCE

    texts = records.by_id([r for f in ("responses", "reference") for r in records.read(step / f"{f}.jsonl", Response)])
    pool = records.read(step / "judgements.jsonl", Judgement)
    beside = step / "votes.jsonl"
    if given is not None:
        votes = _on_pairs(given, pool, texts, step.parents[2] / "0-data" / "eval.jsonl")
    else:
        votes = records.read(beside, Judgement) if beside.is_file() else []
    name = step.parent.name
    first = compare(pool, texts, policy=name, reference=REFERENCE, judge="pool")
    return first, compare(votes, texts, policy=name, reference=REFERENCE, judge="humans")


def _on_pairs(people: Judged, pool: Sequence[Judgement], texts: Mapping[str, Response], tasks: Path) -> list[Judgement]:
    """People's votes on the pool's pairs, matched by id or by what was read; each act once."""
    from farm import records
    from farm.data.judged import Judged, on_pairs_of
    from farm.records import Instruction, Pair

    known = records.by_id(records.read(tasks, Instruction))
    pairs = {
        j.pair_id: Pair(id=j.pair_id, instruction_id=j.instruction_id, a=min(j.shown), b=max(j.shown)) for j in pool
    }
    judges = Judged(known, dict(texts), list(pairs.values()), list(pool), [])
    moved = on_pairs_of(people, judges).judgements
    return list({j.id: j for j in moved if j.pair_id in pairs}.values())


def text(result: Validity) -> str:
    """The result as lines for a terminal."""
    from farm.report.correlation_text import plain

    return plain(result)
