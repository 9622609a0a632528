"""Several runs on one page, pages made again, and charts as files."""

from __future__ import annotations

import re
import shutil
from xml.etree import ElementTree

import pytest
from run_folder import make

from farm.cli import main
from farm.errors import DataError
from farm.report import comparison, files
from farm.report.compared import gaps, names, read
from farm.report.page import render


@pytest.fixture(scope="module")
def folders(one, tmp_path_factory):
    """A base; one in which ppo wins more; one on other instructions; one with another reference."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "base": make(root / "base", *one),
        "better": make(root / "better", *one, better=0.25),
        "shorter": make(root / "shorter", *one, n=30),
        "against": make(root / "against", *one, reference="Another one"),
    }


def test_a_method_is_compared_instruction_by_instruction(folders):
    found = gaps(read([folders["base"], folders["better"]]))
    by = {(g.method, g.measure): g for g in found}
    ppo = by["ppo", "win_rate"].estimate
    assert ppo is not None
    assert ppo.value == pytest.approx(0.25)  # 40 of 40 won instead of 30
    assert ppo.n == 40
    assert ppo.ci95_low is not None
    assert ppo.ci95_low > 0
    assert by["ppo", "gold"].estimate.value == pytest.approx(0.25)
    for method in ("sft", "dpo"):
        assert by[method, "win_rate"].estimate.value == 0.0
    assert by["sft", "win_rate"].why == "1 training seed"


@pytest.mark.parametrize(
    ("other", "measure", "why"),
    [
        ("shorter", "win_rate", "evaluated on other instructions"),
        ("shorter", "gold", "evaluated on other instructions"),
        ("against", "win_rate", "compared with other reference texts"),
        ("against", "gold", "1 training seed"),
    ],
)
def test_what_cannot_be_compared_is_not(folders, other, measure, why):
    by = {(g.method, g.measure): g for g in gaps(read([folders["base"], folders[other]]))}
    found = by["ppo", measure]
    assert found.why == why
    assert (found.estimate is None) == (why != "1 training seed")


def test_another_judge_or_world_is_a_hindrance(folders, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folders["base"], moved)
    path = moved / "8-report" / "summary.json"
    path.write_text(path.read_text().replace('"judge": "farm13"', '"judge": "other"'))
    for step in moved.glob("6-evaluate/*/*/step.json"):
        step.write_text(step.read_text().replace('"world": 1', '"world": 2'))
    by = {(g.method, g.measure): g.why for g in gaps(read([folders["base"], moved]))}
    assert by["sft", "win_rate"] == "judged by other, not farm13"
    assert by["sft", "gold"] == "gold of another version of the offline world"


def test_other_training_seeds_are_paired_in_order(folders, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folders["better"], moved)
    for step in list(moved.glob("6-evaluate/*/seed-0")):
        step.rename(step.with_name("seed-7"))
    by = {(g.method, g.measure): g for g in gaps(read([folders["base"], moved]))}
    assert by["ppo", "win_rate"].estimate.value == pytest.approx(0.25)
    shutil.copytree(moved / "6-evaluate/ppo/seed-7", moved / "6-evaluate/ppo/seed-8")
    by = {(g.method, g.measure): g for g in gaps(read([folders["base"], moved]))}
    assert by["ppo", "win_rate"].why == "no training seed in common"


def test_the_page_says_what_differs(folders, tmp_path, capsys):
    out = tmp_path / "page.html"
    runs = [str(folders[name]) for name in ("base", "better", "shorter")]
    main(["report", *runs, "--out", str(out), "--svg", str(tmp_path)])
    said = capsys.readouterr().out
    assert "better lies above base in win rate, in points: ppo by 25.0 [" in said
    assert "shorter is not compared with base in gold (evaluated on other instructions) and win rate" in said
    page = out.read_text(encoding="utf-8")
    headings = (
        "Runs",
        "Methods by runs",
        "The same method in different runs",
        "Curves",
        "Settings that differ",
        "Costs",
    )
    for heading in [*headings, "Costs"]:
        assert f"<h2><bdi>{heading}</bdi></h2>" in page
    assert re.search(r"improve\.ppo\.steps.*?>0<.*?>25<", page, re.DOTALL)
    assert "seeds" not in re.findall(r'<th scope="row"><bdi>(seeds)</bdi>', page)
    assert (tmp_path / "curves-ppo.svg").is_file()


def test_recipes_are_compared_setting_by_setting():
    recipe = {"a": {"b": [1, 2], "c": {}}, "improve": {"x": ["ppo", {"steps": 3, "optim": {"lr": 0.1}}]}, "t": "<b>"}
    assert comparison.flattened(recipe) == {
        "a.b": "[1, 2]", "a.c": "{}", "improve.x": "ppo", "improve.x.steps": "3", "improve.x.optim.lr": "0.1",
        "t": "<b>",
    }  # fmt: skip


def test_names_are_as_short_as_they_can_be(tmp_path):
    assert names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert names([tmp_path / "a" / "x", tmp_path / "b" / "y"]) == ["x", "y"]


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as e:
        main(["report", *arguments])
    assert e.value.code == 1
    return capsys.readouterr().err


def test_arguments_that_are_neither_are_refused(folders, tmp_path, capsys):
    base = str(folders["base"])
    assert "neither a run folder nor a recipe" in refused(capsys, str(tmp_path / "nothing"))
    assert "a folder without a manifest.json" in refused(capsys, str(tmp_path))
    assert "tiny: not a run folder" in refused(capsys, base, "tiny")
    assert "given twice" in refused(capsys, base, base)
    page = tmp_path / "page.html"
    page.write_text("<h2>x</h2>")
    assert "--png, --svg or --pdf" in refused(capsys, str(page))
    assert "mean nothing for a page" in refused(capsys, str(page), "--full", "--svg", str(tmp_path))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folders["base"], unfinished, ignore=shutil.ignore_patterns("8-report"))
    assert "not finished" in refused(capsys, str(unfinished))
    assert "8-report/summary.json" in refused(capsys, base, str(unfinished))


def test_a_page_made_again_in_place_is_the_same(folders, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folders["base"], run)
    main(["report", str(run)])
    pages = {p.name: p.read_bytes() for p in (run / "8-report").glob("*.html")}
    assert sorted(pages) == ["index.html", "samples.html"]
    assert b'<a href="samples.html">' in pages["index.html"]
    main(["report", str(run), "--png", str(tmp_path / "png"), "--pdf", str(tmp_path / "pdf")])
    assert {p.name: p.read_bytes() for p in (run / "8-report").glob("*.html")} == pages
    pictures = sorted(p.stem for p in (tmp_path / "png").iterdir())
    assert pictures == sorted(p.stem for p in (tmp_path / "pdf").iterdir())
    assert "methods" in pictures
    assert (tmp_path / "png" / "methods.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "pdf" / "methods.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()


def test_charts_leave_the_page_whole_and_in_its_colours(folders):
    page = render(comparison.page(read([folders["base"], folders["better"]])))
    drawn = files.charts(page)
    assert next(iter(drawn)).startswith("methods-by-runs")
    assert {"curves-ppo", "curves-ppo-2"} <= set(drawn)
    for svg in drawn.values():
        assert "var(--" not in svg
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "#2563a8" in drawn["curves-ppo"]


@pytest.mark.parametrize(
    "inside",
    [
        '<image href="file:///etc/passwd"/>',
        "<script>alert(1)</script>",
        '<rect fill="url(http://example.invalid/x)"/>',
        "<foreignObject/>",
        "<style>@import url(http://example.invalid/x)</style>",
        "<g>",
    ],
)
def test_a_page_changed_by_hand_gives_no_files(inside):
    with pytest.raises(DataError, match="chart a-b"):
        files.charts(f'<h2>A &amp; B</h2><svg version="1.1" class="chart" width="1">{inside}</svg>')


def test_a_run_folder_called_like_a_recipe_does_not_hide_it(tmp_path, monkeypatch):
    from farm import resources

    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resources.find("recipes", "quickstart").name == "quickstart.yaml"
    assert resources.find("annotators", "quickstart").is_dir()
