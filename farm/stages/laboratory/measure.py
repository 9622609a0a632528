"""Steps of the laboratory that measure: rewards of the pool, signals along a policy's curve, judges' win rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from farm import records, runs
from farm.errors import DataError
from farm.evaluate.intervals import Array
from farm.records import Instruction, Judgement, Pair, Response
from farm.runs import Step
from farm.seeds import rng
from farm.stages.common import REFERENCE, Made, Run, settings_of, split
from farm.stages.judge import judged, pool_fingerprint
from farm.stages.laboratory.make import repeated
from farm.stages.laboratory.settings import HUMANS, Laboratory, Reward

POLICY = "policy:"  # keys of a seed's finished steps


@dataclass(frozen=True)
class Samples:
    """The pool of one seed as arrays [prompts, samples]; ``scores`` by reward model, ``gold`` where it is known."""

    seed: int
    prompts: tuple[str, ...]
    responses: list[Response]
    columns: Mapping[str, Array]
    scores: dict[str, Array] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.columns["log_prob"].shape
        return rows, columns


def read_pool(step: Step, seed: int) -> Samples:
    """The pool of one seed, without scores of reward models."""
    rows = records.read(step.file("pool.jsonl"), Response)
    prompts = tuple(dict.fromkeys(r.instruction_id for r in rows))
    shape = (len(prompts), -1)
    columns = {name: np.array([r.scores[name] for r in rows]).reshape(shape) for name in rows[0].scores}
    columns["tokens"] = np.array([float(r.n_tokens) for r in rows]).reshape(shape)
    return Samples(seed, prompts, rows, columns)


def _scored_once(score: Any, asked: Sequence[Instruction], responses: Sequence[Response]) -> Array:
    """Rewards of responses, equal texts scored once; float32 like the model's own."""
    index: dict[tuple[str, str, bool], int] = {}
    place = [index.setdefault((r.instruction_id, r.text, r.finished), len(index)) for r in responses]
    first: dict[int, int] = {}
    for row, k in enumerate(place):
        first.setdefault(k, row)
    chosen = list(first.values())
    values = np.array(score([asked[i] for i in chosen], [responses[i] for i in chosen]))
    out: Array = values[place].astype(np.float32).astype(float)
    return out


@lru_cache(maxsize=1)
def _pool_rows(path: Path, fingerprint: str) -> list[Response]:
    """The samples of the pool with this fingerprint, read once by a worker that scores them many times."""
    return records.read(path, Response)


def scores(run: Run, seed: int, made: Made, name: str, model: str, source: Step | str) -> Step:
    """``scores.json``: rewards of every sample of the pool under one reward model, in the pool's order. ``model`` is a
    folder of ``source``, or a Hub id."""

    def work(folder: Any) -> None:
        from farm.reward.ensemble import load_reward

        responses = _pool_rows(made["pool"].file("pool.jsonl"), made["pool"].fingerprint)
        asked = records.by_id(split(made, "val"))
        place = str(source.file(model)) if isinstance(source, Step) else model
        score = load_reward(place).score
        values = _scored_once(score, [asked[r.instruction_id] for r in responses], responses)
        runs.write_json(folder / "scores.json", [round(v, 6) for v in values.tolist()])

    inputs = [made["pool"], source]
    return runs.perform(run.step(f"6-scores/{name}/seed-{seed}"), settings_of(run, seed), inputs, work)


def read_scores(step: Step, shape: tuple[int, int]) -> Array:
    values = np.array(runs.read_json(step.file("scores.json")), dtype=float)
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise DataError(f"{step.folder}: scores are missing or not finite; delete the folder to have them redone")
    return values.reshape(shape)


