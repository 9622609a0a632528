"""Steps that ask judges: annotate, evaluate, and the cross-annotation that agreement is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import records, runs, world
from farm.errors import DataError
from farm.progress import Progress
from farm.records import Instruction, Judgement, Pair, Response, Sampling
from farm.runs import Step
from farm.seeds import key
from farm.stages.common import REFERENCE, SFT, WRITERS, Made, Run, gold, proxy, settings_of, split

if TYPE_CHECKING:
    from farm.lm.endpoints import Endpoint


@contextmanager
def _judge(run: Run, made: Made) -> Iterator[Endpoint]:
    """The judge that the recipe names. The scripted one may compare real text with the answers that come with it."""
    from farm.lm.endpoints import InProcess, OpenAIEndpoint

    where = run.recipe.annotate.endpoint
    if where.kind == "openai":
        yield OpenAIEndpoint(where.base_url, where.api_key_env, timeout=where.timeout)
        return
    answers = runs.read_json(made["data"].file("answers.json")) or None
    if where.kind == "scripted":
        from farm.world.judge import ScriptedJudge

        yield InProcess(ScriptedJudge(answers), name=f"scripted-{world.VERSION}")
        return
    from farm.world import serve

    with serve.background(answers) as (url, token):
        yield OpenAIEndpoint(url, name=f"local_server-{world.VERSION}", api_key=token, timeout=where.timeout)


def judged(
    run: Run,
    made: Made,
    pairs: Sequence[Pair],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    *,
    pool: str,
    per_pair: int,
    seed: int,
    purpose: str,
) -> list[Judgement]:
    """Have a pool judge pairs through the run's ledger: what was answered once is not asked again."""
    from farm.annotate import noise
    from farm.annotate.engine import annotate as ask
    from farm.annotate.ledger import Ledger
    from farm.annotate.pool import load_pool

    a = run.recipe.annotate
    annotators = load_pool(pool)
    skip = noise.overwritten(a.flip, seed) if a.skip_noise and purpose == "train" else None
    with _judge(run, made) as endpoint, Ledger(run.folder / "ledger.sqlite") as ledger:
        return ask(
            pairs,
            instructions,
            responses,
            annotators,
            models=a.models,
            endpoint=endpoint,
            per_pair=per_pair or len(annotators.annotators),
            seed=seed,
            purpose=purpose,
            ledger=ledger,
            skip=skip,
            concurrency=a.endpoint.concurrency,
            progress=Progress(f"{purpose}, seed {seed}").judged,
        )


def _pool_fingerprint(run: Run, pool: str) -> list[str]:
    from farm.annotate.pool import load_pool

    annotators = load_pool(pool)
    models = annotators.bound(run.recipe.annotate.models)
    return [a.fingerprint(models[a.id]) for a in annotators.annotators]


def _asking(run: Run) -> dict[str, Any]:
    """Settings of the endpoint that can change an answer: not the concurrency, not the timeout."""
    return run.recipe.annotate.endpoint.model_dump(include={"kind", "base_url"})


def annotate(run: Run, seed: int, made: Made) -> Step:
    """``judgements.jsonl``: every act with its outcome; ``preferences.jsonl``: what training reads."""
    a = run.recipe.annotate
    settings = settings_of(run, seed, a.model_dump(exclude={"endpoint"}), _asking(run), _pool_fingerprint(run, a.pool))

    def work(folder: Path) -> None:
        from farm.annotate.noise import settle

        pairs = records.read(made["sample"].file("pairs.jsonl"), Pair)
        responses = records.by_id(records.read(made["sample"].file("responses.jsonl"), Response))
        instructions = records.by_id(split(made, "preference"))
        judgements = judged(
            run, made, pairs, instructions, responses, pool=a.pool, per_pair=a.per_pair, seed=seed, purpose="train"
        )
        preferences = settle(judgements, pairs, flip=a.flip, seed=seed)
        if not preferences:
            raise DataError("annotate: no judgement carries a verdict, so there is nothing to learn from")
        records.write(folder / "judgements.jsonl", judgements)
        records.write(folder / "preferences.jsonl", preferences)

    return runs.perform(run.step(f"3-annotate/seed-{seed}"), settings, [made["sample"]], work)


def evaluate(run: Run, seed: int, made: Made, row: str) -> Step:
    """One policy's ``responses.jsonl`` to the evaluation instructions beside ``reference.jsonl``, the pool's
    ``judgements.jsonl`` and, in the offline world, the simulated humans' ``votes.jsonl``."""
    e = run.recipe.evaluate
    trained = [made[row]] if row in made else []
    settings = settings_of(run, seed, row, e, run.recipe.annotate.models, _asking(run), _pool_fingerprint(run, e.pool))

    def work(folder: Path) -> None:
        instructions = _evaluation(made, e.instructions)
        responses = _scored(run, made, instructions, _respond(run, seed, made, row, instructions))
        reference = _reference(made, instructions)
        pairs = [Pair.of(a, b) for a, b in zip(responses, reference, strict=True)]
        index, texts = records.by_id(instructions), records.by_id([*responses, *reference])
        judgements = judged(
            run, made, pairs, index, texts, pool=e.pool, per_pair=e.per_pair, seed=seed, purpose="evaluate"
        )
        records.write(folder / "responses.jsonl", responses)
        records.write(folder / "reference.jsonl", _scored(run, made, instructions, reference))
        records.write(folder / "judgements.jsonl", judgements)
        if run.offline and e.human_votes:
            from farm.world.raters import human_judgements

            records.write(folder / "votes.jsonl", human_judgements(pairs, index, texts, e.human_votes, seed))

    return runs.perform(run.step(f"6-evaluate/{row}/seed-{seed}"), settings, [made["reward"], *trained], work)


def _evaluation(made: Made, limit: int) -> list[Instruction]:
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

    result = Result.load(made[row].folder)
    policy = load_policy(result.policy_source(made[row].folder), name=row)
    score = proxy(made) if result.best_of > 1 else None
    return respond(policy, instructions, result.best_of, sampling, score, name=row, purpose="evaluate")


def _reference(made: Made, instructions: Sequence[Instruction]) -> list[Response]:
    """The reference model's outputs as responses, their length in tokens of the SFT policy's tokenizer."""
    from farm.lm.load import load_tokenizer

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
    shown = config.model_dump(include={"agreement_pairs", "agreement_votes"})
    settings = settings_of(run, seed, shown, a.models, _asking(run), _pool_fingerprint(run, a.pool))

    def work(folder: Path) -> None:
        pairs = records.read(made["sample"].file("pairs.jsonl"), Pair)[: config.agreement_pairs]
        responses = records.by_id(records.read(made["sample"].file("responses.jsonl"), Response))
        instructions = records.by_id(split(made, "preference"))
        acts = judged(run, made, pairs, instructions, responses, pool=a.pool, per_pair=0, seed=seed, purpose="cross")
        records.write(folder / "judgements.jsonl", acts)
        if run.offline:
            from farm.world.raters import human_judgements

            votes = human_judgements(pairs, instructions, responses, config.agreement_votes, seed)
            records.write(folder / "votes.jsonl", votes)

    return runs.perform(run.step(f"7-study/cross/seed-{seed}"), settings, [made["sample"]], work)
