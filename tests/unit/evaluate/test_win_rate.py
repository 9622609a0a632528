from itertools import pairwise

import numpy as np
import pytest

from farm.errors import DataError
from farm.evaluate import intervals
from farm.evaluate.scores import average, finished_share, mean_score, per_instruction
from farm.evaluate.win_rate import by_source, compare, pooled_win_rate, win_rate
from farm.records import Instruction, Judgement, Outcome, Pair, Response

INSTRUCTIONS = [Instruction.make(f"task {k}", source="ab"[k % 2], split="eval") for k in range(8)]


def response(k: int, policy: str, text: str = "", draw: int = 0, **scores: float) -> Response:
    text = text or f"{policy} answers {k} {draw}"
    return Response.make(INSTRUCTIONS[k].id, text, policy, draw, n_tokens=len(text.split()), scores=scores)


def judge(mine: Response, other: Response, outcome: str, annotator: str = "ann", draw: int = 0) -> Judgement:
    """Outcome 'win' or 'lose' (for ``mine``), or the name of an Outcome."""
    winner = {"win": mine.id, "lose": other.id}.get(outcome)
    return Judgement(
        pair_id=Pair.of(mine, other).id,
        instruction_id=mine.instruction_id,
        annotator=annotator,
        shown=(mine.id, other.id) if draw % 2 else (other.id, mine.id),
        outcome=Outcome.DECIDED if winner else Outcome(outcome),
        winner_id=winner,
        draw=draw,
    )


def study(*outcomes: str, policy: str = "ppo") -> tuple[list[Judgement], dict[str, Response]]:
    rows, responses = [], {}
    for k, outcome in enumerate(outcomes):
        mine, other = response(k, policy), response(k, "ref")
        responses |= {mine.id: mine, other.id: other}
        rows.append(judge(mine, other, outcome))
    return rows, responses


def comparison(*outcomes: str, policy: str = "ppo"):
    rows, responses = study(*outcomes, policy=policy)
    return compare(rows, responses, policy=policy, reference="ref", judge="pool")


def test_hand_computed_with_ties_and_failures():
    w = win_rate(comparison("win", "win", "lose", "tie", "identical", "refused", "failed"), seed=0)
    assert w.value == pytest.approx((1 + 1 + 0 + 0.5 + 0.5) / 5)
    assert (w.n, w.n_tie, w.n_failed) == (5, 2, 2)
    assert w.low_if_failed_lose == pytest.approx(3 / 7)
    assert w.high_if_failed_win == pytest.approx(5 / 7)
    assert w.standard_error == pytest.approx(np.std([1, 1, 0, 0.5, 0.5], ddof=1) / 5**0.5)
    assert w.ci95_low < w.value < w.ci95_high
    assert sum(w.outcomes.values()) == w.n + w.n_failed == 7


def test_the_other_side_has_the_complement():
    rows, responses = study("win", "tie", "lose", "win")
    mine = compare(rows, responses, policy="ppo", reference="ref", judge="pool")
    other = compare(rows, responses, policy="ref", reference="ppo", judge="pool")
    assert win_rate(mine, seed=0).value == pytest.approx(1 - win_rate(other, seed=0).value)


def test_judgements_on_one_instruction_are_one_cluster():
    mine, other = response(0, "ppo"), response(0, "ref")
    rows, responses = study("lose", "lose")
    rows = [judge(mine, other, "win", draw=d) for d in range(1, 20)] + rows[1:]
    c = compare(rows, responses, policy="ppo", reference="ref", judge="pool")
    w = win_rate(c, seed=0)
    assert w.value == 0.5
    assert w.n == 20
    assert c.scores == {INSTRUCTIONS[0].id: 1.0, INSTRUCTIONS[1].id: 0.0}
    assert (w.ci95_low, w.ci95_high) == (0.0, 1.0)  # two clusters, not twenty


@pytest.mark.parametrize("outcomes", [(), ("refused", "failed"), ("win",), ("win", "win", "win")])
def test_not_estimable_is_none_never_nan(outcomes: tuple[str, ...]):
    w = win_rate(comparison(*outcomes), seed=0)
    decided = [o for o in outcomes if o == "win"]
    assert w.value == (1.0 if decided else None)
    assert w.ci95_low is w.ci95_high is None
    assert w.n_failed == len(outcomes) - len(decided)
    if outcomes and not decided:
        assert (w.low_if_failed_lose, w.high_if_failed_win) == (0.0, 1.0)


def test_duplicates_and_unknown_ids_are_named():
    rows, responses = study("win", "lose")
    with pytest.raises(DataError, match=rf"{rows[0].id}.*occurs twice"):
        compare([*rows, rows[0]], responses, policy="ppo", reference="ref", judge="pool")
    missing = rows[1].shown[0]
    del responses[missing]
    with pytest.raises(DataError, match=missing):
        compare(rows, responses, policy="ppo", reference="ref", judge="pool")


def test_a_judgement_about_another_instruction_is_refused():
    rows, responses = study("win")
    wrong = rows[0].model_copy(update={"instruction_id": INSTRUCTIONS[3].id})
    with pytest.raises(DataError, match=INSTRUCTIONS[3].id):
        compare([wrong], responses, policy="ppo", reference="ref", judge="pool")


