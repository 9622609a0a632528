"""``farm explain``: how one pair was judged, act by act."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "explain", help="how one pair was judged: prompt, raw answer, verdict, noise, cost, attempts"
    )
    p.set_defaults(work=run)
    p.add_argument("pair", help="a pair's id, or its beginning (see judgements.jsonl)")
    p.add_argument("--run", type=Path, metavar="FOLDER", help="the run's folder (default: that of the ledger)")
    p.add_argument(
        "--ledger", type=Path, metavar="FILE", help="the ledger (default: ledger.sqlite in the run's folder)"
    )


def run(args: argparse.Namespace) -> None:
    from farm.errors import DataError
    from farm.stages.explain import explain

    folder = args.run or (args.ledger.resolve().parent if args.ledger else None)
    if folder is None:
        raise DataError("farm explain needs the run: --run FOLDER, or --ledger FILE inside it")
    for line in explain(folder, args.pair, args.ledger):
        # Texts of models are hostile to terminals, too: control characters are shown as such.
        print("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in line))
