"""What a run would ask and cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from farm.annotate.ledger import Ledger
from farm.annotate.money import BYTES_PER_TOKEN, prompt_bytes
from farm.annotate.plan import Act, Comparison, Job, Planner
from farm.records import Outcome

_WINDOW = 256  # prompts looked up in the ledger at a time
_SHORTEST = 2  # tokens of the tersest verdict


@dataclass
class Estimate:
    """Acts by what becomes of them, calls to make, and low, likely and high figures of what they take.

    ``low`` assumes few tokens per byte and terse answers; ``likely`` uses what answered calls of the same annotators
    took, where the ledger has some; ``high`` is what a budget reserves: it is never exceeded.
    """

    acts: int = 0
    identical: int = 0
    skipped: int = 0
    cached: int = 0
    calls: int = 0
    cached_calls: int = 0
    prompt_tokens: tuple[float, float, float] = (0.0, 0.0, 0.0)
    completion_tokens: tuple[float, float, float] = (0.0, 0.0, 0.0)
    usd: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unpriced: tuple[str, ...] = ()

    def __add__(self, other: Estimate) -> Estimate:
        both: dict[str, Any] = {n: getattr(self, n) + getattr(other, n) for n in _COUNTS}
        both |= {n: _sum(getattr(self, n), getattr(other, n)) for n in _RANGES}
        return Estimate(**both, unpriced=tuple(sorted({*self.unpriced, *other.unpriced})))

    def lines(self) -> list[str]:
        """For people."""
        share = self.cached_calls / max(1, self.calls + self.cached_calls)
        out = [
            f"judgements: {self.acts} ({self.identical} of identical texts, {self.skipped} spared because noise "
            f"decides the label, {self.cached} answered in the ledger)",
            f"calls: {self.calls} to make, {self.cached_calls} cached ({share:.1%})",
            f"prompt tokens: {_range(self.prompt_tokens)}; completion tokens: {_range(self.completion_tokens)}",
        ]
        if self.unpriced:
            return [*out, f"cost: unknown, {', '.join(self.unpriced)} has no price (annotate.endpoint.prices)"]
        low, likely, high = self.usd
        return [*out, f"cost: {low:.4f} to {high:.4f} USD, likely {likely:.4f} USD"]


_COUNTS = ("acts", "identical", "skipped", "cached", "calls", "cached_calls")
_RANGES = ("prompt_tokens", "completion_tokens", "usd")


def estimate(planner: Planner, comparisons: Iterable[Comparison], ledger: Ledger) -> Estimate:
    """Plans everything, looks everything up, sends nothing."""
    e = Estimate(unpriced=tuple(planner.unpriced))
    usual = ledger.usual()

    def unasked(act: Act, outcome: Outcome) -> None:
        e.acts += 1
        e.identical += outcome is Outcome.IDENTICAL
        e.skipped += outcome is Outcome.SKIPPED

    def count(window: list[Job], seen: set[str]) -> None:
        known = ledger.answers([j.key for j in window])
        for job in window:
            e.acts += len(job.acts)
            if job.key in known:
                e.cached += len(job.acts)
                e.cached_calls += 1
            elif job.key not in seen:
                seen.add(job.key)
                e.calls += 1
                size = prompt_bytes(job.request)
                most = job.request.max_tokens
                prompts = [size / b for b in BYTES_PER_TOKEN]
                answers = [float(min(_SHORTEST * len(job.acts), most)), most / 2, float(most)]
                if (found := usual.get(job.call.annotator)) is not None and found[2] >= 10:
                    prompts[1], answers[1] = found[0], found[1]
                costs = [job.call.price.usd(p, c) for p, c in zip(prompts, answers, strict=True)]
                costs[2] = job.call.reserved
                e.prompt_tokens = _sum(e.prompt_tokens, (prompts[0], prompts[1], prompts[2]))
                e.completion_tokens = _sum(e.completion_tokens, (answers[0], answers[1], answers[2]))
                e.usd = _sum(e.usd, (costs[0], costs[1], costs[2]))

    window: list[Job] = []
    seen: set[str] = set()
    for job in planner.jobs(comparisons, unasked):
        window.append(job)
        if len(window) == _WINDOW:
            count(window, seen)
            window.clear()
    count(window, seen)
    return e


def _sum(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _range(r: tuple[float, float, float]) -> str:
    return f"{r[0]:,.0f} to {r[2]:,.0f} (likely {r[1]:,.0f})"
