"""Importers of human data: every format by hand, and every row that cannot be read named with its line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from farm.data.collect import UNORDERED
from farm.data.human import read
from farm.data.judged import on_pairs_of
from farm.errors import DataError
from farm.records import Outcome


def jsonl(path: Path, *rows: object) -> Path:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def act(**more: object) -> dict[str, object]:
    return {"instruction": "Say hi", "first": "hi", "second": "hello", "annotator": "ann", "winner": "second"} | more


def said(judged, k: int = 0) -> str | None:
    """The text of the winner."""
    winner = judged.judgements[k].winner_id
    return None if winner is None else judged.responses[winner].text


def test_farm_format(tmp_path):
    path = jsonl(
        tmp_path / "labels.jsonl",
        act(strength=2, seconds=3.5, source="koala", split="val"),
        act(annotator="bob", winner="tie"),
        act(annotator="cy", winner="skip", reason="cannot tell"),
        act(first="hello", second="hi", winner="first", draw=1),
    )
    got = read(path)
    assert not got.rejected
    assert [j.outcome for j in got.judgements] == ["decided", "tie", "refused", "decided"]
    assert len({j.pair_id for j in got.judgements}) == len(got.pairs) == 1  # whichever was shown first
    assert said(got, 0) == said(got, 3) == "hello"
    first = got.judgements[0]
    assert (first.strength, first.cost.seconds, first.draw) == (2, 3.5, 0)
    assert got.responses[first.shown[0]].text == "hi"
    assert got.judgements[2].raw == "cannot tell"
    task = got.instructions[first.instruction_id]
    assert (task.text, task.source, task.split) == ("Say hi", "koala", "val")


def test_ids_of_the_records_survive(tmp_path):
    given = {"pair_id": "p1", "first_id": "rb", "second_id": "ra"}
    got = read(jsonl(tmp_path / "x.jsonl", act(**given)))
    pair = got.pairs[0]
    assert (pair.id, pair.a, pair.b) == ("p1", "ra", "rb")
    assert got.judgements[0].winner_id == "ra"
    other = read(jsonl(tmp_path / "y.jsonl", act(**given), act(**given | {"annotator": "bob", "first": "other"})))
    assert [r.line for r in other.rejected] == [2]
    assert "another text" in other.rejected[0].reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        (act(winner="left"), "winner: must be one of first, second, tie, skip"),
        (act(winner=1), "winner: a text is needed"),
        (act(instruction=" "), "instruction: empty"),
        (act(first=None), "first: missing"),
        (act(first=3), "first: a text is needed"),
        (act(annotator=" "), "annotator: empty"),
        (act(draw=-1), "draw: must lie between 0"),
        (act(draw=0.5), "draw: a whole number"),
        (act(strength=True), "strength: a number"),
        (act(seconds="soon"), "seconds: a number"),
        (act(first_id="a"), "give both or neither"),
        (act(), "judged this pair before, in line 1"),
    ],
)
def test_bad_rows_are_listed_with_line_and_reason(tmp_path, row, reason):
    got = read(jsonl(tmp_path / "x.jsonl", act(), row), "farm")
    assert len(got.judgements) == 1
    assert [r.line for r in got.rejected] == [2]
    assert reason in got.rejected[0].reason


def test_a_file_without_a_usable_row_is_an_error(tmp_path):
    with pytest.raises(DataError, match="line 1: winner"):
        read(jsonl(tmp_path / "x.jsonl", act(winner="?")))
    with pytest.raises(DataError, match="is empty"):
        read(jsonl(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no known format has the columns a, b"):
        read(jsonl(tmp_path / "other.jsonl", {"a": 1, "b": 2}))
    with pytest.raises(DataError, match="format 'excel' is not known"):
        read(jsonl(tmp_path / "x.jsonl", act()), "excel")


def test_plain_csv(tmp_path):
    path = tmp_path / "votes.csv"
    with path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerows(
            [
                ["instruction", "response_a", "response_b", "winner", "annotator"],
                ["Say, hi", "a\nb", "c", "A", "ann"],
                ["Say, hi", "a\nb", "c", "b", "bob"],
                ["Say, hi", "a\nb", "c", "0", "cy"],
                ["Say, hi", "a\nb", "c"],
                ["Say, hi", "a\nb", "c", "maybe", "dee"],
            ]
        )
    got = read(path)
    assert [said(got, k) for k in range(3)] == ["a\nb", "c", None]
    assert [r.line for r in got.rejected] == [9, 11]
    assert "header's 5 columns" in got.rejected[0].reason


def test_parquet_reads_as_json_lines_do(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [act(strength=2, reason="", input=""), act(annotator="bob", winner="skip", strength=None, reason="why")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == read(jsonl(tmp_path / "x.jsonl", *rows))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Say hi", "chosen": "hello", "rejected": "hi", "margin": 1.5},
        {"prompt": [{"role": "user", "content": "Say hi"}], "chosen": [{"role": "assistant", "content": "hello"}],
         "rejected": [{"role": "assistant", "content": "hi"}], "margin": 1.5},
        {"chosen": [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "hello"}],
         "rejected": [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "hi"}], "margin": 1.5},
        {"chosen": "Say hi hello", "rejected": "Say hi hi", "margin": 1.5},
    ],
    ids=["plain", "conversation", "implicit prompt", "implicit text"],
)  # fmt: skip
def test_trl_columns(tmp_path, row):
    got = read(jsonl(tmp_path / "x.jsonl", row))
    judgement = got.judgements[0]
    assert said(got) == "hello"
    assert got.instructions[judgement.instruction_id].text == "Say hi"
    assert judgement.strength == 1.5
    assert judgement.fingerprint == UNORDERED  # nobody knows which was shown first


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "same text"),
        ({"chosen": "a", "rejected": "b"}, "no common beginning"),
        ({"prompt": "p", "chosen": ["a"], "rejected": ["b"]}, "role and a content"),
        ({"prompt": "p", "chosen": [], "rejected": "b"}, "both conversations"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "rejected: missing"),
    ],
)
def test_bad_trl_rows(tmp_path, row, reason):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert reason in read(jsonl(tmp_path / "x.jsonl", good, row)).rejected[0].reason


ALPACAFARM = {"instruction": "Say hi", "input": "", "output_1": "hi", "output_2": "hello"}


def test_alpacafarm(tmp_path):
    row = ALPACAFARM | {"gpt4_b1_4seeds": [2, 2, 1, None], "human_votes": [[0, 1], [7, 2]]}
    path = jsonl(tmp_path / "cross.jsonl.gz", row)
    people, judges = read(path), read(path, judges=True)
    assert [(j.annotator, said(people, k)) for k, j in enumerate(people.judgements)] == [
        ("human-0", "hi"),
        ("human-7", "hello"),
    ]
    assert [(j.annotator, j.draw, j.outcome) for j in judges.judgements] == [
        ("gpt4_b1", 0, Outcome.DECIDED),
        ("gpt4_b1", 1, Outcome.DECIDED),
        ("gpt4_b1", 2, Outcome.DECIDED),
        ("gpt4_b1", 3, Outcome.UNPARSEABLE),  # kept as a failure, not turned into a verdict
    ]
    one = read(jsonl(tmp_path / "p.jsonl", ALPACAFARM | {"preference": 2}, ALPACAFARM | {"preference": 3}))
    assert said(one) == "hello"
    assert "a choice is 1, 2, 0 or 1.5" in one.rejected[0].reason
    soft = read(jsonl(tmp_path / "s.jsonl", ALPACAFARM | {"preference": 1.8, "annotator": "j"}), judges=True)
    j = soft.judgements[0]
    assert (j.annotator, said(soft)) == ("j", "hello")
    assert j.probability == pytest.approx(0.2 if soft.responses[soft.pairs[0].a].text == "hi" else 0.8)


def test_pandalm(tmp_path):
    row = {"instruction": " ", "input": "Say hi", "pair": "x_y", "response1": True, "response2": "hello",
           "annotator1": 1, "annotator2": 0, "annotator3": 2, "gpt35_verdict": None,
           "pandalm7b_verdict": 2}  # fmt: skip
    path = jsonl(tmp_path / "panda.jsonl", row)
    people, judges = read(path), read(path, judges=True)
    assert [said(people, k) for k in range(3)] == ["True", None, "hello"]
    assert people.instructions[people.judgements[0].instruction_id].text == "Say hi"
    assert {r.policy for r in people.responses.values()} == {"x", "y"}
    assert [(j.annotator, str(j.outcome)) for j in judges.judgements] == [
        ("gpt35", "unparseable"),
        ("pandalm7b", "decided"),
    ]


def test_mtbench(tmp_path):
    vote = {"judge": "expert_1", "model_a": "x", "model_b": "y", "question_id": 81, "turn": 2, "winner": "model_b"}
    path = jsonl(
        tmp_path / "votes.jsonl",
        vote,
        vote | {"judge": "author_2", "model_a": "y", "model_b": "x", "winner": "model_a"},
        vote | {"judge": "gpt4", "winner": "tie (inconsistent)"},
        vote | {"winner": "both"},
        vote | {"judge": "expert_3", "model_b": "x"},
    )
    got = read(path)
    assert len(got.pairs) == 1
    assert got.judgements[0].winner_id == got.judgements[1].winner_id
    assert {r.text for r in got.responses.values()} == {""}
    assert [j.fingerprint for j in got.judgements] == ["", "", UNORDERED]  # asked in both orders
    assert [r.line for r in got.rejected] == [4, 5]
    texts = {"question_id": 81, "turns": ["Q1", "Q2"], "answers": {"x": ["a1", "a2"], "y": ["b1", "b2"]}}
    full = read(path, texts=jsonl(tmp_path / "texts.jsonl", texts))
    assert {r.text for r in full.responses.values()} == {"a2", "b2"}
    assert next(iter(full.instructions.values())).text == "Q1\n\nQ2"
    with pytest.raises(DataError, match="texts are for MT-bench"):
        read(jsonl(tmp_path / "x.jsonl", act()), texts=tmp_path / "texts.jsonl")


def test_identical_texts_and_a_tie_are_identical(tmp_path):
    got = read(jsonl(tmp_path / "x.jsonl", act(second="hi", winner="tie"), act(annotator="b", second="hi")))
    assert [str(j.outcome) for j in got.judgements] == ["identical", "decided"]  # what people said is kept
    assert len(got.responses) == 2


def test_people_are_moved_to_the_judges_pairs(tmp_path):
    judges = read(
        jsonl(tmp_path / "j.jsonl", act(first_policy="x", second_policy="y"), act(first="u", second="v", winner="tie"))
    )
    people = read(jsonl(tmp_path / "h.jsonl", act(first="hello", second="hi", winner="first"), act(first="new")))
    moved = on_pairs_of(people, judges)
    assert moved.judgements[0].pair_id == judges.judgements[0].pair_id
    assert moved.judgements[0].winner_id == judges.judgements[0].winner_id
    assert moved.judgements[0].shown == judges.judgements[0].shown[::-1]
    assert moved.judgements[1] == people.judgements[1]  # the judges do not have this one
    clash = read(jsonl(tmp_path / "c.jsonl", act(first="zzz", pair_id=judges.pairs[0].id)))
    with pytest.raises(DataError, match="has other texts"):
        on_pairs_of(clash, judges)
