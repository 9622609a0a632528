from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_corpus import Corpus

from farm.annotate.pool import load_pool
from farm.annotate.soft import LOW_MASS, Soft, soft
from farm.records import Judgement, Outcome

POOL = load_pool("farm13")
Tokens = list[dict[str, float]]


def nats(**shares: float) -> dict[str, float]:
    """Log-probabilities; a trailing underscore stands for a leading space, which no keyword can have."""
    return {(" " + k[:-1] if k.endswith("_") else k): math.log(v) for k, v in shares.items()}


def spelled(text: str, at: int, alternatives: dict[str, float]) -> Tokens:
    """A token per character, except that the token at ``at`` (which the alternatives hold) may be longer."""
    token = max((t for t in alternatives if text.startswith(t, at)), key=len)
    before, after = text[:at], text[at + len(token) :]
    return [{c: 0.0} for c in before] + [alternatives] + [{c: 0.0} for c in after]


def read(annotator: str, text: str, tokens: Tokens | None) -> Soft | None:
    return soft(POOL.annotator(annotator).reader, text, tokens)


def test_a_soft_verdict_is_the_share_of_the_first_label() -> None:
    tokens: Tokens = [{"Output": 0.0}, {" (": 0.0}, nats(a=0.72, b=0.24, c=0.04), {")": 0.0}]
    found = read("a04", "Output (a)", tokens)
    assert found is not None
    assert (found.first, found.mass) == (pytest.approx(0.75), pytest.approx(0.96))


def test_all_spellings_of_a_label_are_summed() -> None:
    found = read("a08", "A", [nats(A=0.4, A_=0.2, a=0.1, B=0.1, b_=0.05, The=0.15)])
    assert found is not None
    assert (found.first, found.mass) == (pytest.approx(0.7 / 0.85), pytest.approx(0.85))


def test_case_is_kept_apart_where_it_tells_the_labels_apart() -> None:
    text = "It is right. Verdict: m"
    found = read("a09", text, spelled(text, len(text) - 1, nats(m=0.6, M=0.3)))
    assert found == Soft(pytest.approx(2 / 3), pytest.approx(0.9))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("annotator", "text", "label"),
    [
        ("a09", "M is longer but m is right. Verdict: m. M was worse.", "m. M"),
        ("a09", "Verdict: m\nTo repeat:\nVerdict: m", "m\nTo"),
        ("a08", "B names a city.\nA is better", "A is"),
        ("a08", "A, because B repeats a word", "A,"),
        ("a08", "<think>A or B? B!</think>A", "A"),
        ("a04", "Output (a)\n\nOutput (b) is not sorted.", "a)\n"),
    ],
)
def test_the_label_is_found_among_other_mentions(annotator: str, text: str, label: str) -> None:
    at = text.rindex(label)
    one, two = POOL.annotator(annotator).reader.grammar.cores
    found = read(annotator, text, spelled(text, at, {one: math.log(0.8), two: math.log(0.1)}))
    assert found is not None
    assert found.first == pytest.approx(8 / 9)


def test_json_verdicts_have_probabilities_too() -> None:
    text = '{"reason": "not true", "first_is_better": true}'
    found = read("a07", text, spelled(text, text.rindex("true"), nats(true=0.7, false=0.2)))
    assert found == Soft(pytest.approx(7 / 9), pytest.approx(0.9))  # type: ignore[arg-type]


def test_a_label_of_several_tokens_is_read_where_the_labels_part() -> None:
    found = read("a13", "Answer: one", [{"Answer": 0.0}, {":": 0.0}, nats(o_=0.6, tw_=0.3, on_=0.05), {"ne": 0.0}])
    assert found is not None
    assert (found.first, found.mass) == (pytest.approx(0.65 / 0.95), pytest.approx(0.95))


def test_tokens_that_fit_in_several_ways_are_followed_in_all() -> None:
    tokens: Tokens = [{"Output": 0.0}, nats(**{"(_": 0.5, "(b_": 0.2, "(a_": 0.3}), nats(a=0.9, b=0.1), {")": 0.0}]
    found = read("a04", "Output (a)", tokens)
    assert found is not None
    assert found.first == pytest.approx(0.9)


def test_an_absent_label_gets_no_more_than_it_can_have() -> None:
    found = read("a08", "A", [nats(A=0.95)])
    assert found is not None
    assert (found.first, found.mass) == (pytest.approx(0.95), pytest.approx(0.95))
    found = read("a08", "A", [nats(A=0.95, It=0.01)])
    assert found is not None
    assert found.first == pytest.approx(0.95 / 0.96)


def test_white_space_that_servers_trim_does_not_matter() -> None:
    found = read("a08", "A", [nats(A_=0.8, B_=0.2), {"\n": 0.0}, {"<|eot|>": 0.0}])
    assert found is not None
    assert found.first == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A", None),
        ("A", []),
        ("B or A", [{"B": 0.0}, {" or": 0.0}, {" A": 0.0}]),  # no verdict
        ("A", [{"x": 0.0}]),  # the tokens do not spell the text
        ("A", [{"A": float("nan"), "B": -1.0}]),
        ("A", [{"A": 0.5, "B": -1.0}]),
    ],
)
def test_no_soft_verdict(text: str, tokens: Tokens | None) -> None:
    assert read("a08", text, tokens) is None


@given(
    text=st.text(alphabet="AaBb (){}\n.:mM12", max_size=20),
    tokens=st.lists(
        st.dictionaries(st.text(alphabet="AaBb (){}\n.:mM12", max_size=3), st.floats(-9, 0), max_size=4), max_size=12
    ),
)
@settings(max_examples=200, deadline=None)
def test_soft_never_raises_and_stays_in_range(text: str, tokens: Tokens) -> None:
    for a in POOL.annotators:
        found = soft(a.reader, text, tokens)
        assert found is None or (0 < found.first < 1 and 0 <= found.mass <= 1)


def test_the_engine_stores_probability_and_mass(
    small: Corpus, judge_all: Callable[..., list[Judgement]], asking_for_logprobs: Callable[[], None]
) -> None:
    acts = judge_all(small, pool=asking_for_logprobs())
    decided = [j for j in acts if j.outcome is Outcome.DECIDED and j.annotator in ("a04", "a06", "a08", "a09", "a13")]
    assert len(decided) > 50
    assert all(j.probability is not None and j.mass is not None and j.mass >= LOW_MASS for j in decided)
    likelier = sum(
        (j.probability or 0) > 0.5 if j.winner_id == min(j.shown) else (j.probability or 1) < 0.5 for j in decided
    )
    assert likelier > 0.6 * len(decided)  # sampled verdicts follow the probabilities
