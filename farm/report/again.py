"""The pages of a run folder, made from its records: when the run ends, and again whenever somebody asks."""

from __future__ import annotations

from pathlib import Path

from farm import records, runs
from farm.errors import RunError
from farm.report import browser, html, overoptimization, summary
from farm.report.page import render
from farm.report.samples import Exhibit
from farm.report.summary import Summary


def is_run(folder: Path) -> bool:
    """Whether a path is the folder of a run of this package."""
    return folder.is_dir() and any((folder / name).is_file() for name in ("manifest.json", "recipe.yaml", runs.HOLDER))


def write(run: Path, numbers: Summary, page: Path) -> None:
    """Write a run's page from its ``numbers``, and beside it its samples (``samples.html``, for another page than
    ``index.html`` named after it)."""
    exhibits = records.read(run / "7-study" / "across" / "exhibits.jsonl", Exhibit)
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    beside = page.with_name("samples.html" if page.stem == "index" else f"{page.stem}-samples.html")
    entries = browser.collect(run)
    if entries:
        html.write(beside, browser.render(entries, f"{numbers.recipe}: judged pairs"))
    samples = beside.name if entries else ""
    html.write(page, html.render(numbers, exhibits=exhibits, recipe=recipe, samples=samples))


def again(run: Path, page: Path | None = None) -> Path:
    """Make the page of a finished run anew from its records, into ``page`` or in place; returns where it is.

    Raises RunError when the run is not finished, or for making it in place while a process works there.
    """
    if page is None:
        with runs.locked(run):
            return _again(run, None)
    return _again(run, page)


def _again(run: Path, page: Path | None) -> Path:
    if (run / "8-report" / "summary.json").is_file():
        page = page or run / "8-report" / "index.html"
        write(run, summary.read(run / "8-report" / "summary.json"), page)
    elif (run / "8-laboratory" / "numbers.json").is_file():
        page = page or run / "8-laboratory" / "index.html"
        html.write(page, render(overoptimization.page(overoptimization.read(run / "8-laboratory" / "numbers.json"))))
    else:
        raise RunError(f"{run}: no report to make again: the run is not finished (see 'farm watch {run}')")
    return page
