"""Records: strict, frozen, content-addressed; errors name file, line and field; writes are atomic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm import records
from farm.errors import DataError
from farm.records import Cost, Instruction, Judgement, Outcome, Pair, Preference, Response

INSTRUCTION = Instruction.make("Name two fruits.", "", "Apple and pear.")
FIRST = Response.make(INSTRUCTION.id, "Apple.", "sft", n_tokens=2)
SECOND = Response.make(INSTRUCTION.id, "Pear.", "sft", n_tokens=2)


def test_ids_come_from_content_alone():
    assert INSTRUCTION.id == Instruction.make("Name two fruits.", output="other", split="val").id
    assert INSTRUCTION.id != Instruction.make("Name two fruits", ".").id
    assert Response.make("i1", "x", "sft", 0, n_tokens=1).id != Response.make("i1", "x", "sft", 1, n_tokens=1).id


def test_a_pair_has_no_order():
    assert Pair.of(FIRST, SECOND) == Pair.of(SECOND, FIRST)
    with pytest.raises(ValidationError, match="different ids"):
        Pair.of(FIRST, FIRST)


def judgement(outcome: Outcome, winner: str | None) -> Judgement:
    return Judgement(
        pair_id="p", instruction_id="i", annotator="a01", shown=(FIRST.id, SECOND.id), outcome=outcome, winner_id=winner
    )


@pytest.mark.parametrize("outcome", list(Outcome))
def test_exactly_decided_judgements_have_a_winner(outcome):
    if outcome is Outcome.DECIDED:
        assert judgement(outcome, FIRST.id).winner_id == FIRST.id
        with pytest.raises(ValidationError):
            judgement(outcome, None)
        with pytest.raises(ValidationError, match="not one of the two"):
            judgement(outcome, "r0")
    else:
        assert judgement(outcome, None).winner_id is None
        with pytest.raises(ValidationError):
            judgement(outcome, FIRST.id)


def test_loser_is_the_other_one():
    given_ = {"pair_id": "p", "instruction_id": "i", "responses": (FIRST.id, SECOND.id), "origin": "human"}
    assert Preference(**given_, winner_id=SECOND.id).loser_id == FIRST.id
    assert Preference(**given_, winner_id=None).loser_id is None


def test_unknown_fields_are_refused_and_records_cannot_change():
    with pytest.raises(ValidationError):
        Instruction(id="i", text="t", split="sft", colour="red")
    with pytest.raises(ValidationError):
        FIRST.text = "new"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_write_and_read_are_inverse(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("r") / "rows.jsonl"
    rows = [Instruction.make(t, "in\nput", t[::-1]) for t in texts]
    assert records.write(path, rows) == len(rows)
    assert records.read(path, Instruction) == rows


def test_a_bad_row_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(INSTRUCTION.model_dump_json() + '\n\n{"id": "i1", "text": 3, "split": "sft"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3: text"):
        records.read(path, Instruction)
    path.write_text('{"id": "i1"\n')
    with pytest.raises(DataError, match="line 1"):
        records.read(path, Instruction)
    with pytest.raises(DataError, match="no such file"):
        records.read(tmp_path / "absent.jsonl", Instruction)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.write(path, [INSTRUCTION])

    def broken():
        yield FIRST
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        records.write(path, broken())
    assert records.read(path, Instruction) == [INSTRUCTION]


def test_costs_add_up():
    assert Cost(calls=1, usd=0.5) + Cost(calls=2, seconds=3) == Cost(calls=3, usd=0.5, seconds=3)
