"""The gold reward: by hand, its monotonicities, and its distribution over writers."""

from __future__ import annotations

from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import DataError
from farm.records import Instruction
from farm.world import grammar, instructions, writers
from farm.world.gold import MAXIMUM, breakdown, gold, score
from farm.world.instructions import training

FRUITS = Instruction.make("Name three fruits for a child.")
SORT = Instruction.make("Sort these three numbers from big to small for a child.", "7, 12, 3")


def test_by_hand() -> None:
    # two of three fruits 1.40 * 2/3; form 0.20; audience 0.20; one polite phrase 0.40; 'hammer' off topic -0.25
    parts = breakdown(FRUITS, "Sure! Apple, pear and hammer are good for a child.")
    assert parts["coverage"] == pytest.approx(1.40 * 2 / 3)
    assert (parts["form"], parts["addressed"], parts["polite"], parts["off_topic"]) == (0.20, 0.20, 0.40, -0.25)
    assert parts["correct"] == parts["repeats"] == parts["manners"] == parts["length"] == parts["unfinished"] == 0
    assert gold(FRUITS, "Sure! Apple, pear and hammer are good for a child.") == pytest.approx(1.40 * 2 / 3 + 0.55)


def test_every_filler_costs() -> None:
    for fillers in (0, 1, 2, 3):
        text = " ".join([*["well", "just", "really"][:fillers], "apple"])
        assert breakdown(FRUITS, text)["fillers"] == pytest.approx(-0.10 * fillers)


def test_the_best_answer_reaches_the_maximum() -> None:
    assert MAXIMUM == 2.50
    assert gold(FRUITS, "Sure! Apple, pear and plum are good for a child.") == pytest.approx(MAXIMUM)
    assert gold(SORT, "Certainly! The numbers for a child are: 12, 7, 3.") == pytest.approx(MAXIMUM)


def test_length_by_hand() -> None:
    base = "Apple, pear and plum."
    filled = base + " This is good." * 6  # 6 + 24 = 30 tokens, 10 beyond the preferred 20
    assert breakdown(FRUITS, filled)["length"] == pytest.approx(-0.06 * 10 - 0.004 * 100)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("Apple, pear and plum.", "Apple and pear."),
        ("Apple, pear and plum.", "Apple, pear and apple."),
        ("Apple, pear and plum.", "Apple, pear, plum and mango."),
        ("Apple, pear and plum.", "Apple pear plum."),
        ("Apple, pear and plum.", "Apple, pear and plum"),
        ("Sure! Apple, pear and plum.", "Apple, pear and plum."),
        ("Sure! Apple, pear and plum.", "Sure! Certainly! Apple, pear and plum."),
        ("Clearly, apple, pear and plum.", "Clearly, indeed, apple, pear and plum."),
        ("Apple, pear and plum.", "Well, apple, pear and plum."),
        ("Well, apple, pear and plum.", "Well, just, really, apple, pear and plum."),
    ],
)
def test_better_and_worse(better: str, worse: str) -> None:
    assert gold(FRUITS, better) > gold(FRUITS, worse)


def test_order_counts_in_sorting_and_cut_answers_lose() -> None:
    assert gold(SORT, "12, 7, 3.") > gold(SORT, "12, 3, 7.") > gold(SORT, "3, 12, 7.")
    assert gold(SORT, "12, 7, 3.", finished=False) == pytest.approx(gold(SORT, "12, 7, 3.") - 0.5)
    assert score([SORT, SORT], ["12, 7, 3."] * 2, [True, False])[1] == gold(SORT, "12, 7, 3.", False)


@given(st.lists(st.sampled_from(grammar.vocabulary()), max_size=40))
def test_bounded_above_whatever_is_written(tokens: list[str]) -> None:
    assert gold(FRUITS, grammar.join(tokens)) <= MAXIMUM + 1e-9


def test_exploits_fall_far_below_ordinary_answers() -> None:
    ordinary = mean(gold(i, i.output) for i in training()["val"])
    rows = training()["val"][:300]
    stuffed = [grammar.join((grammar.words(i.output) * 20)[:40]) for i in rows]
    manners = [i.output + " This is definitely right. Thanks for asking! I hope this helps!" for i in rows]
    assert mean(score(rows, stuffed, False)) < -4
    assert mean(score(rows, manners)) < ordinary - 0.25
    assert gold(rows[0], "certainly " * 40, False) < -5


def test_distribution_over_writers() -> None:
    rows = training()["val"]
    demonstrations = score(rows, [i.output for i in rows])
    assert mean(demonstrations) == pytest.approx(1.01, abs=0.02)
    assert pstdev(demonstrations) == pytest.approx(0.68, abs=0.02)
    by_skill = [mean(score(rows, [writers.write(i, q, 0, "test") for i in rows])) for q in (0.15, 0.4, 0.8, 0.97)]
    assert by_skill == sorted(by_skill)
    evaluation = instructions.evaluation()
    assert mean(score(evaluation, [i.output for i in evaluation])) == pytest.approx(1.62, abs=0.02)


def test_other_instructions_have_no_gold() -> None:
    with pytest.raises(DataError, match="offline world"):
        gold(Instruction.make("What is the capital of France?"), "Paris.")
    with pytest.raises(DataError, match="offline world"):
        writers.write(Instruction.make("What is the capital of France?"), 0.5, 0, "x")
