"""Recipes: strict, every mistake at once, nearest valid key, overrides, the full form."""

from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from farm import recipe
from farm.errors import DataError, RecipeError


class Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lr: float = 0.1
    steps: int = 5


SHAPES = recipe.Shapes(sft=Knobs, reward=Knobs, methods={"ppo": Knobs, "best_of_n": Knobs})


def load(tmp_path, text: str, **kwargs):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return recipe.load(path, SHAPES, **kwargs)


GOOD = "name: x\ndata: {world: offline}\nimprove:\n  a: {method: ppo, steps: 7}\n"


def test_defaults_are_spelled_out_and_read_back(tmp_path):
    r = load(tmp_path, GOOD)
    assert r.sft == Knobs()
    assert r.improve == {"a": ("ppo", Knobs(steps=7), recipe.Row(reward="model"))}
    assert "concurrency" in recipe.dump(r)


def test_all_mistakes_at_once_with_the_nearest_key(tmp_path):
    text = (
        "name: x\ndata: {world: offline}\nsampel: {n: 4}\nannotate: {flp: 0.25, per_pair: 0}\n"
        "sft: {lrr: 1}\nimprove:\n  a: {method: poo}\n  b: {method: ppo, step: 3}\n  c: 7\n"
    )
    with pytest.raises(RecipeError) as e:
        load(tmp_path, text)
    message = str(e.value)
    assert "r.yaml: 7 mistakes" in message
    for part in (
        "sampel: unknown key; did you mean 'sample'?",
        "annotate.flp: unknown key; did you mean 'flip'?",
        "annotate.per_pair",
        "sft.lrr: unknown key; did you mean 'lr'?",
        "improve.a.method: unknown method 'poo'; did you mean 'ppo'?",
        "improve.b.step: unknown key; did you mean 'steps'?",
        "improve.c: give 'method:'",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "line"),
        ("name: x\nname: y\n", "given twice"),
        ("- a\n", "mapping"),
        ("data: {world: offline}\n", "name: required"),
        ("name: x\ndata: {}\n", "either world: offline"),
        ("name: x\ndata: {path: f.json}\n", "eval_path"),
        ("name: x\ndata: {world: offline}\nseeds: [1, 1]\n", "distinct"),
        ("name: ../up\ndata: {world: offline}\n", "name"),
        ("name: x\ndata: {world: offline}\nsft: [1]\n", "sft: must be a mapping"),
    ],
)
def test_bad_recipes_say_what_is_wrong(tmp_path, text, words):
    with pytest.raises(RecipeError, match=r"r\.yaml") as e:
        load(tmp_path, text)
    assert words in str(e.value)


def test_overrides(tmp_path):
    r = load(tmp_path, GOOD, overrides=["sample.n=6", "improve.a.steps=9", "compute.jobs=1"], seeds=[4, 5])
    assert (r.sample.n, r.improve["a"][1].steps, r.compute.jobs, r.seeds) == (6, 9, 1, [4, 5])
    with pytest.raises(RecipeError, match="--set nonsense") as e:
        load(tmp_path, GOOD, overrides=["nonsense", "name.deep=1", "sample.m=1"])
    assert "3 mistakes" in str(e.value)


def test_the_full_form(tmp_path):
    text = GOOD + "full: {sample.n: 8, improve.a.steps: 70}\n"
    assert load(tmp_path, text).sample.n == 4
    assert load(tmp_path, text, full=True).improve["a"][1].steps == 70
    with pytest.raises(RecipeError, match="no section 'full'"):
        load(tmp_path, GOOD, full=True)


def test_a_missing_recipe_lists_what_exists():
    with pytest.raises(DataError, match="no such file"):
        recipe.load("absent", SHAPES)


def test_the_dump_is_plain_yaml(tmp_path):
    assert yaml.safe_load(recipe.dump(load(tmp_path, GOOD)))["name"] == "x"
