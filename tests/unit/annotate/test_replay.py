from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_corpus import Corpus

from farm import records
from farm.annotate.pool import load_pool
from farm.annotate.replay import Recorded, load, missing, replay
from farm.data.judged import Judged
from farm.errors import DataError
from farm.records import Judgement, Outcome

POOL = load_pool("farm13")


def recorded(made: Corpus, acts: list[Judgement]) -> Recorded:
    return Recorded.of(Judged(made.instructions, made.responses, made.pairs, acts, []))


def again(made: Corpus, record: Recorded, **changes: object) -> list[Judgement]:
    settings = {"seed": 1, "purpose": "train"} | changes
    return replay(made.pairs, made.instructions, made.responses, POOL, record, **settings)  # type: ignore[arg-type]


def test_a_replayed_run_says_what_the_judge_said_and_costs_nothing(
    small: Corpus, judge_all: Callable[..., list[Judgement]]
) -> None:
    acts = judge_all(small)
    found = again(small, recorded(small, acts))
    free = {"cost": records.Cost(), "fingerprint": "", "model": "", "raw": ""}
    assert [j.model_copy(update=free) for j in found] == [j.model_copy(update=free) for j in acts]
    assert not any(j.cost.calls for j in found)
    # Raw answers stay with their acts; identical texts are settled as ever.
    assert {j.raw for j in found if j.outcome is Outcome.DECIDED} == {
        j.raw for j in acts if j.outcome is Outcome.DECIDED
    }


def test_the_order_of_the_texts_does_not_matter_and_names_the_same_winner(
    small: Corpus, judge_all: Callable[..., list[Judgement]]
) -> None:
    acts = judge_all(small)
    turned = again(small, recorded(small, acts), reverse=True)
    assert [j.shown for j in turned] == [j.shown[::-1] for j in acts]
    assert [j.winner_id for j in turned] == [j.winner_id for j in acts]


def test_a_second_act_is_not_made_of_the_first(small: Corpus, judge_all: Callable[..., list[Judgement]]) -> None:
    acts = judge_all(small)
    second = again(small, recorded(small, acts), draw=1, reverse=True)
    assert {j.outcome for j in second} == {Outcome.FAILED, Outcome.IDENTICAL}
    both = acts + [j.model_copy(update={"draw": 1}) for j in judge_all(small, draw=1, reverse=True)]
    assert Outcome.FAILED not in {j.outcome for j in again(small, recorded(small, both), draw=1, reverse=True)}


def test_what_was_not_asked_fails_and_says_so(small: Corpus, judge_all: Callable[..., list[Judgement]]) -> None:
    acts = judge_all(small)
    lost = again(small, recorded(small, [j for j in acts if j.annotator != "a05"]))
    failed = [j for j in lost if j.outcome is Outcome.FAILED]
    assert {j.annotator for j in failed} == {"a05"}
    assert len(failed) == sum(j.annotator == "a05" and j.outcome is not Outcome.IDENTICAL for j in acts)
    assert failed[0].raw.startswith("not on record: a05 on ")
    assert list(missing(lost)) == [f"a05: {len(failed)}"]
    other_seed = again(small, recorded(small, acts), seed=2)
    assert sum(j.outcome is Outcome.FAILED for j in other_seed) > 0.8 * len(acts)


def test_soft_verdicts_keep_their_side(small: Corpus, judge_all: Callable[..., list[Judgement]]) -> None:
    acts = [
        j.model_copy(update={"probability": 0.9 if j.winner_id == min(j.shown) else 0.1, "mass": 0.8})
        for j in judge_all(small)
        if j.outcome is Outcome.DECIDED
    ]
    for reverse in (False, True):
        for j in again(small, recorded(small, acts), reverse=reverse):
            if j.outcome is Outcome.DECIDED:
                assert (j.probability, j.mass) == (pytest.approx(0.9 if j.winner_id == min(j.shown) else 0.1), 0.8)


