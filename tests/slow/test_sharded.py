"""``engine: trl`` with its model split over two processes by FSDP2: the same weights as in one process, saved whole.

There are no GPUs here, so this is gloo on CPUs, with accelerate talked into giving FSDP to them (sharded_sft.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from farm import resources
from farm.lm import tiny

pytestmark = pytest.mark.slow
WORDS = ["say", "the", "word", "a", "b", "c", "d", "e", "f", "g", "h", "please", ".", "!"]
SCRIPT = Path(__file__).with_name("sharded_sft.py")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    settings = tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=32, positions=32)
    return tiny.create(tmp_path_factory.mktemp("toy") / "model", settings, 0, vocabulary=WORDS)


@pytest.fixture(scope="module")
def on_processors(tmp_path_factory):
    """The shipped configuration, for CPUs and in full precision."""
    text = (resources.folder("recipes") / "accelerate" / "fsdp2.yaml").read_text()
    changed = text.replace("use_cpu: false", "use_cpu: true").replace("mixed_precision: bf16", 'mixed_precision: "no"')
    assert changed.count("true") == text.count("true") + 1
    path = tmp_path_factory.mktemp("config") / "fsdp2.yaml"
    path.write_text(changed)
    return path


@pytest.mark.parametrize("what", ["sft", "lora", "reward", "dpo"])
def test_split_over_two_is_as_in_one(what, toy, on_processors, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(on_processors), "--main_process_port", "0"]
    for name, before in (("one", []), ("two", launcher)):
        command = [sys.executable, *before, str(SCRIPT), what, str(toy), str(tmp_path / name)]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads((tmp_path / n / "seen.json").read_text()) for n in ("one", "two", "two/process-1")]
    assert [(s["rank"], s["size"]) for s in seen] == [(0, 1), (0, 2), (1, 2)]
    assert [s["kind"] for s in seen] == ["Parameter", "DTensor", "DTensor"]
    assert seen[1]["mine"] + seen[2]["mine"] == seen[1]["whole"] == seen[0]["whole"] == seen[0]["mine"]
    name = "adapter_model.safetensors" if what == "lora" else "model.safetensors"
    one, two = (load_file(tmp_path / n / "policy" / name) for n in ("one", "two"))
    assert one.keys() == two.keys()
    start = load_file(toy / "model.safetensors")
    moved = max(float((one[k] - start.get(k, 0 * one[k])).abs().max()) for k in one)
    apart = max(float((one[k] - two[k]).abs().max()) for k in one)
    assert moved > 1e-3
    assert apart < 0.02 * moved
