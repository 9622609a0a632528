"""The shipped pool, a corpus, and a call of the engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_corpus import MODELS, Corpus, corpus

from farm.annotate.engine import annotate
from farm.annotate.ledger import Ledger
from farm.annotate.pool import Pool, load_pool
from farm.lm.endpoints import InProcess
from farm.records import Judgement
from farm.world.judge import ScriptedJudge


@pytest.fixture(scope="session")
def pool() -> Pool:
    return load_pool("farm13")


@pytest.fixture(scope="session")
def small() -> Corpus:
    return corpus(400)


@pytest.fixture
def judge_all(tmp_path: Path, pool: Pool) -> Callable[..., list[Judgement]]:
    """annotate() with the in-process judge and a ledger in the test's folder, everything overridable."""

    def run(made: Corpus, **changes: Any) -> list[Judgement]:
        path, budget = changes.pop("path", tmp_path / "ledger.sqlite"), changes.pop("budget", None)
        settings: dict[str, Any] = {
            "models": MODELS,
            "endpoint": InProcess(ScriptedJudge()),
            "seed": 1,
            "purpose": "train",
        }
        chosen = changes.pop("pool", pool)
        with Ledger(path, budget) as ledger:
            return annotate(made.pairs, made.instructions, made.responses, chosen, ledger=ledger, **settings | changes)

    return run


@pytest.fixture
def asking_for_logprobs(tmp_path: Path, pool: Pool) -> Callable[[], Pool]:
    """The shipped pool, its single-pair annotators asking for five alternatives per token."""

    def make() -> Pool:
        folder = Path(shutil.copytree(pool.folder, tmp_path / "soft"))
        path = folder / "pool.yaml"
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        for a in data["annotators"]:
            if a.get("batch", 1) == 1:
                a["logprobs"] = 5
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return load_pool(folder)

    return make
