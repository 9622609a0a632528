"""The best checkpoint of a row, chosen on ``val`` only: judged there, and shown elsewhere.

Candidates are points of the row's curve. Each one's responses to the first prompts of ``val`` meet those of the SFT
policy to the same prompts, before the evaluation's pool without noise; the highest win rate is chosen, of equal ones
the earlier. The acts count as annotator comparisons of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farm import records, runs
from farm.records import Budget, CurvePoint, Outcome, Pair, Response
from farm.runs import Step
from farm.stages.asking import asking, judged, pool_fingerprint
from farm.stages.common import SFT, Made, Run, settings_of, split

if TYPE_CHECKING:
    from farm.study.budgets import Choice


def select(run: Run, seed: int, made: Made, row: str) -> Step | None:
    """``result.json``: the row's result with the chosen policy, its curve ending there and its budget that of the whole
    row; ``choices.jsonl``: every candidate. None unless the recipe selects."""
    config, e = run.recipe.select, run.recipe.evaluate
    if config is None:
        return None

    def work(folder: Path) -> None:
        from farm.methods.task import Result, source_from
        from farm.study.budgets import best

        source = made[row].folder
        result = Result.load(source)
        points = candidates(result.curve.points if result.curve else (), config.candidates)
        choices = _judge(run, seed, made, row, points, config.instructions, folder)
        chosen = best(choices)
        policy = result.policy_source(source)
        if chosen is not None and chosen.x != points[-1].x:
            policy = str(source / "checkpoints" / f"{chosen.x:g}")
        choices = [c.model_copy(update={"chosen": c is chosen}) for c in choices]
        budget = result.budget + Budget(
            comparisons=sum(c.comparisons for c in choices), usd=sum(c.usd for c in choices)
        )
        records.write(folder / "choices.jsonl", choices)
        curve = result.curve
        if curve is not None and chosen is not None:  # as far as the policy that was chosen
            curve = curve.model_copy(update={"points": tuple(p for p in curve.points if p.x <= chosen.x)})
        changed = {"policy": source_from(folder, policy), "budget": budget, "curve": curve}
        result.model_copy(update=changed).save(folder)

    shown = e.model_dump(include={"pool", "per_pair", "both_orders"})
    settings = settings_of(
        run, seed, config, shown, run.recipe.annotate.models, asking(run), pool_fingerprint(run, e.pool)
    )
    return runs.perform(run.step(f"5-select/{row}/seed-{seed}"), settings, [made[row]], work)


def candidates(points: Sequence[CurvePoint], count: int) -> list[CurvePoint]:
    """At most ``count`` points of a curve, evenly spread up to its last; never the start, which is the SFT policy."""
    moved = list(points[1:])
    count = min(count, len(moved))
    return [moved[(k + 1) * len(moved) // count - 1] for k in range(count)]


def _judge(
    run: Run, seed: int, made: Made, row: str, points: Sequence[CurvePoint], limit: int, folder: Path
) -> list[Choice]:
    """Every candidate against the start of the curve; a single one is not judged."""
    from farm.evaluate.win_rate import compare, win_rate
    from farm.study.budgets import Choice

    e = run.recipe.evaluate
    if len(points) < 2:
        return [Choice(method=row, seed=seed, x=p.x, sequences=p.sequences or 0, prompts=0) for p in points]
    drawn = _by_point(made[row])
    prompts = list(dict.fromkeys(r.instruction_id for r in drawn[0.0]))[:limit]
    wanted = set(prompts)
    index = {i.id: i for i in split(made, "val") if i.id in wanted}
    start = {r.instruction_id: _named(r, SFT) for r in drawn[0.0] if r.instruction_id in wanted}
    out, acts = [], []
    for point in points:
        name = f"{row} at {point.x:g}"
        theirs = [_named(r, name) for r in drawn[point.x] if r.instruction_id in wanted]
        pairs = [Pair.of(r, start[r.instruction_id]) for r in theirs]
        texts = records.by_id([*theirs, *start.values()])
        judgements = judged(
            run, made, pairs, index, texts,
            pool=e.pool, per_pair=e.per_pair, seed=seed, purpose="select", both_orders=e.both_orders,
        )  # fmt: skip
        acts += judgements
        rate = win_rate(compare(judgements, texts, policy=name, reference=SFT, judge=e.pool), seed=seed)
        out.append(
            Choice(
                method=row,
                seed=seed,
                x=point.x,
                sequences=point.sequences or 0,
                prompts=len(prompts),
                comparisons=sum(j.outcome is not Outcome.IDENTICAL for j in judgements),
                usd=sum(j.cost.usd for j in judgements),
                win_rate=rate,
            )
        )
    records.write(folder / "judgements.jsonl", acts)
    return out


def _by_point(step: Step) -> dict[float, list[Response]]:
    """Responses behind each point of the curve, by x."""
    from farm.methods.task import Result

    result = Result.load(step.folder)
    assert result.curve is not None
    rows = records.read(step.file("curve_responses.jsonl"), Response)
    size = len(rows) // len(result.curve.points)
    return {p.x: rows[k * size : (k + 1) * size] for k, p in enumerate(result.curve.points)}


def _named(response: Response, policy: str) -> Response:
    """The response under a policy's name of its own, so that checkpoints can be told apart."""
    return Response.make(
        response.instruction_id, response.text, policy, n_tokens=response.n_tokens, finished=response.finished
    )
