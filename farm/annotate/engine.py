"""The annotation engine: pairs in, one judgement per pair and annotator out, in that order, whatever happens.

    plan (who judges what, shown in which order) -> prompts -> ledger look-up -> calls -> raw answers -> verdicts

Assignment and order are keyed hashes of what they are for, so they do not depend on concurrency, crashes or on which
other pairs are asked about. Every act ends in exactly one outcome; a failure is an outcome and never a verdict.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from farm.annotate.calls import Patience, Sender
from farm.annotate.ledger import Answer, Call, End, Ledger, request_key
from farm.annotate.parsing import Verdict
from farm.annotate.pool import Annotator, Pool
from farm.annotate.prompts import Message, Shown
from farm.errors import AnnotatorError, DataError
from farm.lm.endpoints import Endpoint, InProcess, Request
from farm.records import Cost, Instruction, Judgement, Outcome, Pair, Response
from farm.seeds import digest, key, uniform

WINDOW = 256  # prompts looked up in the ledger, and committed for in-process judges, at a time


class Progress(Protocol):
    """Called with judgements done, wanted, answered from the ledger, and counts by outcome."""

    def __call__(self, done: int, total: int, cached: int, outcomes: Mapping[str, int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Act:
    """One judgement to be made: ``slot`` is its place in the output."""

    slot: int
    pair: Pair
    annotator: Annotator
    shown: tuple[Response, Response]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt: acts of one annotator that share it."""

    acts: tuple[Act, ...]
    request: Request
    call: Call

    @property
    def key(self) -> str:
        return self.call.key


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
    skip: Callable[[str, str], bool] | None = None,
    concurrency: int = 16,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> list[Judgement]:
    """Judge every pair by ``per_pair`` different annotators of the pool.

    ``models`` binds the pool's roles to model names (``{annotator}`` stands for the annotator's id). ``purpose``
    ("train", "evaluate") separates the random choices of the uses. ``skip(pair id, annotator id)`` names acts whose
    label noise will overwrite: they are not asked and come back as ``skipped``. Identical texts are settled unasked.
    Answers in the ledger are not asked for again.

    Returns judgements in the order of ``pairs``, then of the pool. Raises DataError when a pair names an unknown
    instruction or response or occurs twice, AnnotatorError when the judge cannot be used at all.
    """
    if not 1 <= per_pair <= len(pool.annotators):
        raise AnnotatorError(f"per_pair is {per_pair}, but pool {pool.name} has {len(pool.annotators)} annotators")
    if concurrency < 1:
        raise AnnotatorError(f"concurrency must be at least 1, got {concurrency}")
    _check(pairs, instructions, responses)
    bound = pool.bound(models)
    run = _Run(
        pairs, instructions, responses, pool, bound, endpoint, per_pair, seed, purpose, ledger, skip, progress
    )  # fmt: skip
    if isinstance(endpoint, InProcess):
        run.direct(endpoint)
    else:
        _drive(run.remote, concurrency, patience or Patience())
    return run.finish()


def assign(pool: Pool, pair_id: str, per_pair: int, seed: int, purpose: str) -> tuple[Annotator, ...]:
    """Who judges a pair, in the pool's order. Adding an annotator to the pool moves only the pairs it takes over."""
    if per_pair == len(pool.annotators):
        return pool.annotators
    ranked = sorted(pool.annotators, key=lambda a: digest(seed, "assign", purpose, pair_id, a.id))
    chosen = {a.id for a in ranked[:per_pair]}
    return tuple(a for a in pool.annotators if a.id in chosen)


def shown_order(pair: Pair, annotator: str, seed: int, purpose: str) -> tuple[str, str]:
    """The two response ids in the order in which this annotator sees them."""
    swap = uniform(seed, "order", purpose, pair.id, annotator) < 0.5
    return (pair.b, pair.a) if swap else (pair.a, pair.b)


