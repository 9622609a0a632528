from __future__ import annotations

import pytest

from farm.errors import DataError
from farm.records import Cost, Judgement, Outcome, Pair, Response
from farm.study.annotators import annotator_rows

LONG = [Response.make(f"i{k}", f"a much longer answer {k}", "long", n_tokens=5) for k in range(40)]
SHORT = [Response.make(f"i{k}", f"short {k}", "short", n_tokens=2) for k in range(40)]
TEXTS = {r.id: r for r in [*LONG, *SHORT]}
PAIRS = [Pair.of(a, b) for a, b in zip(LONG, SHORT, strict=True)]


def act(k: int, annotator: str, winner: str | None, first: str = "long", **more: object) -> Judgement:
    """``winner`` and ``first`` are 'long' or 'short'."""
    side = {"long": LONG[k].id, "short": SHORT[k].id}
    other = "short" if first == "long" else "long"
    return Judgement.model_validate(
        {
            "pair_id": PAIRS[k].id,
            "instruction_id": f"i{k}",
            "annotator": annotator,
            "model": "m",
            "shown": (side[first], side[other]),
            "outcome": Outcome.DECIDED if winner else Outcome.UNPARSEABLE,
            "winner_id": side[winner] if winner else None,
            "cost": Cost(calls=1, prompt_tokens=10, completion_tokens=2, usd=0.001, seconds=0.5),
            **more,
        }
    )


def test_a_judge_that_looks_at_the_text_is_consistent_and_one_that_looks_at_places_is_not() -> None:
    acts = [act(k, "text", "long", f, draw=d) for k in range(40) for d, f in enumerate(("long", "short"))]
    acts += [act(k, "place", f, f, draw=d) for k in range(40) for d, f in enumerate(("long", "short"))]
    place, text, pool = annotator_rows(acts, TEXTS, seed=0)
    assert (text.consistent.value, text.prefers_longer.value, text.prefers_first.value) == (1.0, 1.0, 0.5)
    assert (place.consistent.value, place.prefers_longer.value, place.prefers_first.value) == (0.0, 0.5, 1.0)
    assert (pool.annotator, pool.consistent.value, pool.consistent.n, pool.acts) == ("pool", 0.5, 80, 160)


def test_consistency_needs_a_verdict_in_both_orders() -> None:
    acts = [act(0, "a", "long"), act(0, "a", None, "short", draw=1), act(1, "a", "long"), act(2, "a", "long")]
    [row] = annotator_rows(acts, TEXTS, seed=0)
    assert (row.consistent.value, row.consistent.n) == (None, 0)
    assert row.outcomes == {"decided": 3, "unparseable": 1}


def test_parts_of_a_run_that_each_number_from_zero_go_together() -> None:
    acts = [act(0, "a", "long"), act(0, "a", "long", "short")]
    [row] = annotator_rows(acts, TEXTS, seed=0)
    assert (row.consistent.value, row.consistent.n) == (1.0, 1)


def test_cost_and_outcomes_cover_acts_whose_texts_are_not_at_hand() -> None:
    far = Response.make("x", "unknown", "p", n_tokens=1), Response.make("x", "also unknown", "q", n_tokens=1)
    pair = Pair.of(*far)
    unread = [
        Judgement(
            pair_id=pair.id, instruction_id="x", annotator="b", shown=(pair.a, pair.b), outcome=Outcome.SKIPPED,
            model="m",
        )
    ]  # fmt: skip
    rows = annotator_rows([act(0, "a", "long")], TEXTS, unread=unread, seed=0)
    assert [(r.annotator, r.acts, r.outcomes, r.calls) for r in rows] == [
        ("a", 1, {"decided": 1}, 1),
        ("b", 1, {"skipped": 1}, 0),
        ("pool", 2, {"decided": 1, "skipped": 1}, 1),
    ]
    assert (rows[0].usd, rows[0].seconds_per_call, rows[1].seconds_per_call) == (0.001, 0.5, None)
    assert rows[1].prefers_first.value is None
    with pytest.raises(DataError, match="names response"):
        annotator_rows(unread, TEXTS, seed=0)


def test_low_mass_is_counted() -> None:
    acts = [act(k, "a", "long", probability=0.9, mass=m) for k, m in enumerate((0.9, 0.49, 0.5, None))]
    [row] = annotator_rows(acts, TEXTS, seed=0)
    assert (row.soft, row.low_mass) == (4, 1)
