"""The command line: one sub-command per stage, in pipeline order, and a few to look around.

It parses and prints, nothing else; everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="farm",
        description="Compare RLHF methods cheaply, check a simulator of human feedback, reproduce over-optimization.",
        epilog="Start with: farm run quickstart (offline, minutes, no key).",
    )
    main.add_argument("--version", action="store_true", help="print the version and exit")
    commands = main.add_subparsers(dest="command", metavar="COMMAND")

    def recipe_command(name: str, text: str) -> None:
        p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        p.add_argument("recipe", help="a recipe file, or the name of a shipped one (farm recipes list)")
        p.add_argument("--out", type=Path, help="run folder (default: runs/<recipe name>)")
        p.add_argument("--seed", type=int, action="append", help="seed instead of the recipe's; may be repeated")
        p.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; repeatable")
        p.add_argument("--data", metavar="FILE", help="instructions to train on (sets data.path)")
        p.add_argument("--full", action="store_true", help="the recipe's full size instead of its small one")

    recipe_command("run", "run a whole study and print the report's path")
    for number, (name, text) in enumerate(STAGES.items(), 1):
        recipe_command(name, f"stage {number}: {text}, with the stages before it where they are not done")

    p = commands.add_parser("recipes", help="list, show or copy the shipped recipes")
    p.add_argument("action", choices=["list", "show", "copy"])
    p.add_argument("name", nargs="?", help="a recipe's name (show, copy)")
    p.add_argument("to", nargs="?", type=Path, help="where to copy it (default: the current folder)")

    p = commands.add_parser("annotators", help="list the annotators of a pool, or show one with its prompt")
    p.add_argument("action", choices=["list", "show"])
    p.add_argument("name", nargs="?", help="an annotator's id (show)")
    p.add_argument("--pool", default="farm13", help="a pool's folder or shipped name (default: farm13)")

    p = commands.add_parser("serve", help="offer the scripted judge as an OpenAI-compatible server on loopback")
    p.add_argument("--host", default="127.0.0.1", help="a loopback address (default: 127.0.0.1)")
    p.add_argument("--port", type=int, default=8321, help="0 picks a free one (default: 8321)")
    p.add_argument(
        "--answers", type=Path, metavar="FILE", help="answer key for real text: JSONL of instruction, answer"
    )
    p.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="wait before every answer")
    return main


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 refused with a reason, 2 wrong usage, 130 interrupted."""
    p = parser()
    args = p.parse_args(arguments)
    if args.version:
        from importlib.metadata import version

        print(f"farm {version('rlhf-farm')}")
        return
    if args.command is None:
        p.print_help()
        return
    from farm.errors import FarmError

    try:
        if args.command in ("run", *STAGES):
            _run(args)
        else:
            {"recipes": _recipes, "annotators": _annotators, "serve": _serve}[args.command](args)
    except FarmError as e:
        print(f"farm: {e}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("farm: interrupted; finished steps are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


def _run(args: argparse.Namespace) -> None:
    from farm import pipeline

    overrides = [*args.set, *([f"data.path={args.data}", "data.world=null"] if args.data else [])]
    recipe = pipeline.load(args.recipe, overrides, args.seed, args.full)
    folder = args.out or Path("runs") / recipe.name
    until = "report" if args.command == "run" else args.command
    result = pipeline.run(recipe, folder, until)
    print(result)


def _recipes(args: argparse.Namespace) -> None:
    from farm import resources
    from farm.errors import RecipeError

    if args.action == "list":
        for path in sorted(resources.folder("recipes").glob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print(f"{path.stem:<20} {first}")
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


def _annotators(args: argparse.Namespace) -> None:
    from farm.annotate.pool import load_pool
    from farm.errors import AnnotatorError

    pool = load_pool(args.pool)
    if args.action == "list":
        print(f"{'id':<4} {'role':<10} {'style':<10} {'pairs':>5} {'shots':>5}  {'reply format':<44} note")
        for a in pool.annotators:
            shots, form = len(a.demonstrations), a.reply_format
            print(f"{a.id:<4} {a.role:<10} {a.style:<10} {a.batch:>5} {shots:>5}  {form:<44} {a.note}")
        return
    if not args.name:
        raise AnnotatorError(f"farm annotators show needs an id: {', '.join(a.id for a in pool.annotators)}")
    a = pool.annotator(args.name)
    print(f"{a.id}: {a.note}")
    for field in ("role", "style", "batch", "parser", "temperature", "max_tokens", "logprobs"):
        print(f"  {field}: {getattr(a, field)}")
    print(f"  fingerprint (without a model): {a.fingerprint('')}\n\n--- {a.template} ---")
    print((pool.folder / a.template).read_text(encoding="utf-8"), end="")


def _serve(args: argparse.Namespace) -> None:
    from farm.world import serve

    serve.run(args.host, args.port, answers=args.answers, latency=args.latency)
