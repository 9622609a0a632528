from random import Random

import numpy as np
import pytest

from farm.data.collect import UNORDERED
from farm.data.looks import looks_like_list
from farm.errors import DataError
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.study import ballots
from farm.study.agreement import agreement, loo_agreement

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


def test_bias_variance_and_votes_by_hand():
    votes = [act(0, f"h{h}", w) for h, w in enumerate((0, 0, 0, 1))] + [act(1, f"h{h}", 1) for h in range(2)]
    judge = [draw(act(0, "a", w), d) for d, w in enumerate((1, 1, 0))] + [act(1, "a", None)]
    row = rows(judge, votes)["a"]
    assert row.with_majority.value == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert row.bias.value == pytest.approx((1 + 0.5) / 2)  # its majority on pair 0 is wrong, on pair 1 a tie
    assert row.variance.value == pytest.approx((0.5 + 0.5 + 1) / 3)  # only pair 0 was judged more than once
    assert row.self_agreement.value == pytest.approx(1 / 3)
    assert row.one_vote.value == pytest.approx((1 + 1 + 3 + 0) / (3 * 4 + 2))
    assert row.one_vote_decided.value == pytest.approx((1 + 1 + 3) / 12)
    human = rows(judge, votes)["human"]
    assert human.bias.value == 0
    assert human.variance.value == pytest.approx(1 - human.agreement.value)
    assert human.one_vote.value == pytest.approx((3 + 1) / (6 + 1))


def draw(judgement: Judgement, number: int) -> Judgement:
    return judgement.model_copy(update={"draw": number})


def test_ties_in_majorities():
    votes = [act(0, "h1", 0), act(0, "h2", None), act(0, "h3", None)]
    judge = [act(0, "a", 0)]
    found = {
        ties: {r.annotator: r for r in agreement(judge, votes, RESPONSES, seed=0, ties=ties)}["a"]
        for ties in ("half", "exact", "decided")
    }
    assert found["half"].with_majority.value == 1  # one for, none against
    assert found["exact"].with_majority.value == 0  # 'tie' is the most frequent answer
    assert found["decided"].with_majority.value == 1
    assert found["decided"].agreement.n == 0  # one decided vote leaves nobody else
    assert found["exact"].agreement.value == pytest.approx((0 + 0.5 + 0.5) / 3)


def test_failures_lower_the_bound_and_not_the_value():
    votes = [act(k, f"h{h}", 0) for k in range(4) for h in range(3)]
    judge = [act(0, "a", 0), act(1, "a", 0), act(2, "a", 1), act(3, "a", None, "failed"), act(9, "a", None, "failed")]
    row = rows(judge, votes)["a"]
    assert row.agreement.value == pytest.approx(2 / 3)
    assert row.low_if_failed == pytest.approx(2 / 4)  # pair 9 has no human majority to agree with
    assert row.outcomes == {"decided": 3, "failed": 2}


def test_a_person_asked_twice_has_one_vote():
    votes = [act(0, "h1", 0), draw(act(0, "h1", 1), 1), act(0, "h2", 0)]
    human = rows([], votes)["human"]
    assert human.agreement.value == 1
    assert human.agreement.n == 2
    assert human.self_agreement.value == 0


def test_the_same_act_twice_is_refused():
    with pytest.raises(DataError, match="given twice"):
        rows([act(0, "a", 0), act(0, "a", 1)], [])


def test_unknown_order_says_nothing_about_the_first():
    unordered = [act(k, "a", 0).model_copy(update={"fingerprint": UNORDERED}) for k in range(5)]
    row = rows(unordered, [])["a"]
    assert row.prefers_first.value is None
    assert row.prefers_longer.value == 1


