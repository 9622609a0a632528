"""Finds ``annotators/``, ``recipes/`` and ``eval_sets/``: inside an installed wheel, or beside a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from farm.errors import DataError

Kind = Literal["annotators", "recipes", "eval_sets"]


def folder(kind: Kind) -> Path:
    """The shipped folder of that kind. Raises DataError naming both places where it was looked for."""
    package = Path(__file__).parent
    places = [package / "_data" / kind, package.parent / kind]
    for place in places:
        if place.is_dir():
            return place
    raise DataError(f"no '{kind}' folder: looked in {places[0]} (installed) and {places[1]} (checkout)")


def find(kind: Kind, name: str | Path) -> Path:
    """A file or folder by path, or by name among the shipped ones (``.yaml`` may be left out).

    Raises DataError listing what exists.
    """
    given = Path(name).expanduser()
    if given.is_file() or (given.is_dir() and kind != "recipes"):  # a run folder may be called like its recipe
        return given
    shipped = folder(kind)
    inside = shipped.joinpath(*given.parts[1:]) if given.parts[:1] == (kind,) else shipped / given
    for candidate in (inside, inside.parent / f"{inside.name}.yaml"):
        there = candidate.is_file() if kind == "recipes" else candidate.exists()
        if there and shipped in candidate.parents and ".." not in given.parts:
            return candidate
    named = (p for p in shipped.iterdir() if p.is_file() or kind != "recipes")
    names = sorted(p.stem for p in named if not p.name.startswith((".", "_", "README")))
    raise DataError(f"{given}: no such file, and no such name in {kind}/ (there: {', '.join(names)})")


def installed(package: str = "rlhf-farm") -> str | None:
    """The installed version of a package, by default of farm itself; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
