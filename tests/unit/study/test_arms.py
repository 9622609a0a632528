from __future__ import annotations

import pytest

from farm.records import Cost, Judgement, Outcome
from farm.study.arms import Counts, alarms, counts, holm


def test_a_policy_that_the_judge_fails_on_more_often_is_named_with_numbers() -> None:
    arms = {
        "sft": Counts.independent(800, 8, 0),
        "dpo": Counts.independent(800, 10, 0),
        "ppo": Counts.independent(800, 60, 0),
    }
    found = alarms(arms)
    ppo = next(a for a in found if a.policy == "ppo")
    assert (ppo.measure, ppo.share, ppo.n, ppo.rest, ppo.n_rest) == ("failed", 0.075, 800, 18 / 1600, 1600)
    assert ppo.p < 1e-10


def test_equal_arms_raise_no_alarm() -> None:
    assert alarms({f"m{k}": Counts.independent(805, 8 + k % 3, 20 + k % 4) for k in range(8)}) == []
    assert alarms({"only": Counts.independent(800, 400, 0)}) == []
    assert alarms({"a": Counts.independent(0, 0, 0), "b": Counts.independent(5, 5, 0)}) == []


def test_indecision_alarms_when_it_is_high_and_higher_than_elsewhere() -> None:
    arms = {"a": (800, 0, 480), "b": (800, 0, 20), "c": (800, 0, 380)}
    found = alarms({name: Counts.independent(*n) for name, n in arms.items()})
    assert [(a.policy, a.measure) for a in found] == [("a", "undecided")]  # c is what close pairs bring about
    assert alarms({name: Counts.independent(800, 0, 480) for name in arms}) == []


def test_acts_that_shared_a_prompt_fail_as_one() -> None:
    def arm(failed_prompts: int) -> Counts:
        """20 prompts of 5 pairs each; every act of a failed prompt fails, and the prompt's cost is on its first act."""
        return counts(
            act(
                f"p{k}", Outcome.REFUSED if k // 5 < failed_prompts else Outcome.DECIDED,
                None if k // 5 < failed_prompts else "r1", cost=Cost(calls=1 if k % 5 == 0 else 0),
            )
            for k in range(100)
        )  # fmt: skip

    bad, good = arm(4), arm(0)
    assert (bad.failed, bad.acts, bad.units["failed"]) == (20, 100, (pytest.approx(4.0), pytest.approx(20.0)))
    assert alarms({"bad": bad, "good": good}) == []  # 4 of 20 against 0 of 20
    as_acts = {"bad": Counts.independent(100, 20, 0), "good": Counts.independent(100, 0, 0)}
    assert len(alarms(as_acts)) == 2


def test_the_two_orders_of_a_pair_are_undecided_as_one() -> None:
    acts = [act(f"p{k}", Outcome.DECIDED, w, draw=d) for k in range(10) for d, w in enumerate(("r1", "r2"))]
    assert counts(acts).units["undecided"] == (10.0, 10.0)


def test_the_test_is_fishers_with_holms_correction() -> None:
    stats = pytest.importorskip("scipy.stats")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    arms = {"a": Counts.independent(200, 30, 0), "b": Counts.independent(200, 6, 0), "c": Counts.independent(200, 9, 0)}
    raw = []
    for name in arms:
        rest = [c for other, c in arms.items() if other != name]
        table = [
            [arms[name].failed, 200 - arms[name].failed],
            [sum(c.failed for c in rest), sum(200 - c.failed for c in rest)],
        ]
        raw.append(stats.fisher_exact(table).pvalue)
    corrected = multitest.multipletests(raw, method="holm")[1]
    assert holm(raw) == pytest.approx(list(corrected))
    assert alarms(arms)[0].p == pytest.approx(corrected[0])


def act(pair: str, outcome: Outcome, winner: str | None = None, **more: object) -> Judgement:
    return Judgement.model_validate(
        {
            "pair_id": pair, "instruction_id": "i", "annotator": "a", "shown": ("r1", "r2"), "outcome": outcome,
            "winner_id": winner, **more,
        }
    )  # fmt: skip


def test_what_counts_as_undecided() -> None:
    acts = [
        act("p1", Outcome.DECIDED, "r1"),
        act("p2", Outcome.TIE),
        act("p3", Outcome.DECIDED, "r1", probability=0.6),
        act("p4", Outcome.DECIDED, "r1", probability=0.9),
        act("p5", Outcome.DECIDED, "r1"),
        act("p5", Outcome.DECIDED, "r2", draw=1, shown=("r2", "r1")),
        act("p6", Outcome.UNPARSEABLE),
        act("p7", Outcome.SKIPPED),
        act("p8", Outcome.IDENTICAL),
    ]
    found = counts(acts)
    assert (found.acts, found.failed, found.undecided) == (7, 1, 4)
    assert found.units == {"failed": (1.0, 7.0), "undecided": (2.0, 3.0)}  # one pair was judged in both orders