@pytest.mark.parametrize("ties", ["half", "exact", "decided"])
def test_against_plain_loops(ties):
    """The same definitions written down as loops over votes, on random data with ties, gaps and several draws."""
    random = Random(3)
    votes = [
        act(k, f"h{h}", random.choice([0, 0, 1, None])) for k in range(40) for h in range(5) if random.random() < 0.7
    ]
    judge = [draw(act(k, "a", random.choice([0, 1, None])), d) for k in range(40) for d in range(3) if (k + d) % 5]
    row = {r.annotator: r for r in agreement(judge, votes, RESPONSES, seed=0, ties=ties)}["a"]
    human = {r.annotator: r for r in agreement(judge, votes, RESPONSES, seed=0, ties=ties)}["human"]
    v, j = signs(votes, ties), signs(judge, ties)
    met = [(x, v[p]) for p, mine in j.items() if len(v.get(p, [])) > 1 for x in mine]
    each = [sum(credit(x, rest(g, i, ties), ties) for i in range(len(g))) / len(g) for x, g in met]
    assert row.agreement.value == pytest.approx(sum(each) / len(each))
    assert row.agreement.n == len(each)
    people = [credit(x, rest(g, i, ties), ties) for g in v.values() if len(g) > 1 for i, x in enumerate(g)]
    assert human.agreement.value == pytest.approx(sum(people) / len(people))
    own = [1 - credit(x, rest(g, i, ties), ties) for g in j.values() if len(g) > 1 for i, x in enumerate(g)]
    assert row.variance.value == pytest.approx(sum(own) / len(own))
    both = [(mode(j[p], ties), mode(v[p], ties)) for p in j if p in v]
    bias = [1 - sum(w * credit(x, theirs, ties) for x, w in mine.items()) for mine, theirs in both]
    assert row.bias.value == pytest.approx(sum(bias) / len(bias))


def test_plain_arrays_give_the_same_number():
    random = Random(5)
    verdicts = np.array([random.choice([-1, 0, 1]) for _ in PAIRS])
    votes = np.array([[random.choice([-1, 1, 1]) for _ in range(4)] for _ in PAIRS])

    def from_sign(k: int, who: str, sign: int) -> Judgement:
        a = min(PAIRS[k][0].id, PAIRS[k][1].id)
        return act(k, who, None) if sign == 0 else act(k, who, int((PAIRS[k][0].id == a) != (sign > 0)))

    records = [from_sign(k, f"h{h}", votes[k, h]) for k in range(40) for h in range(4)]
    row = rows([from_sign(k, "a", verdicts[k]) for k in range(40)], records)["a"]
    plain, kept = loo_agreement(verdicts, votes, seed=0), row.agreement
    assert plain.n == kept.n
    for bound in ("value", "ci95_low", "ci95_high"):  # summed in another order, so the last digit may differ
        assert getattr(plain, bound) == pytest.approx(getattr(kept, bound), rel=1e-12)


def signs(judgements: list[Judgement], ties: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for j in judgements:
        sign = 0 if j.winner_id is None else 1 if j.winner_id == min(j.shown) else -1
        if sign or ties != "decided":
            found.setdefault(j.pair_id, []).append(sign)
    return found


def mode(votes: list[int], ties: str) -> dict[int, float]:
    """The majority as chances: the sign of the sum, or the most frequent answers with equal chances."""
    if ties == "half":
        return {(sum(votes) > 0) - (sum(votes) < 0): 1.0}
    most = max(votes.count(x) for x in votes)
    best = {x for x in votes if votes.count(x) == most}
    return {x: 1 / len(best) for x in best}


def rest(votes: list[int], without: int, ties: str) -> dict[int, float]:
    return mode(votes[:without] + votes[without + 1 :], ties)


def credit(x: int, majority: dict[int, float], ties: str) -> float:
    return sum(w * (0.5 + 0.5 * x * m if ties == "half" else float(x == m)) for m, w in majority.items())


def test_a_judge_called_like_a_row_of_ours_is_told_apart():
    votes = [act(k, f"h{h}", 0) for k in range(4) for h in range(2)]
    table = rows([act(k, "human", 1) for k in range(4)], votes)
    assert table["human (judge)"].agreement.value == 0
    assert table["human"].agreement.value == 1


def test_many_instructions_are_resampled_a_few_at_a_time(monkeypatch):
    values, cluster = np.arange(50.0), np.arange(50)
    shares = [ballots.Share(values, np.ones(50))]
    (kept,) = ballots.estimate(shares, cluster, seed=0)
    monkeypatch.setattr(ballots, "MANY", 10)
    (streamed,) = ballots.estimate(shares, cluster, seed=0)
    assert streamed.value == kept.value
    assert streamed.ci95_low == pytest.approx(kept.ci95_low, abs=0.6)
    assert streamed.ci95_high == pytest.approx(kept.ci95_high, abs=0.6)
