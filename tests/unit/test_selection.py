"""Selecting checkpoints, controls, and rows at equal generation budgets."""

from __future__ import annotations

import numpy as np
import pytest

from farm import pipeline, records
from farm.errors import RecipeError
from farm.records import Budget, CurvePoint, Response, RewardCurve, WinRate
from farm.runs import Step
from farm.stages import Run
from farm.stages.controls import scorer
from farm.stages.select import candidates, select
from farm.study.budgets import Choice, affordable, best
from farm.study.overoptimization import PromptCurve

torch = pytest.importorskip("torch")

from farm.methods.task import Result  # noqa: E402
from farm.world import instructions, writers  # noqa: E402

RECIPE = """
name: picked
data: {world: offline}
improve: {row: {method: ppo, steps: 6}}
select: {instructions: 30, candidates: 2}
"""


def points(*xs: float) -> list[CurvePoint]:
    return [CurvePoint(x=x, proxy=0.0, n=1, sequences=int(10 * x)) for x in xs]


def rate(value: float | None) -> WinRate:
    return WinRate(
        policy="p", reference="sft", judge="j", value=value, standard_error=None, ci95_low=None, ci95_high=None, n=9
    )


def choice(method: str, x: float, value: float | None, seed: int = 0, prompts: int = 2, drawn: float = 10) -> Choice:
    judged = None if value is None else rate(value)
    return Choice(method=method, seed=seed, x=x, sequences=int(drawn * x), prompts=prompts, win_rate=judged)


def test_candidates_are_spread_and_end_at_the_last_point():
    curve = points(0, 5, 10, 15, 20, 25, 30)
    assert [p.x for p in candidates(curve, 3)] == [10, 20, 30]
    assert [p.x for p in candidates(curve, 4)] == [5, 15, 20, 30]
    assert [p.x for p in candidates(curve, 99)] == [5, 10, 15, 20, 25, 30]
    assert [p.x for p in candidates(points(0, 1), 3)] == [1]
    assert candidates((), 3) == []


def test_of_equal_candidates_the_earlier_and_never_one_without_a_verdict():
    rows = [choice("m", 1, None), choice("m", 2, 0.6), choice("m", 3, 0.6), choice("m", 4, 0.4)]
    assert best(rows) == rows[1]
    assert best([]) is None
    assert best([rows[0]]) == rows[0]  # the only one needs no judging


@pytest.fixture
def line(tmp_path):
    """A run whose row has three points: the start, a better policy, a worse one."""
    path = tmp_path / "picked.yaml"
    path.write_text(RECIPE)
    run = Run(tmp_path / "run", pipeline.load(path))
    run.folder.mkdir()
    asked = instructions.training()["val"][:40]
    skills = {0.0: "weak-writer", 3.0: "strong-writer", 6.0: None}
    drawn = []
    for skill in skills.values():
        for i in asked:
            text = writers.write(i, writers.FIXED_WRITERS[skill], 0, "test") if skill else "Off off off off."
            drawn.append(Response.make(i.id, text, "ppo", n_tokens=5))
    data, row = tmp_path / "data", tmp_path / "row"
    records.write(data / "val.jsonl", asked)
    records.write(row / "curve_responses.jsonl", drawn)
    for name in ("policy", "checkpoints/3"):
        (row / name).mkdir(parents=True)
    curve = RewardCurve(method="ppo", seed=0, x_name="step", points=tuple(points(*skills)))
    Result(method="ppo", policy="policy", curve=curve, budget=Budget(comparisons=100)).save(row)
    step = Step(row, "print", 0.0, 0.0, False)
    return run, {"data": Step(data, "print", 0.0, 0.0, False), "row": step}


def test_the_checkpoint_that_judges_prefer_is_the_row_s_policy(line):
    run, made = line
    step = select(run, 0, made, "row")
    choices = records.read(step.file("choices.jsonl"), Choice)
    assert [(c.x, c.sequences, c.prompts, c.chosen) for c in choices] == [(3, 30, 30, True), (6, 60, 30, False)]
    assert choices[0].win_rate.value > 0.6 > 0.5 > choices[1].win_rate.value
    result = Result.load(step.folder)
    assert result.policy_source(step.folder) == str((made["row"].folder / "checkpoints" / "3").resolve())
    assert [p.x for p in result.curve.points] == [0, 3]  # the curve of the policy that was chosen
    asked = sum(j.outcome != "identical" for j in records.read(step.file("judgements.jsonl"), records.Judgement))
    assert result.budget.comparisons == 100 + asked == 100 + sum(c.comparisons for c in choices)
    again = select(run, 0, made, "row")
    assert (again.fresh, again.fingerprint) == (False, step.fingerprint)


