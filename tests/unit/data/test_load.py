"""Instructions from files: sizes, exclusion, disjoint splits, errors that name the row; the real Alpaca if there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from farm import resources
from farm.data import load
from farm.data.cards import Card, is_original, load_card
from farm.errors import DataError
from farm.records import Instruction

SHARED = Path(__file__).parents[4] / "shared" / "data"


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return str(path)


def rows(n: int) -> list[dict]:
    return [{"id": i, "instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(n)]


def test_small_files_keep_the_proportions_and_disjointness(tmp_path):
    splits = load.training(write(tmp_path / "d.jsonl", rows(400)), None, [], seed=0)
    assert {k: len(v) for k, v in splits.items()} == {"sft": 100, "preference": 200, "unlabeled": 80, "val": 20}
    ids = [i.id for s in splits.values() for i in s]
    assert len(set(ids)) == len(ids)
    assert all(i.split == name for name, items in splits.items() for i in items)


def test_order_of_rows_does_not_matter_and_the_seed_does(tmp_path):
    data = rows(100)
    one = load.training(write(tmp_path / "d.jsonl", data), None, [], seed=0)
    assert load.training(write(tmp_path / "d.jsonl", data[::-1]), None, [], seed=0) == one
    assert load.training(write(tmp_path / "d.jsonl", data), None, [], seed=1) != one


def test_evaluation_rows_listed_rows_and_duplicates_are_out(tmp_path):
    data = [*rows(100), {"instruction": "Say 5.", "output": "again"}]
    listed = tmp_path / "out.csv"
    listed.write_text("alpaca_id,set\n7,x\n")
    held = [Instruction.make("Say 3.", split="eval")]
    splits = load.training(write(tmp_path / "d.jsonl", data), str(listed), held, seed=0)
    texts = [i.text for s in splits.values() for i in s]
    assert len(texts) == 98
    assert not {"Say 3.", "Say 7."} & set(texts)


def test_no_empty_demonstration_in_sft(tmp_path):
    data = [{"instruction": f"Say {i}.", "output": "" if i % 2 else "x"} for i in range(100)]
    splits = load.training(write(tmp_path / "d.jsonl", data), None, [], seed=0)
    assert all(i.output for i in splits["sft"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"instruction": "a"}\n{"instruction": 4}\n', "line 2, field 'instruction'"),
        ('{"instruction": "a"}\nnot json\n', "line 2: not JSON"),
        ("[1]\n", "line 1: a row must be a JSON object"),
        ('{"text": "a"}\n', "columns: text"),
        ("", "empty"),
    ],
)
def test_bad_files_are_named(tmp_path, text, words):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"d\.jsonl") as e:
        load.training(str(path), None, [], seed=0)
    assert words in str(e.value)


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(load.rows_of(str(tmp_path / "absent.jsonl")))
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"instruction": "a"}\n' * 1000)[:30])
    with pytest.raises(DataError, match="cannot be read"):
        list(load.rows_of(str(path)))


def card(n: int, reference: str = "ref") -> Card:
    columns = {"reference": reference, "answers": "ref"}
    return Card(name="mine", about="", source="", licence="", n=n, columns=columns, how_to_get="")


def test_evaluation_keeps_to_its_card(tmp_path):
    data = [{"instruction": "a", "ref": "x"}, {"instruction": "b", "input": "c", "ref": ""}]
    path = write(tmp_path / "e.jsonl", data)
    items, answers = load.evaluation(card(2), path)
    assert [(i.full_text, i.output, i.split) for i in items] == [("a", "x", "eval"), ("b\n\nc", "", "eval")]
    assert answers == {"a": "x", "b\n\nc": ""}
    with pytest.raises(DataError, match="the card of mine says 3"):
        load.evaluation(card(3), path)
    with pytest.raises(DataError, match=r"line 1, field 'other'.*columns: instruction, ref"):
        load.evaluation(card(2, "other"), path)
    with pytest.raises(DataError, match=r"line 3: .*more than once"):
        load.evaluation(card(3), write(tmp_path / "e.jsonl", [*data, data[0]]))


def test_every_shipped_card_is_valid():
    names = [p.name for p in resources.folder("eval_sets").iterdir() if p.is_dir()]
    assert len(names) >= 2
    assert [load_card(n).name for n in names] == names


def test_a_bad_card_is_named(tmp_path):
    (tmp_path / "card.yaml").write_text("name: x\nn: 0\n")
    with pytest.raises(DataError, match=r"card\.yaml: .*n: .*greater than 0"):
        load_card(str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not beside this checkout")
def test_real_alpaca_splits():
    file, shipped = str(SHARED / "eval_prompts/alpaca_eval_805.jsonl.gz"), load_card("alpaca_eval_805")
    items, answers = load.evaluation(shipped, file)
    assert is_original(shipped, file)
    splits = load.training(
        str(SHARED / "instruct/alpaca_52k.jsonl.gz"), str(SHARED / "instruct/alpaca_ids_in_eval_sets.csv"), items, 0
    )
    assert (len(items), len(answers)) == (805, 805)
    assert {k: len(v) for k, v in splits.items() if k != "unlabeled"} == {
        "sft": 10_000,
        "preference": 20_000,
        "val": 2_000,
    }
    assert 19_000 < len(splits["unlabeled"]) < 20_000
    held = {i.full_text.strip() for i in items}
    assert not held & {i.full_text.strip() for s in splits.values() for i in s}
