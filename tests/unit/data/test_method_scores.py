"""Tables of method scores: columns found or named, gaps reported, contradictions refused with file and line."""

from __future__ import annotations

import gzip

import pytest

from farm.data.method_scores import Columns, LongTable, ScoreTable, read
from farm.data.method_subsets import choose
from farm.errors import DataError

PAPER = """method,simulated_win_rate,simulated_se,human_win_rate,human_se,chars
GPT-4,79.0,1.4,69.8,1.6,504.4
"PPO, tuned",46.8,1.8,55.1,1.7,
Quark,35.6,1.7,,,
SFT 10k,36.7,1.7,44.3,1.7,277.5
"""


@pytest.fixture
def table(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv"])
def test_columns_are_found(table, name):
    text = PAPER if ".csv" in name else PAPER.replace('"PPO, tuned"', "PPO").replace(",", "\t")
    t = read(table("\ufeff" + text, name))
    assert isinstance(t, ScoreTable)
    assert t.methods[0] == "GPT-4"
    assert len(t.methods) == 3
    assert t.simulated.values["SFT 10k"] == 36.7
    assert t.simulated.errors["SFT 10k"] == 1.7
    assert t.human.errors["GPT-4"] == 1.6
    assert [(r.line, r.reason) for r in t.left_out] == [(4, "Quark: no value in column 'human_win_rate'")]
    assert "simulated_win_rate +- simulated_se" in t.simulated.used


def test_columns_can_be_named_and_intervals_give_errors(table):
    t = read(
        table("system,LC,Elo (Feb),Elo (Feb) lower,Elo (Feb) upper,n\na,1,1000,980,1019.6,10\nb,2,1100,1090,1110,20\n"),
        columns=Columns(simulated="LC", human="Elo (Feb)"),
    )
    assert t.methods == ("a", "b")
    assert t.human.errors["a"] == pytest.approx(39.6 / 2 / 1.959964)
    assert t.simulated.errors == {"a": None, "b": None}
    assert t.human.labels == {"a": 10, "b": 20}
    with pytest.raises(DataError, match="did you mean 'LC'"):
        read(table("system,LC,x\na,1,2\n"), columns=Columns(simulated="Lc", human="x"))


def test_two_tables_are_joined_by_name(table):
    a = table("annotator,model,win_rate,standard_error\np,m1,50,1\np,m2,40,1\np,m3,30,1\n", "a.csv")
    b = table("model,win_rate,ci95_low,ci95_high\nm2,0.4,0.3,0.5\nm1,0.5,0.4,0.6\nm4,0.1,0,0.2\n", "b.csv")
    t = read(a, b)
    assert t.methods == ("m1", "m2")
    assert t.human.errors["m2"] == pytest.approx(0.1 / 1.959964)
    assert {r.reason for r in t.left_out} == {"only in a.csv: m3", "only in b.csv: m4"}


def test_one_table_with_two_judges(table):
    text = "annotator,model,win_rate\npool,m1,50\npeople,m1,40\npool,m2,30\npeople,m2,20\n"
    c = Columns(simulated_rows=("annotator", "pool"), human_rows=("annotator", "people"))
    t = read(table(text), columns=c)
    assert (t.simulated.values, t.human.values) == ({"m1": 50, "m2": 30}, {"m1": 40, "m2": 20})
    with pytest.raises(DataError, match="Two judges in one column: --simulated-rows"):
        read(table(text))
    with pytest.raises(DataError, match=r"t.csv, line 3: method 'm1' was given on line 2.*--simulated-rows"):
        read(table(text), table("model,win_rate\nm1,5\n", "u.csv"))
    with pytest.raises(DataError, match="no row has annotator = 'nobody'"):
        read(table(text), columns=Columns(simulated_rows=("annotator", "nobody"), human_rows=("annotator", "people")))


def test_scores_per_instruction(table):
    t = read(table("method,instruction_id,simulated,human\na,i1,1,0\na,i2,0.5,\nb,i1,0,1\n"))
    assert isinstance(t, LongTable)
    assert t.simulated == {"a": {"i1": 1, "i2": 0.5}, "b": {"i1": 0}}
    assert t.human == {"a": {"i1": 0}, "b": {"i1": 1}}
    with pytest.raises(DataError, match=r"line 3: \('a', 'i1'\) was given on line 2"):
        read(table("method,instruction_id,simulated,human\na,i1,1,0\na,i1,1,0\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "line 1: a header"),
        ("method,simulated,human\n", "a header and no rows"),
        ("method,simulated,simulated\na,1,2\n", "'simulated' occurs twice"),
        ("method,simulated,human\na,1,2\nb,1\na,3,4\n", "line 4: method 'a' was given on line 2"),
        ("method,simulated,human\na,1,2\nb,1,high\nc,3,4\n", "line 3, column 'human': 'high' is not a finite number"),
        ("method,simulated,human\na,1,inf\nb,1,2\nc,1,3\n", "line 2, column 'human': 'inf'"),
        ("method,simulated,simulated_se,human\na,1,-1,2\nb,1,1,2\n", "line 2, column 'simulated_se': a negative"),
        ("method,simulated,human\na,1,2,3\n", "line 2: 4 values under 3 columns"),
        ("method,x,y,z\na,1,2,3\n", "Name them with --simulated and --human; candidates: x, y, z"),
    ],
)
def test_what_is_wrong_is_named(table, text, match):
    with pytest.raises(DataError, match=match):
        read(table(text))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.csv")


def test_a_row_without_a_name_is_left_out(table):
    t = read(table("method,simulated,human\na,1,2\n,5,6\nb,N/A,3\n"))
    assert t.methods == ("a",)
    assert [r.line for r in t.left_out] == [3, 4]


# -- which methods were trained in the farm ---------------------------------------------------------------------------

NAMES = (
    "GPT-4", "ChatGPT", "PPO", "Best-of-n", "Expert Iteration", "SFT 52k (Alpaca 7B)", "SFT 10k", "Binary FeedME",
    "Binary Reward Conditioning", "Quark", "Davinci001", "LLaMA 7B", "alpaca-farm-ppo-human", "Mistral-ReMax",
    "best_of_16", "sft", "internlm2-chat-20b-ppo",
)  # fmt: skip


def test_trained_by_name():
    cells = {n: {"method": n} for n in NAMES}
    outside = {"GPT-4", "ChatGPT", "Davinci001", "LLaMA 7B", "Mistral-ReMax", "internlm2-chat-20b-ppo"}
    assert set(choose(NAMES, cells, "trained").methods) == set(NAMES) - outside
    preferences = set(choose(NAMES, cells, "preference-trained").methods)
    assert preferences == set(NAMES) - outside - {"SFT 52k (Alpaca 7B)", "SFT 10k", "sft"}


def test_trained_by_column_or_list():
    cells = {"a": {"Trained": "yes", "size": "7B"}, "b": {"Trained": "", "size": "7B"}, "PPO": {"Trained": "no"}}
    cells["PPO"]["size"] = "1B"
    names = tuple(cells)
    assert choose(names, cells, "trained").methods == ("a",)
    assert choose(names, cells, "size=7B").methods == ("a", "b")
    assert choose(names, cells, "Trained").methods == ("a",)
    assert choose(names, cells, "PPO, a").methods == ("a", "PPO")
    with pytest.raises(DataError, match="no method is called 'zzz'"):
        choose(names, cells, "a,zzz")
