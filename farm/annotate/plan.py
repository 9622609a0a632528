"""Who judges what, shown in which order, as which prompt: everything that is fixed before anybody is asked.

Assignment and order are keyed hashes of what they are for, so they do not depend on concurrency, crashes or on which
other pairs are asked about. Plans are streams: nothing here grows with the number of pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from farm.annotate.ledger import Call, request_key
from farm.annotate.money import BATCH_SHARE, FREE, Price, Prices
from farm.annotate.pool import Annotator, Pool
from farm.annotate.prompts import Message, Shown
from farm.errors import AnnotatorError
from farm.lm.endpoints import Request
from farm.records import Instruction, Outcome, Pair, Response
from farm.seeds import key, packed

_PATIENCE = 4096  # acts after which a prompt for several pairs goes out although it is not full

Skip = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A pair with its texts; ``a`` and ``b`` are the responses ``pair.a`` and ``pair.b``."""

    pair: Pair
    instruction: Instruction
    a: Response
    b: Response


@dataclass(frozen=True, slots=True)
class Act:
    """One judgement to be made: ``slot`` is its place in the output."""

    slot: int
    pair: Pair
    annotator: Annotator
    shown: tuple[Response, Response]
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt: acts of one annotator that share it."""

    acts: tuple[Act, ...]
    request: Request
    call: Call

    @property
    def key(self) -> str:
        return self.call.key


def assign(pool: Pool, pair_id: str, per_pair: int, seed: int, purpose: str) -> tuple[Annotator, ...]:
    """Who judges a pair, in the pool's order. Adding an annotator to the pool moves only the pairs it takes over."""
    return _Assignment(pool, per_pair, seed, purpose)(pair_id)


def shown_order(pair: Pair, annotator: str, seed: int, purpose: str) -> tuple[str, str]:
    """The two response ids in the order in which this annotator sees them."""
    swap = _swaps(packed(seed, "order", purpose, pair.id) + packed(annotator))
    return (pair.b, pair.a) if swap else (pair.a, pair.b)


def _swaps(data: bytes) -> bool:
    """``seeds.uniform(...) < 0.5`` of the packed parts."""
    return hashlib.blake2b(data, digest_size=8).digest()[0] < 128


class _Assignment:
    """The ``per_pair`` annotators of smallest keyed hash; what all pairs share is packed once."""

    def __init__(self, pool: Pool, per_pair: int, seed: int, purpose: str) -> None:
        self.all, self.per_pair = pool.annotators, per_pair
        self._head = packed(seed, "assign", purpose)
        self._tails = [(packed(a.id), a) for a in pool.annotators]

    def __call__(self, pair_id: str) -> tuple[Annotator, ...]:
        if self.per_pair == len(self.all):
            return self.all
        head = self._head + packed(pair_id)
        ranked = [(hashlib.blake2b(head + tail, digest_size=8).digest(), i) for i, (tail, _) in enumerate(self._tails)]
        if self.per_pair == 1:
            return (self.all[min(ranked)[1]],)
        chosen = sorted(i for _, i in sorted(ranked)[: self.per_pair])
        return tuple(self.all[i] for i in chosen)


class Planner:
    """Makes jobs of comparisons for one pool, seed and purpose.

    ``models`` binds the pool's roles; ``endpoint`` is the judge's name; ``draw`` numbers repeated acts of the same
    kind; ``reverse`` shows every pair in the other order than without.
    Raises AnnotatorError when ``per_pair`` does not fit the pool or a role has no model.
    """

    def __init__(
        self,
        pool: Pool,
        models: Mapping[str, str],
        endpoint: str,
        *,
        per_pair: int,
        seed: int,
        purpose: str,
        draw: int = 0,
        reverse: bool = False,
        skip: Skip | None = None,
        prices: Prices | None = None,
        batch: bool = False,
    ) -> None:
        if not 1 <= per_pair <= len(pool.annotators):
            raise AnnotatorError(f"per_pair is {per_pair}, but pool {pool.name} has {len(pool.annotators)} annotators")
        self.pool, self.per_pair, self.seed, self.purpose, self.draw, self.skip = (
            pool,
            per_pair,
            seed,
            purpose,
            draw,
            skip,
        )
        self.endpoint, self.reverse = endpoint, reverse
        self.models = pool.bound(models)
        self.fingerprints = {a.id: a.fingerprint(self.models[a.id]) for a in pool.annotators}
        self._asking = {a.id: a.asking(self.models[a.id]) for a in pool.annotators}
        found = {m: prices.find(m) if prices is not None else FREE for m in set(self.models.values())}
        self.unpriced = sorted(m for m, price in found.items() if price is None)  # models of unknown price
        share = BATCH_SHARE if batch else 1.0
        self._prices: dict[str, Price] = {m: (price or FREE) * share for m, price in found.items()}
        # OpenAI-style servers take a 32-bit seed.
        self._request_seed = (key(seed, "judge", draw) if draw else key(seed, "judge")) % 2**31
        self._order = packed(seed, "order", purpose)

    def jobs(self, comparisons: Iterable[Comparison], unasked: Callable[[Act, Outcome], None]) -> Iterator[Job]:
        """Prompts to answer, streamed; acts that need none go to ``unasked`` with what became of them."""
        assignment = _Assignment(self.pool, self.per_pair, self.seed, self.purpose)
        tails = {a.id: packed(a.id) for a in self.pool.annotators}
        open_batches: dict[str, list[Act]] = {}
        slot = 0
        for c in comparisons:
            order = self._order + packed(c.pair.id)
            for annotator in assignment(c.pair.id):
                shown = (c.b, c.a) if _swaps(order + tails[annotator.id]) != self.reverse else (c.a, c.b)
                act = Act(slot, c.pair, annotator, shown, c.instruction)
                slot += 1
                if c.a.text == c.b.text:
                    unasked(act, Outcome.IDENTICAL)
                elif self.skip is not None and self.skip(c.pair.id, annotator.id):
                    unasked(act, Outcome.SKIPPED)
                elif annotator.batch == 1:
                    yield self.job((act,))
                else:
                    batch = open_batches.setdefault(annotator.id, [])
                    batch.append(act)
                    if len(batch) == annotator.batch:
                        yield self.job(open_batches.pop(annotator.id))
                if not slot % _PATIENCE:  # by number and not by time, so that equal runs group alike
                    for late in [b for b in open_batches.values() if b[0].slot < slot - _PATIENCE]:
                        yield self.job(open_batches.pop(late[0].annotator.id))
        for batch in open_batches.values():
            yield self.job(batch)

    def job(self, acts: Sequence[Act]) -> Job:
        annotator = acts[0].annotator
        texts = [Shown(a.instruction.full_text, a.shown[0].text, a.shown[1].text) for a in acts]
        request = self._request(annotator, annotator.render(texts))
        price = self._prices[request.model]
        call = Call(
            request_key(self.endpoint, request, self._asking[annotator.id], self.draw),
            annotator.id,
            self.endpoint,
            request.model,
            price,
            price.at_most(request) if price.prompt or price.completion else 0.0,
        )
        return Job(tuple(acts), request, call)

    def _request(self, annotator: Annotator, messages: Sequence[Message]) -> Request:
        chat = annotator.style == "chat"
        return Request(
            model=self.models[annotator.id],
            messages=tuple((m.role, m.content) for m in messages) if chat else None,
            prompt=None if chat else messages[0].content,
            temperature=annotator.temperature,
            max_tokens=annotator.max_tokens,
            seed=self._request_seed,
            logprobs=annotator.logprobs,
            response_format=annotator.response_format,
        )
