"""``farm label``: a blind labelling page for people on this machine, and what they said as a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farm.label.material import Material
    from farm.label.store import Store

EPILOG = """\
farm label RUN --annotators ann,bob,cat         label the pairs a run's pool judged
farm label --pairs-file FILE --annotators ann   label pairs of your own (JSON lines: instruction, first, second)
farm label export STORE --format trl --out FILE

The same command again goes on where it stopped; see docs/labelling.md."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "label",
        help="collect blind labels from people, and export them",
        description="Serve a blind labelling page on this machine, or export the labels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.set_defaults(work=run)
    p.add_argument("source", nargs="?", metavar="RUN | export", help="a run folder; or the word export, then a store")
    p.add_argument("exported", nargs="?", type=Path, metavar="STORE", help="the label store to export")
    p.add_argument("--annotators", metavar="NAMES", help="who labels, separated by commas")
    p.add_argument("--pairs", type=int, metavar="N", help="how many pairs everybody labels (default: all)")
    p.add_argument("--choose", choices=["random", "informative"], default="random", help="which pairs (random)")
    p.add_argument(
        "--from",
        dest="part",
        choices=["evaluate", "annotate", "cross"],
        default="evaluate",
        help="which pairs of a run (evaluate)",
    )
    p.add_argument("--pairs-file", type=Path, metavar="FILE", help="JSON lines: instruction, first, second, ...")
    p.add_argument("--checks", type=float, default=0.05, metavar="SHARE", help="pairs with a known answer (0.05)")
    p.add_argument("--repeats", type=float, default=0.05, metavar="SHARE", help="pairs shown twice, swapped (0.05)")
    p.add_argument("--seed", type=int, default=0, help="of the choice, the order and the sides")
    p.add_argument("--store", type=Path, metavar="FILE", help="where labels are kept (RUN/labels.sqlite)")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=0, help="0: the one of the last time, or a free one")
    e = p.add_argument_group("export")
    e.add_argument("--format", choices=["trl", "farm", "csv", "parquet"], default="farm", help="(farm)")
    e.add_argument("--out", type=Path, metavar="FILE")
    e.add_argument("--rule", choices=["majority", "each"], default="majority", help="trl: a row per pair, or per label")
    e.add_argument("--margin", action="store_true", help="trl: a column 'margin' from the strengths")
    e.add_argument("--simulator", action="store_true", help="farm, csv, parquet: the simulator's verdicts instead")
    e.add_argument("--with-checks", action="store_true", help="farm, csv, parquet: pairs with a known answer too")


def run(args: argparse.Namespace) -> None:
    if args.source == "export":
        export(args)
        return
    from farm.label import serve
    from farm.study.labelling import figures

    store = _store(args)
    for name in _names(args):
        store.add_annotator(name)
    if not store.annotators():
        from farm.errors import DataError

        raise DataError("farm label: say who labels, such as --annotators ann,bob,cat")
    serve.run(store, figures, args.host, args.port)


def _names(args: argparse.Namespace) -> list[str]:
    """The annotators named. Raises DataError for a name that is empty, given twice, or of other characters."""
    import re

    from farm.errors import DataError

    names = [n.strip() for n in args.annotators.split(",")] if args.annotators else []
    for name in names:
        if not re.fullmatch(r"[\w.@-]{1,60}", name) or name == "admin" or names.count(name) > 1:
            raise DataError(
                f"--annotators: {name!r} is not a usable name; give different names of letters, digits and . @ _ -"
            )
    return names


def _store(args: argparse.Namespace) -> Store:
    """The store of an earlier call, or a new one."""
    from farm.errors import DataError
    from farm.label.store import Store

    if args.source is None and args.pairs_file is None and args.store is None:
        raise DataError("farm label: give a run folder, --pairs-file FILE, or the --store of an earlier call")
    if args.source is not None and args.pairs_file is not None:
        raise DataError("farm label: give a run folder or --pairs-file, not both")
    beside = (
        args.pairs_file.with_suffix(".labels.sqlite") if args.pairs_file else Path(args.source or ".") / "labels.sqlite"
    )
    path = args.store or beside
    if path.exists():
        store = Store(path)
        planned = len(store.pairs(known=False))
        if args.pairs is not None and args.pairs != planned:
            raise DataError(f"{path}: has {planned} pairs, so --pairs {args.pairs} needs another --store")
        return store
    return _new(args, path)


def _new(args: argparse.Namespace, path: Path) -> Store:
    from farm.errors import DataError
    from farm.label import material, select
    from farm.label.store import Store

    for name in ("checks", "repeats"):
        if not 0 <= getattr(args, name) <= 0.5:
            raise DataError(f"--{name} {getattr(args, name)}: a share of the pairs, from 0 to 0.5")
    if args.source is None and args.pairs_file is None:
        raise DataError(f"{path}: no such label store; give a run folder or --pairs-file to start one")
    found = material.from_file(args.pairs_file) if args.pairs_file else material.from_run(Path(args.source), args.part)
    known, open_ = _known(found)
    count = len(open_.pairs) if args.pairs is None else args.pairs
    if not 1 <= count <= len(open_.pairs):
        raise DataError(f"--pairs {count}: there are {len(open_.pairs)} pairs to label")
    chosen = (select.informative if args.choose == "informative" else select.random)(open_, count, args.seed)
    if not known.pairs and args.checks:
        known = material.mismatched(open_, [p for p, _ in chosen], round(args.checks * count) or 1, args.seed)
    return Store.create(path, open_, chosen, known, repeats=round(args.repeats * count), seed=args.seed)


def _known(found: Material) -> tuple[Material, Material]:
    """Pairs whose answer the file gives, and the others."""
    from dataclasses import replace

    known = [p for p in found.pairs if p.id in found.answers]
    others = [p for p in found.pairs if p.id not in found.answers]
    return replace(found, pairs=known), replace(found, pairs=others, answers={})


def export(args: argparse.Namespace) -> None:
    from farm.errors import DataError
    from farm.label import export
    from farm.label.store import Store

    if args.exported is None or args.out is None:
        raise DataError("farm label export needs a store and a file: farm label export STORE --format trl --out FILE")
    store = Store(args.exported)
    if args.format == "trl":
        rows, ties = export.preferences(store, rule=args.rule, margin=args.margin)
        export.write(rows, args.out, "trl")
        print(f"{args.out}: {len(rows)} preferences; {ties} ties left out")
        return
    rows = export.pool_table(store) if args.simulator else export.long_table(store, checks=args.with_checks)
    export.write(rows, args.out, args.format)
    print(f"{args.out}: {len(rows)} judgements")