@dataclass
class _Run:
    """State of one call of ``annotate``."""

    pairs: Sequence[Pair]
    instructions: Mapping[str, Instruction]
    responses: Mapping[str, Response]
    pool: Pool
    models: Mapping[str, str]  # by annotator
    endpoint: Endpoint
    per_pair: int
    seed: int
    purpose: str
    ledger: Ledger
    skip: Callable[[str, str], bool] | None
    progress: Progress | None

    def __post_init__(self) -> None:
        self.fingerprints = {a.id: a.fingerprint(self.models[a.id]) for a in self.pool.annotators}
        self.request_seed = key(self.seed, "judge") % 2**31  # OpenAI-style servers take a 32-bit seed
        self.done: list[Judgement | None] = [None] * (len(self.pairs) * self.per_pair)
        self.outcomes: Counter[str] = Counter()
        self.cached = 0
        self.waiting: dict[str, list[Job]] = {}  # jobs by key that are sent or about to be
        self._told = 0.0

    # -- plan ---------------------------------------------------------------------------------------------------

    def plan(self) -> Iterator[Job]:
        """Prompts to answer, streamed; acts that need none are settled on the way."""
        open_batches: dict[str, list[Act]] = {a.id: [] for a in self.pool.annotators}
        slot = 0
        for pair in self.pairs:
            for annotator in assign(self.pool, pair.id, self.per_pair, self.seed, self.purpose):
                first, second = shown_order(pair, annotator.id, self.seed, self.purpose)
                act = Act(slot, pair, annotator, (self.responses[first], self.responses[second]))
                slot += 1
                if act.shown[0].text == act.shown[1].text:
                    self.settle(act, Outcome.IDENTICAL)
                elif self.skip is not None and self.skip(pair.id, annotator.id):
                    self.settle(act, Outcome.SKIPPED)
                else:
                    batch = open_batches[annotator.id]
                    batch.append(act)
                    if len(batch) == annotator.batch:
                        yield self.job(batch)
                        batch.clear()
        for batch in open_batches.values():
            if batch:
                yield self.job(batch)

    def job(self, acts: Sequence[Act]) -> Job:
        annotator = acts[0].annotator
        asked = [self.instructions[a.pair.instruction_id].full_text for a in acts]
        texts = [Shown(text, a.shown[0].text, a.shown[1].text) for text, a in zip(asked, acts, strict=True)]
        request = self.request(annotator, annotator.render(texts))
        name = self.endpoint.name
        call = Call(request_key(name, request, self.fingerprints[annotator.id]), annotator.id, name, request.model)
        return Job(tuple(acts), request, call)

    def request(self, annotator: Annotator, messages: Sequence[Message]) -> Request:
        chat = annotator.style == "chat"
        return Request(
            model=self.models[annotator.id],
            messages=tuple((m.role, m.content) for m in messages) if chat else None,
            prompt=None if chat else messages[0].content,
            temperature=annotator.temperature,
            max_tokens=annotator.max_tokens,
            seed=self.request_seed,
            logprobs=annotator.logprobs,
        )

    def windows(self) -> Iterator[list[Job]]:
        """Jobs the ledger does not answer, a window at a time; the rest is delivered."""
        window: list[Job] = []
        for job in self.plan():
            window.append(job)
            if len(window) == WINDOW:
                yield self.missing(window)
                window = []
        yield self.missing(window)

    def missing(self, window: list[Job]) -> list[Job]:
        known = self.ledger.answers([j.key for j in window])
        new = []
        for job in window:
            if (answer := known.get(job.key)) is not None:
                self.deliver(job, answer)
                self.cached += len(job.acts)
            elif job.key in self.waiting:
                self.waiting[job.key].append(job)  # the same question twice is asked once
            else:
                self.waiting[job.key] = [job]
                new.append(job)
        self.tell()
        return new

    # -- calls --------------------------------------------------------------------------------------------------

    def direct(self, endpoint: InProcess) -> None:
        """An in-process judge: no event loop, one commit before and one after each window."""
        for jobs in self.windows():
            attempts = self.ledger.sent([j.call for j in jobs]) if jobs else []
            # Seconds are recorded as 0: the judge is free, and equal runs shall write equal bytes.
            ends = [
                End(attempt, j.key, Answer(endpoint.answer(j.request), 0.0))
                for attempt, j in zip(attempts, jobs, strict=True)
            ]
            if ends:
                self.ledger.ended(ends)
            for job, end in zip(jobs, ends, strict=True):
                if end.answer is not None:
                    self.answered(job, end.answer)

    async def remote(self, concurrency: int, patience: Patience) -> None:
        sender: Sender[Job] = Sender(self.endpoint, self.ledger, patience, self.answered, self.failed)
        await sender.run(self._stream(), concurrency)

    async def _stream(self) -> AsyncIterator[Job]:
        for jobs in self.windows():
            for job in jobs:
                yield job
            await asyncio.sleep(0)  # a long stretch of cached answers must not starve the workers

    def answered(self, job: Job, answer: Answer) -> None:
        for same in self.waiting.pop(job.key):
            self.deliver(same, answer)
        self.tell()

    def failed(self, job: Job, message: str) -> None:  # the message is in the ledger
        for same in self.waiting.pop(job.key):
            for act in same.acts:
                self.settle(act, Outcome.FAILED)
        self.tell()

    # -- verdicts -----------------------------------------------------------------------------------------------

    def deliver(self, job: Job, answer: Answer) -> None:
        """Raw answer to judgements. A shared prompt's whole cost stands on its first act, so that sums are right."""
        reply = answer.reply
        parser = job.acts[0].annotator.reader
        verdicts = parser.read(reply.text, reply.finish_reason, len(job.acts))
        soft = parser.soft(reply.top_logprobs) if len(job.acts) == 1 else None
        tokens = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        cost = Cost(calls=1, seconds=answer.seconds, **tokens)
        for act, verdict in zip(job.acts, verdicts, strict=True):
            self.settle(act, verdict.outcome, verdict, soft, reply.text, cost)
            cost = _FREE

    def settle(
        self,
        act: Act,
        outcome: Outcome,
        verdict: Verdict | None = None,
        soft: float | None = None,
        raw: str = "",
        cost: Cost | None = None,
    ) -> None:
        first, second = act.shown[0].id, act.shown[1].id
        winner = probability = None
        if verdict is not None and verdict.first is not None:
            winner = first if verdict.first else second
            if soft is not None:
                probability = soft if first == act.pair.a else 1.0 - soft
        self.done[act.slot] = Judgement(
            pair_id=act.pair.id,
            instruction_id=act.pair.instruction_id,
            annotator=act.annotator.id,
            fingerprint=self.fingerprints[act.annotator.id],
            model=self.models[act.annotator.id],
            shown=(first, second),
            outcome=outcome,
            winner_id=winner,
            probability=probability,
            raw=raw,
            cost=cost or _FREE,
        )
        self.outcomes[outcome.value] += 1

    def tell(self, last: bool = False) -> None:
        """Report progress, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and (last or now - self._told > 0.1):
            self._told = now
            self.progress(self.outcomes.total(), len(self.done), self.cached, dict(self.outcomes))

    def finish(self) -> list[Judgement]:
        self.tell(last=True)
        result = [j for j in self.done if j is not None]
        if len(result) != len(self.done):
            raise AnnotatorError(f"{len(self.done) - len(result)} judgements were never settled; please report this")
        return result


_FREE = Cost()


def _check(pairs: Sequence[Pair], instructions: Mapping[str, Instruction], responses: Mapping[str, Response]) -> None:
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


def _drive(remote: Callable[[int, Patience], Awaitable[None]], concurrency: int, patience: Patience) -> None:
    """Run the event loop here, or in a thread where one runs already (a notebook)."""

    async def main() -> None:
        await remote(concurrency, patience)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main())
        return
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, main()).result()
