"""``farm report``: the line's last stage; for run folders, their pages again and comparisons; charts as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from farm.errors import FarmError, RecipeError

KINDS: tuple[Literal["png", "svg", "pdf"], ...] = ("png", "svg", "pdf")


def extend(p: argparse.ArgumentParser) -> None:
    """Let the stage's command also take run folders, and pages made earlier."""
    p.description = (
        "With a recipe: stage 8, one HTML file and summary.json, with the stages before it where they are not done. "
        "With a run folder: its page again, from its records. With several: a page that compares them. With a page "
        "that any command made: its charts as files."
    )
    p.set_defaults(work=run)
    p.add_argument("more", nargs="*", metavar="RUN", help="run folders to compare with the first")
    g = p.add_argument_group("for run folders and pages", "then --out is the page to write (FILE.html)")
    for kind in KINDS:
        g.add_argument(f"--{kind}", type=Path, metavar="FOLDER", help=f"write every chart as {kind.upper()}")


def run(args: argparse.Namespace) -> None:
    from farm.report.again import is_run

    given = [Path(args.recipe), *map(Path, args.more)]
    if all(is_run(path) for path in given):
        _export(args, _compare(given, args.out) if len(given) > 1 else _again(given[0], args.out))
    elif len(given) == 1 and given[0].suffix == ".html":
        _refuse(args, "a page")
        if not any(getattr(args, kind) for kind in KINDS):
            raise FarmError(f"{given[0]} is a page: say where its charts go with --png, --svg or --pdf FOLDER")
        _export(args, given[0])
    elif len(given) > 1:
        wrong = next(path for path in given if not is_run(path))
        raise FarmError(f"{wrong}: not a run folder (no manifest.json); several arguments must all be run folders")
    else:
        _stage(args)


def _stage(args: argparse.Namespace) -> None:
    from farm import pipeline, resources
    from farm.commands import stage
    from farm.errors import DataError

    try:
        resources.find("recipes", args.recipe)
    except DataError as e:
        why = "a folder without a manifest.json" if Path(args.recipe).is_dir() else e
        raise RecipeError(f"{args.recipe}: neither a run folder nor a recipe ({why})") from None
    recipe, folder = stage.load(args)
    print(pipeline.run(recipe, folder))
    _export(args, folder / "8-report" / "index.html")


def _again(folder: Path, out: Path | None) -> Path:
    from farm.report.again import again

    page = again(folder, out)
    print(page)
    return page


def _compare(folders: list[Path], out: Path | None) -> Path:
    from farm.report import comparison, html
    from farm.report.compared import read
    from farm.report.page import render

    page = comparison.page(read(folders))
    out = out or Path("comparison.html")
    html.write(out, render(page))
    for point in page.points:
        print(f"- {point.text}")
    print(out)
    return out


def _export(args: argparse.Namespace, page: Path) -> None:
    from farm.report import files

    if not any(getattr(args, kind) for kind in KINDS):
        return
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise FarmError(f"{page}: cannot be read ({e})") from None
    drawn = files.charts(text, str(page))
    for kind in KINDS:
        if folder := getattr(args, kind):
            print(f"{len(files.save(drawn, folder, kind))} charts in {folder}")


def _refuse(args: argparse.Namespace, what: str) -> None:
    if args.out or args.set or args.seed or args.data or args.full:
        raise FarmError(f"--out, --set, --seed, --data and --full mean nothing for {what}")
