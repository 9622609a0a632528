"""Pictures of every page at 1366x768, light and dark: ``python docs/screenshots.py RUN RUN --laboratory RUN``.

The pages are made from finished run folders: the first for everything about one run, both for the comparison. Without
any, two tiny runs are made (minutes; their numbers mean nothing). Needs Chromium and playwright's Python package.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZE = {"width": 1366, "height": 768}
PEOPLE = {"ann": 36, "bob": 36, "cat": 30}  # how many pairs each labels before the pictures are taken
KEYS = ("ArrowLeft", "ArrowRight", "t", "ArrowLeft", "ArrowRight", "ArrowRight")
COMMANDS = {
    "agreement": ("agree", "{run}"),
    "calibration": ("calibrate", "{run}"),
    "correlation": ("correlate", "{run}"),
    "evaluation": ("evaluate", "--format", "farm", "--ratings", "--judgements", "{judged}"),
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="finished run folders (two for the comparison)")
    p.add_argument("--laboratory", type=Path, metavar="RUN", help="a finished 'farm overoptimize' run")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "screenshots", metavar="FOLDER")
    p.add_argument("--only", nargs="+", metavar="PAGE", help="only these pages")
    args = p.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("screenshots need Chromium, and no chromium, chromium-browser or google-chrome is on the PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("screenshots need playwright's Python package: pip install playwright")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch)
        runs = args.runs or [_tiny(folder, seed) for seed in (0, 1)]
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, url in _pages(folder, runs, args.laboratory, args.only).items():
            _shoot(browser, name, url, args.out)
        if not args.only or {"watch", "label", "admin"} & set(args.only):
            _served(browser, folder, runs[0], args.out)
        browser.close()
    total = sum(path.stat().st_size for path in args.out.glob("*.png"))
    print(f"{args.out}: {total / 1e6:.1f} MB")


def _tiny(folder: Path, seed: int) -> Path:
    run = folder / f"tiny-{seed}"
    _farm("run", "tiny", "--seed", str(seed), "--out", str(run))
    return run


def _farm(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "farm", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"farm {' '.join(arguments)}:\n{done.stderr}")


def _pages(
    folder: Path, runs: Sequence[Path], laboratory: Path | None, only: Sequence[str] | None
) -> Mapping[str, str]:
    """Name -> address of every page that is a file."""
    made: dict[str, Path] = {}

    def wanted(name: str) -> bool:
        return not only or name in only

    if wanted("run") or wanted("samples"):
        _farm("report", str(runs[0]), "--out", str(folder / "run.html"))
        made |= {name: folder / file for name, file in (("run", "run.html"), ("samples", "run-samples.html"))}
    if wanted("comparison") and len(runs) > 1:
        _farm("report", *map(str, runs), "--out", str(folder / "comparison.html"))
        made["comparison"] = folder / "comparison.html"
    if wanted("overoptimization") and laboratory is not None:
        _farm("report", str(laboratory), "--out", str(folder / "overoptimization.html"))
        made["overoptimization"] = folder / "overoptimization.html"
    judged = sorted(str(step) for step in (runs[0] / "6-evaluate").glob("*/seed-*") if step.parent.name != "canaries")
    for name, words in COMMANDS.items():
        if wanted(name):
            texts = [word.format(run=runs[0]) for word in words if word != "{judged}"]
            _farm(*texts, *(judged if "{judged}" in words else []), "--report", str(folder / f"{name}.html"))
            made[name] = folder / f"{name}.html"
    return {name: path.as_uri() for name, path in made.items() if wanted(name)}


def _shoot(browser: Any, name: str, url: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport=SIZE, color_scheme=scheme)
        page.goto(url)
        page.wait_for_load_state("networkidle")
        path = out / f"{name}-{scheme}.png"
        page.screenshot(path=path)
        page.close()
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def _server(*arguments: str) -> Iterator[dict[str, str]]:
    """A serving command as a process of its own; yields the links that it prints, by name ("" for a bare one)."""
    command = [sys.executable, "-m", "farm", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    links = {}
    try:
        for line in process.stdout or ():
            if found := re.match(r"\s*(\w*?)\s*(http://\S+)$", line):
                links[found[1]] = found[2]
            if "" in links or "labels go to" in line:
                break
        yield links
    finally:
        process.terminate()
        process.wait()


def _served(browser: Any, folder: Path, run: Path, out: Path) -> None:
    """The live view, and the labelling page and its admin page after three people have labelled."""
    with _server("watch", str(run), "--serve") as links:
        _shoot(browser, "watch", links[""], out)
    people = ",".join(PEOPLE)
    store = ("--store", str(folder / "labels.sqlite"))
    with _server("label", str(run), "--annotators", people, "--pairs", "60", *store) as links:
        for name, count in PEOPLE.items():
            _label(browser, links[name], count)
        _shoot(browser, "label", links["ann"], out)
        _shoot(browser, "admin", links["admin"], out)


def _label(browser: Any, link: str, count: int) -> None:
    """Label by keyboard: the longer text, but every third pair whatever comes."""
    page = browser.new_page(viewport=SIZE)
    page.goto(link)
    page.wait_for_selector("body[data-task]")
    for k in range(count):
        task = page.get_attribute("body", "data-task")
        left, right = (len(page.text_content(f"#{side}")) for side in ("left", "right"))
        page.keyboard.press(KEYS[k % len(KEYS)] if k % 3 == 0 else "ArrowLeft" if left > right else "ArrowRight")
        page.wait_for_selector(f'body:not([data-task="{task}"])')
    page.close()


if __name__ == "__main__":
    main()
