import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from farm.data import alpaca_eval, length_control
from farm.data.collect import UNORDERED
from farm.data.verdicts import common_policy, joined, of_records
from farm.errors import DataError
from farm.records import Outcome

HEAD = ["annotator", "reference", "model", "id", "preference", "order", "chars_reference", "chars_model"]


def table(path: Path, rows: list[list[object]], head: list[str] = HEAD) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(head)
        out.writerows(rows)
    return path


def row(i: int, preference: object, model: str = "m", order: str = "", reference: object = 10, mine: object = 12):
    return ["judge", "ref", model, i, preference, order, reference, mine]


def test_preferences_are_read_as_alpaca_eval_reads_them(tmp_path: Path):
    said = [1, 2, 1.5, 0, "2.0", 1.25, "", "nan", "None"]
    verdicts, rejected = alpaca_eval.read(table(tmp_path / "a.csv.gz", [row(k, p) for k, p in enumerate(said)]))
    assert rejected == []
    v = verdicts[0]
    assert v.name == ("judge", "ref", "m")
    assert v.score[:6].tolist() == [0.0, 1.0, 0.5, 0.5, 1.0, 0.25]
    assert np.isnan(v.score[6:]).all()
    assert v.longer_by.tolist() == [2.0] * 9


def test_bad_rows_are_refused_by_line_and_the_rest_is_kept(tmp_path: Path):
    rows = [
        row(0, 1),
        row(0, 2),  # line 3: twice
        row(1, 2.5),
        row(2, -1),
        row(3, "better"),
        ["judge", "", "m", 4, 1, "", 1, 1],
        ["judge", "ref", "m", "", 1, "", 1, 1],
        row(5, 1, order="sideways"),
        row(6, 1, mine="many"),
        row(7, 2),
    ]
    verdicts, rejected = alpaca_eval.read(table(tmp_path / "a.csv", rows))
    assert [r.line for r in rejected] == [3, 4, 5, 6, 7, 8, 9, 10]
    why = [r.reason for r in rejected]
    assert "duplicate" in why[0]
    assert "'2.5' is neither" in why[1]
    assert "'-1' is neither" in why[2]
    assert "'better' is neither" in why[3]
    assert "reference (or generator_1) is missing" in why[4]
    assert "neither id nor instruction" in why[5]
    assert "sideways" in why[6]
    assert "not a whole number" in why[7]
    assert verdicts[0].ids == ("0", "7")
    assert verdicts[0].rejected == 7  # the one without a reference belongs to nobody


def test_both_orders_are_no_duplicates_and_unknown_orders_are(tmp_path: Path):
    rows = [row(0, 1, order="model_first"), row(0, 2, order="ref_first"), row(0, 1, order="ref_first"), row(0, 1)]
    verdicts, rejected = alpaca_eval.read(table(tmp_path / "a.csv", rows))
    assert [r.line for r in rejected] == [4, 5]
    ids, score, _ = verdicts[0].by_instruction()
    assert (ids, score.tolist()) == (["0"], [0.5])
    assert verdicts[0].model_first.tolist() == [1.0, 0.0]


def test_annotations_of_another_text_are_refused(tmp_path: Path):
    outputs = tmp_path / "o.jsonl"
    outputs.write_text(
        "\n".join(json.dumps({"model": m, "id": k, "output": "x" * n}) for k, (m, n) in enumerate([("m", 12)] * 2))
    )
    rows = [row(0, 1), row(1, 2, mine=13), row(2, 2, mine=14)]
    verdicts, rejected = alpaca_eval.read(table(tmp_path / "a.csv", rows), outputs=alpaca_eval.read_outputs(outputs))
    assert len(rejected) == 1
    assert "another text than m's output: one of 13 characters, not 12" in rejected[0].reason
    assert verdicts[0].ids == ("0", "2")  # instruction 2 has no output to compare with, but a stated length
    assert verdicts[0].longer_by.tolist() == [2.0, 4.0]


def ae_rows() -> list[dict[str, object]]:
    base = {"annotator": "gpt", "generator_1": "ref", "generator_2": "m", "dataset": "koala"}
    return [
        base | {"instruction": f"task {k}", "output_1": "abc", "output_2": "abcde" * (k + 1), "preference": p}
        for k, p in enumerate([1.0, 2, 1.9, None, 1.5])
    ]


