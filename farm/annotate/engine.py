"""The annotation engine: pairs in, one judgement per pair and annotator out, in that order, whatever happens.

    plan (who judges what, shown in which order) -> prompts -> ledger look-up -> calls -> raw answers -> verdicts

Every act ends in exactly one outcome; a failure is an outcome and never a verdict. Judgements leave as a stream, in
the order of the pairs, so a run holds what is under way and not what is done.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from farm.annotate.calls import Carrier, Patience, Sender
from farm.annotate.ledger import Answer, End, Ledger
from farm.annotate.money import Prices
from farm.annotate.parsing import Verdict
from farm.annotate.plan import Act, Comparison, Job, Planner, Skip, assign, shown_order
from farm.annotate.pool import Pool
from farm.annotate.soft import Soft, soft
from farm.errors import AnnotatorError, BudgetError, DataError
from farm.lm.endpoints import Endpoint, InProcess, OpenAIEndpoint
from farm.progress import Judging, say
from farm.records import Cost, Instruction, Judgement, Outcome, Pair, Response

__all__ = ["Comparison", "annotate", "assign", "compare", "shown_order", "stream"]

WINDOW = 256  # prompts looked up in the ledger, and committed for in-process judges, at a time
HELD = 50_000  # acts that may be settled behind one that still waits for its answer
_TELL = 0.1  # seconds between two reports of progress

Progress = Callable[[Judging], None]


def annotate(
    pairs: Sequence[Pair],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    pool: Pool,
    *,
    models: Mapping[str, str],
    endpoint: Endpoint,
    per_pair: int = 1,
    seed: int,
    purpose: str,
    ledger: Ledger,
    draw: int = 0,
    reverse: bool = False,
    skip: Skip | None = None,
    concurrency: int = 16,
    progress: Progress | None = None,
    patience: Patience | None = None,
    prices: Prices | None = None,
    batch: bool = False,
    ask: bool = True,
) -> list[Judgement]:
    """Judge every pair by ``per_pair`` different annotators of the pool.

    ``models`` binds the pool's roles to model names (``{annotator}`` stands for the annotator's id). ``purpose``
    ("train", "evaluate") separates the random choices of the uses, ``draw`` repetitions of one; ``reverse`` exchanges
    the two responses, so that a repetition asks in the other order. ``skip(pair id, annotator id)`` names acts whose
    label noise will overwrite: they are not asked and come back as ``skipped``. Identical texts are settled unasked.
    Answers in the ledger are not asked for again; with ``ask`` False nothing is asked at all. ``concurrency`` is the
    upper bound of calls at a time; ``batch`` sends them through the Batch API instead. ``prices`` (default: the
    shipped table) are what the ledger's budget is kept by.

    Returns judgements in the order of ``pairs``, then of the pool. Raises DataError when a pair names an unknown
    instruction or response or occurs twice, AnnotatorError when the judge cannot be used at all or, without ``ask``,
    when the ledger lacks answers, and BudgetError when the budget is used up or a price is unknown.
    """
    done: list[Judgement] = []
    stream(
        compare(pairs, instructions, responses), pool, done.append, models=models, endpoint=endpoint,
        per_pair=per_pair, seed=seed, purpose=purpose, ledger=ledger, draw=draw, reverse=reverse, skip=skip,
        concurrency=concurrency, progress=progress, patience=patience, prices=prices, batch=batch, ask=ask,
        total=len(pairs),
    )  # fmt: skip
    return done


def stream(
    comparisons: Iterable[Comparison],
    pool: Pool,
    sink: Callable[[Judgement], None],
    *,
    models: Mapping[str, str],
    endpoint: Endpoint,
    per_pair: int = 1,
    seed: int,
    purpose: str,
    ledger: Ledger,
    draw: int = 0,
    reverse: bool = False,
    skip: Skip | None = None,
    concurrency: int = 16,
    progress: Progress | None = None,
    patience: Patience | None = None,
    prices: Prices | None = None,
    batch: bool = False,
    ask: bool = True,
    total: int | None = None,
) -> Judging:
    """``annotate`` for any number of pairs: takes comparisons from an iterator and gives judgements to ``sink``, in
    order, while memory stays the same. ``total`` pairs, where known, are for progress only. Returns the final count.

    Pairs are not checked for repetition here: a pair that comes twice is judged twice, from one answer.
    """
    if concurrency < 1:
        raise AnnotatorError(f"concurrency must be at least 1, got {concurrency}")
    local = isinstance(endpoint, InProcess) or getattr(endpoint, "local", False)
    planner = Planner(
        pool, models, endpoint.name, per_pair=per_pair, seed=seed, purpose=purpose, draw=draw, reverse=reverse,
        skip=skip, prices=prices or Prices(local=local), batch=batch,
    )  # fmt: skip
    if planner.unpriced and ledger.budget is not None and ask:
        raise BudgetError(
            f"a budget of {ledger.budget:g} USD is set, but the price of {', '.join(planner.unpriced)} is unknown: "
            "give it in the recipe (annotate.endpoint.prices: {MODEL: [USD per million prompt tokens, per million "
            "completion tokens]}), or run without a budget"
        )
    wanted = None if total is None else total * per_pair
    run = _Run(planner, sink, ledger, progress, wanted, asking=ask, held=None if batch else HELD)
    if not ask:
        for _ in run.windows(comparisons):
            pass
        run.need_nothing()
    elif isinstance(endpoint, InProcess):
        run.direct(comparisons, endpoint)
    else:
        carrier = _batches(endpoint) if batch else partial(Sender, endpoint)
        _drive(partial(run.remote, comparisons, carrier, concurrency, patience or Patience()))
    return run.finish()


def compare(
    pairs: Sequence[Pair], instructions: Mapping[str, Instruction], responses: Mapping[str, Response]
) -> Iterator[Comparison]:
    """Pairs with their texts. Raises DataError, before the first, on a pair that occurs twice or names what is not
    given."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise DataError(f"pair {pair.id} occurs twice among the pairs to judge")
        seen.add(pair.id)
        if pair.instruction_id not in instructions:
            raise DataError(f"pair {pair.id} is about instruction {pair.instruction_id}, which is not given")
        for id in (pair.a, pair.b):
            if id not in responses:
                raise DataError(f"pair {pair.id} holds response {id}, which is not given")
    return (Comparison(p, instructions[p.instruction_id], responses[p.a], responses[p.b]) for p in pairs)


