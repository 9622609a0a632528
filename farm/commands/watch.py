"""``farm watch``: a live view of a run that goes on in another process."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

_HOME, _CLEAR, _REST = "\x1b[H", "\x1b[2J", "\x1b[J"  # to the first line; clear all; clear below


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "watch",
        help="see how far a run is: stages, steps, curves, outcomes, spend, time left",
        description="Look at a run folder while another process works in it, again and again, until the run ends. "
        "Reads only. Without a terminal, looks once.",
    )
    p.set_defaults(work=run)
    p.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    p.add_argument("--once", action="store_true", help="look once")
    p.add_argument("--json", action="store_true", help="one look as JSON, for programs")
    p.add_argument("--every", type=_every, default=2, metavar="SECONDS", help="how often to look (2)")
    p.add_argument(
        "--serve", type=int, nargs="?", const=0, metavar="PORT", help="a page on this machine instead (a free port)"
    )


def _every(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be from 1 to 3600 seconds")
    return value


def run(args: argparse.Namespace) -> None:
    from farm.report import live

    if args.serve is not None:
        from farm.report import live_server

        live_server.run(args.run, args.serve, args.every)
    elif args.json:
        print(live.read(args.run).model_dump_json(indent=1))
    else:
        _watch(args.run, args.every, once=args.once or not sys.stdout.isatty())


def _watch(folder: Path, every: int, *, once: bool) -> None:
    """Draw over the last look: home, each line cleared to its end, the rest of the screen cleared."""
    from farm.report import live, live_view

    begun = False
    while True:
        seen = live.read(folder)
        size = shutil.get_terminal_size((160, 50))
        lines = live_view.terminal(seen, size.columns)
        if once:
            print("\n".join(lines))
            return
        shown = "".join(f"{line}\x1b[K\n" for line in lines[: size.lines - 1])
        print(f"{'' if begun else _CLEAR}{_HOME}{shown}{_REST}", end="", flush=True)
        begun = True
        if seen.state not in ("running", "silent"):
            return
        time.sleep(every)
