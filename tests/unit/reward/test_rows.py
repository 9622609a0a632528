"""Rows to score: every mistake is found before anything is written, everything else of a row is kept."""

from __future__ import annotations

import gzip
import json

import pytest

from farm import records
from farm.errors import DataError
from farm.records import Instruction, Response
from farm.reward.rows import read, summary, write

GOOD = {"instruction": "say a", "input": "b", "output": "c", "more": [1, {"x": None}]}


def lines(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_lines_keep_order_and_all_fields(tmp_path):
    odd = {"instruction": "zwei\u2028 Zeilen \u00fc", "output": "", "finished": False, "input": None}
    rows = read(lines(tmp_path / "in.jsonl", GOOD, "", odd))
    assert [(i.text, i.input) for i in rows.instructions] == [("say a", "b"), (odd["instruction"], "")]
    assert [(r.text, r.finished) for r in rows.responses] == [("c", True), ("", False)]
    assert rows.responses[1].id.endswith("in.jsonl, line 3")
    write(tmp_path / "out.jsonl", rows, [1.5, -2.0])
    out = [json.loads(x) for x in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if x]
    assert out == [{**GOOD, "reward": 1.5}, {**odd, "reward": -2.0}]
    assert list(out[0]) == [*GOOD, "reward"]


def test_a_list_comes_back_as_a_list_and_gzip_is_read_and_written(tmp_path):
    path = tmp_path / "model_outputs.json"
    path.write_text("\ufeff" + json.dumps([GOOD, GOOD]), encoding="utf-8")
    rows = read(path, "score")
    write(tmp_path / "out.json", rows, [1.0, 2.0], "score")
    assert [r["score"] for r in json.loads((tmp_path / "out.json").read_text())] == [1.0, 2.0]
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    write(tmp_path / "out.jsonl.gz", read(packed), [3.0])
    assert json.loads(gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()))["reward"] == 3.0


def test_a_runs_responses_find_their_instructions(tmp_path):
    asked = Instruction.make("say a", split="val")
    records.write(tmp_path / "0-data" / "val.jsonl", [asked])
    answer = Response.make(asked.id, "a a", "sft", n_tokens=2, finished=False)
    path = tmp_path / "2-sample" / "seed-0" / "responses.jsonl"
    records.write(path, [answer])
    rows = read(path)
    assert rows.instructions == [asked]
    assert (rows.responses[0].text, rows.responses[0].finished) == ("a a", False)
    alone = lines(tmp_path.parent / "alone.jsonl", answer.model_dump_json())
    with pytest.raises(DataError, match="--instructions"):
        read(alone)
    assert read(alone, instructions={asked.id: asked}).instructions == [asked]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"output": "a"}, "line 2: instruction: missing"),
        ({"instruction": "a"}, "line 2: output: missing"),
        ({"instruction": "a", "output": 5}, r"line 2: output: must be a text \(got 5\)"),
        ({"instruction": "a", "output": None}, "line 2: output: must be a text"),
        ({"instruction": "", "output": "a"}, "line 2: instruction: must not be empty"),
        ({"instruction": "a", "input": ["b"], "output": "a"}, "line 2: input: must be a text"),
        ({"instruction": "a", "output": "a", "finished": "no"}, "line 2: finished: must be true or false"),
        ({"instruction": "a", "output": "a", "reward": 1}, "line 2: reward: .*--field"),
        ({"instruction": "a", "output": "\ud800"}, "line 2: output: not valid Unicode"),
        ("[1]", "line 2: a row must be a JSON object, got list"),
        ("{'a': 1}", "line 2: not JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, row, word):
    path = lines(tmp_path / "in.jsonl", GOOD, row, GOOD)
    with pytest.raises(DataError, match=word) as e:
        read(path)
    assert "in.jsonl" in str(e.value)
    assert "Nothing was scored" in str(e.value)


def test_all_bad_rows_are_counted_and_the_first_shown(tmp_path):
    with pytest.raises(DataError, match=r"line 1: .*line 5: .*and 4 more"):
        read(lines(tmp_path / "in.jsonl", *[{"instruction": "a"}] * 9))
    path = tmp_path / "in.json"
    path.write_text(json.dumps([GOOD, 7]))
    with pytest.raises(DataError, match="item 2: a row must be"):
        read(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "no row to score"), (b"[]", "no row"), (b"[{]", "not a JSON list"), (b"\xff\xfe", "cannot be read")],
)
def test_a_file_that_holds_nothing_or_nonsense(tmp_path, content, word):
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=word):
        read(path)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.jsonl")


def test_what_cannot_be_written_says_so(tmp_path):
    rows = read(lines(tmp_path / "in.jsonl", GOOD))
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "in.jsonl" / "below", rows, [1.0])


def test_summary():
    assert (
        summary([1.0, 3.0], 1) == "n 2, mean 2.000, sd 1.414, min 1.000, max 3.000, longer than the model's limits: 1"
    )
    assert summary([1.0], 0).startswith("n 1, mean 1.000, sd 0.000")
