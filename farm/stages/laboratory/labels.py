"""Steps of the laboratory that label the sampled pairs: by the pool of annotators, by simulated people, or by gold.

Annotators share biases and people's tastes scatter around gold. Gold itself is the truth, and Gao et al. (2023)
labelled so: what is left of over-optimization under it is the reward model's own, of its size, training and data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from farm import records, runs
from farm.records import Pair, Preference, Response
from farm.runs import Step
from farm.seeds import uniform
from farm.stages.common import Made, Run, gold, settings_of, split
from farm.stages.judge import annotate, to_label
from farm.stages.laboratory.make import Model
from farm.stages.laboratory.settings import GOLD, HUMANS, Laboratory


def labels(run: Run, seed: int, made: Made, lab: Laboratory, name: str) -> Step:
    """The sampled pairs labelled as ``labels.<name>`` says; '' is the recipe's own way."""
    return _labelled(run, seed, made, lab, name, f"3-annotate/{name}" if name else "3-annotate")


def _labelled(run: Run, seed: int, made: Made, lab: Laboratory, name: str, folder: str) -> Step:
    how = lab.labels.get(name)
    if how and how.pool == HUMANS:
        return _by_people(run, seed, made, how.per_pair or 1, folder)
    if how and how.pool == GOLD:
        return _by_gold(run, seed, made, how.flip or 0.0, lab.gold.reward_model, folder)
    return annotate(_labelling(run, lab, name), seed, made, folder)


def _by_people(run: Run, seed: int, made: Made, votes: int, name: str) -> Step:
    """The sampled pairs labelled by the majority of ``votes`` simulated people each: tastes that scatter around gold
    and share no liking but that for length, where the annotators share several."""

    def work(folder: Any) -> None:
        from farm.annotate.noise import settle
        from farm.world.raters import human_judgements

        pairs, instructions, responses = to_label(made)
        judgements = human_judgements(pairs, instructions, responses, votes, seed)
        records.write(folder / "judgements.jsonl", judgements)
        records.write(folder / "preferences.jsonl", settle(judgements, pairs, seed=seed))

    return runs.perform(run.step(f"{name}/seed-{seed}"), settings_of(run, seed, HUMANS, votes), [made["sample"]], work)


def _by_gold(run: Run, seed: int, made: Made, flip: float, model: str | None, name: str) -> Step:
    """The sampled pairs labelled by gold itself (the formula of the offline world, or the reward ``model`` that stands
    for it): more gold wins, equal gold is a tie, and a share ``flip`` of the winners is exchanged for the loser."""

    def work(folder: Any) -> None:
        pairs, instructions, responses = to_label(made)
        texts = [responses[r] for p in pairs for r in (p.a, p.b)]
        values = _gold_of(run, model)([instructions[r.instruction_id] for r in texts], texts)
        rows = []
        for k, p in enumerate(pairs):
            a, b = values[2 * k : 2 * k + 2]
            turned = a != b and uniform(seed, "gold flip", p.id) < flip
            winner = None if a == b else p.a if (a > b) != turned else p.b
            rows.append(
                Preference(
                    pair_id=p.id,
                    instruction_id=p.instruction_id,
                    responses=(p.a, p.b),
                    winner_id=winner,
                    probability=0.5 if winner is None else 1.0,
                    origin="gold",
                    flipped=turned,
                )
            )
        records.write(folder / "preferences.jsonl", rows)

    inputs: list[Step | str] = [made["sample"], *([model_fingerprint(model)] if model else [])]
    return runs.perform(run.step(f"{name}/seed-{seed}"), settings_of(run, seed, GOLD, flip), inputs, work)


def _gold_of(run: Run, model: str | None) -> Callable[..., list[float]]:
    if model is not None:
        from farm.reward.ensemble import load_reward

        return load_reward(model).score
    formula: Callable[..., list[float]] = gold(run)
    return formula


def model_fingerprint(model: str) -> str:
    """What tells a reward model of a folder from another; a Hub id stands for itself."""
    path = Path(model)
    return runs.file_fingerprint(path) if path.exists() else model


def _labelling(run: Run, lab: Laboratory, name: str) -> Run:
    """The run with its section ``annotate`` changed as ``labels.<name>`` says. A calibrated pool brings its own noise
    in the place of the section's uniform flips."""
    if not name:
        return run
    changes: dict[str, Any] = lab.labels[name].model_dump(exclude_none=True)
    if "pool" in changes and "flip" not in changes:
        from farm.annotate.pool import load_pool

        if load_pool(changes["pool"]).calibration is not None:
            changes["flip"] = None
    asked = run.recipe.annotate.model_copy(update=changes)
    return replace(run, recipe=run.recipe.model_copy(update={"annotate": asked}))


def refreshed_pairs(run: Run, seed: int, made: Made, model: Model, source: Step) -> Step:
    """``pairs.jsonl``: for the second half of the model's instructions, the two different samples that the first
    reward model likes best: what a policy optimised against it would write. ``responses.jsonl``: those samples."""
    assert model.refreshed is not None

    def work(folder: Any) -> None:
        from farm.reward.model import RewardModel

        score = RewardModel.load(source.file("model")).score
        pairs = records.read(made["sample"].file("pairs.jsonl"), Pair)
        first, count = model.first, model.count or len(pairs) - model.first
        wanted = {p.instruction_id for p in pairs[first + count // 2 : first + count]}
        responses = [
            r for r in records.read(made["sample"].file("responses.jsonl"), Response) if r.instruction_id in wanted
        ]
        asked = records.by_id(split(made, "preference"))
        values = score([asked[r.instruction_id] for r in responses], responses)
        ranked: dict[str, dict[str, tuple[float, Response]]] = {}
        for r, v in zip(responses, values, strict=True):
            ranked.setdefault(r.instruction_id, {}).setdefault(r.text, (v, r))
        chosen = []
        for options in ranked.values():
            best = sorted(options.values(), key=lambda option: (-option[0], option[1].id))[:2]
            if len(best) == 2:
                chosen.append(Pair.of(best[0][1], best[1][1]))
        records.write(folder / "pairs.jsonl", chosen)
        records.write(folder / "responses.jsonl", responses)

    settings = settings_of(run, seed, {"first": model.first, "count": model.count})
    return runs.perform(run.step(f"2-sample/{model.key}/seed-{seed}"), settings, [made["sample"], source], work)


def refreshed_labels(run: Run, seed: int, made: Made, lab: Laboratory, model: Model, pairs: Step) -> Step:
    """The refreshed pairs, labelled like the others."""
    return _labelled(run, seed, {**made, "sample": pairs}, lab, model.labels, f"3-annotate/{model.key}")
