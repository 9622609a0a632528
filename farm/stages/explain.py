"""Everything a run knows about one pair: who judged it, what was asked, what came back, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from farm import records
from farm.annotate.engine import compare
from farm.annotate.ledger import Ledger
from farm.annotate.plan import Job
from farm.annotate.pool import load_pool
from farm.errors import DataError
from farm.recipe import Recipe
from farm.records import Instruction, Judgement, Pair, Preference, Response
from farm.stages.asking import plan
from farm.stages.common import Run


@dataclass(frozen=True)
class _Step:
    """A step with judgements, and what its acts were planned from."""

    folder: Path
    purpose: str
    seed: int
    pool: str
    per_pair: int
    limit: int | None = None  # pairs


def explain(folder: Path, pair_id: str, ledger: Path | None = None) -> Iterator[str]:
    """Lines for people, one block per act. ``pair_id`` may be the beginning of an id.

    Raises DataError when the folder holds no run, or no judgement of such a pair.
    """
    run = _run(folder)
    path = ledger or folder / "ledger.sqlite"
    if not path.exists():
        raise DataError(f"{path}: no such ledger")
    found = False
    with Ledger(path) as book:
        for step in _steps(run):
            file = step.folder / "judgements.jsonl"
            acts = [j for j in records.read(file, Judgement) if j.pair_id.startswith(pair_id)] if file.exists() else []
            if acts:
                found = True
                yield from _step(run, step, acts, book)
    if not found:
        raise DataError(f"{folder}: no judgement of a pair {pair_id} (3-annotate/*/judgements.jsonl lists the pairs)")


def _run(folder: Path) -> Run:
    path = folder / "recipe.yaml"
    try:
        recipe = Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"{folder}: no recipe.yaml, so this is not a run's folder") from None
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise DataError(f"{path}: the recipe of the run cannot be read ({' '.join(str(e).split())})") from None
    return Run(folder.resolve(), recipe)


def _steps(run: Run) -> Iterator[_Step]:
    a, e, limit = run.recipe.annotate, run.recipe.evaluate, run.recipe.study.agreement_pairs
    for folder in sorted(run.folder.glob("[367]-*/**/seed-*")):
        stage, seed = folder.relative_to(run.folder).parts, int(folder.name.partition("-")[2])
        if stage[0] == "3-annotate":
            yield _Step(folder, "train", seed, a.pool, a.per_pair)
        elif stage[0] == "6-evaluate":
            purpose = "canaries" if stage[1] == "canaries" else "evaluate"
            yield _Step(folder, purpose, seed, e.pool, e.per_pair)
        elif stage[1] == "cross":
            yield _Step(folder, "cross", seed, a.pool, 0, limit)


def _texts(run: Run, step: _Step) -> tuple[list[Pair], dict[str, Instruction], dict[str, Response]]:
    """The pairs of a step, in the order in which it planned them, with their texts."""
    if step.purpose in ("train", "cross"):
        sample = run.step(f"2-sample/seed-{step.seed}")
        pairs = records.read(sample / "pairs.jsonl", Pair)[: step.limit]
        responses = records.read(sample / "responses.jsonl", Response)
        instructions = records.read(run.step("0-data") / "preference.jsonl", Instruction)
    else:
        mine = records.read(step.folder / "responses.jsonl", Response)
        reference = records.read(step.folder / "reference.jsonl", Response)
        beside = {r.instruction_id: r for r in reference}
        pairs = [Pair.of(r, beside[r.instruction_id]) for r in mine]
        responses = [*mine, *reference]
        instructions = records.read(run.step("0-data") / "eval.jsonl", Instruction)
    return pairs, records.by_id(instructions), records.by_id(responses)


def _step(run: Run, step: _Step, acts: list[Judgement], book: Ledger) -> Iterator[str]:
    wanted = {(j.pair_id, j.annotator, j.draw) for j in acts}
    pairs, instructions, responses = _texts(run, step)
    jobs: dict[tuple[str, str, int], tuple[Job, str]] = {}
    pool = load_pool(step.pool)
    names = [str(n) for (n,) in book.rows("SELECT DISTINCT endpoint FROM attempts")] or [""]
    for draw in sorted({j.draw for j in acts}):
        planner = plan(run, pool, names[0], step.per_pair, step.seed, step.purpose, draw)
        for job in planner.jobs(compare(pairs, instructions, responses), lambda act, outcome: None):
            for act in job.acts:
                if (act.pair.id, act.annotator.id, draw) in wanted:
                    jobs[act.pair.id, act.annotator.id, draw] = (job, planner.fingerprints[act.annotator.id])
    labels = step.folder / "preferences.jsonl"
    noisy = {p.pair_id: p for p in records.read(labels, Preference)} if labels.exists() else {}
    for j in acts:
        yield f"== {step.folder.relative_to(run.folder)}: pair {j.pair_id} by {j.annotator} ({j.model}), draw {j.draw}"
        yield f"order: first {_name(responses, j.shown[0])}, second {_name(responses, j.shown[1])}"
        yield f"outcome: {j.outcome}" + (f", winner {_name(responses, j.winner_id)}" if j.winner_id else "")
        if j.probability is not None:
            yield f"probability of {min(j.shown)}: {j.probability:.3f} (label tokens held {j.mass or 0:.3f})"
        if (label := noisy.get(j.pair_id)) is not None:
            won = "a tie" if label.winner_id is None else _name(responses, label.winner_id)
            yield f"label: {won}, probability {label.probability:g}{', flipped by noise' if label.flipped else ''}"
        c = j.cost
        yield f"cost: {c.usd:.6f} USD, {c.prompt_tokens} + {c.completion_tokens} tokens, {c.seconds:g} s"
        if (planned := jobs.get((j.pair_id, j.annotator, j.draw))) is not None:
            yield from _asked(planned[0], planned[1] == j.fingerprint, book)
        else:
            yield "not asked"
        yield ""


def _asked(job: Job, same: bool, book: Ledger) -> Iterator[str]:
    if not same:
        yield "note: the annotator has been edited since; the prompt below is the present one"
    key = job.key
    if len(job.acts) > 1:
        place = ", ".join(f"{i}: {a.pair.id}" for i, a in enumerate(job.acts, 1))
        yield f"prompt shared by {len(job.acts)} pairs ({place})"
    rows = book.rows(
        "SELECT id, datetime(sent_at, 'unixepoch'), coalesce(status, 'outcome unknown'), coalesce(detail, ''), "
        "reserved_usd, spent_usd FROM attempts WHERE key = ? ORDER BY id",
        (key,),
    )
    yield f"attempts: {len(rows)} (key {key})"
    for id, sent, status, detail, reserved, spent in rows:
        money = f"{spent:.6f} USD" if spent is not None else f"{reserved:.6f} USD reserved"
        yield f"  {id}: sent {sent} UTC, {status}, {money}{': ' + detail if detail else ''}"
    messages: Any = job.request.messages or (("prompt", job.request.prompt or ""),)
    for role, text in messages:
        yield f"-- {role}"
        yield text
    answer = book.answers([key]).get(key)
    yield "-- raw answer" + ("" if answer is None else f" ({answer.reply.finish_reason}, by {answer.reply.model})")
    yield "none in the ledger" if answer is None else answer.reply.text


def _name(responses: dict[str, Response], id: str) -> str:
    found = responses.get(id)
    return id if found is None else f"{id} ({found.policy})"
