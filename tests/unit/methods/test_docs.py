"""The example of docs/add-a-method.md is a method: it runs, learns, counts, and reproduces itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_conformance import MANY, SAMPLING, count_a

from farm.methods.task import Result, Task

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def example():
    text = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    module = ModuleType("farm.methods.reward_weighted")
    sys.modules[module.__name__] = module
    exec(compile(code, "docs/add-a-method.md", "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def run(example, toy, folder, seed=0, score=count_a):
    sampling = SAMPLING.model_copy(update={"seed": seed})
    task = Task(seed, folder, toy, MANY, sampling, score=score, val=MANY)
    optim = example.Optim(lr=5e-3, epochs=4, batch=32)
    return example.run(task, example.Config(prompts=64, n=16, temperature=0.1, optim=optim))


def test_it_learns_counts_and_reproduces_itself(example, toy, tmp_path):
    result = run(example, toy, tmp_path / "one")
    before, after = result.curve.points[0], result.curve.points[-1]
    assert after.proxy > before.proxy + 0.05
    assert result.budget.generated_sequences == result.budget.reward_scorings == 64 * 16
    assert result.budget.train_tokens > result.budget.generated_tokens
    assert Result.load(tmp_path / "one") == result
    run(example, toy, tmp_path / "two")
    run(example, toy, tmp_path / "three", seed=1)
    one, two, three = ((tmp_path / n / "policy" / "model.safetensors").read_bytes() for n in ("one", "two", "three"))
    assert one == two != three


def test_its_settings_are_documented(example):
    assert all(f.description for f in example.Config.model_fields.values())
