"""A toy for tests of models: an untrained one-layer Llama over a dozen words, and instructions in those words."""

from __future__ import annotations

import pytest

WORDS = ["say", "the", "word", "a", "b", "c", "d", "e", "f", "g", "h", "please", ".", "!"]


@pytest.fixture(scope="session", autouse=False)
def toy(tmp_path_factory):
    """Folder of the untrained toy model."""
    import torch

    from farm.lm import tiny

    torch.set_num_threads(1)
    settings = tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=32, positions=32)
    return tiny.create(tmp_path_factory.mktemp("toy") / "model", settings, 0, vocabulary=WORDS)


@pytest.fixture(scope="session")
def asks():
    """Eight instructions 'say X' whose output is 'X X .'."""
    from farm.records import Instruction

    return [Instruction.make(f"say {w}", output=f"{w} {w}.") for w in "abcdefgh"]


@pytest.fixture(scope="session")
def spoken(toy, asks, tmp_path_factory):
    """Folder of the toy after SFT on the eight instructions: it has learned them, and is still a little unsure."""
    from farm.lm.train import Optim
    from farm.methods import sft
    from farm.methods.task import Task
    from farm.records import Sampling

    folder = tmp_path_factory.mktemp("spoken")
    task = Task(seed=0, folder=folder, sft=toy, instructions=asks, sampling=Sampling(max_tokens=8))
    sft.run(task, sft.Config(optim=Optim(lr=2e-2, epochs=40, batch=8)))
    return folder / "policy"
