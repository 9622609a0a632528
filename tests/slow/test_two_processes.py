"""Two processes (torchrun, gloo), each with half of every batch, make the update of one process with the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from farm.lm import tiny

pytestmark = pytest.mark.slow
WORDS = ["say", "the", "word", "a", "b", "c", "d", "e", "f", "g", "h", "please", ".", "!"]
SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    settings = tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=32, positions=32)
    return tiny.create(tmp_path_factory.mktemp("toy") / "model", settings, 0, vocabulary=WORDS)


@pytest.mark.parametrize("what", ["sft", "reward", "ppo", "dpo", "rloo"])
def test_two_make_the_update_of_one(what, toy, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    for name, before in (("one", []), ("two", launcher)):
        command = [sys.executable, *before, str(SCRIPT), what, str(toy), str(tmp_path / name)]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    assert (tmp_path / "one" / "place.txt").read_text() == "0 of 1"
    assert (tmp_path / "two" / "place.txt").read_text() == "0 of 2"
    assert (tmp_path / "two" / "process-1" / "place.txt").read_text() == "1 of 2"
    start = load_file(toy / "model.safetensors")
    one, two = (load_file(tmp_path / n / "policy" / "model.safetensors") for n in ("one", "two"))
    moved = max(float((one[k] - start[k]).abs().max()) for k in start if k in one)
    apart = max(float((one[k] - two[k]).abs().max()) for k in one)
    assert moved > 1e-3
    assert apart < 0.02 * moved
