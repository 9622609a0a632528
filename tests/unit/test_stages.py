"""The steps' own small parts: pairing samples, keeping the manifest, showing progress."""

from __future__ import annotations

import json

import pytest

from farm import progress as shown
from farm import records
from farm.errors import DataError
from farm.recipe import Recipe
from farm.records import Response
from farm.reward.report import measured
from farm.runs import Step
from farm.stages import Run, conclude, planned
from farm.stages.train import pair_up

TEXTS = ("red", "blue", "red", "green", "grey")


def draws(instruction, texts=TEXTS):
    return [Response.make(instruction, t, "sft", k, n_tokens=1) for k, t in enumerate(texts)]


def test_one_pair_of_different_texts_per_instruction_in_their_order():
    rows = [*draws("i1"), *draws("i2", ["same"] * 4), *draws("i3", ["same", "other", "same"])]
    text = {r.id: r.text for r in rows}
    pairs = pair_up(rows, seed=0)
    assert [p.instruction_id for p in pairs] == ["i1", "i3"]  # nothing to compare in i2
    assert all(text[p.a] != text[p.b] for p in pairs)
    assert {text[pairs[1].a], text[pairs[1].b]} == {"same", "other"}


def test_a_pair_depends_on_seed_and_instruction_only():
    alone = {f"i{k}": pair_up(draws(f"i{k}"), seed=0)[0] for k in range(40)}
    together = pair_up([r for k in reversed(range(40)) for r in draws(f"i{k}")], seed=0)
    assert {p.instruction_id: p for p in together} == alone
    assert [p.instruction_id for p in together] == list(reversed(alone))
    other = [pair_up(draws(i), seed=1)[0] for i in alone]
    assert 5 < sum(a != b for a, b in zip(alone.values(), other, strict=True)) <= 40


def test_every_pair_of_texts_is_drawn_equally_often():
    counts: dict[frozenset[str], int] = {}
    for k in range(600):
        rows = draws(f"i{k}")
        text = {r.id: r.text for r in rows}
        pair = pair_up(rows, seed=0)[0]
        both = frozenset((text[pair.a], text[pair.b]))
        counts[both] = counts.get(both, 0) + 1
    assert len(counts) == 6  # four different texts; "red" twice makes it no likelier
    assert all(60 < n < 140 for n in counts.values())


def test_equal_texts_everywhere_are_an_error_that_says_what_to_raise():
    with pytest.raises(DataError, match=r"sample\.temperature"):
        pair_up([*draws("i1", ["same"] * 4), *draws("i2", ["same"])], seed=0)


def test_the_manifest_keeps_fresh_work_and_survives_a_second_call(tmp_path):
    def step(name, fresh, memory=100.0):
        return Step(tmp_path / name, "print-" + name, 1.23456, memory, fresh)

    recipe = Recipe.model_validate({"name": "x", "data": {"world": "offline"}, "compute": {"jobs": 2}})
    first = Run(tmp_path, recipe)
    first.begin()
    first.note("data", [step("0-data", False)], 9.0)
    assert not first.worked  # found finished, but an earlier call was cut off before it could note the step
    noted = (tmp_path / "manifest.json").read_text()
    assert "0-data" in json.loads(noted)["steps"]
    first.note("data", [step("0-data", False)], 9.5)
    assert (tmp_path / "manifest.json").read_text() == noted  # finished and known: no trace
    first.note("sft", [step(f"1-sft/seed-{s}", s > 0, 1e6) for s in range(3)], 10.0)
    assert first.worked
    saved = json.loads((tmp_path / "manifest.json").read_text())
    assert saved["steps"]["1-sft/seed-2"] == {"fingerprint": "print-1-sft/seed-2", "seconds": 1.235}
    assert saved["wall_seconds"] == 10.0
    assert 2e6 < saved["peak_memory_mb"] < 3e6  # two workers at once, and this process

    second = Run(tmp_path, recipe)
    second.begin()
    for elapsed in (2.0, 5.0):  # seconds since the call began, so the later replaces the earlier
        second.note("study", [step("7-study/across", True)], elapsed)
    again = json.loads((tmp_path / "manifest.json").read_text())
    assert again["wall_seconds"] == 15.0
    assert set(again["steps"]) == {*saved["steps"], "7-study/across"}
    assert again["peak_memory_mb"] == saved["peak_memory_mb"]


@pytest.fixture
def clock(monkeypatch):
    """``clock[0]`` is what time.monotonic says."""
    now = [1000.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_than_a_terminal_a_line_every_ten_seconds(clock, capsys):
    progress = shown.Progress("ppo, seed 0", bar=True)  # captured stderr is no terminal
    for second in range(1, 26):
        clock[0] = 1000.0 + second
        progress(second * 4, 200, {"score": 0.51234})
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "  ppo, seed 0: 40/200, 4.0/s, 40 s left; score 0.512",
        "  ppo, seed 0: 80/200, 4.0/s, 30 s left; score 0.512",
    ]


