"""How reliable people are among themselves, and whether a judge may stand in for one of them.

Krippendorff's alpha (Krippendorff, Content Analysis, 2004, ch. 11) and the alternative annotator test (Calderon,
Reichart and Dror, ACL 2025, arXiv 2501.10970, section 3).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from farm.errors import DataError
from farm.evaluate import intervals
from farm.evaluate.intervals import Array
from farm.records import Estimate, Record
from farm.study.ballots import SIGNS, Ballots, Ints, Items, first_of_each, majority, per_item, resampled

Metric = Literal["nominal", "interval"]


def krippendorff_alpha(counts: Array, cluster: Ints, *, seed: int, metric: Metric = "nominal") -> Estimate:
    """Krippendorff's alpha of votes for -1, 0 and +1, shape (pairs, 3), with a bootstrap interval over clusters.

    1 - observed / expected disagreement: 1 = people always agree, 0 = as often as chance. ``nominal`` treats the three
    answers as unrelated, ``interval`` a tie as the middle. n = number of votes on pairs that have two or more.
    Not estimable without such pairs, or when everybody always gave the same answer.
    """
    m = counts.sum(1)
    used = m > 1
    counts, m = counts[used], m[used]
    n = int(m.sum())
    if not len(counts):
        return Estimate(value=None, n=0, note="not estimable: no pair has two votes")
    distance = np.subtract.outer(SIGNS, SIGNS) ** 2 if metric == "interval" else 1 - np.eye(3)
    coincidences = counts[:, :, None] * counts[:, None, :] - np.eye(3) * counts[:, None, :]
    coincidences /= (m - 1)[:, None, None]
    numbers, index = np.unique(cluster[used], return_inverse=True)
    sums = np.stack([per_item(index, column, len(numbers)) for column in coincidences.reshape(-1, 9).T], axis=1)
    value = _alpha(sums.sum(0)[None], distance)[0]
    if np.isnan(value):
        return Estimate(value=None, n=n, note="not estimable: all votes are the same")
    if len(numbers) == 1:
        return Estimate(value=float(value), n=n, note="no interval: one instruction")
    draws = _alpha(resampled(sums, seed) * len(numbers), distance)
    low, high = intervals.percentiles(draws[~np.isnan(draws)])
    return Estimate(value=float(value), ci95_low=low, ci95_high=high, n=n)


def _alpha(coincidences: Array, distance: Array) -> Array:
    """Alpha of each coincidence matrix, given flat, shape (draws, 9); NaN where nothing can disagree."""
    o = coincidences.reshape(-1, 3, 3)
    each = o.sum(2)
    n = each.sum(1)
    observed = (o * distance).sum((1, 2)) / n
    expected = np.einsum("dc,dk,ck->d", each, each, distance) / (n * (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(expected > 1e-12, 1 - observed / expected, np.nan))


class Excluded(Record):
    """One person left out: the judge's gap to them on ``n`` pairs (share of pairs on which the person represents the
    others at least as well as the judge, minus the reverse), its p value, and whether the judge wins."""

    person: str
    n: int
    gap: float
    p: float
    judge_wins: bool


class AlternativeTest(Record):
    """The alternative annotator test of one judge. ``winning_rate`` is the share of people whom it can stand in for;
    it passes from 0.5 on. ``advantage`` is the chance that it represents the others at least as well as a person
    does. ``n_people_left_out`` had fewer than the least number of pairs."""

    annotator: str
    epsilon: float
    winning_rate: float | None
    passes: bool | None
    advantage: Estimate
    people: tuple[Excluded, ...] = ()
    n_people_left_out: int = 0
    note: str = ""


def alternative_annotator_test(
    judge: Ballots,
    people: Ballots,
    items: Items,
    *,
    name: str,
    seed: int,
    epsilon: float = 0.1,
    fdr: float = 0.05,
    least: int = 30,
) -> AlternativeTest:
    """Can the judge replace a person? Each person in turn is left out; on every pair that they and somebody else
    labelled, the person's and the judge's agreement with the others are compared.

    ``epsilon`` is what the judge is allowed to be worse by because it is cheaper: the authors advise 0.2 against
    experts, 0.15 against skilled and 0.1 against crowd workers. The null hypothesis of every person is
    ``gap >= epsilon``: t test from 30 pairs on, Wilcoxon's signed ranks (normal approximation) below; ``least`` lowers
    the bar of 30.
    The people's p values share one false discovery rate ``fdr`` (Benjamini and Yekutieli). A judge with several acts
    on a pair gives their majority, a tie when even; a person's first act is the vote.
    Raises DataError when ``epsilon``, ``fdr`` or ``least`` are out of range.
    """
    if not 0 <= epsilon < 1 or not 0 < fdr < 1 or least < 2:
        raise DataError(f"epsilon must lie in [0, 1), fdr in (0, 1), least from 2 on; got {epsilon}, {fdr}, {least}")
    votes = first_of_each(people)
    counts, own = votes.counts(len(items)), judge.counts(len(items))
    said = majority(own, "half")
    usable = (own.sum(1) > 0) & (counts.sum(1) > 1)
    verdict = (said @ SIGNS).astype(np.int64)
    tested: list[tuple[str, Ints, Array, Array]] = []
    few = 0
    for k, person in enumerate(votes.names):
        mine = votes.where((votes.annotator == k) & usable[votes.item])
        if len(mine) < least:
            few += bool((votes.annotator == k).any())
            continue
        others = counts[mine.item] - (mine.verdict[:, None] == SIGNS[None, :])
        rows = np.arange(len(mine))
        by_person, by_judge = others[rows, mine.verdict + 1], others[rows, verdict[mine.item] + 1]
        tested.append((person, mine.item, by_judge >= by_person, by_person >= by_judge))
    if not tested:
        none = Estimate(value=None, n=0, note=f"not estimable: nobody shares {least} judged pairs with another person")
        return AlternativeTest(
            annotator=name, epsilon=epsilon, winning_rate=None, passes=None, advantage=none, n_people_left_out=few,
            note=none.note,
        )  # fmt: skip
    gaps = [human.astype(float) - machine.astype(float) for _, _, machine, human in tested]
    ps = [_p_value(gap, epsilon) for gap in gaps]
    wins = benjamini_yekutieli(np.array(ps), fdr)
    rate = float(np.mean(wins))
    return AlternativeTest(
        annotator=name,
        epsilon=epsilon,
        winning_rate=rate,
        passes=rate >= 0.5,
        advantage=_advantage([(item, machine.astype(float)) for _, item, machine, _ in tested], items, seed),
        people=tuple(
            Excluded(person=t[0], n=len(gap), gap=float(gap.mean()), p=p, judge_wins=bool(won))
            for t, gap, p, won in zip(tested, gaps, ps, wins, strict=True)
        ),
        n_people_left_out=few,
    )


def _p_value(gap: Array, epsilon: float) -> float:
    """P of a mean gap this small if it were ``epsilon``."""
    from scipy import stats

    if np.ptp(gap) == 0:
        return 0.0 if gap[0] < epsilon else 1.0
    if len(gap) < 30:
        return float(stats.wilcoxon(gap - epsilon, alternative="less", method="approx").pvalue)
    return float(stats.ttest_1samp(gap, epsilon, alternative="less").pvalue)


def benjamini_yekutieli(p: Array, q: float) -> Array:
    """Which hypotheses are rejected at false discovery rate ``q`` under any dependence, shape (m,)."""
    m = len(p)
    order = np.argsort(p, kind="stable")
    bars = np.arange(1, m + 1) / m * q / (1 / np.arange(1, m + 1)).sum()
    below = np.flatnonzero(p[order] <= bars)
    rejected = np.zeros(m, dtype=bool)
    rejected[order[: below[-1] + 1 if len(below) else 0]] = True
    return rejected


def _advantage(wins: list[tuple[Ints, Array]], items: Items, seed: int) -> Estimate:
    """Mean over people of the judge's share of pairs, its interval by resampling instructions."""
    numbers, index = np.unique(items.cluster, return_inverse=True)
    columns = [per_item(index[item], w, len(numbers)) for item, w in wins]
    totals = [per_item(index[item], np.ones(len(item)), len(numbers)) for item, _ in wins]
    tops, bottoms = np.array(columns), np.array(totals)
    value = float(np.mean(tops.sum(1) / bottoms.sum(1)))
    n = int(bottoms.sum())
    if len(numbers) == 1:
        return Estimate(value=value, n=n, note="no interval: one instruction")
    drawn = resampled(np.concatenate([tops, bottoms]).T, seed)
    with np.errstate(invalid="ignore"):
        draws = np.nanmean(drawn[:, : len(tops)] / drawn[:, len(tops) :], axis=1)
    low, high = intervals.percentiles(draws)
    return Estimate(value=value, ci95_low=low, ci95_high=high, n=n)