def _batches(endpoint: Endpoint) -> Callable[..., Carrier[Job]]:
    from farm.annotate.batch import BatchSender

    if not isinstance(endpoint, OpenAIEndpoint):
        raise AnnotatorError(f"{endpoint.name} has no Batch API: set annotate.endpoint.batch to false")
    return partial(BatchSender, endpoint)


@dataclass
class _Run:
    """State of one call of ``stream``."""

    planner: Planner
    sink: Callable[[Judgement], None]
    ledger: Ledger
    progress: Progress | None
    wanted: int | None
    asking: bool
    held: int | None
    outcomes: Counter[str] = field(default_factory=Counter)
    cached: int = 0
    waiting: dict[str, list[Job]] = field(default_factory=dict)  # jobs by key that are sent or about to be
    missing_answers: Counter[str] = field(default_factory=Counter)  # by annotator, where nobody may be asked
    served: dict[str, set[str]] = field(default_factory=dict)  # which models answered for the one asked

    def __post_init__(self) -> None:
        self._settled: dict[int, Judgement] = {}  # those behind one that waits
        self._given = 0  # how many went to the sink
        self._planned = 0  # the slot after the last planned act
        self._told = 0.0
        self._spent_before = self.ledger.spent()
        self._carrier: Carrier[Job] | None = None

    # -- plan ---------------------------------------------------------------------------------------------------

    def windows(self, comparisons: Iterable[Comparison]) -> Iterator[list[Job]]:
        """Jobs the ledger does not answer, a window at a time; the rest is delivered."""
        window: list[Job] = []
        for job in self.planner.jobs(comparisons, self.settle):
            window.append(job)
            if len(window) == WINDOW:
                yield self.missing(window)
                window = []
        yield self.missing(window)

    def missing(self, window: list[Job]) -> list[Job]:
        known = self.ledger.answers([j.key for j in window])
        new = []
        for job in window:
            self._planned = max(self._planned, job.acts[-1].slot + 1)
            if (answer := known.get(job.key)) is not None:
                self.cached += len(job.acts)
                self.deliver(job, answer)
            elif job.key in self.waiting:
                self.waiting[job.key].append(job)  # the same question twice is asked once
            elif self.asking:
                self.waiting[job.key] = [job]
                new.append(job)
            else:
                self._unanswered(job)
        self.tell()
        return new

    # -- calls --------------------------------------------------------------------------------------------------

    def direct(self, comparisons: Iterable[Comparison], endpoint: InProcess) -> None:
        """An in-process judge: no event loop, one commit before and one after each window."""
        for jobs in self.windows(comparisons):
            attempts = self.ledger.sent([j.call for j in jobs]) if jobs else []
            # Seconds are recorded as 0: the judge is free, and equal runs shall write equal bytes.
            ends = [
                End(attempt, j.key, j.call.answer(endpoint.answer(j.request), 0.0))
                for attempt, j in zip(attempts, jobs, strict=True)
            ]
            if ends:
                self.ledger.ended(ends)
            for job, end in zip(jobs, ends, strict=True):
                if end.answer is not None:
                    self.answered(job, end.answer)

    async def remote(
        self,
        comparisons: Iterable[Comparison],
        carrier: Callable[..., Carrier[Job]],
        concurrency: int,
        patience: Patience,
    ) -> None:
        self._room = asyncio.Event()
        self._carrier = carrier(self.ledger, patience, self.answered, self.failed)
        ticking = asyncio.create_task(self._tick())
        try:
            await self._carrier.run(self._jobs(comparisons), concurrency)
        except BudgetError:
            raise BudgetError(self._out_of_money()) from None
        finally:
            ticking.cancel()

    async def _jobs(self, comparisons: Iterable[Comparison]) -> AsyncIterator[Job]:
        for jobs in self.windows(comparisons):
            for job in jobs:
                yield job
            while self.held is not None and self._planned - self._given > self.held:
                self._room.clear()
                await self._room.wait()
            await asyncio.sleep(0)  # a long stretch of cached answers must not starve the workers

    async def _tick(self) -> None:
        """Keep telling while nothing happens."""
        while True:
            await asyncio.sleep(1)
            self.tell()

    def answered(self, job: Job, answer: Answer) -> None:
        for same in self.waiting.pop(job.key):
            self.deliver(same, answer)
        self.tell()

    def failed(self, job: Job, why: str) -> None:  # the server's words are in the ledger
        outcome = Outcome.FILTERED if why == "filtered" else Outcome.FAILED
        for same in self.waiting.pop(job.key):
            for act in same.acts:
                self.settle(act, outcome)
        self.tell()

    # -- without asking -----------------------------------------------------------------------------------------

    def _unanswered(self, job: Job) -> None:
        """No answer and nobody to ask: what failed then stays failed, what was never asked is missing."""
        known = self.ledger.rows("SELECT 1 FROM attempts WHERE key = ? AND status IS NOT NULL LIMIT 1", (job.key,))
        if not known:
            self.missing_answers[job.acts[0].annotator.id] += len(job.acts)
        for act in job.acts:
            self.settle(act, Outcome.FAILED)

    def need_nothing(self) -> None:
        """Raises AnnotatorError when answers are missing."""
        if not self.missing_answers:
            return
        listed = ", ".join(f"{a}: {n}" for a, n in sorted(self.missing_answers.items()))
        raise AnnotatorError(
            f"{self.ledger.path} lacks the answers for {self.missing_answers.total()} judgements ({listed}). Their "
            "prompt, model or sampling has changed since, or they were never asked. Without --reparse they are."
        )

    # -- verdicts -----------------------------------------------------------------------------------------------

    def deliver(self, job: Job, answer: Answer) -> None:
        """Raw answer to judgements. A shared prompt's whole cost stands on its first act, so that sums are right."""
        reply = answer.reply
        self.served.setdefault(job.request.model, set()).add(reply.model)
        parser = job.acts[0].annotator.reader
        verdicts = parser.read(reply.text, reply.finish_reason, len(job.acts))
        revealed = soft(parser, reply.text, reply.top_logprobs) if len(job.acts) == 1 else None
        tokens = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        cost = Cost(calls=1, seconds=answer.seconds, usd=answer.usd, **tokens)
        for act, verdict in zip(job.acts, verdicts, strict=True):
            self.settle(act, verdict.outcome, verdict, revealed, reply.text, cost)
            cost = _FREE

    def settle(
        self,
        act: Act,
        outcome: Outcome,
        verdict: Verdict | None = None,
        revealed: Soft | None = None,
        raw: str = "",
        cost: Cost | None = None,
    ) -> None:
        first, second = act.shown[0].id, act.shown[1].id
        winner = probability = None
        if verdict is not None and verdict.first is not None:
            winner = first if verdict.first else second
            if revealed is not None:
                probability = revealed.first if first == act.pair.a else 1.0 - revealed.first
        self._give(
            act.slot,
            Judgement(
                pair_id=act.pair.id,
                instruction_id=act.pair.instruction_id,
                annotator=act.annotator.id,
                fingerprint=self.planner.fingerprints[act.annotator.id],
                model=self.planner.models[act.annotator.id],
                shown=(first, second),
                outcome=outcome,
                winner_id=winner,
                probability=probability,
                mass=revealed.mass if probability is not None and revealed is not None else None,
                raw=raw,
                draw=self.planner.draw,
                cost=cost or _FREE,
            ),
        )
        self.outcomes[outcome.value] += 1

    def _give(self, slot: int, judgement: Judgement) -> None:
        """To the sink in order: a judgement waits for those before it."""
        if slot != self._given:
            self._settled[slot] = judgement
            return
        self.sink(judgement)
        self._given += 1
        while (behind := self._settled.pop(self._given, None)) is not None:
            self.sink(behind)
            self._given += 1
        if self.held is not None and self._carrier is not None:
            self._room.set()

    # -- progress -----------------------------------------------------------------------------------------------

    def tell(self, last: bool = False) -> None:
        """Report progress, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and (last or now - self._told > _TELL):
            self._told = now
            self.progress(self.state())

    def state(self) -> Judging:
        account = getattr(self._carrier, "account", None)
        spent = self.ledger.spent()
        asked = sum(n for outcome, n in self.outcomes.items() if outcome not in _UNASKED) - self.cached
        projected = None
        if self.wanted is not None and asked > 0:
            left = self.wanted - self.outcomes.total()
            projected = spent + left * (spent - self._spent_before) / asked
        return Judging(
            done=self.outcomes.total(),
            total=self.wanted,
            cached=self.cached,
            outcomes=dict(self.outcomes),
            concurrency=account.limit if account is not None else None,
            reason=account.change.reason if account is not None else "",
            pause=account.paused() if account is not None else 0.0,
            spent=spent,
            projected=projected,
            budget=self.ledger.budget,
        )

    def _out_of_money(self) -> str:
        now = self.state()
        doubtful = [u["reserved_usd"] for u in self.ledger.unknown()]
        doubt = f", of it {sum(doubtful):.4f} for {len(doubtful)} calls of unknown outcome" if doubtful else ""
        left = "" if now.total is None else f" {now.total - now.done} of {now.total} judgements are left to do"
        need = "" if now.projected is None else f"; all of them together will cost about {now.projected:.2f} USD"
        return (
            f"the budget of {now.budget:g} USD does not hold another call: {now.spent:.4f} USD are spent{doubt}.{left}"
            f"{need}. Raise it (--budget, or annotate.endpoint.budget) and run the same command: it goes on from "
            f"{self.ledger.path}, and no answer is paid twice."
        )

    def finish(self) -> Judging:
        self.tell(last=True)
        if self._settled or (self.wanted is not None and self._given != self.wanted):
            raise AnnotatorError("some judgements were never settled; please report this")
        for model, names in sorted(self.served.items()):
            if len(names) > 1:
                say(f"  note: {model} was answered by several models: {', '.join(sorted(names))}")
        return self.state()


_FREE = Cost()
_UNASKED = (Outcome.IDENTICAL.value, Outcome.SKIPPED.value)


def _drive(main: Callable[[], Awaitable[None]]) -> None:
    """Run the event loop here, or in a thread where one runs already (a notebook)."""

    async def run() -> None:
        await main()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run())
        return
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, run()).result()
