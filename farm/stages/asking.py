"""Asking judges through a run's ledger: which judge, at what price, how fast, and what it would cost."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import runs, world
from farm.progress import Progress, say
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.stages.common import Made, Run

if TYPE_CHECKING:
    from farm.annotate.calls import Patience
    from farm.annotate.estimate import Estimate
    from farm.annotate.money import Prices
    from farm.annotate.plan import Skip
    from farm.annotate.pool import Pool
    from farm.lm.endpoints import Endpoint

# Settings of the endpoint that cannot change an answer: how fast, how long, at what price, on which way.
_ANSWERING = {"kind", "base_url", "path"}


@contextmanager
def judge(run: Run, made: Made) -> Iterator[Endpoint]:
    """The judge that the recipe names. The scripted one may compare real text with the answers that come with it."""
    from farm.lm.endpoints import InProcess, OpenAIEndpoint

    where = run.recipe.annotate.endpoint
    if where.kind == "openai":
        yield OpenAIEndpoint(
            where.base_url, where.api_key_env, timeout=where.timeout, allow_insecure=where.insecure_http
        )
        return
    if where.kind == "transformers":
        from farm.lm.local_judge import TransformersJudge

        yield InProcess(TransformersJudge(), name=name_of(run))
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
    both_orders: bool = False,
    ask: bool = True,
) -> list[Judgement]:
    """Have a pool judge pairs through the run's ledger: what was answered once is not asked again, and with ``ask``
    False nothing is. ``per_pair`` 0 means everybody. With ``both_orders`` every act comes twice, the second time (draw
    1) with the responses exchanged."""
    from farm.annotate import engine
    from farm.annotate.ledger import Ledger
    from farm.annotate.pool import load_pool

    a = run.recipe.annotate
    annotators = load_pool(pool)
    if a.endpoint.kind == "replay":
        return _replayed(run, pairs, instructions, responses, annotators, per_pair, seed, purpose, both_orders)
    paid = a.endpoint.kind == "openai" and ask
    progress = Progress(f"{purpose}, seed {seed}", bar=paid)
    with (
        _turn(run) if paid else nullcontext(),
        judge(run, made) as endpoint,
        Ledger(run.folder / "ledger.sqlite", a.endpoint.budget) as ledger,
    ):
        try:
            passes = [
                engine.annotate(
                    pairs,
                    instructions,
                    responses,
                    annotators,
                    models=a.models,
                    endpoint=endpoint,
                    per_pair=per_pair or len(annotators.annotators),
                    seed=seed,
                    purpose=purpose,
                    draw=draw,
                    reverse=draw == 1,
                    ledger=ledger,
                    skip=_skip(run, seed, purpose),
                    concurrency=a.endpoint.concurrency,
                    progress=progress.judged,
                    patience=_patience(run),
                    prices=_prices(run, endpoint),
                    batch=a.endpoint.batch,
                    ask=ask,
                )
                for draw in range(1 + both_orders)
            ]
        finally:
            progress.close()
        spent = ledger.spent()
    acts = [act for same in zip(*passes, strict=True) for act in same]
    _summary(f"{purpose}, seed {seed}", acts, spent)
    return acts


def preview(
    run: Run,
    pairs: Sequence[Pair],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    *,
    pool: str,
    per_pair: int,
    seed: int,
    purpose: str,
    both_orders: bool = False,
) -> Estimate:
    """What ``judged`` with the same arguments would ask and cost. Sends nothing, and needs no key."""
    from farm.annotate.engine import compare
    from farm.annotate.estimate import Estimate, estimate
    from farm.annotate.ledger import Ledger
    from farm.annotate.pool import load_pool

    where = run.recipe.annotate.endpoint
    annotators: Pool = load_pool(pool)
    total = Estimate()
    with Ledger(run.folder / "ledger.sqlite", where.budget) as ledger:
        for draw in range(1 + both_orders):
            planner = plan(run, annotators, name_of(run), per_pair, seed, purpose, draw)
            total += estimate(planner, compare(pairs, instructions, responses), ledger)
    return total


def plan(run: Run, pool: Pool, endpoint: str, per_pair: int, seed: int, purpose: str, draw: int = 0) -> Any:
    """The planner that ``judged`` uses."""
    from farm.annotate.plan import Planner

    a = run.recipe.annotate
    return Planner(
        pool,
        a.models,
        endpoint,
        per_pair=per_pair or len(pool.annotators),
        seed=seed,
        purpose=purpose,
        draw=draw,
        reverse=draw == 1,
        skip=_skip(run, seed, purpose),
        prices=_prices(run, None),
        batch=a.endpoint.batch,
    )


def name_of(run: Run) -> str:
    """The judge's name in the ledger's keys."""
    import os

    where = run.recipe.annotate.endpoint
    if where.kind == "openai":
        return (where.base_url or os.environ.get("OPENAI_BASE_URL") or "").rstrip("/")
    return f"{where.kind}-{world.VERSION}"


def pool_fingerprint(run: Run, pool: str) -> list[str]:
    """What shapes the answers of a pool's annotators, one fingerprint each."""
    from farm.annotate.pool import load_pool

    annotators = load_pool(pool)
    models = annotators.bound(run.recipe.annotate.models)
    return [a.fingerprint(models[a.id]) for a in annotators.annotators]


