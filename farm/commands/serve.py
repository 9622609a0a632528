"""``farm serve``: the scripted judge as an OpenAI-compatible server on loopback."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("serve", help="offer the scripted judge as an OpenAI-compatible server on loopback")
    p.set_defaults(work=run)
    p.add_argument("--host", default="127.0.0.1", help="a loopback address (default: 127.0.0.1)")
    p.add_argument("--port", type=int, default=8321, help="0 picks a free one (default: 8321)")
    p.add_argument(
        "--answers", type=Path, metavar="FILE", help="answer key for real text: JSONL of instruction, answer"
    )
    p.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="wait before every answer")


def run(args: argparse.Namespace) -> None:
    from farm.world import serve

    serve.run(args.host, args.port, answers=args.answers, latency=args.latency)
