import re
from html.parser import HTMLParser

import pytest

from farm.records import Estimate
from farm.report import html, plots
from farm.report.headline import headline
from farm.report.samples import Exhibit, Opinion, Shown

HOSTILE = [
    "<script>alert(1)</script>",
    "</div></main><h1>owned</h1>",
    '"><img src=x onerror=alert(1)>',
    "&lt;script&gt; already escaped",
    "<!-- comment",
    "]]><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\u202egnp.exe\u202c reversed",
    "\u2066isolated\u2069",
    "a\x00b\x07c\x1b[31m",
    "zero\u200bwidth\ufeff",
    "tag\U000e0041\U000e007f",
    "line\u2028separator",
    "\u05e9\u05dc\u05d5\u05dd right to left",
    "x" * 20_000,
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.depth: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input"):
            self.depth.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.depth.pop() == tag, f"</{tag}> closes the wrong element"


def parsed(page: str) -> list[tuple[str, dict[str, str | None]]]:
    tags = Tags()
    tags.feed(page)
    assert tags.depth == [], "an element is left open"
    return tags.seen


def exhibit(text: str) -> Exhibit:
    shown = Shown(label=text[:40], text=text, gold=None, proxy=1.0, n_tokens=1, finished=False)
    opinion = Opinion(annotator=text[:40], prefers=text[:40], raw=text)
    return Exhibit(reason=text, instruction=text, source=text[:40], shown=(shown,), opinions=(opinion,))


def test_page_is_self_contained_well_formed_and_small(one):
    summary, exhibits = one
    page = html.render(summary, exhibits=exhibits, recipe="seed: 0\n")
    tags = parsed(page)
    assert not {t for t, _ in tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not [a for _, a in tags for name in a if name in ("src", "href", "xlink:href") or name.startswith("on")]
    assert not re.search(r"https?:|url\((?!#)|@import", page)
    assert len(page) < 400_000
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_text(text: str, one):
    summary = one[0].model_copy(update={"curves": (), "levels": ()})  # without charts: quick
    plain = [tag for tag, _ in parsed(html.render(summary, exhibits=[exhibit("harmless")]))]
    page = html.render(summary, exhibits=[exhibit(text)])
    assert [tag for tag, _ in parsed(page)] == plain
    assert not re.search(
        "[\u202a-\u202e\u2066-\u2069\u200b\ufeff\u2028\x00-\x08\x0b-\x1f\x7f\U000e0000-\U000e007f]", page
    )
    page.encode()


def test_hostile_method_names_stay_text_even_in_charts(one):
    summary, _ = one
    name = "<script>alert(1)</script>\u202e"
    rename = {"method": name}
    renamed = summary.model_copy(
        update={
            "rows": tuple(r.model_copy(update=rename) if r.method == "ppo" else r for r in summary.rows),
            "levels": tuple(r.model_copy(update=rename) if r.method == "ppo" else r for r in summary.levels),
            "curves": tuple(r.model_copy(update=rename) if r.method == "ppo" else r for r in summary.curves),
            "recipe": name,
            "notes": (name,),
            "provenance": {name: name},
        }
    )
    page = html.render(renamed)
    assert not [tag for tag, _ in parsed(page) if tag == "script"]
    assert "\u202e" not in page


def test_long_texts_are_cut_and_say_so():
    assert html.visible("x" * 5000).endswith("(1,000 more characters)")


def test_visible_keeps_what_people_write():
    for text in (
        "tab\tand\nline",
        "caf\u00e9 \u2014 na\u00efve",
        "\u4e2d\u6587",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "a\u00a0b",
    ):
        assert html.visible(text) == text
    assert html.visible("\x1b\x7f\u202e\ud800") == "\u241b\u2421\u27e8U+202E\u27e9\u27e8U+D800\u27e9"


def test_headline_names_winners_and_overoptimization(one):
    summary, _ = one
    points = headline(summary)
    assert points[0].tone == "good"
    assert re.search(r"ppo\b.*beat sft in win rate and gold reward", points[0].text)
    warnings = [p.text for p in points if p.tone == "warning"]
    assert any(t.startswith("ppo_no_kl: gold rises") for t in warnings)
    assert not any(t.startswith("ppo: ") for t in warnings)
    assert any("rank 6 methods with Spearman" in p.text for p in points)


def test_yardsticks_are_shown_but_are_no_finding(one):
    summary = one[0].model_copy(update={"yardsticks": ("ppo", "best_of_16")})
    text = " ".join(p.text for p in headline(summary)[:1])
    assert "best_of_16" not in text
    assert "expert_iteration" in text
    assert html.render(summary).count('class="control"') == 2 + 4


def test_headline_over_several_seeds_uses_the_joint_interval(builder):
    summary, _ = builder((0, 1, 2), n=40)
    assert "over instructions and seeds" in headline(summary)[0].text
    page = html.render(summary)
    assert "every seed by itself" in page
    parsed(page)


def test_a_bare_summary_still_makes_a_page(one):
    summary, _ = one
    nothing = {"win_rate": None, "ci95_low": None, "ci95_high": None, "lc_win_rate": None, "gold": None, "proxy": None}
    nothing |= {
        "kl": None,
        "mean_tokens": None,
        "seconds": None,
        "n": 0,
        "outcomes": {},
        "by_source": {},
        "finished": None,
    }
    bare = summary.model_copy(
        update={
            "rows": tuple(r.model_copy(update={**nothing, "human_win_rate": None}) for r in summary.rows),
            "levels": (),
            "differences": (),
            "curves": (),
            "verdicts": (),
            "correlation": None,
            "agreement": (),
            "costs": (),
            "notes": (),
            "wall_seconds": None,
            "peak_memory_mb": None,
        }
    )
    page = html.render(bare)
    parsed(page)
    assert "NaN" not in page
    assert ">None<" not in page
    parsed(html.render(bare.model_copy(update={"rows": ()})))


def test_curves_without_gold_or_kl_are_drawn_without_them(one):
    summary, _ = one
    blind = summary.model_copy(
        update={
            "curves": tuple(c.model_copy(update={"gold": None, "kl": None, "gold_se": None}) for c in summary.curves),
            "verdicts": (),
        }
    )
    assert plots.against(blind, "kl", "gold") is None
    svg = plots.curve(blind, "ppo")
    assert svg is not None
    assert "gold (solid)" not in svg
    assert "NaN" not in svg


def test_charts_are_complete_and_small(one):
    summary, _ = one
    for svg in (
        plots.win_rates(summary),
        plots.correlation(summary),
        plots.curve(summary, "best_of_n"),
        plots.against(summary, "kl", "gold"),
    ):
        assert svg is not None
        assert svg.startswith("<svg")
        assert "NaN" not in svg
        assert len(svg) < 60_000
    assert "stroke-dasharray" in str(plots.curve(summary, "ppo"))


def test_band_is_the_larger_of_seed_spread_and_standard_error(one):
    rows = [r for r in one[0].curves if r.method == "ppo"][:1]
    twins = [rows[0].model_copy(update={"gold": g, "gold_se": 0.01, "seed": s}) for s, g in enumerate((0.0, 1.0))]
    point = plots.averaged(twins)[0]
    assert point["gold"] == 0.5
    assert point["gold_high"] - 0.5 == pytest.approx(1.96 * 0.5)
    assert plots.averaged(rows)[0]["gold_high"] - rows[0].gold == pytest.approx(1.96 * rows[0].gold_se)


def test_samples_follow_their_rule(one):
    summary, exhibits = one
    reasons = [x.reason for x in exhibits]
    assert reasons[0] == "largest gain of ppo over sft in gold"
    assert reasons[-1] == "ppo_no_kl: where the proxy rose most beyond gold"
    best = {s.label: s for s in exhibits[0].shown}
    assert list(best) == ["reference", "sft", "ppo"]
    assert best["ppo"].gold > best["sft"].gold
    fooled = {s.label: s for s in exhibits[-1].shown}
    assert fooled["ppo_no_kl"].proxy > fooled["sft"].proxy
    assert fooled["ppo_no_kl"].gold < fooled["sft"].gold
    assert exhibits[0].opinions[0].prefers in ("ppo", "reference", "unparseable", "refused", "tie")
    assert summary.n_instructions == 80


def test_write_is_atomic(tmp_path, one):
    html.write(tmp_path / "deep" / "index.html", "<p>\u00e9</p>")
    assert (tmp_path / "deep" / "index.html").read_text(encoding="utf-8") == "<p>\u00e9</p>"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["index.html"]


def test_missing_interval_is_not_shown_as_one():
    assert html.FILTERS["bounds"](Estimate(value=0.5, n=1)) == ""
    assert "title" in html.FILTERS["num"](None)