def test_without_the_section_nothing_is_selected(line):
    run, made = line
    assert select(Run(run.folder, run.recipe.model_copy(update={"select": None})), 0, made, "row") is None


@pytest.mark.parametrize("reward", ["random", "length"])
def test_a_control_of_a_method_without_reward_is_refused(reward, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: x\ndata: {{world: offline}}\nimprove: {{a: {{method: dpo, reward: {reward}}}}}\n")
    with pytest.raises(RecipeError, match=r"improve\.a\.reward: dpo learns from the labelled pairs"):
        pipeline.load(path)


def test_an_unknown_control_names_the_choices(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\ndata: {world: offline}\nimprove: {a: {method: ppo, reward: lenght}}\n")
    with pytest.raises(RecipeError, match=r"improve\.a\.reward.*'random'"):
        pipeline.load(path)


def test_controls_know_nothing_but_noise_and_length(tmp_path):
    made = {}
    asked = instructions.training()["val"][:400]
    rows = [Response.make(i.id, "word " * (k % 7), "p", n_tokens=k % 7) for k, i in enumerate(asked)]
    records.write(tmp_path / "sample" / "responses.jsonl", rows)
    made["sample"] = Step(tmp_path / "sample", "print", 0.0, 0.0, False)
    length = scorer("length", 0, made)(asked, rows)
    assert np.corrcoef(length, [r.n_tokens for r in rows])[0, 1] == pytest.approx(1)
    assert (np.mean(length), np.std(length)) == pytest.approx((0, 1))
    noise = scorer("random", 0, made)
    values = noise(asked, rows)
    assert noise(asked[::-1], rows[::-1]) == values[::-1]  # the same text, the same reward
    assert scorer("random", 1, made)(asked, rows) != values
    assert abs(np.mean(values)) < 0.2
    assert 0.9 < np.std(values) < 1.1
    assert abs(np.corrcoef(values, length)[0, 1]) < 0.2


def curve(method: str, gold: list[list[float]], seed: int = 0) -> PromptCurve:
    xs = points(*range(len(gold)))
    made = RewardCurve(method=method, seed=seed, x_name="step", points=tuple(xs))
    names = tuple(f"i{k}" for k in range(len(gold[0])))
    return PromptCurve(made, names, np.array(gold), np.array(gold))


def test_rows_at_equal_numbers_of_drawn_responses():
    """``a`` draws 10 a step and ``b`` 20, so both reach 40 together; ``labels`` draws nothing."""
    gold = [[0, 0, 0, 0], [9, 9, 1, 1], [9, 9, 2, 2], [9, 9, 3, 3], [9, 9, 4, 4]]
    curves = {("a", 0): curve("a", gold), ("b", 0): curve("b", gold[:3]), ("labels", 0): curve("labels", gold[:2])}
    choices = [choice("a", x, value) for x, value in ((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.65))]
    choices += [choice("b", x, value, drawn=20) for x, value in ((1, 0.5), (2, 0.4))]
    choices += [choice("labels", 1, None, prompts=0, drawn=0)]
    rows = affordable(choices, curves, seed=0)
    assert {(r.method, r.sequences): r.xs for r in rows} == {
        ("a", 10): (1,), ("a", 20): (2,), ("a", 40): (2,),
        ("b", 20): (1,), ("b", 40): (1,),
        ("labels", 10): (1,), ("labels", 20): (1,), ("labels", 40): (1,),
    }  # fmt: skip
    at = {(r.method, r.sequences): r for r in rows}
    assert at["a", 40].gold.value == 2  # on the prompts that did not choose: not the nines
    assert at["a", 40].gold.n == 2
    assert at["a", 40].win_rate == 0.7
    assert at["labels", 10].win_rate is None
    assert at["labels", 10].gold.n == 4


def test_a_seed_without_an_affordable_checkpoint_leaves_the_row_out():
    gold = [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    curves = {("a", s): curve("a", gold, s) for s in (0, 1)}
    choices = [choice("a", 1, 0.5), choice("a", 2, 0.6), choice("a", 2, 0.6, seed=1)]
    assert [(r.sequences, r.seeds) for r in affordable(choices, curves, seed=0)] == [(20, (0, 1))]
    assert affordable([], {}, seed=0) == []


def test_nothing_left_to_show_on_is_said():
    choices = [choice("a", 1, 0.5, prompts=3)]
    (row, *_) = affordable(choices, {("a", 0): curve("a", [[0, 0, 0], [1, 1, 1]])}, seed=0)
    assert row.gold.value is None
    assert "used to choose" in row.gold.note
