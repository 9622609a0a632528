"""The canary step: texts that deserve to lose, judged by the evaluation's pool."""

from __future__ import annotations

from pathlib import Path

from farm import records, runs
from farm.records import Pair
from farm.runs import Step
from farm.stages.asking import asking, judged, pool_fingerprint
from farm.stages.common import SFT, Made, Run, settings_of
from farm.stages.judge import evaluation, reference_of

NAME = "canaries"


def canaries(run: Run, seed: int, made: Made) -> Step | None:
    """``responses.jsonl`` that deserve to lose, ``reference.jsonl``, and the pool's ``judgements.jsonl``; None when the
    recipe asks for none."""
    e = run.recipe.evaluate
    if e.canaries == 0:
        return None
    shown = e.model_dump(include={"pool", "instructions", "per_pair", "both_orders", "canaries"})
    asked = run.recipe.annotate.models, asking(run), pool_fingerprint(run, e.pool)
    settings = settings_of(run, seed, shown, *asked)

    def work(folder: Path) -> None:
        from farm.evaluate.canaries import responses as canary_responses

        instructions = evaluation(made, min(e.canaries, e.instructions))
        reference = reference_of(made, instructions)
        responses = canary_responses(instructions, reference, seed)
        by_instruction = {r.instruction_id: r for r in reference}
        pairs = [Pair.of(r, by_instruction[r.instruction_id]) for r in responses]
        index, texts = records.by_id(instructions), records.by_id([*responses, *reference])
        acts = judged(
            run, made, pairs, index, texts,
            pool=e.pool, per_pair=e.per_pair, seed=seed, purpose=NAME, both_orders=e.both_orders,
        )  # fmt: skip
        records.write(folder / "responses.jsonl", responses)
        records.write(folder / "reference.jsonl", reference)
        records.write(folder / "judgements.jsonl", acts)

    return runs.perform(run.step(f"6-evaluate/{NAME}/seed-{seed}"), settings, [made[SFT]], work)
