"""``farm evaluate --judgements``: win rates, raw and length-controlled, from recorded judgements of any source."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm.errors import DataError, FarmError

if TYPE_CHECKING:
    from farm.data.judged import Rejected
    from farm.data.verdicts import Verdicts
    from farm.evaluate.bradley_terry import Contest, Rating
    from farm.evaluate.paired import Paired
    from farm.evaluate.table import Row

FORMATS = ("alpaca-eval", "farm", "trl", "alpacafarm", "mtbench", "pandalm", "csv")
FEW = 6  # models of one judge whose pairs are all shown
SHOWN = ("annotator", "model", "n", "win_rate", "standard_error", "ci95_low", "ci95_high", "lc", "lc_compat", "failed")


@dataclass
class Loaded:
    """Everything the arguments name."""

    verdicts: list[Verdicts] = field(default_factory=list)
    contests: dict[str, list[Contest]] = field(default_factory=dict)  # by annotator
    rejected: list[tuple[Path, Rejected]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # instruction id -> sub-distribution


def extend(p: argparse.ArgumentParser) -> None:
    """Let the stage's command also read judgements that were recorded elsewhere, without a recipe."""
    p.set_defaults(work=run)
    g = p.add_argument_group(
        "recorded judgements", "instead of a recipe; then --out is the table (CSV) and --seed that of the bootstrap"
    )
    g.add_argument("--judgements", type=Path, nargs="+", metavar="FILE", help="files, or folders of a run's judgements")
    g.add_argument("--format", choices=FORMATS, default="alpaca-eval", help="of these files (default: alpaca-eval)")
    g.add_argument("--outputs", type=Path, nargs="+", metavar="FILE", help="the models' texts: adds length control")
    g.add_argument("--instructions", type=Path, metavar="FILE", help="the evaluation set: ids and sub-distributions")
    g.add_argument("--length-control", type=Path, metavar="FOLDER", help="difficulties and regulariser of AlpacaEval 2")
    g.add_argument("--lc-c", type=float, metavar="C", help="penalty of lc_compat (default: published, or chosen)")
    g.add_argument("--models", nargs="+", metavar="NAME", help="only these models")
    g.add_argument("--reference", metavar="NAME", help="policy to compare with (default: the one in all judgements)")
    g.add_argument("--annotators", choices=("each", "together"), help="one row each, or one pool (default: by format)")
    g.add_argument("--judges", action="store_true", help="the judges' verdicts of a file that also holds people's")
    g.add_argument("--texts", type=Path, metavar="FILE", help="questions and answers for MT-bench votes")
    g.add_argument("--compare", nargs=2, action="append", metavar=("A", "B"), help="paired difference; repeatable")
    g.add_argument("--ratings", action="store_true", help="Bradley-Terry ratings over all policies")
    g.add_argument("--prior", type=float, default=0.0, metavar="WINS", help="regularise the ratings (default: 0)")
    g.add_argument("--by-source", type=Path, metavar="FILE", help="win rates per sub-distribution (CSV)")
    g.add_argument("--rejected", type=Path, metavar="FILE", help="list rows that could not be used (CSV)")
    g.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    g.add_argument("--report", type=Path, metavar="FILE", help="write a page (HTML)")


