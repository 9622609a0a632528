import pytest

from farm.errors import DataError
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.study.agreement import agreement, looks_like_list

INSTRUCTIONS = [Instruction.make(f"task {k}", split="eval") for k in range(40)]


def pair(k: int, long: str = "a long and winding answer", short: str = "short") -> tuple[Response, Response]:
    i = INSTRUCTIONS[k].id
    return Response.make(i, f"{long} {k}", "x", n_tokens=5), Response.make(i, f"{short} {k}", "y", n_tokens=1)


PAIRS = [pair(k) for k in range(40)]
RESPONSES = {r.id: r for p in PAIRS for r in p}


def act(k: int, who: str, winner: int | None, outcome: str = "tie", first: int = 0) -> Judgement:
    """``winner`` 0 = the long text, 1 = the short one, None = ``outcome``."""
    p = PAIRS[k]
    return Judgement(
        pair_id=Pair.of(*p).id,
        instruction_id=p[0].instruction_id,
        annotator=who,
        shown=(p[first].id, p[1 - first].id),
        outcome=Outcome(outcome) if winner is None else Outcome.DECIDED,
        winner_id=None if winner is None else p[winner].id,
    )


def rows(judgements: list[Judgement], votes: list[Judgement]):
    return {row.annotator: row for row in agreement(judgements, votes, RESPONSES, seed=0)}


def test_leave_one_out_by_hand():
    # votes long, long, short: without one of the longs the rest is tied (half credit), without the short it is long
    votes = [act(0, "h1", 0), act(0, "h2", 0), act(0, "h3", 1)]
    table = rows([act(0, "a", 0), act(0, "b", 1), act(0, "c", None)], votes)
    assert table["human"].agreement.value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert table["a"].agreement.value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert table["b"].agreement.value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert table["c"].agreement.value == pytest.approx(0.5)
    assert table["longest"].agreement.value == table["a"].agreement.value
    assert list(table) == ["a", "b", "c", "pool", "human", "longest", "first", "random"]


def test_preferences_and_outcomes():
    acts = [act(k, "a", 0, first=k % 2) for k in range(8)] + [act(8, "a", None, "refused"), act(9, "a", 1, first=1)]
    table = rows(acts, [])
    assert list(table) == ["a"]  # nobody to agree with: no yardsticks either
    row = table["a"]
    assert row.prefers_longer.value == pytest.approx(8 / 9)
    assert row.prefers_longer.n == 9
    assert row.prefers_first.value == pytest.approx((4 + 1) / 9)
    assert row.prefers_list.value is None
    assert row.prefers_list.n == 0
    assert row.outcomes == {"decided": 9, "refused": 1}
    assert row.agreement.value is None


def test_controls_behave_as_named():
    votes = [act(k, f"h{h}", 0 if (k + h) % 4 else 1, first=k % 2) for k in range(40) for h in range(4)]
    table = rows([], votes)
    assert table["longest"].prefers_longer.value == 1
    assert table["first"].prefers_first.value == 1
    assert abs(table["random"].agreement.value - 0.5) < 0.2
    assert table["longest"].agreement.value > 0.8 > table["human"].agreement.value > 0.5
    assert table["human"].agreement.ci95_low is None or table["human"].agreement.ci95_low <= 0.75
    assert table["human"].outcomes == {"decided": 160}
    assert "pool" not in table


def test_one_vote_is_no_majority_and_failures_do_not_count():
    votes = [act(0, "h1", 0), act(0, "h2", None, "failed")]
    assert rows([act(0, "a", 0)], votes)["a"].agreement.n == 0


def test_unknown_response_is_named():
    with pytest.raises(DataError, match=PAIRS[0][0].id):
        agreement([act(0, "a", 0)], [], {}, seed=0)


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        ("- one\n- two", True),
        ("1. one\n2. two", True),
        ("1 ) one 2 ) two", True),
        ("\u2022 a \u2022 b", True),
        ("a well-known fact", False),
        ("in 1990. then", False),
        ("- only one", False),
    ],
)
def test_lists(text: str, is_list: bool):
    assert looks_like_list(text) is is_list
