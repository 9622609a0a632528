"""Do the tests of the training methods see what they claim to hold? Each detail is broken in a copy of the package,
one at a time, and the test that holds it must turn red. (A mutation that no longer applies is an error, too.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
METHODS = "tests/unit/methods"

# file, what it says, what it is broken to, the test that must fail
MUTATIONS = {
    "old log-probabilities of another batch": (
        "methods/ppo.py", "value = critic(hidden, batch)\n            mine",
        "value, logp = critic(hidden, batch), logp + 0.01\n            mine",
        "test_ppo.py::test_ratio_is_one_before_the_first_update_of_every_batch",
    ),
    "KL clamped at zero": (
        "lm/logprobs.py", "sampled = (ours - theirs).gather(1, batch.targets[:, None])[:, 0]",
        "sampled = (ours - theirs).gather(1, batch.targets[:, None])[:, 0].clamp(min=0)",
        "test_ppo_checklist.py::test_kl_is_neither_clamped_nor_biased",
    ),
    "KL with the wrong sign": (
        "methods/ppo.py", "row = -kl_coef * each", "row = kl_coef * each",
        "test_fixed_points.py::test_kl_in_the_reward_ends_at_the_exponential_tilt",
    ),
    "score on the first token": (
        "methods/ppo.py", "row[-1] += score", "row[0] += score",
        "test_ppo_checklist.py::test_rewards_stand_on_the_last_token",
    ),
    "no gradient clipping": (
        "lm/train.py", "torch.nn.utils.clip_grad_norm_(parameters, clip)",
        "torch.nn.utils.clip_grad_norm_(parameters, 1e9)",
        "test_ppo.py::test_gradient_clipping_is_real",
    ),
    "whitening over padding": (
        "methods/losses.py", "    mean = masked_mean(x, mask)\n    variance = masked_mean((x - mean).square(), mask)",
        "    mean = x.mean()\n    variance = (x - mean).square().mean()",
        "test_losses.py::test_gae_and_whitening_ignore_padding",
    ),
    "value after the last token": (
        "methods/losses.py", "torch.zeros_like(values[:, :1])", "values[:, -1:]",
        "test_losses.py::test_gae_identities",
    ),
    "minimum instead of maximum in the value loss": (
        "methods/losses.py", "return 0.5 * torch.maximum(", "return 0.5 * torch.minimum(",
        "test_losses.py::test_value_loss_has_no_gradient_where_the_clipped_branch_is_larger",
    ),
    "clipping what would lose": (
        "methods/losses.py", "return torch.maximum(plain, clipped), ratio",
        "return torch.minimum(plain, clipped), ratio",
        "test_losses.py::test_policy_loss_clips_only_what_would_gain",
    ),
    "no penalty for unfinished responses": (
        "methods/ppo.py", "scores = scores - config.missing_eos_penalty * (~torch.tensor(finished))",
        "scores = scores - 0.0 * (~torch.tensor(finished))",
        "test_ppo.py::test_unfinished_responses_lose_the_penalty",
    ),
    "a reference that is the policy itself": (
        "lm/load.py", "model = copy.deepcopy(policy.model).eval().requires_grad_(False)", "model = policy.model",
        "test_ppo.py::test_the_reference_never_moves_and_one_small_step_goes_the_right_way",
    ),
    "Adam's own eps": (
        "methods/ppo.py", "lr=config.lr, eps=1e-5", "lr=config.lr, eps=1e-8",
        "test_ppo_checklist.py::test_optimizer_settings",
    ),
    "a constant learning rate": (
        "methods/ppo.py", 'config.lr * rate(number - 1, config.steps, 0.0, "linear")', "config.lr",
        "test_ppo_checklist.py::test_optimizer_settings",
    ),
    "mean of means": (
        "methods/ppo.py", "(loss / total).backward()",
        "(loss / sum(len(data.responses[i]) for i in part)).backward()",
        "test_ppo_checklist.py::test_parts_add_up_to_the_minibatch",
    ),
    "top-p while training": (
        "methods/ppo.py", "sampling = Sampling(temperature=1.0,", "sampling = Sampling(temperature=1.0, top_p=0.8,",
        "test_ppo_checklist.py::test_rollouts_come_from_the_full_distribution",
    ),
    "optimizer state lost on resume": (
        "methods/resume.py", "if state:  #", "if False:  #",
        "test_conformance.py::test_a_run_that_was_cut_off_goes_on_exactly",
    ),
    "temperature forgotten": (
        "lm/logprobs.py", "logits = logits / temperature\n    return", "logits = logits\n    return",
        "../lm/test_logprobs.py::test_temperature_divides_the_logits",
    ),
    "log-probabilities one place late": (
        "lm/prompts.py", "((place >= before - 1) & (place < end - 1)).to(device)",
        "((place >= before) & (place < end)).to(device)",
        "../lm/test_sample.py::test_kept_log_probabilities_equal_recomputed_ones",
    ),
    "no KL in the leave-one-out reward": (
        "methods/rloo.py", "rewards = (data.scores - kl_coef * data.kl)", "rewards = data.scores",
        "test_fixed_points.py::test_kl_in_the_reward_ends_at_the_exponential_tilt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_detail_turns_its_test_red(name, tmp_path):
    file, says, broken, test = MUTATIONS[name]
    shutil.copytree(ROOT / "farm", tmp_path / "farm", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "farm" / file
    code = path.read_text(encoding="utf-8")
    assert code.count(says) == 1, f"{file} says {code.count(says)} times: {says}"
    path.write_text(code.replace(says, broken), encoding="utf-8")
    for folder in ("annotators", "recipes", "eval_sets"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    where = (ROOT / METHODS / test.partition("::")[0]).resolve()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"{where}::{test.partition('::')[2]}",
    ]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    said = result.stdout + result.stderr
    assert result.returncode == 1, said[-2000:]  # 1 = a test failed; an error in collecting is another number
    assert "FAILED" in said
    assert "AssertionError" in said or "DID NOT RAISE" in said or "assert " in said, said[-2000:]
