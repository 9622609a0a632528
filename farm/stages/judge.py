"""Steps that ask judges: annotate, evaluate, and the cross-annotation that agreement is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farm import records, runs
from farm.errors import DataError
from farm.records import Instruction, Pair, Response, Sampling
from farm.runs import Step
from farm.seeds import key
from farm.stages import human
from farm.stages.asking import asking, flip_of, judged, noise_of, pool_fingerprint
from farm.stages.common import REFERENCE, SFT, WRITERS, Made, Run, gold, proxy, result_of, settings_of, split
from farm.stages.controls import MODEL, scorer

__all__ = ["annotate", "cross", "evaluate", "judged", "pool_fingerprint"]


def annotate(run: Run, seed: int, made: Made, name: str = "3-annotate", ask: bool = True) -> Step:
    """``judgements.jsonl``: every act with its outcome; ``preferences.jsonl``: what training reads. With ``ask`` False
    the ledger's answers are all there is."""
    a = run.recipe.annotate
    if a.human is not None:
        return human.annotate(run, seed, made, name)
    how = a.model_dump(exclude={"endpoint"}), noise_of(run)
    settings = settings_of(run, seed, *how, asking(run), pool_fingerprint(run, a.pool))

    def work(folder: Path) -> None:
        from farm.annotate.noise import settle
        from farm.annotate.pool import load_pool

        pairs, instructions, responses = to_label(made)
        judgements = judged(
            run, made, pairs, instructions, responses,
            pool=a.pool, per_pair=a.per_pair, seed=seed, purpose="train", both_orders=a.both_orders, ask=ask,
        )  # fmt: skip
        flip = flip_of(run)
        preferences = settle(
            judgements,
            pairs,
            flip=flip,
            seed=seed,
            soft=a.soft,
            calibration=load_pool(a.pool).calibration if a.flip is None else None,
            responses=responses,
        )
        if not preferences:
            raise DataError("annotate: no judgement carries a verdict, so there is nothing to learn from")
        records.write(folder / "judgements.jsonl", judgements)
        records.write(folder / "preferences.jsonl", preferences)

    return runs.perform(run.step(f"{name}/seed-{seed}"), settings, [made["sample"]], work)


def to_label(made: Made) -> tuple[list[Pair], dict[str, Instruction], dict[str, Response]]:
    """The pairs that training labels are made for, with their texts by id."""
    pairs = records.read(made["sample"].file("pairs.jsonl"), Pair)
    responses = records.by_id(records.read(made["sample"].file("responses.jsonl"), Response))
    return pairs, records.by_id(split(made, "preference")), responses


def evaluate(run: Run, seed: int, made: Made, row: str) -> Step:
    """One policy's ``responses.jsonl`` to the evaluation instructions beside ``reference.jsonl``, the pool's
    ``judgements.jsonl`` and, in the offline world, the simulated humans' ``votes.jsonl``."""
    e = run.recipe.evaluate
    trained = [step] if (step := result_of(made, row)) else []
    shown = e.model_dump(exclude={"canaries", "canary_limit"})
    settings = settings_of(
        run, seed, row, shown, run.recipe.annotate.models, asking(run), pool_fingerprint(run, e.pool)
    )

    def work(folder: Path) -> None:
        instructions = evaluation(made, e.instructions)
        responses = _scored(run, made, instructions, _respond(run, seed, made, row, instructions))
        reference = reference_of(made, instructions)
        pairs = [Pair.of(a, b) for a, b in zip(responses, reference, strict=True)]
        index, texts = records.by_id(instructions), records.by_id([*responses, *reference])
        judgements = judged(
            run, made, pairs, index, texts,
            pool=e.pool, per_pair=e.per_pair, seed=seed, purpose="evaluate", both_orders=e.both_orders,
        )  # fmt: skip
        records.write(folder / "responses.jsonl", responses)
        records.write(folder / "reference.jsonl", _scored(run, made, instructions, reference))
        records.write(folder / "judgements.jsonl", judgements)
        if run.offline and e.human_votes:
            from farm.world.raters import human_judgements

            records.write(folder / "votes.jsonl", human_judgements(pairs, index, texts, e.human_votes, seed))

    return runs.perform(run.step(f"6-evaluate/{row}/seed-{seed}"), settings, [made["reward"], *trained], work)


