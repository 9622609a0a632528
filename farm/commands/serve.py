"""``farm serve``: the scripted judge as an OpenAI-compatible server on loopback, as pleasant or as nasty as wanted."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from farm.errors import FarmError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "serve",
        help="offer the scripted judge as an OpenAI-compatible server on loopback",
        description="The scripted judge as an OpenAI-compatible server on loopback: rehearse a paid run against it.",
    )
    p.set_defaults(work=run)
    p.add_argument("--host", default="127.0.0.1", help="a loopback address (default: 127.0.0.1)")
    p.add_argument("--port", type=int, default=8321, help="0 picks a free one (default: 8321)")
    p.add_argument(
        "--answers", type=Path, metavar="FILE", help="answer key for real text: JSONL of instruction, answer"
    )
    p.add_argument("--log", type=Path, metavar="FILE", help="append one JSON line per call, before it is answered")
    p.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="wait before every answer")
    p.add_argument("--spread", type=float, default=0.0, metavar="SIGMA", help="log-normal spread of the latency")
    p.add_argument("--rpm", type=float, metavar="N", help="limit on requests per minute (token bucket)")
    p.add_argument("--tpm", type=float, metavar="N", help="limit on tokens per minute (token bucket)")
    p.add_argument(
        "--burst", type=float, default=1.0, metavar="SECONDS", help="what the buckets hold, in seconds (default: 1)"
    )
    p.add_argument(
        "--retry-after", choices=("none", "seconds", "ms", "date"), default="ms", help="hint on a 429 (default: ms)"
    )
    p.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="let NAME strike at this rate; may be repeated; --fault list shows all names",
    )
    p.add_argument("--pause", type=float, default=1.0, metavar="SECONDS", help="what drawn 429s announce (default: 1)")
    p.add_argument("--seed", type=int, default=0, help="of the faults and latencies (default: 0)")
    p.add_argument(
        "--price",
        dest="prices",
        action="append",
        default=[],
        metavar="[MODEL=]IN,OUT",
        help="USD per million prompt and completion tokens; may be repeated",
    )
    p.add_argument("--quota", type=float, metavar="USD", help="refuse everything once this much is spent")
    p.add_argument("--batch-seconds", type=float, default=0.0, metavar="SECONDS", help="how long a batch takes")
    p.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name too; may be repeated",
    )
    p.add_argument(
        "--canned", action="append", default=[], metavar="TEXT", help="answer with this text, unjudged; may be repeated"
    )


def run(args: argparse.Namespace) -> None:
    from farm.world import faults, serve

    if "list" in args.faults:
        for group, names in (
            ("not billed", faults.REFUSING),
            ("billed", faults.ANSWERING),
            ("of files and batches", {f"batch:{name}": what for name, what in faults.BATCHES.items()}),
        ):
            print(f"{group}:")
            print("\n".join(f"  {name:14} {what}" for name, what in names.items()))
        return
    settings = {field.name: getattr(args, field.name) for field in fields(faults.Conditions)}
    settings["faults"] = dict(_fault(text) for text in args.faults)
    settings["prices"] = dict(_price(text) for text in args.prices)
    serve.run(args.host, args.port, answers=args.answers, conditions=faults.Conditions.from_json(settings))


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    try:
        return name, float(rate)
    except ValueError:
        raise FarmError(
            f"--fault {text}: give NAME=RATE, for instance 429=0.02; --fault list shows the names"
        ) from None


def _price(text: str) -> tuple[str, tuple[float, float]]:
    model, _, amounts = text.rpartition("=")
    prompt, _, completion = amounts.partition(",")
    try:
        return model or "*", (float(prompt), float(completion))
    except ValueError:
        raise FarmError(
            f"--price {text}: give IN,OUT or MODEL=IN,OUT in USD per million tokens, for instance 2.5,10"
        ) from None
