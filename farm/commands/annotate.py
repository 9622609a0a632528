"""What ``farm annotate`` can do besides labelling: say what it would cost, keep a budget, parse answers anew."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from farm.progress import JSON_ENV


def extend(p: argparse.ArgumentParser) -> None:
    p.set_defaults(work=run)
    p.add_argument("--dry-run", action="store_true", help="print calls, cached share, tokens and cost; ask nobody")
    p.add_argument("--budget", type=float, metavar="USD", help="what all calls of the run may cost together at most")
    p.add_argument("--reparse", action="store_true", help="read the ledger's raw answers anew; asks nobody")
    p.add_argument("--json-progress", action="store_true", help="progress as JSON lines on a terminal, too")


def run(args: argparse.Namespace) -> None:
    from farm.commands import stage

    if args.json_progress:
        os.environ[JSON_ENV] = "1"
    if args.budget is not None:
        args.set.append(f"annotate.endpoint.budget={args.budget!r}")
    if not args.dry_run and not args.reparse and find_spec("torch") is not None:
        stage.run(args)
        return
    from farm import runs
    from farm.stages import alone
    from farm.stages.common import Run

    overrides = [*args.set, *([f"data.path={args.data}", "data.world=null"] if args.data else [])]
    recipe = alone.load(args.recipe, overrides, args.seed, args.full)
    folder = args.out or Path("runs") / recipe.name
    if args.dry_run:
        print("\n".join(alone.price(Run(folder.resolve(), recipe)).lines()))
        return
    with runs.locked(folder):
        for made in alone.label(Run(folder.resolve(), recipe), ask=not args.reparse):
            print(made)
