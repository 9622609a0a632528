"""The annotate stage by itself, on the finished steps of a run folder: for a look at the price, for parsing answers
anew, and where torch is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from farm import recipe as recipes
from farm import records, runs
from farm.errors import RunError
from farm.progress import say
from farm.recipe import Recipe, Shapes
from farm.records import Judgement
from farm.runs import Step
from farm.stages.asking import preview
from farm.stages.common import Made, Run
from farm.stages.judge import annotate, to_label

if TYPE_CHECKING:
    from farm.annotate.estimate import Estimate


class _Loose(BaseModel):
    """A section that is not read here, so it is not checked either."""

    model_config = ConfigDict(extra="allow")


def load(name: str | Path, overrides: Sequence[str], seeds: Sequence[int] | None, full: bool) -> Recipe:
    """A recipe whose training sections are left unchecked: that needs no torch."""
    from farm.methods import NAMES

    shapes = Shapes(sft=_Loose, reward=_Loose, methods=dict.fromkeys(NAMES, _Loose), laboratory=_Loose, row=_Loose)
    return recipes.load(name, shapes, overrides, seeds, full)


def standing(run: Run, seed: int) -> Made:
    """The steps that annotate reads. Raises RunError when one is not finished."""
    made: Made = {}
    for name, folder in (("data", "0-data"), ("sft", f"1-sft/seed-{seed}"), ("sample", f"2-sample/seed-{seed}")):
        saved: Any = runs.read_json(run.step(folder) / "step.json")
        if not saved and name == "sft":
            continue
        if not saved:
            raise RunError(
                f"{run.step(folder)} is not finished, so there is nothing to label yet: run 'farm sample' with the "
                "same recipe first (it asks no judge)"
            )
        made[name] = Step(run.step(folder), str(saved["fingerprint"]), 0.0, 0.0, fresh=False)
    return made


def label(run: Run, ask: bool = True) -> list[Path]:
    """Make the labels of every seed. Without ``ask`` no judge is: raw answers in the ledger are parsed anew, and the
    steps that were made of other labels are taken back. Returns the steps' folders."""
    folders = []
    for seed in run.recipe.seeds:
        made = standing(run, seed)
        folder = run.step(f"3-annotate/seed-{seed}")
        if ask:
            folders.append(annotate(run, seed, made).folder)
            continue
        before = _acts(folder)
        old = folder.with_name(folder.name + ".before")
        if folder.exists():
            folder.rename(old)
        try:
            folders.append(annotate(run, seed, made, ask=False).folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        after = _acts(folder)
        changed = sum(before.get(id) != act for id, act in after.items()) if before else len(after)
        say(f"annotate, seed {seed}: {len(after)} judgements read from the ledger, {changed} of them different")
        if before and changed:
            _take_back(run)
    return folders


def price(run: Run) -> Estimate:
    """What labelling every seed would ask and cost; sends nothing."""
    from farm.annotate.estimate import Estimate

    a = run.recipe.annotate
    total = Estimate()
    for seed in run.recipe.seeds:
        pairs, instructions, responses = to_label(standing(run, seed))
        total += preview(
            run, pairs, instructions, responses,
            pool=a.pool, per_pair=a.per_pair, seed=seed, purpose="train", both_orders=a.both_orders,
        )  # fmt: skip
    return total


def _acts(folder: Path) -> dict[str, tuple[str, str | None, float | None]]:
    """What matters of each judgement, by id."""
    path = folder / "judgements.jsonl"
    rows = records.read(path, Judgement) if path.exists() else []
    return {j.id: (j.outcome.value, j.winner_id, j.probability) for j in rows}


def _take_back(run: Run) -> None:
    """Later steps rest on the labels as they were: the next run makes them again."""
    stale = [p for n in "45678" for p in run.folder.glob(f"{n}-*/**/step.json")]
    for path in stale:
        path.unlink()
    if stale:
        say(f"annotate: {len(stale)} later steps were made of the former labels; the next run makes them again")