def test_raw_answers_are_parsed_by_the_pool(small: Corpus, tmp_path: Path) -> None:
    pair = small.pairs[0]
    one, two = small.responses[pair.a].text, small.responses[pair.b].text
    task = small.instructions[pair.instruction_id]
    rows = [
        {
            "annotator": a.id,
            "instruction": task.text,
            "input": task.input,
            "first": two,
            "second": one,
            "raw": a.reader.form.fill(True, "x", 1),
        }
        for a in POOL.annotators
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = replay([pair], small.instructions, small.responses, POOL, load(path), per_pair=13, seed=1, purpose="train")
    assert [j.winner_id for j in found] == [pair.b] * 13  # shown first in the file, whatever the order now
    rows[0]["finish"] = "stop"
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match=r"answers\.jsonl, line 1: finish"):
        load(path)


def test_a_runs_folder_is_a_record(small: Corpus, judge_all: Callable[..., list[Judgement]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    acts = judge_all(small)
    records.write(run / "0-data/preference.jsonl", small.instructions.values())
    records.write(run / "2-sample/seed-0/responses.jsonl", small.responses.values())
    records.write(run / "3-annotate/seed-0/judgements.jsonl", acts)
    assert [j.winner_id for j in again(small, load(run))] == [j.winner_id for j in acts]
    records.write(run / "0-data/preference.jsonl", [])
    with pytest.raises(DataError, match="does not hold"):
        load(run)
    with pytest.raises(DataError, match="is it a run's folder"):
        load(tmp_path / "run/0-data")


def test_alpaca_evals_annotations_are_a_record(small: Corpus, tmp_path: Path) -> None:
    pair = small.pairs[0]
    base = {
        "annotator": "a08",
        "instruction": small.instructions[pair.instruction_id].full_text,
        "generator_1": "reference",
        "generator_2": "model",
        "output_1": small.responses[pair.a].text,
        "output_2": small.responses[pair.b].text,
    }
    path = tmp_path / "annotations.json"
    for preference, winner, outcome in (
        (2, pair.b, Outcome.DECIDED),
        (1.2, pair.a, Outcome.DECIDED),
        (1.5, None, Outcome.TIE),
        (None, None, Outcome.FAILED),
    ):
        path.write_text(json.dumps([base | {"preference": preference}, base | {"instruction": "x", "preference": 1}]))
        [act] = replay([pair], small.instructions, small.responses, only("a08"), load(path), seed=1, purpose="evaluate")
        assert (act.winner_id, act.outcome) == (winner, outcome)
        if preference == 1.2:
            assert act.probability == pytest.approx(0.8)


def only(annotator: str) -> object:
    return POOL.model_copy(update={"annotators": (POOL.annotator(annotator),)})


def test_one_act_recorded_twice_with_two_verdicts_is_refused(
    small: Corpus, judge_all: Callable[..., list[Judgement]]
) -> None:
    acts = [j for j in judge_all(small) if j.outcome is Outcome.DECIDED][:1]
    other = next(i for i in acts[0].shown if i != acts[0].winner_id)
    assert recorded(small, [*acts, *acts])
    with pytest.raises(DataError, match="recorded twice, with different answers"):
        recorded(small, [*acts, acts[0].model_copy(update={"winner_id": other})])


def test_of_several_acts_on_one_question_the_one_for_this_use_and_pair_is_replayed(
    small: Corpus, judge_all: Callable[..., list[Judgement]]
) -> None:
    record = Recorded()
    small = Corpus(small.pairs[:40], small.instructions, small.responses)
    by_use = {p: judge_all(small, purpose=p, per_pair=13) for p in ("train", "cross")}
    for purpose, acts in by_use.items():
        record.take(Judged(small.instructions, small.responses, small.pairs, acts, []), f"{purpose}/seed-1")
    for purpose, acts in by_use.items():
        found = again(small, record, purpose=purpose, per_pair=13)
        assert [j.winner_id for j in found] == [j.winner_id for j in acts]
    assert [j.winner_id for j in by_use["train"]] != [j.winner_id for j in by_use["cross"]]
