from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

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
CASES = [
    (annotator, case[0], str(case[1]), case[2] if len(case) > 2 else "stop")
    for annotator, cases in yaml.safe_load((Path(__file__).parent / "answers.yaml").read_text()).items()
    for case in cases
]


def coded(parser: Parser, text: str, finish: str, count: int) -> str:
    back = {v: k for k, v in CODES.items()}
    return "".join(
        ("1" if v.first else "2") if v.outcome is Outcome.DECIDED else back[v.outcome]
        for v in parser.read(text, finish, count)
    )


def test_the_corpus_covers_all_annotators() -> None:
    assert {c[0] for c in CASES} == {a.id for a in POOL.annotators}
    assert len(CASES) >= 150


@pytest.mark.parametrize(("annotator", "text", "expected", "finish"), CASES)
def test_real_shaped_answers(annotator: str, text: str, expected: str, finish: str) -> None:
    assert coded(POOL.annotator(annotator).reader, text, finish, len(expected)) == expected


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
    both = f"{parser.form.fill(True, 'x', 1)}\n{parser.form.fill(False, 'x', 1)}"
    assert parser.read(both, "stop", 1)[0].outcome is Outcome.UNPARSEABLE


PIECES = [
    "{", "}", "[[", "**", ",", "A", "B", "m", "M", '"first_is_better":', "true", "false", '"pair": 1', "\n", "1.", "2)",
    "Pair 3:", "(a)", "Output (b)", "Verdict:", "Better:", "[1]", "one", '\\"', "İ", "\x00", "１.", "9" * 50,
]  # fmt: skip
hostile = st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join))


@given(text=hostile, finish=st.sampled_from(["stop", "length", "content_filter", "odd"]), count=st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_parsers_never_raise_and_account_for_every_pair(text: str, finish: str, count: int) -> None:
    for a in POOL.annotators:
        verdicts = a.reader.read(text, finish, count)
        assert len(verdicts) == count
        assert all((v.first is not None) == (v.outcome is Outcome.DECIDED) for v in verdicts)


@pytest.mark.parametrize("bomb", ["{" * 50_000, '{"a":' * 20_000, "[" * 50_000, "1. " * 20_000, "Verdict: " * 20_000])
def test_hostile_bulk_is_read_quickly(bomb: str) -> None:
    for a in POOL.annotators:
        assert all(v.outcome is Outcome.UNPARSEABLE for v in a.reader.read(bomb, "stop", a.batch))


@pytest.mark.parametrize("text", ["A", "A or B or C or D", "A or A", "<n> <n> A or B", "A or B for <n>"])
def test_bad_reply_formats_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Reply format"):
        Form.read(text)


def test_soft_verdict_is_the_share_of_the_first_label() -> None:
    parser = POOL.annotator("a04").reader
    tokens = [{"Output": 0.0}, {" (": 0.0}, {"a": math.log(0.72), "b": math.log(0.24), "c": math.log(0.04)}, {")": 0.0}]
    assert parser.soft(tokens) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "top",
    [
        None,
        [],
        [{"Output": 0.0}],
        [{"a": math.log(0.6), "b": math.log(0.2)}],  # a fifth of the mass unseen
        [{"a": math.log(0.95)}],  # the other label absent: not certainty, unknown
        [{"a": float("nan"), "b": 0.0}],
    ],
)
def test_no_soft_verdict_without_both_labels(top: list[dict[str, float]] | None) -> None:
    assert POOL.annotator("a04").reader.soft(top) is None
