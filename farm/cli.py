"""The command line: one sub-command per stage, in pipeline order, and those around the line (``farm/commands``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from farm.commands import (
    agree,
    annotators,
    calibrate,
    correlate,
    explain,
    label,
    overoptimize,
    recipes,
    reward,
    serve,
    stage,
    watch,
)

# In the order in which help shows them.
COMMANDS = (stage, reward, agree, overoptimize, calibrate, correlate, recipes, annotators, explain, serve, label, watch)


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="farm",
        description="Compare RLHF methods cheaply, check a simulator of human feedback, reproduce over-optimization.",
        epilog="Start with: farm run quickstart (offline, minutes, no key).",
    )
    main.add_argument("--version", action="store_true", help="print the version and exit")
    commands = main.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return main


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with a command of two words ("reward score") as one."""
    first = " ".join(arguments[:2])
    return [first, *arguments[2:]] if first in reward.NAMES else list(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 refused with a reason, 2 wrong usage, 3 budget used up, 130 interrupted."""
    p = parser()
    args = p.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    if args.version:
        from farm.resources import installed

        print(f"farm {installed()}")
        return
    if args.command is None:
        p.print_help()
        return
    from farm.errors import BudgetError, FarmError

    try:
        args.work(args)
    except FarmError as e:
        print(f"farm: {e}", file=sys.stderr)
        sys.exit(3 if isinstance(e, BudgetError) else 1)
    except KeyboardInterrupt:
        print("farm: interrupted; finished steps are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
