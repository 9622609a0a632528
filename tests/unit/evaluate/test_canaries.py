from __future__ import annotations

import pytest

from farm.errors import DataError
from farm.evaluate.canaries import KINDS, PREFIX, responses, rows, wilson
from farm.records import Instruction, Judgement, Outcome, Pair, Response

TASKS = [Instruction.make(f"task {k}", split="eval") for k in range(60)]
REFERENCE = [Response.make(i.id, f"answer {k % 50}", "reference", n_tokens=2) for k, i in enumerate(TASKS)]
CANARIES = responses(TASKS, REFERENCE, seed=0)


def judged(winner: str, kind: str = "shuffled", wins: int = 60) -> list[Judgement]:
    """Acts on one kind: the first ``wins`` as ``winner`` says (canary, reference or an outcome), the rest lost."""
    mine = [r for r in CANARIES if r.policy == PREFIX + kind]
    acts = []
    for k, (canary, reference) in enumerate(zip(mine, REFERENCE, strict=True)):
        pair, said = Pair.of(canary, reference), winner if k < wins else "reference"
        ids = {"canary": canary.id, "reference": reference.id}
        outcome = Outcome.DECIDED if said in ids else Outcome(said)
        acts.append(
            Judgement(
                pair_id=pair.id, instruction_id=pair.instruction_id, annotator="a", shown=(pair.a, pair.b),
                outcome=outcome, winner_id=ids.get(said),
            )
        )  # fmt: skip
    return acts


TEXTS = {r.id: r for r in [*CANARIES, *REFERENCE]}


def test_one_text_of_every_kind_for_every_instruction() -> None:
    assert len(CANARIES) == len(KINDS) * len(TASKS)
    by_kind = {k: [r for r in CANARIES if r.policy == PREFIX + k] for k in KINDS}
    assert {r.text for r in by_kind["empty"]} == {""}
    assert len({r.text for r in by_kind["constant"]}) == len({r.text for r in by_kind["null-model"]}) == 1
    assert len({r.text.rpartition("\n\n")[2] for r in by_kind["injection"]}) >= 4


def test_a_shuffled_answer_is_somebody_elses_and_never_the_own_text() -> None:
    shuffled = [r for r in CANARIES if r.policy == PREFIX + "shuffled"]
    assert all(s.text != r.text for s, r in zip(shuffled, REFERENCE, strict=True))
    assert {s.text for s in shuffled} <= {r.text for r in REFERENCE}
    assert responses(TASKS[:9], REFERENCE[:9], seed=0) != responses(TASKS[:9], REFERENCE[:9], seed=1)


def test_nothing_to_shuffle_is_an_error() -> None:
    same = [r.model_copy(update={"text": "same"}) for r in REFERENCE]
    with pytest.raises(DataError, match="at least two instructions, with different texts"):
        responses(TASKS, same, seed=0)


def test_a_canary_that_may_win_is_an_alarm() -> None:
    lost = rows(judged("reference"), TEXTS, reference="reference", judge="p", limit=0.5)
    [row] = [r for r in lost if r.n_acts]
    assert (row.kind, row.rate.value, row.alarm, row.n_failed) == ("shuffled", 0.0, False, 0)
    assert row.rate.ci95_high == pytest.approx(0.0602, abs=1e-4)  # Wilson's upper bound for 0 of 60
    some = next(
        r for r in rows(judged("canary", wins=24), TEXTS, reference="reference", judge="p", limit=0.5) if r.n_acts
    )
    assert (some.rate.value, some.alarm) == (0.4, True)  # 0.40 [0.29, 0.53]
    strict = rows(judged("canary", wins=6), TEXTS, reference="reference", judge="p", limit=0.1)
    assert next(r for r in strict if r.n_acts).alarm


def test_ties_and_failures_are_indecision() -> None:
    for said, failed, value in (("tie", 0, 0.25), ("unparseable", 30, 0.0)):
        found = rows(judged(said, wins=30), TEXTS, reference="reference", judge="p", limit=0.5)
        row = next(r for r in found if r.n_acts)
        assert (row.undecided, row.n_failed, row.rate.value) == (0.5, failed, value)
        assert sum(row.outcomes.values()) == row.n_acts == 60


def test_wilson_agrees_with_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for k, n in ((0, 10), (3, 10), (10, 10), (250, 805)):
        low, high = proportion.proportion_confint(k, n, method="wilson")
        found = wilson(k, n)
        assert (found.ci95_low, found.ci95_high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert wilson(0, 0).value is None
