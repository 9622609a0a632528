"""``farm calibrate``: fit the population of annotators to human votes, and show what that is worth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from farm.commands import sources

if TYPE_CHECKING:
    from farm.records import Estimate
    from farm.study.held_out import CalibrationStudy


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("calibrate", help="fit a pool's noise to human votes, half for fitting, half for reporting")
    p.set_defaults(work=run)
    sources.declare(p)
    p.add_argument("--pool", default="farm13", help="the pool whose prompts the fitted one has (default: farm13)")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write the fitted pool, for annotate.pool in a recipe")


def run(args: argparse.Namespace) -> None:
    from farm.annotate import calibrated
    from farm.annotate.pool import load_pool
    from farm.errors import AnnotatorError
    from farm.study import calibration, calibration_data, held_out, words

    if args.out and args.out.exists():
        raise AnnotatorError(f"{args.out} exists already; it is not overwritten: choose another --out, or remove it")
    s = sources.load(args)
    base = load_pool(args.pool) if args.out else None
    data = calibration_data.assemble(s.judges.judgements, s.people.judgements, s.texts)
    found = held_out.study(data, seed=args.seed)
    print(table(found))
    if args.out and base:
        names = [a.id for a in base.annotators]
        fitted = found.calibration
        about = (
            f"{base.name}, calibrated on {fitted.n_votes} votes of {words.people(fitted.n_people)} on "
            f"{fitted.n_pairs} pairs ({s.about}; seed {args.seed})"
        )
        calibrated.write_pool(
            base.folder, args.out, calibration.for_pool(fitted, names), fitted.pool, args.out.name, about
        )
        load_pool(args.out)
        own = sorted(set(names) & set(fitted.annotators))
        if len(own) < len(names):
            print(f"{len(names) - len(own)} of {len(names)} annotators were not among the judges: common weights")
        print(args.out)
    if args.json:
        sources.write_text(args.json, found.model_dump_json(indent=1) + "\n")
    if args.report:
        from farm.report import agreement as report
        from farm.report import page

        sources.write_text(args.report, page.render(report.calibration_page(found, s.about)))
        print(args.report)


def table(found: CalibrationStudy) -> str:
    """The held-out comparison as text."""
    from farm.study import words

    fitted, held = found.calibration, found.held_out
    lines = [f"{'held-out votes':38}{'people':>8}{'calibrated':>12}{'25% flips':>11}   gain (95%)"]
    for s in held.scores:
        values = [_number(e) for e in (s.people, s.calibrated, s.uniform)]
        lines.append(f"{s.name:38}{values[0]:>8}{values[1]:>12}{values[2]:>11}   {_interval(s.gain)}, {s.gain.n}")
    lines.append(
        f"fitted on {fitted.n_votes} votes of {words.people(fitted.n_people)} on {fitted.n_pairs} pairs, "
        f"{words.counted(found.n_judges, 'judge')}; reported on {held.n_votes} votes on {held.n_pairs} pairs. "
        "A gain above zero favours calibration."
    )
    return "\n".join(lines)


def _number(e: Estimate | None) -> str:
    return "" if e is None else "-" if e.value is None else f"{e.value:.3f}"


def _interval(e: Estimate) -> str:
    if e.value is None:
        return e.note
    bounds = f" ({e.ci95_low:+.3f} to {e.ci95_high:+.3f})" if e.ci95_low is not None and e.ci95_high is not None else ""
    return f"{e.value:+.3f}{bounds}"