def trace(run: Run, seed: int, made: Made, row: str, models: Mapping[str, Step | str]) -> Step:
    """``signals.json``: rewards of the responses behind a policy's curve under other reward models (steps, or a folder
    or Hub id), their lengths and shares of repeated words, each (points x prompts) flat."""

    def work(folder: Any) -> None:
        from farm.reward.ensemble import load_reward

        responses = records.read(made[POLICY + row].file("curve_responses.jsonl"), Response)
        asked = records.by_id(split(made, "val"))
        instructions = [asked[r.instruction_id] for r in responses]
        out: dict[str, list[float]] = {
            "tokens": [float(r.n_tokens) for r in responses],
            "repeats": [repeated(r.text) for r in responses],
        }
        for name, source in models.items():
            score = load_reward(source.file("model") if isinstance(source, Step) else source).score
            out[name] = _scored_once(score, instructions, responses).tolist()
        runs.write_json(folder / "signals.json", out)

    inputs = [made[POLICY + row], *models.values()]
    settings = settings_of(run, seed, sorted(models))
    return runs.perform(run.step(f"6-signals/{row}/seed-{seed}"), settings, inputs, work)


def combined(spec: Reward, members: Sequence[Array], tokens: Array) -> Array:
    """A reward's value for every sample from those of its models. Transforms rise with the reward, so they do not
    change what best-of-n picks and are left to the policies; the length penalty does."""
    from farm.reward.ensemble import combined as combine

    how = "mean" if spec.combine == "weights" else spec.combine
    return combine(np.stack(members), how, spec.strength) - spec.length_penalty * tokens


def grid(size: int) -> list[int]:
    """n in half octaves up to the pool's size: 1, 2, 3, 4, 6, 8, 11, 16, ..."""
    return sorted({min(size, round(2 ** (k / 2))) for k in range(2 * size.bit_length() + 1)} | {size})


def selections(
    samples: Samples, reward: Array, ns: Sequence[int], draws: int, seed: int, limit: int
) -> list[list[int]]:
    """Rows of the pool that best-of-n would pick: for every n a list over ``limit`` prompts x ``draws``. Draws of one
    prompt use the same uniforms for every n and every reward, so that differences are paired."""
    from farm.study.best_of_n import ascending, best_of_n_weights

    order = ascending(reward, samples.prompts, seed)
    size = samples.shape[1]
    u = [rng(seed, "laboratory selection", p).random(draws) for p in samples.prompts[:limit]]
    out = []
    for n in ns:
        mass = np.cumsum(best_of_n_weights(size, n))
        rows = []
        for k, each in enumerate(u):
            ranks = np.minimum(np.searchsorted(mass, each * mass[-1], side="right"), size - 1)
            rows += [k * size + int(order[k, r]) for r in ranks]
        out.append(rows)
    return out


def judge_best_of_n(
    run: Run,
    seed: int,
    made: Made,
    name: str,
    reward: Reward,
    scored: Sequence[Step],
    judge: str,
    sizes: tuple[int, int, int],
) -> Step:
    """Win rates of best-of-n by ``reward`` for every n of :func:`grid`, in octaves; ``sizes`` = (instructions, draws
    per n, votes per draw)."""

    def points() -> list[list[Response]]:
        samples = read_pool(made["pool"], seed)
        value = combined(reward, [read_scores(s, samples.shape) for s in scored], samples.columns["tokens"])
        rows = selections(samples, value, octaves(samples.shape[1]), sizes[1], seed, sizes[0])
        return [[samples.responses[r] for r in one] for one in rows]

    shown = reward.model_dump(exclude={"against", "question", "replicates", "epochs"})
    return _verdicts(run, seed, made, name, points, judge, sizes, shown, [made["pool"], *scored])


def judge_policy(run: Run, seed: int, made: Made, name: str, row: str, judge: str, sizes: tuple[int, int, int]) -> Step:
    """Win rates of the responses behind a policy's curve, point by point."""

    def points() -> list[list[Response]]:
        rows = records.read(made[POLICY + row].file("curve_responses.jsonl"), Response)
        size = len({r.instruction_id for r in rows})
        return [rows[k : k + size][: sizes[0]] for k in range(0, len(rows), size)]

    return _verdicts(run, seed, made, name, points, judge, sizes, row, [made[POLICY + row]])


