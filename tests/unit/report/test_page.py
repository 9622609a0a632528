from __future__ import annotations

import pytest

from farm.records import Estimate
from farm.report.headline import Point
from farm.report.page import Chart, Column, Page, Section, Table, render

COLUMNS = (Column("judge"), Column("agreement, %", 100, 1), Column("gain", 100, 1, signed=True), Column("n"))
ROWS = (
    (
        "human",
        Estimate(value=0.5, ci95_low=0.4, ci95_high=0.6, n=10),
        Estimate(value=0.1, ci95_low=0.05, ci95_high=0.2, n=10),
        1200,
    ),
    ("<b>bold</b>", None, Estimate(value=-0.25, ci95_low=-0.3, ci95_high=-0.2, n=10), 7),
)


def page(**changes: object) -> str:
    table = Table(COLUMNS, ROWS, title="Agreement", note="ties count half", shaded=frozenset({1}))
    chart = Chart('<svg class="marks" width="1"><g id="a"/></svg>', "what it shows")
    sections = (Section("Judges", ("A sentence.",), (table,), (chart,)), Section("More", ("Folded.",), open=False))
    settings: dict[str, object] = {"meta": "n = 10", "limits": ("No more than that.",)} | changes
    return render(Page("Title", (Point("good", "A finding"),), sections, **settings))  # type: ignore[arg-type]


def test_numbers_carry_their_interval_and_tone() -> None:
    text = page()
    assert "50.0</span>" in text
    assert "[40.0, 60.0]" in text
    assert '<span class="up">+10.0</span>' in text
    assert '<span class="down">\u221225.0</span>' in text
    assert "1,200" in text
    assert 'title="not measured or not estimable"' in text


def test_hostile_text_is_text_and_nothing_is_requested() -> None:
    text = page(meta="<script>alert(1)</script>\x07\u202e")
    assert "<b>bold" not in text
    assert "<script" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_a_row_that_does_not_fit_is_refused() -> None:
    table = Table(COLUMNS, (("human",),))
    with pytest.raises(ValueError, match="does not have 4 cells"):
        render(Page("Title", (), (Section("Judges", tables=(table,)),)))


def test_prose_is_set_from_the_left_and_broken_and_many_columns_put_intervals_below() -> None:
    prose = Table((Column("method"), Column("response", text=True), Column("gold")), (("ppo", "Sure! Welcome!", 0.5),))
    text = render(Page("Title", (), (Section("Samples", tables=(prose,)),)))
    assert '<th class="text"><bdi>response' in text
    assert '<td class="text"><bdi>Sure! Welcome!' in text
    first = render(Page("Title", (), (Section("S", tables=(Table((Column("asked", text=True),), (("Why?",),)),)),)))
    assert '<th scope="row" class="text"><bdi>Why?' in first
    assert '<table class="many">' not in text
    broad = Table(tuple(Column(f"c{k}") for k in range(8)), (tuple(range(8)),))
    assert '<table class="many">' in render(Page("Title", (), (Section("Broad", tables=(broad,)),)))


def test_colours_follow_what_is_shown_and_what_is_better() -> None:
    def tone(low: float, high: float, **column: object) -> str:
        e = Estimate(value=(low + high) / 2, ci95_low=low, ci95_high=high, n=10)
        shown = Table((Column("who"), Column("change", signed=True, **column)), (("ppo", e),))  # type: ignore[arg-type]
        text = render(Page("Title", (), (Section("S", tables=(shown,)),)))
        return text.split("<td><bdi><span class=", 1)[1].split(">", 1)[0]

    assert tone(0.01, 0.1) == '"up"'
    assert tone(0.01, 0.1, less=True) == '"down"'
    assert tone(-0.1, -0.01, less=True) == '"up"'
    assert tone(0.004, 0.1) == '""'  # shown as [0.00, 0.10]
    assert tone(0.0004, 0.1, scale=100, digits=1) == '""'
    assert tone(0.004, 0.1, scale=100, digits=1) == '"up"'
