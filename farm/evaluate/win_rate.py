"""Win rate of a policy against a reference, from judgements of any source.

Ties and identical texts count half a win. Acts without a verdict are counted and left out of the value; the bounds
say what the value would be if all of them were lost or won. All judgements on one instruction form one cluster:
they are averaged, and every instruction weighs the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from farm.errors import DataError
from farm.evaluate import intervals
from farm.records import Estimate, Instruction, Judgement, Outcome, Response, WinRate


@dataclass(frozen=True)
class Act:
    """One judgement seen from the policy: ``score`` 1 won, 0.5 tie, 0 lost, None without a verdict.

    ``longer_by`` is the length of the policy's text minus that of the reference, in characters.
    """

    instruction_id: str
    outcome: Outcome
    score: float | None
    longer_by: int


@dataclass(frozen=True)
class Comparison:
    """All acts in which one judge (or pool) compared ``policy`` with ``reference``."""

    policy: str
    reference: str
    judge: str
    acts: tuple[Act, ...]

    @cached_property
    def scores(self) -> dict[str, float]:
        """Instruction id -> mean score of its verdicts; instructions without a verdict are absent."""
        return self._means(None)

    @cached_property
    def longer_by(self) -> dict[str, float]:
        """Instruction id -> mean length difference over the same acts as in ``scores``."""
        groups: dict[str, list[float]] = {}
        for act in self.acts:
            if act.score is not None:
                groups.setdefault(act.instruction_id, []).append(act.longer_by)
        return {i: sum(group) / len(group) for i, group in groups.items()}

    def _means(self, failed: float | None) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for act in self.acts:
            score = failed if act.score is None else act.score
            if score is not None:
                groups.setdefault(act.instruction_id, []).append(score)
        return {i: sum(group) / len(group) for i, group in groups.items()}

    @property
    def outcomes(self) -> dict[str, int]:
        """How often each outcome occurred, in the order of ``Outcome``; the counts add up to the number of acts."""
        counts = Counter(act.outcome for act in self.acts)
        return {str(o): counts[o] for o in Outcome if counts[o]}

    def restricted(self, instruction_ids: Iterable[str]) -> Comparison:
        """The same comparison on some instructions only."""
        keep = set(instruction_ids)
        acts = tuple(act for act in self.acts if act.instruction_id in keep)
        return Comparison(self.policy, self.reference, self.judge, acts)


def compare(
    judgements: Iterable[Judgement], responses: Mapping[str, Response], *, policy: str, reference: str, judge: str
) -> Comparison:
    """Collect the judgements between ``policy`` and ``reference``; judgements on other pairs of policies are ignored.

    ``responses`` maps response id to Response. ``judge`` only names the result (a pool, one annotator, "humans").
    Raises DataError when a judgement names an unknown response, occurs twice, or disagrees with its responses about
    the instruction.
    """
    acts: list[Act] = []
    seen: set[str] = set()
    for judgement in judgements:
        first, second = (_response(responses, judgement, i) for i in judgement.shown)
        if {first.policy, second.policy} != {policy, reference} or policy == reference:
            continue
        if judgement.id in seen:
            raise DataError(
                f"judgement {judgement.id} (pair {judgement.pair_id}, annotator {judgement.annotator}, draw "
                f"{judgement.draw}) occurs twice: give repeated acts different draw numbers"
            )
        seen.add(judgement.id)
        mine, other = (first, second) if first.policy == policy else (second, first)
        acts.append(Act(judgement.instruction_id, judgement.outcome, _score(judgement, mine), _longer(mine, other)))
    return Comparison(policy, reference, judge, tuple(acts))


def _response(responses: Mapping[str, Response], judgement: Judgement, response_id: str) -> Response:
    response = responses.get(response_id)
    if response is None:
        raise DataError(
            f"judgement on pair {judgement.pair_id} by {judgement.annotator} names response {response_id}, which is "
            f"not among the {len(responses)} responses given: pass the responses that were judged"
        )
    if response.instruction_id != judgement.instruction_id:
        raise DataError(
            f"judgement on pair {judgement.pair_id} by {judgement.annotator} is about instruction "
            f"{judgement.instruction_id}, but its response {response_id} answers {response.instruction_id}"
        )
    return response


def _score(judgement: Judgement, mine: Response) -> float | None:
    if not judgement.outcome.judged:
        return None
    if judgement.winner_id is None:
        return 0.5
    return float(judgement.winner_id == mine.id)


def _longer(mine: Response, other: Response) -> int:
    return len(mine.text) - len(other.text)


def win_rate(comparison: Comparison, *, seed: int, lc_value: float | None = None) -> WinRate:
    """The win rate of one comparison with its interval over instructions."""
    value = intervals.over_seeds([comparison.scores], seed=seed)
    return _record([comparison], comparison.policy, value, lc_value)


def pooled_win_rate(comparisons: Sequence[Comparison], *, policy: str, seed: int) -> WinRate:
    """The win rate of one method over several training seeds, its interval over instructions and seeds.

    ``policy`` names the method; the counts are summed over the seeds. Raises DataError without a comparison.
    """
    if not comparisons:
        raise DataError(f"no comparison given for {policy}")
    return _record(comparisons, policy, intervals.over_seeds([c.scores for c in comparisons], seed=seed), None)


def by_source(comparison: Comparison, instructions: Iterable[Instruction], *, seed: int) -> dict[str, WinRate]:
    """Win rate per sub-distribution (``Instruction.source``), sorted by name; sources without an act are absent."""
    groups: dict[str, list[str]] = {}
    for instruction in instructions:
        groups.setdefault(instruction.source, []).append(instruction.id)
    parts = {source: comparison.restricted(groups[source]) for source in sorted(groups)}
    return {source: win_rate(part, seed=seed) for source, part in parts.items() if part.acts}


def _record(comparisons: Sequence[Comparison], policy: str, value: Estimate, lc_value: float | None) -> WinRate:
    outcomes: Counter[str] = Counter()
    for comparison in comparisons:
        outcomes.update(comparison.outcomes)
    judged = {str(o) for o in Outcome if o.judged}
    single = comparisons[0].scores if len(comparisons) == 1 else {}
    return WinRate(
        policy=policy,
        reference=comparisons[0].reference,
        judge=comparisons[0].judge,
        value=value.value,
        standard_error=intervals.standard_error(list(single.values())),
        ci95_low=value.ci95_low,
        ci95_high=value.ci95_high,
        lc_value=lc_value,
        n=sum(count for outcome, count in outcomes.items() if outcome in judged),
        n_tie=outcomes[Outcome.TIE] + outcomes[Outcome.IDENTICAL],
        n_failed=sum(count for outcome, count in outcomes.items() if outcome not in judged),
        low_if_failed_lose=_bound(comparisons, 0.0),
        high_if_failed_win=_bound(comparisons, 1.0),
        outcomes={str(o): outcomes[o] for o in Outcome if outcomes[o]},
    )


def _bound(comparisons: Sequence[Comparison], failed: float) -> float | None:
    means = [list(c._means(failed).values()) for c in comparisons]
    if not all(means):
        return None
    return sum(sum(m) / len(m) for m in means) / len(means)