def octaves(size: int) -> list[int]:
    """n = 1, 2, 4, ... up to the pool's size."""
    return [2**k for k in range(size.bit_length())]


def _verdicts(
    run: Run,
    seed: int,
    made: Made,
    name: str,
    points: Callable[[], list[list[Response]]],
    judge: str,
    sizes: tuple[int, int, int],
    shown: object,
    inputs: Sequence[Step],
) -> Step:
    """``wins.json``: per point and instruction the share of verdicts for the response against the instruction's own
    reference output, ties half, None where every judgement failed; with counts by outcome. ``judge`` is a pool, or
    the simulated humans."""

    def work(folder: Any) -> None:
        asked = records.by_id(split(made, "val"))
        drawn = points()
        responses = records.by_id([r for p in drawn for r in p])
        ids = list(dict.fromkeys(r.instruction_id for r in drawn[0]))
        reference = {i: Response.make(i, asked[i].output, REFERENCE, n_tokens=0) for i in ids}
        pairs = {r.id: Pair.of(r, reference[r.instruction_id]) for r in responses.values()}
        texts = responses | {r.id: r for r in reference.values()}
        if judge == HUMANS:
            from farm.world.raters import human_judgements

            acts = human_judgements(list(pairs.values()), asked, texts, sizes[2], seed)
        else:
            from farm.annotate.pool import load_pool

            unique, purpose = list(pairs.values()), f"laboratory {name}"
            each = min(sizes[2], len(load_pool(judge).annotators))
            acts = judged(run, made, unique, asked, texts, pool=judge, per_pair=each, seed=seed, purpose=purpose)
        runs.write_json(folder / "wins.json", _wins(drawn, pairs, acts, ids))

    settings = settings_of(run, seed, {"judge": judge, "sizes": sizes}, shown)
    prints = [] if judge == HUMANS else pool_fingerprint(run, judge)
    return runs.perform(run.step(f"7-judged/{name}/seed-{seed}"), settings, [*inputs, *prints], work)


def _wins(
    points: Sequence[Sequence[Response]], pairs: Mapping[str, Pair], acts: Sequence[Judgement], ids: Sequence[str]
) -> dict[str, Any]:
    by_pair: dict[str, list[Judgement]] = {}
    outcomes: dict[str, int] = {}
    for j in acts:
        by_pair.setdefault(j.pair_id, []).append(j)
        outcomes[str(j.outcome)] = outcomes.get(str(j.outcome), 0) + 1
    table = []
    for point in points:
        values: dict[str, list[float]] = {i: [] for i in ids}
        for r in point:
            for j in by_pair.get(pairs[r.id].id, []):
                if j.outcome.judged:
                    values[r.instruction_id].append(0.5 if j.winner_id is None else float(j.winner_id == r.id))
        table.append([sum(v) / len(v) if v else None for v in values.values()])
    return {"prompts": list(ids), "wins": table, "outcomes": outcomes}


def read_wins(step: Step) -> tuple[tuple[str, ...], Array, dict[str, int]]:
    """Instructions with a verdict at every point, their win scores [points, instructions], and outcomes."""
    saved = runs.read_json(step.file("wins.json"))
    table = np.array([[np.nan if v is None else v for v in row] for row in saved["wins"]], dtype=float)
    whole = ~np.isnan(table).any(axis=0)
    if not whole.any():
        raise DataError(f"{step.folder}: no instruction has a verdict at every point of the curve")
    prompts = tuple(p for p, ok in zip(saved["prompts"], whole, strict=True) if ok)
    return prompts, table[:, whole], saved["outcomes"]


def judge_of(run: Run, lab: Laboratory, reward: str) -> str:
    """The pool that labelled a reward's pairs."""
    labels = lab.rewards[reward].labels
    return (lab.labels[labels].pool if labels else None) or run.recipe.annotate.pool