def evaluation(made: Made, limit: int) -> list[Instruction]:
    """The evaluation instructions; of a smaller number, the same random ones for every policy and seed."""
    rows = split(made, "eval")
    chosen = {i.id for i in sorted(rows, key=lambda i: key(0, "evaluation subset", i.id))[:limit]}
    return [i for i in rows if i.id in chosen]


def _respond(run: Run, seed: int, made: Made, row: str, instructions: Sequence[Instruction]) -> list[Response]:
    sampling = Sampling(temperature=run.recipe.evaluate.temperature, max_tokens=run.recipe.policy.max_tokens, seed=seed)
    if row in WRITERS:
        from farm.world import grammar, writers

        texts = [writers.write(i, writers.FIXED_WRITERS[row], seed, "evaluate") for i in instructions]
        pairs = zip(instructions, texts, strict=True)
        return [Response.make(i.id, t, row, n_tokens=len(grammar.words(t))) for i, t in pairs]
    from farm.lm.load import load_policy
    from farm.methods.best_of_n import respond
    from farm.methods.task import Result

    step = result_of(made, row)
    assert step is not None
    result = Result.load(step.folder)
    policy = load_policy(result.policy_source(step.folder), name=row)
    what = run.recipe.improve[row][2].reward if row in run.recipe.improve else MODEL
    score = scorer(what, seed, made) if result.best_of > 1 else None
    return respond(policy, instructions, result.best_of, sampling, score, name=row, purpose="evaluate")


def reference_of(made: Made, instructions: Sequence[Instruction]) -> list[Response]:
    """The reference model's outputs as responses, their length in tokens of the SFT policy's tokenizer."""
    from farm.lm.hub import load_tokenizer

    texts = [i.output for i in instructions]
    ids = load_tokenizer(made[SFT].file("policy"))(texts, add_special_tokens=False)["input_ids"]
    rows = zip(instructions, ids, strict=True)
    return [Response.make(i.id, i.output, REFERENCE, n_tokens=len(tokens)) for i, tokens in rows]


def _scored(run: Run, made: Made, instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[Response]:
    """Responses, one per instruction, with their proxy and (offline) gold rewards."""
    columns = {"proxy": proxy(made)(instructions, responses)}
    if true := gold(run):
        columns["gold"] = true(instructions, responses)
    rows = zip(*columns.values(), strict=True)
    return [
        r.model_copy(update={"scores": dict(zip(columns, row, strict=True))})
        for r, row in zip(responses, rows, strict=True)
    ]


def cross(run: Run, seed: int, made: Made) -> Step | None:
    """Some training pairs judged by every annotator of the pool (``judgements.jsonl``) and, in the offline world, by
    several simulated humans (``votes.jsonl``): AlpacaFarm's cross-annotation, on which agreement is measured."""
    config, a = run.recipe.study, run.recipe.annotate
    if config.agreement_pairs == 0:
        return None
    shown = config.model_dump(include={"agreement_pairs", "agreement_votes", "both_orders"})
    settings = settings_of(run, seed, shown, a.models, asking(run), pool_fingerprint(run, a.pool))

    def work(folder: Path) -> None:
        pairs = records.read(made["sample"].file("pairs.jsonl"), Pair)[: config.agreement_pairs]
        responses = records.by_id(records.read(made["sample"].file("responses.jsonl"), Response))
        instructions = records.by_id(split(made, "preference"))
        acts = judged(
            run, made, pairs, instructions, responses,
            pool=a.pool, per_pair=0, seed=seed, purpose="cross", both_orders=config.both_orders,
        )  # fmt: skip
        records.write(folder / "judgements.jsonl", acts)
        if run.offline:
            from farm.world.raters import human_judgements

            votes = human_judgements(pairs, instructions, responses, config.agreement_votes, seed)
            records.write(folder / "votes.jsonl", votes)

    return runs.perform(run.step(f"7-study/cross/seed-{seed}"), settings, [made["sample"]], work)