def test_judging_tells_programs_every_ten_seconds(clock, capsys):
    progress = shown.Progress("annotate")
    for second in range(1, 12):
        clock[0] = 1000.0 + second
        outcomes = {"decided": second}
        now = shown.Judging(second, 50, 0, outcomes, 32, "it pays", 0.0, 0.5, 2.0, 3.0)
        progress.judged(now)
    (line,) = capsys.readouterr().err.splitlines()
    row = json.loads(line)
    assert row["event"] == "judging"
    assert (row["done"], row["total"], row["cached"], row["outcomes"]) == (10, 50, 0, {"decided": 10})
    assert row["per_second"] == pytest.approx(1.0)
    assert row["left_s"] == pytest.approx(40.0)
    assert (row["concurrency"], row["reason"]) == (32, "it pays")
    assert (row["usd_spent"], row["usd_projected"], row["usd_budget"]) == (0.5, 2.0, 3.0)


def test_judging_is_one_live_line_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.delenv(shown.JSON_ENV, raising=False)
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: True, raising=False)
    progress = shown.Progress("annotate", bar=True)
    clock[0] += 3
    progress.judged(shown.Judging(30, 60, 3, {"decided": 30}, 16, "HTTP 429", 2.0, 0.25, 0.5, 1.0))
    progress.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 0
    for part in ("30/60", "10.0/s", "3 s left", "cached 3", "decided 30", "16 at a time (HTTP 429)", "asks to wait 2 s",
                 "0.2500 USD spent", "0.50 projected", "1 allowed"):  # fmt: skip
        assert part in said


def test_on_a_terminal_nothing_below_two_seconds_then_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: True, raising=False)
    progress = shown.Progress("sample", bar=True)
    for passed in (0.0, 1.0, 1.9):
        clock[0] = 1000.0 + passed
        progress(1, 10)
    assert progress.bar is None
    assert capsys.readouterr().err == ""
    clock[0] = 1002.0
    progress(6, 10)
    assert (progress.bar.n, progress.bar.total) == (6, 10)
    assert "sample" in capsys.readouterr().err
    progress.close()
    assert progress.bar is None


def test_without_a_bar_a_terminal_gets_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: True, raising=False)
    progress = shown.Progress("worker")
    clock[0] += 9.9
    progress(1, 10)
    assert capsys.readouterr().err == ""
    clock[0] += 0.1
    progress(2, 10)
    assert capsys.readouterr().err == "  worker: 2/10, 0.2/s, 40 s left\n"


def test_the_manifest_says_from_the_start_which_steps_the_line_has(tmp_path):
    settings = {"name": "x", "seeds": [0, 2], "data": {"world": "offline"}}
    study = {"best_of_n": None, "agreement_pairs": 5}
    run = Run(tmp_path, Recipe.model_validate(settings | {"study": study}))
    names = planned(run)
    run.begin(names)
    saved = json.loads((tmp_path / "manifest.json").read_text())["planned"]
    assert saved == names
    assert names[:3] == ["0-data", "1-sft/seed-0", "1-sft/seed-2"]
    assert names[-2:] == ["7-study/across", "8-report"]
    assert "6-evaluate/sft/seed-2" in names
    assert "7-study/cross/seed-0" in names
    assert not any(name.startswith("7-study/best-of-n") for name in names)
    assert len(names) == len(set(names))
    more = planned(Run(tmp_path, Recipe.model_validate(settings | {"study": {"agreement_pairs": 0}})))
    assert {*more} - {*names} == {"7-study/best-of-n/seed-0", "7-study/best-of-n/seed-2"}
    assert {*names} - {*more} == {"7-study/cross/seed-0"}


def test_the_summary_takes_each_seeds_reward_model_and_not_its_members(tmp_path):
    whole = measured([1.0, -1.0, 2.0], [1.0, 1.0, 1.0], [1, 1, -1], None, seed=0)
    member = whole.model_copy(update={"member": 0, "n_train": 9})
    made = {}
    for seed, rows in ((3, [whole, member]), (5, [whole]), (7, None)):
        made[seed] = {"reward": Step(tmp_path / str(seed), "", 0.0, 0.0, True)}
        if rows:
            (tmp_path / str(seed) / "model").mkdir(parents=True)
            records.write(made[seed]["reward"].file("model/report.jsonl"), rows)
    assert [(r.seed, r.report) for r in conclude._rewards(made)] == [(3, whole), (5, whole)]
