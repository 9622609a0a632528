"""Whole runs whose reward is an ensemble, or comes from a model of another family and tokenizer than the policy."""

from __future__ import annotations

import pytest

from farm import pipeline, records
from farm.errors import RecipeError
from farm.reward.ensemble import Ensemble, load_reward
from farm.reward.report import RewardReport

pytestmark = pytest.mark.slow
METHODS = {
    "best-of-4": {"method": "best_of_n", "n": 4},
    "ppo": {"method": "ppo", "steps": 3, "rollouts": 16, "curve_every": 1},
    "expert-iteration": {"method": "expert_iteration", "n": 4, "prompts": 20},
    "rloo": {"method": "rloo", "steps": 2, "prompts_per_step": 8},
}


def run(folder, *settings, until="improve", methods=METHODS):
    shown = str(methods).replace("'", '"')
    small = ("sample.instructions=60", "study.curve_instructions=8", "compute.jobs=1", f"improve={shown}")
    study = pipeline.load("tiny", [*small, *settings])
    pipeline.run(study, folder, until)
    return folder / "4-reward" / "seed-0" / "model"


def test_every_method_optimises_an_ensemble(tmp_path):
    model = run(tmp_path, "reward.members=2", "reward.combine=soft", until="evaluate")
    assert isinstance(load_reward(model), Ensemble)
    (whole, *members) = records.read(model / "report.jsonl", RewardReport)
    assert len(members) == 2
    assert whole.agrees_with_gold.n > 0
    responses = records.read(tmp_path / "6-evaluate" / "ppo" / "seed-0" / "responses.jsonl", records.Response)
    asked = records.by_id(records.read(tmp_path / "0-data" / "eval.jsonl", records.Instruction))
    values = load_reward(model).score([asked[r.instruction_id] for r in responses], responses)
    assert [r.scores["proxy"] for r in responses] == pytest.approx(values, abs=1e-4)


def test_a_reward_model_of_another_family(tmp_path, letters):
    """A GPT-2 over characters rewards a Llama over words; only PPO's value network cannot start from it."""
    ppo = METHODS["ppo"] | {"value": "network"}
    with pytest.raises(RecipeError, match="value_from: policy"):
        run(tmp_path, f"reward.model={letters}", methods={"ppo": ppo})
    ppo |= {"value_from": "policy"}
    model = run(tmp_path, f"reward.model={letters}", methods={"best-of-4": METHODS["best-of-4"], "ppo": ppo})
    assert load_reward(model).model.config.model_type == "gpt2"
