from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.annotate.grammar import Grammar
from farm.annotate.parsing import Form, Parser
from farm.annotate.pool import load_pool
from farm.records import Outcome

POOL = load_pool("farm13")
CODES = {
    "-": Outcome.UNPARSEABLE,
    "R": Outcome.REFUSED,
    "T": Outcome.TRUNCATED,
    "F": Outcome.FILTERED,
}
# Per annotator: [answer, expected] or [answer, expected, finish_reason]; expected has one character per pair shown:
# 1 the first is better, 2 the second, - unparseable, R refused, T truncated, F filtered.
CASES = [
    (annotator, case[0], str(case[1]), case[2] if len(case) > 2 else "stop")
    for path in sorted((Path(__file__).parent / "corpus").glob("*.yaml"))
    for annotator, cases in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    for case in cases
]


def coded(parser: Parser, text: str, finish: str, count: int) -> str:
    back = {v: k for k, v in CODES.items()}
    return "".join(
        ("1" if v.first else "2") if v.outcome is Outcome.DECIDED else back[v.outcome]
        for v in parser.read(text, finish, count)
    )


def test_the_corpus_covers_all_annotators_and_outcomes() -> None:
    assert len({(a, text, finish) for a, text, _, finish in CASES}) >= 300
    for a in POOL.annotators:
        seen = "".join(expected for annotator, _, expected, _ in CASES if annotator == a.id)
        assert {"1", "2", "-"} <= set(seen)


@pytest.mark.parametrize("annotator", [a.id for a in POOL.annotators])
def test_real_shaped_answers(annotator: str) -> None:
    parser = POOL.annotator(annotator).reader
    cases = [case[1:] for case in CASES if case[0] == annotator]
    read = [(text, coded(parser, text, finish, len(expected))) for text, expected, finish in cases]
    assert read == [(text, expected) for text, expected, _ in cases]


PHRASES = [
    "{x}", "{x}.", "**{x}**", "{x} is better", "{x} is better than {y}.", "I prefer {x}.", "My verdict: {x}",
    "{x} or {y}", "{x}, not {y}", "{x} because {y} is wrong", "{x}\n{y}", "{x}\n\n{x}", "{x} and {y}",
    "{x} is not better", "{x}?", "{x} > {y}", "Winner: {x}\n\nWait, {y} is better.", "{x}. However, {y} is better.",
    "{y} is wrong.\n{x}", "The better one is {x}", "I liked how {x} reads.", "{x} - clear\n{y} - vague\n\n{x}",
    "{x} - clear\n{y} - vague",
]  # fmt: skip


@pytest.mark.parametrize("annotator", [a.id for a in POOL.annotators if a.parser == "label"])
def test_the_two_labels_are_read_alike(annotator: str) -> None:
    """No phrase favours a label: with the labels exchanged every verdict turns around, and nothing else changes."""
    parser = POOL.annotator(annotator).reader
    one, two = parser.form.first, parser.form.second
    for phrase in PHRASES:
        said = [
            coded(parser, f"{parser.form.delimiter} {phrase}".lstrip().format(x=x, y=y), "stop", 1)
            for x, y in ((one, two), (two, one))
        ]
        assert said in (["1", "2"], ["-", "-"]), phrase


@pytest.mark.parametrize("annotator", [a.id for a in POOL.annotators])
def test_an_obedient_reply_is_read_as_meant(annotator: str) -> None:
    a = POOL.annotator(annotator)
    form = a.reader.form
    meant = [i % 3 == 0 for i in range(a.batch)]
    reply = "\n".join(form.fill(m, 'Some reason, with (a) and "b", 1. and 2.', i) for i, m in enumerate(meant, 1))
    assert [v.first for v in a.reader.read(reply, "stop", a.batch)] == meant


@pytest.mark.parametrize("annotator", [a.id for a in POOL.annotators])
def test_both_verdicts_for_one_pair_are_none(annotator: str) -> None:
    parser = POOL.annotator(annotator).reader
    for order in (True, False):
        both = f"{parser.form.fill(order, 'x', 1)}\n{parser.form.fill(not order, 'x', 1)}"
        assert parser.read(both, "stop", 1)[0].outcome is Outcome.UNPARSEABLE


PIECES = [
    "{", "}", "[[", "**", ",", "A", "B", "m", "M", '"first_is_better":', "true", "false", '"pair": 1', "\n", "1.", "2)",
    "Pair 3:", "(a)", "Output (b)", "Verdict:", "Better:", "[1]", "one", '\\"', "İ", "\x00", "１.", "9" * 50, "0:",
    "<think>", "</think>", "<|channel|>final", "<|message|>", "\\boxed{", "is better than", "I prefer", "because",
    "first", "the second", "but", "wait", "sorry", "```", "|", "slot 2", "\u2028", "\ud800", "_", "over", "> (b)", "\r",
]  # fmt: skip
hostile = st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join))


@given(text=hostile, finish=st.sampled_from(["stop", "length", "content_filter", "odd"]), count=st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_parsers_never_raise_and_account_for_every_pair(text: str, finish: str, count: int) -> None:
    for a in POOL.annotators:
        verdicts = a.reader.read(text, finish, count)
        assert len(verdicts) == count
        assert all((v.first is not None) == (v.outcome is Outcome.DECIDED) for v in verdicts)
        assert {v.outcome for v in verdicts} <= {Outcome.DECIDED, *CODES.values()}


@given(text=hostile)
@settings(max_examples=100, deadline=None)
def test_what_follows_reasoning_is_read_as_if_it_stood_alone(text: str) -> None:
    for a in POOL.annotators:
        assert a.reader.read(f"<think>{a.reader.form.fill(True, 'x', 1)}\n</think>{text}") == a.reader.read(
            f"</think>{text}"
        )


@pytest.mark.parametrize(
    "bomb",
    [
        "{" * 50_000, '{"a":' * 20_000, "[" * 50_000, "1. " * 20_000, "Verdict: " * 20_000, "(a) is better. " * 3_000,
        "the answer is " * 4_000, "so, " * 12_000, "prefer " * 8_000, "<think>" * 7_000, "- " * 25_000,
        "1: [1] " * 7_000, '"pair": 1, "first_is_better": ' * 2_000,
    ],
)  # fmt: skip
def test_hostile_bulk_is_no_verdict(bomb: str) -> None:
    """And is read in linear time: a quadratic pattern would take minutes here."""
    for a in POOL.annotators:
        assert not [v for v in a.reader.read(bomb, "stop", a.batch) if v.outcome is Outcome.REFUSED]


@pytest.mark.parametrize("text", ["A", "A or B or C or D", "A or A", "<n> <n> A or B", "A or B for <n>"])
def test_bad_reply_formats_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Reply format"):
        Form.read(text)


def test_labels_of_a_pool_of_ones_own() -> None:
    left = Parser(Form.read("Choice: left or right"), "label", ("links",), ("rechts",))
    assert not left.clashes()
    assert coded(left, "Choice: LEFT because it is short", "stop", 1) == "1"
    assert coded(left, "rechts", "stop", 1) == "2"
    assert coded(left, "Right, but left is better.", "stop", 1) == "-"
    assert Parser(Form.read("A or B"), "label", ("b",)).clashes()
    assert Parser(Form.read("A or B"), "label", (), ("Response A",)).clashes()
    assert Grammar("yes", "no").statement("No, it is not.") is not None
