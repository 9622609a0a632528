"""``farm annotators``: list the annotators of a pool, or show one with its prompt."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("annotators", help="list the annotators of a pool, or show one with its prompt")
    p.set_defaults(work=run)
    p.add_argument("action", choices=["list", "show"])
    p.add_argument("name", nargs="?", help="an annotator's id (show)")
    p.add_argument("--pool", default="farm13", help="a pool's folder or shipped name (default: farm13)")


def run(args: argparse.Namespace) -> None:
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
