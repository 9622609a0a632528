"""Pictures of every page at 1366x768, light and dark: ``python docs/screenshots.py RUN RUN --laboratory RUN``.

The pages are made from finished run folders: the first for everything about one run, both for the comparison. Without
any, two tiny runs are made (minutes; their numbers mean nothing). The live view is pictured on a run that is started
for it and ended again. Needs Chromium and playwright's Python package.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = {"width": 1366, "height": 768}
PEOPLE = {"ann": 36, "bob": 36, "cat": 30}  # how many pairs each labels before the pictures are taken
KEYS = ("ArrowLeft", "ArrowRight", "t", "ArrowRight", "ArrowLeft")
PATIENCE = 900  # seconds until a started run has come to training policies


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*", type=_there, metavar="RUN", help="finished run folders (two for the comparison)")
    p.add_argument("--laboratory", type=_there, metavar="RUN", help="a finished 'farm overoptimize' run")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "screenshots", metavar="FOLDER")
    p.add_argument("--live", default="quickstart", metavar="RECIPE", help="of the run under the live view (quickstart)")
    p.add_argument("--only", nargs="+", metavar="PAGE", help="only these pages")
    args = p.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("screenshots need Chromium, and no chromium, chromium-browser or google-chrome is on the PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("screenshots need playwright's Python package: pip install playwright")
    out = args.out.resolve()  # before the folder changes
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        os.chdir(scratch)  # so that pages name runs, not places on this machine
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        shots = Shots(browser, out, args.only)
        runs = [_named(run) for run in args.runs] or [_tiny(seed) for seed in (0, 1)]
        _files(shots, runs, args.laboratory and _named(args.laboratory))
        if shots.wanted("watch"):
            _live(shots, args.live)
        if shots.wanted("label") or shots.wanted("admin"):
            _labelling(shots, runs[0])
        browser.close()
    total = sum(path.stat().st_size for path in shots.out.glob("*.png"))
    print(f"{shots.out}: {total / 1e6:.1f} MB")


def _there(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "recipe.yaml").is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a run folder")
    return path


@dataclass(frozen=True)
class Shots:
    """Takes the pictures into ``out``; ``only`` names the pages that are wanted, None all of them."""

    browser: Any
    out: Path
    only: Sequence[str] | None

    def wanted(self, name: str) -> bool:
        return not self.only or name in self.only

    def take(self, name: str, url: str) -> None:
        if not self.wanted(name):
            return
        self.out.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            page = self.browser.new_page(viewport=SIZE, color_scheme=scheme)
            page.goto(url)
            page.wait_for_load_state("networkidle")
            path = self.out / f"{name}-{scheme}.png"
            page.screenshot(path=path)
            page.close()
            print(f"{path.name} {path.stat().st_size / 1000:.0f} kB", flush=True)


def _named(run: Path) -> str:
    """A run folder under its recipe's name in the present folder."""
    found = re.search(r"^name: *(\S+)", (run / "recipe.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    base = name = re.sub(r"\W", "-", found[1]) if found else run.name
    number = 1
    while Path(name).exists():
        number += 1
        name = f"{base}-{number}"
    Path(name).symlink_to(run)
    return name


def _tiny(seed: int) -> str:
    _farm("run", "tiny", "--seed", str(seed), "--out", f"tiny-{seed}")
    return f"tiny-{seed}"


def _farm(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "farm", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"farm {' '.join(arguments)}:\n{done.stderr}")


def _files(shots: Shots, runs: Sequence[str], laboratory: str | None) -> None:
    """The pages that are files."""

    def page(name: str, *arguments: str, option: str = "--report", file: str = "") -> None:
        if shots.wanted(name):
            _farm(*arguments, option, f"{name}.html")
            shots.take(name, Path(file or f"{name}.html").resolve().as_uri())

    page("run", "report", runs[0], option="--out")
    page("samples", "report", runs[0], option="--out", file="samples-samples.html")
    if len(runs) > 1:
        page("comparison", "report", *runs, option="--out")
    if laboratory:
        page("overoptimization", "report", laboratory, option="--out")
    for name, command in (("agreement", "agree"), ("calibration", "calibrate"), ("correlation", "correlate")):
        page(name, command, runs[0])
    judged = [str(step) for step in sorted(Path(runs[0], "6-evaluate").glob("*/seed-*")) if "canaries" not in str(step)]
    page("evaluation", "evaluate", "--format", "farm", "--ratings", "--judgements", *judged)


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


def _live(shots: Shots, recipe: str) -> None:
    """The live view of a run that has come to training policies."""
    out = f"live-{recipe}"
    run = subprocess.Popen([sys.executable, "-m", "farm", "run", recipe, "--out", out], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        measured = "5-*/ppo*/*.partial/resume/so_far.json"
        while run.poll() is None and time.monotonic() < end and not any(Path(out).glob(measured)):
            time.sleep(0.5)
        with _server("watch", out, "--serve") as links:
            shots.take("watch", links[""])
    finally:
        run.terminate()
        run.wait()


def _labelling(shots: Shots, run: str) -> None:
    """The labelling page and its admin page after three people have labelled."""
    with _server("label", run, "--annotators", ",".join(PEOPLE), "--pairs", "60", "--store", "labels.sqlite") as links:
        for name, count in PEOPLE.items():
            _label(shots.browser, links[name], count, whim=len(name) + ord(name[0]))
        shots.take("label", links["ann"])
        shots.take("admin", links["admin"])


def _label(browser: Any, link: str, count: int, whim: int) -> None:
    """Label by keyboard, some seconds a pair: the longer text, but every third pair whatever comes."""
    page = browser.new_page(viewport=SIZE)
    page.clock.install()
    page.goto(link)
    page.wait_for_selector("body[data-task]")
    for k in range(count):
        task = page.get_attribute("body", "data-task")
        left, right = (len(page.text_content(f"#{side}")) for side in ("left", "right"))
        page.clock.fast_forward(4000 + 700 * ((k * 7 + whim) % 11))
        longer = "ArrowLeft" if left > right else "ArrowRight"
        page.keyboard.press(KEYS[(k // 3 + whim) % len(KEYS)] if k % 3 == 0 else longer)
        page.wait_for_selector(f'body:not([data-task="{task}"])')
    page.close()


if __name__ == "__main__":
    main()
