"""The laboratory's page, charts and terminal lines: every part appears, hostile text stays text, plots are files."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from farm.errors import DataError
from farm.records import CurvePoint, Estimate, RewardCurve
from farm.report import overoptimization as report
from farm.report.overoptimization_charts import against_kl, save
from farm.report.page import render
from farm.study import curves, fits, warning
from farm.study.crossing import crossed
from farm.study.overoptimization import PromptCurve, verdict

PROMPTS = tuple(f"i{k}" for k in range(20))
D = np.linspace(0, 2.4, 11)


def curve(method: str, x_name: str, seed: int, peak: float = 1.2) -> PromptCurve:
    random = np.random.default_rng(seed)
    gold = (0.5 * (1 - ((D - peak) / peak) ** 2))[:, None] + random.normal(0, 0.05, size=(len(D), len(PROMPTS)))
    proxy = D[:, None] + np.zeros(len(PROMPTS))
    points = tuple(
        CurvePoint(x=float(k + 1), proxy=float(d), gold=float(g.mean()), kl=float(d * d), n=len(PROMPTS))
        for k, (d, g) in enumerate(zip(D, gold, strict=True))
    )
    return PromptCurve(RewardCurve(method=method, seed=seed, x_name=x_name, points=points), PROMPTS, proxy, gold)


@pytest.fixture(scope="module")
def numbers() -> report.Numbers:
    pool = [curve("best-of-n: base", "n", s) for s in range(3)]
    more = [curve("best-of-n: <b>more</b>", "n", s, 1.6) for s in range(3)]
    rl = [curve("ppo", "step", s) for s in range(3)]
    cells = {(t, e): pool for t in ("population", "single") for e in ("same", "independent")}
    traces = [warning.Trace("a", s, "n", D, -np.abs(D - 1.2), {"KL spent": D * D, "proxy gap": D}) for s in range(3)]
    return report.Numbers(
        farm_version="0",
        recipe="lab",
        seeds=(0, 1, 2),
        gold="the offline world",
        pool_instructions=20,
        pool_size=11,
        curve_instructions=20,
        bands=tuple(b for c in (pool, more, rl) for b in curves.bands(c, seed=0)),
        peaks=tuple(curves.peak(c, seed=0) for c in (pool, more, rl)),
        verdicts=(verdict(pool, seed=0), verdict(rl, seed=0)),
        fits=(fits.fit(pool, seed=0), fits.fit(rl, seed=0)),
        spending=tuple(curves.spending(pool, rl, [1.0], seed=0)),
        shifts=(curves.shift(more, pool, seed=0, name="more", against="base", question="More preferences:"),),
        crossings=(crossed(cells, dict.fromkeys(cells, "j"), method="best-of-n", seed=0),),
        reliability=tuple(warning.validate(traces, seed=0)),
        marks=tuple(warning.marks(traces)),
        models=(
            report.ModelRow(
                reward="base",
                n_train=100,
                accuracy=Estimate(value=0.6, ci95_low=0.5, ci95_high=0.7, n=50),
                longer_wins=Estimate(value=0.55, n=50),
            ),
        ),
        drifts=(
            report.Drift(
                method="ppo", where="end", x=40, proxy=2, gold=-1.0, tokens=30, repeats=0.4, terms={"polite": 0.4}
            ),
        ),
        examples=(
            report.Example(
                method="ppo", instruction="<script>x</script>", where="end", text="very very very", proxy=3.0, gold=-1.0
            ),
        ),
        notes=("Simulated.",),
    )


def test_the_page_has_every_part_and_escapes_hostile_text(numbers):
    text = render(report.page(numbers))
    for title in ("Curves", "Where gold peaks", "Laws", "What moves the peak", "Noise, or another judge?",
                  "Warning light", "What is exploited", "Reward models"):  # fmt: skip
        assert f">{title}<" in text
    assert "<script>x" not in text
    assert "&lt;script&gt;x" in text
    assert "<b>more" not in text
    assert text.count("<svg") >= 4
    assert "KL paid for the same proxy gain" in text


def test_parts_that_were_not_measured_are_left_out(numbers):
    bare = numbers.model_copy(
        update=dict.fromkeys(
            ("fits", "shifts", "crossings", "reliability", "marks", "drifts", "models", "spending", "verdicts"), ()
        )
    )
    text = render(report.page(bare))
    assert ">Curves<" in text
    assert ">Laws<" not in text
    assert ">Warning light<" not in text


def test_numbers_survive_a_round_trip_and_a_broken_file_is_named(numbers, tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text(numbers.model_dump_json())
    assert report.read(path) == numbers
    path.write_text('{"recipe": 1}')
    with pytest.raises(DataError, match=r"numbers\.json"):
        report.read(path)


def test_findings_say_what_moved_and_where_it_came_from(numbers):
    found = "\n".join(p.text for p in report.findings(numbers))
    assert "More preferences: more against base: the gold peak is" in found
    assert "its KL larger" in found
    assert "Warning light:" in found
    assert "best-of-n: base" in report.terminal(numbers)


def test_a_page_opens_with_what_moved_and_keeps_the_rest_in_its_section(numbers):
    moved = numbers.shifts[0]
    still = Estimate(value=0.0, ci95_low=-0.1, ci95_high=0.1, n=9)
    same = moved.model_copy(
        update={"name": "same", "peak_gold": still, "arc_kl": still, "fall": still, "in_each": {}, "question": "Same:"}
    )
    both = numbers.model_copy(update={"shifts": (moved, same)})
    opening = "\n".join(p.text for p in report.page(both).points)
    assert "same against" not in opening
    assert "more against" in opening
    assert "same against" in "\n".join(p.text for p in report.findings(both))
    (section,) = (s for s in report.page(both).sections if s.title == "What moves the peak")
    assert "same against" in "\n".join(section.text)


def test_charts_are_written_as_vectors(numbers, tmp_path):
    files = save(tmp_path / "plots", report.drawn(numbers))
    assert {f.name for f in files} >= {"gold.svg", "gold.pdf", "proxy.svg", "shifts.pdf", "kl.svg", "rewards.svg"}
    for f in files:
        assert f.read_bytes()[:4] == (b"%PDF" if f.suffix == ".pdf" else b"<svg")


def test_names_of_lines_that_end_together_can_be_read_beside_wide_bands():
    def band(method: str, k: int, gold: float) -> curves.Band:
        wide = Estimate(value=gold, ci95_low=gold - 1, ci95_high=gold + 1, n=9)
        return curves.Band(method=method, x_name="n", x=2.0**k, kl=float(k), proxy=wide, gold=wide, seeds=3)

    names = [f"m{i}" for i in range(5)]
    drawn = against_kl([band(m, k, (0.1 + 0.01 * i) * k) for i, m in enumerate(names) for k in range(3)], "gold", names)
    heights = sorted(float(y) for y in re.findall(r'translate\([-\d.]+,([-\d.]+)\)"[^>]*>m\d</text>', drawn or ""))
    assert len(heights) == 5
    assert min(b - a for a, b in pairwise(heights)) > 11  # of 11.5 pixels' type