def test_other_policies_are_ignored():
    rows, responses = study("win", "lose")
    more, their = study("lose", "lose", policy="dpo")
    c = compare(rows + more, responses | their, policy="ppo", reference="ref", judge="pool")
    assert win_rate(c, seed=0).value == 0.5


def test_by_source():
    parts = by_source(comparison("win", "lose", "win", "tie"), INSTRUCTIONS, seed=0)
    assert {s: (w.value, w.n) for s, w in parts.items()} == {"a": (1.0, 2), "b": (0.25, 2)}


def test_over_seeds_counts_and_averages():
    a, b = comparison("win", "win", "lose", "refused"), comparison("lose", "win", "lose", "lose")
    w = pooled_win_rate([a, b], policy="ppo", seed=0)
    assert w.value == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert (w.n, w.n_failed) == (7, 1)
    assert w.ci95_low <= w.value <= w.ci95_high
    with pytest.raises(DataError, match="no comparison"):
        pooled_win_rate([], policy="ppo", seed=0)


def test_same_seed_same_interval_and_order_free():
    rows, responses = study("win", "lose", "win", "tie", "lose", "win")
    forward = compare(rows, responses, policy="ppo", reference="ref", judge="pool")
    backward = compare(rows[::-1], responses, policy="ppo", reference="ref", judge="pool")
    assert win_rate(forward, seed=3) == win_rate(backward, seed=3)


def test_bootstrap_covers_at_its_nominal_rate():
    r = np.random.default_rng(5)
    hits = 0
    for k in range(400):
        e = intervals.mean(r.choice([0.0, 0.5, 1.0], size=60, p=[0.3, 0.1, 0.6]), seed=k % 5, resamples=500)
        hits += e.ci95_low <= 0.65 <= e.ci95_high
    assert 0.90 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 0.1), (5, 0.05)])
def test_two_way_covers(seeds: int, spread: float):
    r = np.random.default_rng(6)
    hits = 0
    for k in range(200):
        x = r.normal(0, spread, (seeds, 1)) + r.normal(0, 0.4, (1, 80)) + r.normal(0, 0.3, (seeds, 80))
        e = intervals.two_way(x, seed=k % 3, resamples=400)
        hits += e.ci95_low <= 0 <= e.ci95_high
    assert hits / 200 >= 0.91


def test_seeds_that_differ_widen_the_interval():
    r = np.random.default_rng(7)
    x = r.normal(0, 0.4, (1, 100)) + r.normal(0, 0.1, (3, 100))
    calm = intervals.two_way(x, seed=0)
    wild = intervals.two_way(x + np.array([[-0.5], [0.0], [0.5]]), seed=0)
    assert wild.ci95_high - wild.ci95_low > 3 * (calm.ci95_high - calm.ci95_low)


def test_paired_difference_uses_common_instructions_and_is_tighter():
    r = np.random.default_rng(8)
    base = r.normal(0, 1, 100)
    a = {f"i{k}": base[k] + 0.2 + r.normal(0, 0.1) for k in range(100)}
    b = {f"i{k}": base[k] + r.normal(0, 0.1) for k in range(60)}
    e = intervals.difference([a], [b], seed=0)
    assert e.n == 60
    assert e.ci95_low > 0.1
    assert e.ci95_high < 0.3
    assert intervals.difference([a], [{}], seed=0).value is None
    with pytest.raises(DataError, match="same training seeds"):
        intervals.difference([a], [b, b], seed=0)


def test_values_must_be_finite():
    with pytest.raises(DataError, match="finite"):
        intervals.mean([0.1, float("nan")], seed=0)
    with pytest.raises(DataError, match="finite"):
        intervals.two_way(np.array([[0.1, np.inf], [0.2, 0.3]]), seed=0)


def test_two_way_with_missing_values_and_one_row():
    x = np.array([[1.0, np.nan, 3.0], [2.0, 5.0, np.nan]])
    assert intervals.two_way(x, seed=0).value == pytest.approx((2 + 3.5) / 2)
    assert intervals.two_way(np.full((2, 3), np.nan), seed=0).value is None
    assert intervals.two_way(x[:1], seed=0) == intervals.mean([1.0, 3.0], seed=0)


def test_weights_are_shared_and_read_only():
    w = intervals.weights(10, 1)
    assert w is intervals.weights(10, 1)
    assert np.allclose(w.sum(axis=1), 1)
    with pytest.raises(ValueError):
        w[0, 0] = 2


def test_scores_by_instruction():
    rows = [response(0, "ppo", draw=0, gold=1.0), response(0, "ppo", draw=1, gold=3.0), response(1, "ppo", proxy=2.0)]
    assert per_instruction(rows, "gold") == {INSTRUCTIONS[0].id: 2.0}
    assert mean_score(rows, "absent") is None
    assert finished_share([]) is None
    assert average([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


def test_percentiles_widen_with_fewer_instructions():
    widths = []
    for n in (400, 100, 25):
        e = intervals.mean(np.arange(n) % 2.0, seed=0)
        widths.append(e.ci95_high - e.ci95_low)
    assert all(a < b for a, b in pairwise(widths))