def test_own_files_of_alpaca_eval(tmp_path: Path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(ae_rows()))
    verdicts, rejected = alpaca_eval.read(path)
    assert rejected == []
    assert verdicts[0].longer_by.tolist() == [2.0, 7.0, 12.0, 17.0, 22.0]
    assert len(set(verdicts[0].ids)) == 5
    evaluation = tmp_path / "set.jsonl"
    lines = [json.dumps({"id": 7 + k, "instruction": f"task {k}", "dataset": "koala"}) for k in range(5)]
    evaluation.write_text("\n".join(lines))
    prompts = alpaca_eval.read_prompts(evaluation)
    named, _ = alpaca_eval.read(path, prompts=prompts)
    assert named[0].ids == ("7", "8", "9", "10", "11")
    assert prompts.by_id["7"].source == "koala"


def test_as_the_farms_own_records_and_back(tmp_path: Path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(ae_rows()))
    verdicts, _ = alpaca_eval.read(path)
    found = alpaca_eval.judged(verdicts)
    assert [j.outcome for j in found.judgements] == [
        Outcome.DECIDED,
        Outcome.DECIDED,
        Outcome.DECIDED,
        Outcome.FAILED,
        Outcome.TIE,
    ]
    assert {j.fingerprint for j in found.judgements} == {UNORDERED}
    assert found.rejected == []
    assert common_policy(found.judgements, found.responses) is None  # both policies are in all of them
    back = of_records(found.judgements, found.responses, reference="ref")[0]
    assert back.score.tolist() == pytest.approx(verdicts[0].score.tolist(), nan_ok=True)
    assert back.longer_by.tolist() == verdicts[0].longer_by.tolist()
    hard = of_records(found.judgements, found.responses, reference="ref", soft=False)[0]
    assert hard.score[2] == 1.0
    others = {v.model: v for v in of_records(found.judgements, found.responses)}
    assert others["ref"].score.tolist() == pytest.approx((1 - others["m"].score).tolist(), nan_ok=True)
    assert others["ref"].reference == "others"


def test_verdicts_without_texts_are_listed(tmp_path: Path):
    verdicts, _ = alpaca_eval.read(table(tmp_path / "a.csv", [row(0, 1)]))
    found = alpaca_eval.judged(verdicts)
    assert found.judgements == []
    assert "unknown" in found.rejected[0].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "annotator,reference,model,id\nj,r,m,0\n", "no row has a preference"),
        ("a.csv", ",".join(HEAD) + "\nj,r,m,0,9,,1,1\n", "no row could be read as a judgement .1 refused; .*line 2"),
        ("a.csv", "", "no row could be read"),
        ("a.json", "{}", "must hold a list"),
        ("a.json", "[", "not a JSON list"),
        ("a.csv.gz", "not gzip", "cannot be read"),
    ],
)
def test_files_without_judgements(tmp_path: Path, name: str, content: str, message: str):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        alpaca_eval.read(path)
    with pytest.raises(DataError, match="no such file"):
        alpaca_eval.read(tmp_path / "absent.csv")


def test_outputs_that_contradict_each_other(tmp_path: Path):
    path = tmp_path / "o.jsonl"
    path.write_text('{"model": "m", "id": 1, "output": "a"}\n{"model": "m", "id": "1", "output": "b"}\n')
    with pytest.raises(DataError, match="line 2: a second output of m for instruction 1"):
        alpaca_eval.read_outputs(path)
    path.write_text('{"model": "m", "id": 1, "output": 3}\n')
    with pytest.raises(DataError, match="line 1: output must be a text"):
        alpaca_eval.read_outputs(path)


def test_joined_keeps_everything(tmp_path: Path):
    first, second = (alpaca_eval.read(table(tmp_path / f"{k}.csv", [row(k, 1), row(9, 2, "o")]))[0] for k in range(2))
    found = {v.model: v for v in joined([first[0], second[0], first[1]])}
    assert found["m"].ids == ("0", "1")
    assert found["o"].ids == ("9",)


def test_length_control_files(tmp_path: Path):
    difficulty = tmp_path / "instruction_difficulty.csv"
    difficulty.write_text("index,instruction_difficulty\n0,0.5\n1,-1.25\n")
    (tmp_path / "published_C.csv").write_text("model,n,C\nm,805,2.78\n")
    found = length_control.read(tmp_path)
    assert found.difficulty == {"0": 0.5, "1": -1.25}
    assert found.regulariser.shape == (0, 3)
    assert found.penalties == {"m": 2.78}
    for text, message in (
        ("index,instruction_difficulty\n0,0.5\n0,1\n", "line 3: index '0' occurs twice"),
        ("index,instruction_difficulty\n0,hard\n", "line 2: instruction_difficulty 'hard' is not a finite number"),
        ("index,d\n0,1\n", "line 2: no column instruction_difficulty"),
    ):
        difficulty.write_text(text)
        with pytest.raises(DataError, match=message):
            length_control.read(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        length_control.read(tmp_path / "absent")
