"""``farm overoptimize``: curves of proxy and gold against KL, their laws, and what moves the peak."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farm.report.overoptimization import Numbers


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "overoptimize",
        help="reward over-optimization: curves, laws, what moves the peak, a warning light",
        description="Run a laboratory recipe, or draw best-of-n curves from recorded samples (--recorded).",
    )
    p.set_defaults(work=run)
    p.add_argument("recipe", nargs="?", help="a recipe file with a section 'laboratory', or a shipped one's name")
    p.add_argument("--recorded", nargs="+", metavar="FILE", help="recorded samples instead of a recipe (JSON lines)")
    p.add_argument("--out", type=Path, help="run folder (default: runs/<recipe name>)")
    p.add_argument("--seed", type=int, action="append", help="seed instead of the recipe's; may be repeated")
    p.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; repeatable")
    p.add_argument("--full", action="store_true", help="the recipe's full size instead of its small one")
    p.add_argument("--no-reuse", action="store_true", help="take no finished steps from runs beside this one")
    p.add_argument("--report", type=Path, metavar="FILE", help="HTML page (default with a recipe: in the run folder)")
    p.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    p.add_argument("--plots", type=Path, metavar="FOLDER", help="every chart as SVG and PDF")


def run(args: argparse.Namespace) -> None:
    from farm.errors import RecipeError

    if (args.recipe is None) == (args.recorded is None):
        raise RecipeError("farm overoptimize needs a recipe, or --recorded FILE, and not both")
    numbers, page = _recorded(args) if args.recorded else _laboratory(args)
    _show(args, numbers, page)


def _laboratory(args: argparse.Namespace) -> tuple[Numbers, Path | None]:
    from farm import laboratory, pipeline

    recipe = pipeline.load(args.recipe, args.set, args.seed, args.full)
    folder = args.out or Path("runs") / recipe.name
    numbers = laboratory.run(recipe, folder, reuse=not args.no_reuse)
    return numbers, args.report or folder / "8-laboratory" / "index.html"


def _recorded(args: argparse.Namespace) -> tuple[Numbers, Path | None]:
    from farm.data.recorded import read
    from farm.report.recorded import numbers

    return numbers(read(args.recorded), ", ".join(args.recorded), seed=(args.seed or [0])[0]), args.report


def _show(args: argparse.Namespace, numbers: Numbers, page: Path | None) -> None:
    from farm.report import html, overoptimization
    from farm.report.overoptimization_charts import save
    from farm.report.page import render

    print(overoptimization.terminal(numbers))
    for point in overoptimization.findings(numbers):
        print(f"- {point.text}")
    if args.json:
        html.write(args.json, numbers.model_dump_json(indent=1) + "\n")
    if args.plots:
        print(f"{len(save(args.plots, overoptimization.drawn(numbers)))} charts in {args.plots}")
    if page:
        html.write(page, render(overoptimization.page(numbers)))
        print(page)
