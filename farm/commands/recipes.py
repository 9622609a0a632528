"""``farm recipes``: list, show or copy the shipped recipes."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("recipes", help="list, show or copy the shipped recipes")
    p.set_defaults(work=run)
    p.add_argument("action", choices=["list", "show", "copy"])
    p.add_argument("name", nargs="?", help="a recipe's name (show, copy)")
    p.add_argument("to", nargs="?", type=Path, help="where to copy it (default: the current folder)")


def run(args: argparse.Namespace) -> None:
    from farm import resources
    from farm.errors import RecipeError

    if args.action == "list":
        for path in sorted(resources.folder("recipes").glob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print(f"{path.stem:<22} {first}")
        return
    if not args.name:
        raise RecipeError(f"farm recipes {args.action} needs a recipe's name (farm recipes list shows them)")
    source = resources.find("recipes", args.name)
    text = source.read_text(encoding="utf-8")
    if args.action == "show":
        print(text, end="")
        return
    target = args.to or Path.cwd()
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} exists already; it is not overwritten")
    target.write_text(text, encoding="utf-8")
    print(target)
