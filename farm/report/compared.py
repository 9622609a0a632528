"""Several finished runs, and what a method is worth in one minus what it is worth in another.

A method is compared between two runs instruction by instruction, so only where both were evaluated on the very same
instructions; win rates also need the same judge and the same reference texts, gold the same version of the world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from farm import records, runs
from farm.errors import DataError, RunError
from farm.evaluate import intervals
from farm.evaluate.scores import per_instruction
from farm.evaluate.win_rate import compare
from farm.records import Estimate, Judgement, Response
from farm.report import summary
from farm.report.summary import Summary
from farm.seeds import digest

MEASURES = ("win_rate", "gold")
_REFERENCE = "reference"


@dataclass(frozen=True)
class Measured:
    """One method with one training seed: the instructions it was asked, the reference's texts as a digest, the version
    of the offline world (which says what gold is), and by measure instruction id -> score."""

    asked: frozenset[str]
    reference: str
    world: str
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Compared:
    """A finished run under the name it has on the page. ``arms``: (method, training seed) -> what was measured."""

    name: str
    summary: Summary
    recipe: Mapping[str, Any]
    arms: Mapping[tuple[str, int], Measured]


@dataclass(frozen=True)
class Gap:
    """``measure`` of ``method`` in ``run`` minus that in ``base``, or why it was not taken."""

    method: str
    measure: str
    run: str
    base: str
    estimate: Estimate | None
    why: str = ""


def read(folders: Sequence[Path]) -> list[Compared]:
    """Finished runs. Raises RunError for a folder that is none or has no report yet, DataError for a broken file."""
    found = []
    for name, folder in zip(names(folders), folders, strict=True):
        path = folder / "8-report" / "summary.json"
        if not path.is_file():
            raise RunError(
                f"{folder}: no 8-report/summary.json, so nothing to compare: finish it with 'farm run' first"
            )
        numbers = summary.read(path)
        methods = {row.method for row in numbers.rows}
        arms = {
            (step.parent.name, int(step.name.removeprefix("seed-"))): _measured(step)
            for step in sorted((folder / "6-evaluate").glob("*/seed-*"))
            if step.parent.name in methods and runs.read_json(step / "step.json")
        }
        found.append(Compared(name, numbers, _recipe(folder), arms))
    return found


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart. Raises RunError when a folder is given twice."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise RunError("the same run folder is given twice; a comparison needs different ones")
    size = 1
    while len({p[-size:] for p in parts}) < len(parts):
        size += 1
    return ["/".join(p[-size:]) for p in parts]


def _recipe(folder: Path) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise DataError(f"{folder / 'recipe.yaml'}: cannot be read ({e})") from None
    return value if isinstance(value, dict) else {}


def _measured(step: Path) -> Measured:
    mine = records.read(step / "responses.jsonl", Response)
    reference = records.read(step / "reference.jsonl", Response)
    texts = records.by_id([*mine, *reference])
    acts = records.read(step / "judgements.jsonl", Judgement)
    rate = compare(acts, texts, policy=step.parent.name, reference=_REFERENCE, judge="pool")
    scores = {"win_rate": rate.scores, "gold": per_instruction(mine, "gold")}
    print_ = digest("reference", *(f"{r.instruction_id} {r.text}" for r in sorted(reference, key=lambda r: r.id)))
    known = runs.read_json(step / "step.json") or {}
    world = str((known.get("settings") or {}).get("world"))
    return Measured(frozenset(r.instruction_id for r in mine), print_, world, {m: s for m, s in scores.items() if s})


def gaps(found: Sequence[Compared], *, seed: int = 0) -> list[Gap]:
    """Every method of the first run in every other run, minus the first."""
    base = found[0]
    methods = list(dict.fromkeys(row.method for row in base.summary.rows))
    return [
        _gap(method, measure, one, base, seed)
        for method in methods
        for one in found[1:]
        if any(method == m for m, _ in one.arms)
        for measure in MEASURES
        if any(measure in arm.scores for (m, _), arm in base.arms.items() if m == method)
    ]


def _gap(method: str, measure: str, one: Compared, base: Compared, seed: int) -> Gap:
    mine = {s: arm for (m, s), arm in one.arms.items() if m == method and measure in arm.scores}
    theirs = {s: arm for (m, s), arm in base.arms.items() if m == method and measure in arm.scores}
    why = _hindrance(measure, one, base, list(mine.values()), list(theirs.values()))
    pairs = [(mine[s], theirs[s]) for s in sorted(mine.keys() & theirs.keys())]
    if not pairs and len(mine) == len(theirs):  # other training seeds: one is as good as another
        pairs = [(mine[a], theirs[b]) for a, b in zip(sorted(mine), sorted(theirs), strict=True)]
    if not why and not pairs:
        why = "no training seed in common"
    if why:
        return Gap(method, measure, one.name, base.name, None, why)
    first, second = [a.scores[measure] for a, _ in pairs], [b.scores[measure] for _, b in pairs]
    estimate = intervals.difference(first, second, seed=seed)
    return Gap(method, measure, one.name, base.name, estimate, f"{len(pairs)} training seed{'s' * (len(pairs) > 1)}")


def _hindrance(
    measure: str, one: Compared, base: Compared, mine: Sequence[Measured], theirs: Sequence[Measured]
) -> str:
    """Why a measure cannot be compared between two runs; empty when it can."""
    if not mine or not theirs:
        return "not measured"
    if len({arm.asked for arm in (*mine, *theirs)}) > 1:
        return "evaluated on other instructions"
    if measure == "win_rate":
        if one.summary.judge != base.summary.judge:
            return f"judged by {one.summary.judge}, not {base.summary.judge}"
        if len({arm.reference for arm in (*mine, *theirs)}) > 1:
            return "compared with other reference texts"
    elif len({arm.world for arm in (*mine, *theirs)}) > 1:
        return "gold of another version of the offline world"
    return ""
