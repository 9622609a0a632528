"""Where ``farm agree`` and ``farm calibrate`` get judgements and human votes from: files, or a run folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farm.data.judged import Judged, Rejected

FORMATS = ("trl", "alpacafarm", "mtbench", "pandalm", "csv", "farm")


@dataclass(frozen=True)
class Sources:
    """Judges and people on the same pairs, and a line on where they come from."""

    judges: Judged
    people: Judged
    about: str

    @property
    def texts(self) -> dict[str, Any]:
        return self.people.responses | self.judges.responses

    @property
    def tasks(self) -> dict[str, Any]:
        return self.people.instructions | self.judges.instructions


def declare(p: argparse.ArgumentParser) -> None:
    """The arguments that name judgements and votes. ``--format`` belongs to the file named before it."""
    p.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder: its cross-annotation and votes")
    p.add_argument("--judgements", type=Path, metavar="FILE", action=_File, help="what the judges said")
    p.add_argument("--humans", type=Path, metavar="FILE", action=_File, help="what people said on the same pairs")
    p.add_argument(
        "--format",
        choices=FORMATS,
        action=_Format,
        metavar="F",
        help=f"format of the file named before it: {', '.join(FORMATS)} (default: told by the columns)",
    )
    p.add_argument("--texts", type=Path, metavar="FILE", help="questions and answers for MT-bench votes")
    p.add_argument("--rejected", type=Path, metavar="FILE", help="write rows that could not be read, with the reason")
    p.add_argument("--report", type=Path, metavar="FILE", help="write a page (HTML)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    p.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    p.set_defaults(formats={}, last_file=None)


class _File(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.last_file = self.dest


class _Format(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        namespace.formats = {**namespace.formats, namespace.last_file: values}


def load(args: argparse.Namespace) -> Sources:
    """Read what the arguments name; rejected rows are counted on stderr and written to ``--rejected``.

    Raises DataError when something is missing or a file has no usable row.
    """
    from farm.data import human
    from farm.data.judged import of_run, on_pairs_of
    from farm.errors import DataError

    judges = people = None
    if args.run is not None:
        judges, people = of_run(args.run)
    both = args.formats.get(None)  # a format given before any file is for both
    if args.judgements is not None:
        form = args.formats.get("judgements", both)
        judges = human.read(args.judgements, form, judges=True, texts=args.texts)
        _tell(args.judgements, judges.rejected)
    if args.humans is not None:
        people = human.read(args.humans, args.formats.get("humans", both), texts=args.texts)
        _tell(args.humans, people.rejected)
    if judges is None:
        raise DataError("say what the judges said: --judgements FILE, or a run folder")
    if people is None:
        raise DataError(f"{args.run or args.judgements} holds no human votes: add --humans FILE")
    if args.rejected:
        files = [(args.judgements, judges.rejected), (args.humans, people.rejected)]
        _write_rejected(args.rejected, [(str(f), r) for f, rows in files if f for r in rows])
    named = [str(f.name) for f in (args.run, args.judgements, args.humans) if f]
    return Sources(judges, on_pairs_of(people, judges), " and ".join(dict.fromkeys(named)))


def _tell(path: Path, rejected: Sequence[Rejected]) -> None:
    from farm.progress import say

    if rejected:
        say(f"{path}: {len(rejected)} rows could not be read, the first: line {rejected[0].line}: {rejected[0].reason}")


def _write_rejected(path: Path, rows: Sequence[tuple[str, Rejected]]) -> None:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerow(["file", "line", "reason"])
        out.writerows([(file, r.line, r.reason) for file, r in rows])


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