def asking(run: Run) -> dict[str, Any]:
    """Settings of the endpoint that can change an answer."""
    return run.recipe.annotate.endpoint.model_dump(include=_ANSWERING)


def _skip(run: Run, seed: int, purpose: str) -> Skip | None:
    from farm.annotate import noise

    a = run.recipe.annotate
    return noise.overwritten(flip_of(run), seed) if a.skip_noise and purpose == "train" else None


def flip_of(run: Run) -> float:
    """Uniform noise in the training labels: the recipe's, else none for a pool with noise of its own, else 0.25."""
    from farm.annotate.pool import load_pool

    a = run.recipe.annotate
    return a.flip if a.flip is not None else 0.25 if load_pool(a.pool).calibration is None else 0.0


def noise_of(run: Run) -> Any:
    """The noise of a calibrated pool as plain data, where labels are drawn with it."""
    from farm.annotate.pool import load_pool

    pool = load_pool(run.recipe.annotate.pool)
    if pool.noise is None or run.recipe.annotate.flip is not None:
        return None
    return [pool.noise.model_dump(), {a.id: a.noise.model_dump() for a in pool.annotators if a.noise is not None}]


def _replayed(
    run: Run,
    pairs: Sequence[Pair],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    pool: Pool,
    per_pair: int,
    seed: int,
    purpose: str,
    both_orders: bool,
) -> list[Judgement]:
    from farm.annotate.replay import load, missing, replay

    recorded = load(Path(run.recipe.annotate.endpoint.path or ""))
    each = per_pair or len(pool.annotators)
    passes = [
        replay(
            pairs, instructions, responses, pool, recorded,
            per_pair=each, seed=seed, purpose=purpose, draw=draw, reverse=draw == 1,
        )
        for draw in range(1 + both_orders)
    ]  # fmt: skip
    acts = [act for same in zip(*passes, strict=True) for act in same]
    if absent := list(missing(acts)):
        say(f"  {purpose}, seed {seed}: not on record, so failed: {', '.join(absent)} (judgements.jsonl says which)")
    return acts


def _patience(run: Run) -> Patience:
    from farm.annotate.calls import Patience

    where = run.recipe.annotate.endpoint
    return Patience(timeout=where.timeout, rpm=where.rpm, tpm=where.tpm)


def _prices(run: Run, endpoint: Endpoint | None) -> Prices:
    from farm.annotate.money import Prices
    from farm.lm.endpoints import is_loopback

    where = run.recipe.annotate.endpoint
    local = where.kind != "openai" or is_loopback(name_of(run)) or bool(getattr(endpoint, "local", False))
    return Prices(where.prices, Path(where.price_table) if where.price_table else None, local=local)


@contextmanager
def _turn(run: Run) -> Iterator[None]:
    """One process at a time asks a paid judge, so that its limits, its pauses and the live line are kept by one."""
    with (run.folder / ".judging").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _summary(title: str, acts: Sequence[Judgement], spent: float) -> None:
    skipped = sum(j.outcome is Outcome.SKIPPED for j in acts)
    failed = sum(j.outcome is Outcome.FAILED for j in acts)
    if skipped:
        say(f"  {title}: {skipped} of {len(acts)} judgements spared, because noise decides their label")
    if failed:
        say(f"  {title}: {failed} of {len(acts)} judgements failed; they count as such, and are not in the ledger")
    if spent:
        say(f"  {title}: {spent:.4f} USD spent so far in this run")