def run(args: argparse.Namespace) -> None:
    if args.judgements is None:
        if args.recipe is None:
            raise FarmError("farm evaluate needs a recipe, or --judgements FILE with judgements recorded elsewhere")
        from farm.commands import stage

        stage.run(args)
        return
    if args.recipe is not None:
        raise FarmError(f"give either a recipe ({args.recipe}) or --judgements, not both")
    evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Read, compute, write what was asked for, and print the table."""
    from farm.data import length_control
    from farm.evaluate import bradley_terry, paired, table
    from farm.progress import Progress

    seed = args.seed[-1] if args.seed else 0
    loaded = load(args)
    folder = args.length_control or _length_control_beside(args)
    material = length_control.read(folder) if folder else None
    lengths = args.outputs is not None or material is not None or args.format != "alpaca-eval"
    progress = Progress("win rates", bar=True)
    rows = table.rows(loaded.verdicts, seed=seed, material=material, lengths=lengths, c=args.lc_c, tick=progress)
    progress.close()
    sources = table.by_source(loaded.verdicts, loaded.sources, seed=seed) if loaded.sources else []
    pairs = [paired.compare(a, b, seed=seed) for names in args.compare or () for a, b in _both(loaded.verdicts, *names)]
    shown = [*pairs, *_small_panels(loaded.verdicts, pairs, seed)] if args.report or args.json else pairs
    ratings = {
        annotator: bradley_terry.ratings(contests, seed=seed, prior=args.prior)
        for annotator, contests in (loaded.contests.items() if args.ratings else ())
    }
    if args.by_source and not sources:
        raise DataError("--by-source needs --instructions FILE, which says what sub-distribution each one is from")
    for path, made in ((args.out, rows), (args.by_source, sources)):
        if path:
            names = table.columns(made)
            _write_csv(path, names, [table.cells(row, names) for row in made])
    if args.rejected:
        lines = [[str(file), r.line, r.reason] for file, r in loaded.rejected]
        _write_csv(args.rejected, ["file", "line", "reason"], lines)
    if args.json:
        _write_json(args.json, rows, sources, shown, ratings, loaded.rejected, seed)
    if args.report:
        from farm.commands.sources import write_text
        from farm.report import evaluation

        names = [path.name if path.is_file() else f"{path.parent.name}/{path.name}" for path in args.judgements]
        files = ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more"
        about = f"{files}; format {args.format}; seed {seed}"
        text = evaluation.render(rows, sources, shown, ratings, [r for _, r in loaded.rejected], about=about)
        write_text(args.report, text)
    _tell(rows, pairs, ratings)


def _length_control_beside(args: argparse.Namespace) -> Path | None:
    """A folder ``length_control`` beside the judgements or one level up, when lengths are wanted and none is named."""
    from farm.progress import say

    if args.format != "alpaca-eval" or args.outputs is None:
        return None
    for parent in (p for file in args.judgements for p in list(file.resolve().parents)[:2]):
        if (parent / "length_control" / "instruction_difficulty.csv").is_file():
            say(f"length control: difficulties from {parent / 'length_control'}")
            return Path(parent / "length_control")
    say(
        "length control: difficulties estimated from these models, so that lc cannot be compared with published "
        "values; --length-control FOLDER names AlpacaEval's"
    )
    return None


def load(args: argparse.Namespace) -> Loaded:
    """Read the judgements that the arguments name. Raises DataError when nothing usable is left."""
    loaded = _alpaca_eval(args) if args.format == "alpaca-eval" else _records(args)
    if args.models:
        known = {v.model for v in loaded.verdicts}
        missing = sorted(set(args.models) - known)
        if missing:
            raise DataError(f"--models {missing[0]}: not among the models judged: {', '.join(sorted(known))}")
        loaded.verdicts = [v for v in loaded.verdicts if v.model in args.models]
        kept = {*args.models, *(v.reference for v in loaded.verdicts)}
        for name, rows in loaded.contests.items():
            loaded.contests[name] = [r for r in rows if {r.first, r.second} <= kept]
        loaded.contests = {name: rows for name, rows in loaded.contests.items() if rows}
    if not loaded.verdicts:
        raise DataError(f"no judgement on a model against {args.reference or 'a reference'}")
    _say_rejected(loaded.rejected)
    return loaded


def _alpaca_eval(args: argparse.Namespace) -> Loaded:
    from farm.data import alpaca_eval, verdicts
    from farm.evaluate.bradley_terry import contests

    loaded = Loaded()
    prompts = alpaca_eval.read_prompts(args.instructions) if args.instructions else None
    outputs: dict[str, dict[str, str]] = {}
    for path in args.outputs or ():
        for model, texts in alpaca_eval.read_outputs(path, prompts).items():
            _no_repeats(path, model, outputs.get(model, {}).keys() & texts.keys())
            outputs.setdefault(model, {}).update(texts)
    parts: dict[tuple[str, str, str], Verdicts] = {}
    for path in args.judgements:
        found, rejected = alpaca_eval.read(path, outputs=outputs, prompts=prompts)
        loaded.rejected += [(path, r) for r in rejected]
        for v in found:
            if v.name in parts:
                _no_repeats(path, v.model, set(parts[v.name].ids) & set(v.ids))
                v = verdicts.joined([parts[v.name], v])[0]
            parts[v.name] = v
    loaded.verdicts = [v for v in parts.values() if args.reference in (None, v.reference)]
    if args.annotators == "together":
        raise DataError("--annotators together: judges of AlpacaEval files are different judges, not one pool")
    for v in loaded.verdicts:
        loaded.contests.setdefault(v.annotator, []).extend(contests([v]))
    if prompts:
        loaded.sources = {name: i.source for name, i in prompts.by_id.items() if i.source}
    return loaded


def _no_repeats(path: Path, model: str, again: set[str]) -> None:
    if again:
        raise DataError(
            f"{path}: {model} on instruction {min(again)} was already in a file given before ({len(again)})"
        )


def _records(args: argparse.Namespace) -> Loaded:
    """Judgements of the farm's own records, or of people's votes in a foreign format."""
    from farm.data import studies as files
    from farm.data import verdicts
    from farm.evaluate.bradley_terry import Contest

    if args.outputs or args.length_control:
        raise DataError(f"--outputs and --length-control go with --format alpaca-eval; {args.format} has its own texts")
    loaded = Loaded()
    studies: list[files.Study] = []
    for path in args.judgements:
        found, rejected = files.read(path, args.format, judges=args.judges, texts=args.texts)
        studies += found
        loaded.rejected += [(path, r) for r in rejected]
    acts = [j for s in studies for j in s.judgements]
    texts = {i: r for s in studies for i, r in s.responses.items()}
    reference = args.reference or verdicts.common_policy(acts, texts)
    pool = None if args.annotators == "each" else "all"
    parts = [
        v
        for s in studies
        for v in verdicts.of_records(s.judgements, s.responses, reference=reference, pool=pool, seed=s.seed)
    ]
    loaded.verdicts = verdicts.joined(parts)
    loaded.sources = {i: t.source for s in studies for i, t in s.instructions.items() if t.source}
    for s in studies:
        for v in verdicts.of_records(s.judgements, s.responses, pool=pool, seed=s.seed):
            rows = loaded.contests.setdefault(v.annotator, [])
            rows += [
                Contest(i, v.model, other, float(score))
                for i, other, score in zip(v.ids, v.opponents, v.score, strict=True)
                if score == score and v.model < other  # every act is seen from both sides: once is enough
            ]
    return loaded


def _both(verdicts: Sequence[Verdicts], first: str, second: str) -> list[tuple[Verdicts, Verdicts]]:
    """The verdicts on two models by every judge that has judged both against the same reference."""
    known = {v.name: v for v in verdicts}
    found = [
        (v, known[v.annotator, v.reference, second])
        for v in verdicts
        if v.model == first and (v.annotator, v.reference, second) in known
    ]
    if not found:
        models = ", ".join(sorted({v.model for v in verdicts}))
        raise DataError(f"--compare {first} {second}: no judge has judged both against the same reference; {models}")
    return found


def _small_panels(verdicts: Sequence[Verdicts], done: Sequence[Paired], seed: int) -> list[Paired]:
    """All other pairs of the models that a judge has compared with one reference, where they are few."""
    from farm.evaluate import paired

    panels: dict[tuple[str, str], list[Verdicts]] = {}
    for v in verdicts:
        panels.setdefault((v.annotator, v.reference), []).append(v)
    known = {(p.annotator, p.reference, *sorted((p.first, p.second))) for p in done}
    return [
        paired.compare(a, b, seed=seed)
        for panel in panels.values()
        if len(panel) <= FEW
        for a, b in combinations(panel, 2)
        if (a.annotator, a.reference, *sorted((a.model, b.model))) not in known
    ]


def _write_csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(head)
        out.writerows(lines)


def _write_json(
    path: Path,
    rows: Sequence[Row],
    sources: Sequence[Row],
    pairs: Sequence[Paired],
    ratings: dict[str, list[Rating]],
    rejected: Sequence[tuple[Path, Rejected]],
    seed: int,
) -> None:
    from farm.commands.sources import write_text

    numbers: dict[str, Any] = {
        "seed": seed,
        "rows": [r.model_dump(mode="json") for r in rows],
        "by_source": [r.model_dump(mode="json") for r in sources],
        "pairs": [p.model_dump(mode="json") for p in pairs],
        "ratings": {name: [r.model_dump(mode="json") for r in found] for name, found in ratings.items()},
        "rejected": [{"file": str(file), "line": r.line, "reason": r.reason} for file, r in rejected],
    }
    write_text(path, json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")


def _say_rejected(rejected: Sequence[tuple[Path, Rejected]]) -> None:
    from farm.progress import say

    for file, r in rejected[:10]:
        say(f"{file}, line {r.line}: not used: {r.reason}")
    if len(rejected) > 10:
        say(f"... and {len(rejected) - 10} more; --rejected FILE lists them all")


def _tell(rows: Sequence[Row], pairs: Sequence[Paired], ratings: dict[str, list[Rating]]) -> None:
    from farm.study.words import interval, number

    names = [n for n in SHOWN if n not in ("lc", "lc_compat") or any(getattr(r, n) is not None for r in rows)]
    lines = [[_short(getattr(r, n)) for n in names] for r in rows]
    widths = [max(len(line[k]) for line in [names, *lines]) for k in range(len(names))]
    for line in [names, *lines]:
        print("  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))))
    for r in rows:
        for text in (*r.alarms, *([r.note] if r.note else [])):
            print(f"{r.model} ({r.annotator}): {text}")
    for p in pairs:
        print(f"{p.first} minus {p.second} ({p.annotator}): {interval(p.difference, 100)} points, n = {p.n}")
        if p.separable is not None:
            needed = f"; this difference needs {p.needed:,}" if p.needed else ""
            print(f"  {p.n} instructions separate {number(100 * p.separable)} points with 80% power{needed}")
    for annotator, found in ratings.items():
        for k, rating in enumerate(found):
            note = f"  ({rating.rating.note})" if rating.rating.note and not k else ""
            print(f"{annotator}  {rating.policy}  {interval(rating.rating)}  score {rating.score:.3f}{note}")


def _short(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
