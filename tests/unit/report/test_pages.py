"""Every kind of page: one file that runs nothing and requests nothing, whatever texts are in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from run_folder import make
from test_html import parsed

from farm.cli import main
from farm.records import Response
from farm.report import browser, html, overoptimization
from farm.report.page import render

sys.path.insert(0, str(Path(__file__).parents[1] / "label"))
from hostile import HOSTILE

LARGEST = 3_000_000
COMMANDS = {
    "agreement": ("agree", "{run}", "--report"),
    "calibration": ("calibrate", "{run}", "--report"),
    "correlation": ("correlate", "{run}", "--report"),
    "evaluation": (
        "evaluate", "--format", "farm", "--judgements", "{run}/6-evaluate/sft/seed-0", "{run}/6-evaluate/ppo/seed-0",
        "--report",
    ),
    "comparison": ("report", "{run}", "{other}", "--out"),
    "run": ("report", "{run}", "--out"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(one, tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "first", *one)


@pytest.fixture(scope="module")
def other(one, tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "second", *one, better=0.2)


def self_contained(page: str, links: tuple[str, ...] = ()) -> None:
    """No script, nothing to load, links only to ``links`` beside the page; styles for dark and print; small."""
    tags = parsed(page)
    assert not {t for t, _ in tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
    }
    found = [(name, value) for _, a in tags for name, value in a.items()]
    assert not [name for name, _ in found if name in ("src", "srcset", "xlink:href") or name.startswith("on")]
    assert tuple(value for name, value in found if name == "href") == links
    assert not re.search(r"url\((?!#)|@import", "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL)))
    policy = [a["content"] for t, a in tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert len(page.encode()) < LARGEST
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_commands_page_is_self_contained(kind, run, other, tmp_path, capsys):
    path = tmp_path / f"{kind}.html"
    main([word.format(run=run, other=other) for word in COMMANDS[kind]] + [str(path)])
    page = path.read_text(encoding="utf-8")
    self_contained(page, ("run-samples.html",) if kind == "run" else ())
    assert "<table" in page
    assert re.search(r"\[\S+, \S+\]", page), "no interval on the page"
    assert str(run.parent) not in page or kind == "correlation"
    capsys.readouterr()


def test_the_laboratorys_page_is_self_contained():
    numbers = overoptimization.Numbers(
        farm_version="0", recipe=HOSTILE[0], seeds=(0,), gold=HOSTILE[3], pool_instructions=1, pool_size=1,
        curve_instructions=1, bands=(), notes=HOSTILE[:8],
        examples=tuple(
            overoptimization.Example(method="m", instruction=t, where="start", text=t, proxy=0.0, gold=None)
            for t in HOSTILE
        ),
    )  # fmt: skip
    self_contained(render(overoptimization.page(numbers)))


def test_hostile_texts_are_text_in_a_runs_pages(one, tmp_path):
    from farm.report.again import again

    summary = one[0].model_copy(update={"curves": (), "levels": ()})  # without charts: quick
    safe = again(make(tmp_path / "safe", summary, one[1], n=30), tmp_path / "safe.html")
    page = again(make(tmp_path / "nasty", summary, one[1], n=30, texts=HOSTILE), tmp_path / "nasty.html")
    for plain, nasty in ((safe, page), *[[p.with_name(p.stem + "-samples.html") for p in (safe, page)]]):
        text = nasty.read_text(encoding="utf-8")
        names = [tag for tag, _ in parsed(text)]
        assert sorted(set(names)) == sorted({tag for tag, _ in parsed(plain.read_text(encoding="utf-8"))})
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\ufeff\u2028\x00-\x08\x0b-\x1f\x7f\x85\U000e0041]", text)
        assert len(text.encode()) < LARGEST
    samples = page.with_name("nasty-samples.html").read_text(encoding="utf-8")
    self_contained(samples)
    for hostile in HOSTILE:
        shown = str(html.environment().from_string("{{ text }}").render(text=hostile))
        assert shown[:3000] in samples


def test_entries_know_who_disagrees_with_whom(run):
    entries = browser.collect(run)
    cross = [e for e in entries if e.group == browser.CROSS]
    assert len(cross) == 40
    assert {e.group for e in entries} == {browser.CROSS, "dpo", "ppo", "sft"}
    split = [e for e in cross if "split" in e.kinds]
    assert len(split) == 40  # one of three always decides otherwise
    assert all(e.disputed == pytest.approx(1 / 3) for e in split)
    assert all(len(e.opinions) == 6 for e in cross)
    ppo = [e for e in entries if e.group == "ppo"]
    assert [label for label, _ in ppo[0].responses] == ["ppo", "reference"]
    assert sum(o.prefers == "ppo" for e in ppo for o in e.opinions if not o.person) == 30


def entry(
    pool: list[str | None], people: list[str | None] = (), gold: tuple[float, float] | None = None
) -> browser.Entry:
    scores = [{} if gold is None else {"gold": g} for g in gold or (0, 0)]
    responses = [Response.make("i", t, "p", n_tokens=1, scores=s) for t, s in zip("xy", scores, strict=True)]
    opinions = [
        browser.Opinion(f"o{k}", o, "refused" if o is None else "decided", "a", None, "", person)
        for person, some in ((False, pool), (True, people))
        for k, o in enumerate(some)
    ]
    return browser.Entry("g", "p", "ask", "", (("a", responses[0]), ("b", responses[1])), tuple(opinions))


@pytest.mark.parametrize(
    ("made", "kinds", "disputed", "tally"),
    [
        (entry(["a", "a"]), ("agree",), 0.0, "a \u00d7 2"),
        (entry(["a", "a", "b", None]), ("split", "failed"), 1 / 3, "a \u00d7 2, b \u00d7 1, refused \u00d7 1"),
        (entry(["a"], ["b", "b", "a"]), ("people",), 0.0, "a \u00d7 1; people: b \u00d7 2, a \u00d7 1"),
        (entry(["a"], ["b", "a"]), (), 0.0, "a \u00d7 1; people: b \u00d7 1, a \u00d7 1"),
        (entry(["a"], gold=(0.0, 1.0)), ("gold",), 0.0, "a \u00d7 1"),
        (entry(["a", "b"], gold=(0.0, 1.0)), ("split",), 0.5, "a \u00d7 1, b \u00d7 1"),
        (entry([None]), ("failed",), 0.0, "refused \u00d7 1"),
        (entry([]), (), 0.0, ""),
    ],
)
def test_filters(made, kinds, disputed, tally):
    assert made.kinds == kinds
    assert made.disputed == pytest.approx(disputed)
    assert made.tally == tally


def test_a_full_page_leaves_entries_out_by_turns_and_says_so(run):
    entries = browser.collect(run)
    whole, part = browser.render(entries, "t"), browser.render(entries, "t", limit=80_000)
    assert whole.count("<article") == 160
    assert "160 of 160 judged pairs." in whole
    assert len(part.encode()) < 80_000
    shown = part.count("<article")
    assert 8 < shown < 160
    sizes = [len(re.findall(rf'class="exhibit entry g{k}\b', part)) for k in range(4)]
    assert max(sizes) - min(sizes) <= 2
    assert f"{shown} of 160 judged pairs: the groups take turns" in part


def test_a_filter_of_every_kind_and_group_hides_the_rest(run):
    page = browser.render(browser.collect(run), "t")
    for kind in ("split", "people"):
        assert f"#d-{kind}:checked ~ .entries .entry:not(.{kind})" in page
        assert f'<input class="pick" type="radio" name="d" id="d-{kind}">' in page
    assert "#g-2:checked ~ .entries .entry:not(.g2)" in page
    assert 'id="d-all" checked' in page
