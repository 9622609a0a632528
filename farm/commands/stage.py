"""``farm run`` and one command per stage of the line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from farm.commands import annotate, evaluate, report, reward

if TYPE_CHECKING:
    from farm.recipe import Recipe

STAGES = {
    "sft": "train the SFT policy on demonstrations",
    "sample": "draw pairs of responses from it",
    "annotate": "have the annotator pool judge the pairs",
    "reward": "train the reward model on the preferences",
    "improve": "run every method of the recipe",
    "evaluate": "win rate of every policy against the reference model",
    "study": "over-optimization curves, rank correlation, agreement",
    "report": "one HTML file and summary.json",
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    declare(commands, "run", "run a whole study and print the report's path")
    for number, (name, text) in enumerate(STAGES.items(), 1):
        p = declare(commands, name, f"stage {number}: {text}, with the stages before it where they are not done")
        if name == "evaluate":
            evaluate.extend(p)
        if name == "annotate":
            annotate.extend(p)
        if name == "reward":
            reward.extend(p)
        if name == "report":
            report.extend(p)


def declare(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """A command that takes a recipe and what may be changed about it."""
    p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    p.set_defaults(work=run)
    many = "?" if name == "evaluate" else None
    p.add_argument("recipe", nargs=many, help="a recipe file, or the name of a shipped one (farm recipes list)")
    p.add_argument("--out", type=Path, help="run folder (default: runs/<recipe name>)")
    p.add_argument("--seed", type=int, action="append", help="seed instead of the recipe's; may be repeated")
    p.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; repeatable")
    p.add_argument("--data", metavar="FILE", help="instructions to train on (sets data.path)")
    p.add_argument("--full", action="store_true", help="the recipe's full size instead of its small one")
    return p


def load(args: argparse.Namespace) -> tuple[Recipe, Path]:
    """The recipe that the arguments describe, and its run folder."""
    from farm import pipeline

    overrides = [*args.set, *([f"data.path={args.data}", "data.world=null"] if args.data else [])]
    recipe = pipeline.load(args.recipe, overrides, args.seed, args.full)
    return recipe, args.out or Path("runs") / recipe.name


def run(args: argparse.Namespace) -> None:
    from farm import pipeline

    recipe, folder = load(args)
    print(pipeline.run(recipe, folder, "report" if args.command == "run" else args.command))
