"""Agreement of annotators with the human majority, and what each of them prefers.

The rows 'human', 'longest', 'first' and 'random' stand beside the annotators: an annotator that agrees with people
less than 'longest' does has taught us little, whatever its number. Definitions: docs/agreement.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from farm.data.looks import looks_like_list
from farm.evaluate.intervals import Array
from farm.records import Agreement, Estimate, Judgement, Outcome, Response
from farm.seeds import uniform
from farm.study.ballots import (
    Ballots,
    Ints,
    Items,
    Share,
    Ties,
    ballots_of,
    credit,
    estimate,
    first_of_each,
    items_of,
    left_out,
    majority,
    per_item,
)

YARDSTICKS = ("longest", "first", "random")
_NO_MAJORITY = "no verdict on a pair with two human votes"


def agreement(
    judgements: Iterable[Judgement],
    votes: Iterable[Judgement],
    responses: Mapping[str, Response],
    *,
    group: str = "human",
    seed: int,
    ties: Ties = "half",
    longer_by: int = 0,
    has_list: Callable[[str], bool] = looks_like_list,
) -> list[Agreement]:
    """One row per annotator, then 'pool' (all of them), 'human', 'longest', 'first' and 'random'.

    ``votes`` are the humans' judgements, a person's first act on a pair being the vote. ``agreement`` is
    leave-one-out for every row alike: each vote in turn is left out, and the verdict (the left-out vote itself in row
    'human') is compared with the majority of the others, so that all rows face majorities of the same size.
    ``with_majority`` compares with the majority of all votes; ``one_vote`` with every single vote, ``one_vote_decided``
    where neither is a tie. ``bias`` is the error of the annotator's own majority against people's, ``variance`` the
    leave-one-out error of the annotator against itself over its draws (the pool: over its annotators), and
    ``self_agreement`` the share of pairs of its draws that agree. Preferences (longer by more than ``longer_by``
    characters, the only list, first shown) are shares of decided verdicts on pairs where they apply.

    ``ties`` is how ties count in majorities (:func:`farm.study.ballots.majority`): 'half' a win, as a third answer
    ('exact'), or left out ('decided'). Every verdict counts the same; intervals: bootstrap over instructions.
    Annotators sorted by id. Without any human verdict the rows from 'human' on are left out.
    Raises DataError when a judgement names an unknown response or is given twice.
    """
    acts, human_acts = list(judgements), list(votes)
    items = items_of([*human_acts, *acts], responses, longer_by=longer_by, has_list=has_list)
    ballots, people = ballots_of(acts, items), ballots_of(human_acts, items)
    rows = [_Row(_free(name), ballots.of(name), _outcomes(acts, name)) for name in ballots.names]
    if len(rows) > 1:
        rows.append(_Row("pool", ballots, _outcomes(acts)))
    crowd = _Crowd(people, items, ties)
    if len(people):
        rows.append(_Row("human", people, _outcomes(human_acts)))
        rows += [_Row(rule, as_if(rule, items, crowd.asked, seed)) for rule in YARDSTICKS]
    failed = Counter((_free(j.annotator), j.pair_id) for j in acts if not j.outcome.judged)
    return _measured(rows, items, crowd, group, seed, _failures(failed, items, crowd))


def _free(annotator: str) -> str:
    """The annotator's name, told apart from a row of our own."""
    return f"{annotator} (judge)" if annotator in ("pool", "human", *YARDSTICKS) else annotator


@dataclass(frozen=True)
class _Row:
    name: str
    ballots: Ballots
    outcomes: dict[str, int] = field(default_factory=dict)


class _Crowd:
    """The people's votes per pair, and the majorities they make."""

    def __init__(self, people: Ballots, items: Items, ties: Ties) -> None:
        n = len(items)
        self.ties: Ties = ties
        self.all = people
        self.votes = first_of_each(people)
        self.counts = self.votes.counts(n)
        self.asked = np.flatnonzero(self.counts.sum(1) > 0)
        self.credit = credit(ties)
        self.majority = majority(self.counts, ties)
        self.one_less, self.others = left_out(self.counts, ties)


def _outcomes(acts: Iterable[Judgement], annotator: str | None = None) -> dict[str, int]:
    counts = Counter(j.outcome for j in acts if annotator in (None, j.annotator))
    return {str(o): counts[o] for o in Outcome if counts[o]}


def as_if(rule: str, items: Items, asked: Ints, seed: int) -> Ballots:
    """What someone following a rule would have said once on every pair in ``asked``.

    'longest' has no verdict on texts that are not known and a tie on equally long ones; 'first' and 'random' draw
    orders and coins keyed by the pair.
    """
    asked = asked[items.known[asked]] if rule == "longest" else asked
    ids = [items.ids[k] for k in asked]
    order = np.array([1 if uniform(seed, "baseline order", i) < 0.5 else -1 for i in ids], dtype=np.int64)
    coin = np.array([1 if uniform(seed, "baseline coin", i) < 0.5 else -1 for i in ids], dtype=np.int64)
    verdict = {"longest": items.longer[asked], "first": order, "random": coin}[rule]
    return Ballots((rule,), asked, np.zeros(len(asked), dtype=np.int64), verdict, order)


def _measured(
    rows: Sequence[_Row], items: Items, crowd: _Crowd, group: str, seed: int, failed: Mapping[str, int]
) -> list[Agreement]:
    """All shares of all rows in one bootstrap."""
    measured = [_shares(row, items, crowd) for row in rows]
    flat = estimate([s for shares in measured for s in shares.values()], items.cluster, seed=seed)
    out, k = [], 0
    for row, shares in zip(rows, measured, strict=True):
        found: dict[str, Estimate] = dict(zip(shares, flat[k : k + len(shares)], strict=True))
        k += len(shares)
        if row.name == "human":
            found["bias"] = Estimate(value=0.0, n=int((crowd.majority.sum(1) > 0).sum()), note="0 by definition")
        value = found["agreement"]
        lost = failed.get(row.name, 0)
        low = value.value * value.n / (value.n + lost) if value.value is not None else None
        out.append(Agreement(annotator=row.name, group=group, outcomes=row.outcomes, low_if_failed=low, **found))
    return out


def _shares(row: _Row, items: Items, crowd: _Crowd) -> dict[str, Share]:
    own, n = row.ballots, len(items)
    counts = own.counts(n)
    shares = _against_people(row, n, counts, crowd) if len(crowd.all) else {"agreement": _none(n, _NO_MAJORITY)}
    if row.name not in YARDSTICKS:
        if row.name != "human":
            shares["variance"] = _variance(own, counts, crowd.ties)
        shares["self_agreement"] = _self_agreement(own, n)
    decided = own.where(own.verdict != 0)
    for name, sign in (
        ("prefers_longer", items.longer[decided.item]),
        ("prefers_list", items.lists[decided.item]),
        ("prefers_first", decided.first),
    ):
        some = decided.where(sign != 0)
        shares[name] = Share.per_act(some.item, (some.verdict == sign[sign != 0]).astype(float), n, "no such verdict")
    return shares


def _none(n: int, why: str) -> Share:
    return Share(np.zeros(n), np.zeros(n), why)


def _against_people(row: _Row, n: int, counts: Array, crowd: _Crowd) -> dict[str, Share]:
    if row.name == "human":
        own = _counted(crowd.votes, crowd.ties)
        own = own.where(_counted_votes(crowd)[own.item] > 1)
        right = np.einsum("mk,mk->m", crowd.credit[own.verdict + 1], crowd.one_less[own.verdict + 1, own.item])
        agree = Share.per_act(own.item, right, n, "no pair has two human votes")
        return {
            "agreement": agree,
            "variance": agree.complement,
            "one_vote": _pairs_alike(crowd.counts),
            "one_vote_decided": _pairs_alike(crowd.counts * np.array([1, 0, 1])),
        }
    own = _counted(row.ballots, crowd.ties)
    near = own.where(crowd.others.sum(1)[own.item] > 0)
    faced = own.where(crowd.majority.sum(1)[own.item] > 0)
    return {
        "agreement": _credited(near, crowd.others, crowd, n),
        "with_majority": _credited(faced, crowd.majority, crowd, n),
        "one_vote": _met(row.ballots, crowd.counts, n),
        "one_vote_decided": _met(row.ballots.where(row.ballots.verdict != 0), crowd.counts * np.array([1, 0, 1]), n),
        "bias": _bias(counts, crowd),
    }


def _counted(own: Ballots, ties: Ties) -> Ballots:
    """The verdicts that take part: all of them, or the decided ones."""
    return own.where(own.verdict != 0) if ties == "decided" else own


def _counted_votes(crowd: _Crowd) -> Array:
    usable = crowd.counts * np.array([1, 0, 1]) if crowd.ties == "decided" else crowd.counts
    total: Array = usable.sum(1)
    return total


def _credited(own: Ballots, target: Array, crowd: _Crowd, n: int) -> Share:
    earned = np.einsum("mk,mk->m", crowd.credit[own.verdict + 1], target[own.item])
    return Share.per_act(own.item, earned, n, _NO_MAJORITY)


def _met(own: Ballots, votes: Array, n: int) -> Share:
    """Over all (verdict, vote) couples on one pair: the share in which both say the same."""
    same = per_item(own.item, votes[own.item, own.verdict + 1], n)
    return Share(same, per_item(own.item, votes.sum(1)[own.item], n), "no verdict on a pair with a human vote")


def _pairs_alike(counts: Array) -> Share:
    """Over all couples of votes on one pair: the share in which both say the same."""
    total = counts.sum(1)
    return Share((counts * (counts - 1)).sum(1) / 2, total * (total - 1) / 2, "no pair has two human votes")


def _bias(counts: Array, crowd: _Crowd) -> Share:
    """Error of the annotator's majority against people's majority, per pair."""
    mine = majority(counts, crowd.ties)
    both = (mine.sum(1) > 0) & (crowd.majority.sum(1) > 0)
    right = np.einsum("nk,kl,nl->n", mine, crowd.credit, crowd.majority)
    return Share((1 - right) * both, both.astype(float), "no pair has both majorities")


def _variance(own: Ballots, counts: Array, ties: Ties) -> Share:
    """Leave-one-out error of the annotator's acts against the majority of its other acts on the same pair."""
    one_less, _ = left_out(counts, ties)
    own = _counted(own, ties)
    usable = counts * np.array([1, 0, 1]) if ties == "decided" else counts
    own = own.where(usable.sum(1)[own.item] > 1)
    right = np.einsum("mk,mk->m", credit(ties)[own.verdict + 1], one_less[own.verdict + 1, own.item])
    return Share.per_act(own.item, 1 - right, len(counts), "no pair was judged twice")


def _self_agreement(own: Ballots, n: int) -> Share:
    """Over all couples of draws by one annotator on one pair: the share in which both say the same."""
    slot, index = np.unique(own.item * (len(own.names) + 1) + own.annotator, return_inverse=True)
    counts = np.bincount(index * 3 + own.verdict + 1, minlength=3 * len(slot)).reshape(-1, 3).astype(float)
    each = _pairs_alike(counts)
    item = slot // (len(own.names) + 1)
    return Share(per_item(item, each.top, n), per_item(item, each.bottom, n), "no annotator judged a pair twice")


def _failures(failed: Counter[tuple[str, str]], items: Items, crowd: _Crowd) -> dict[str, int]:
    """Acts without a verdict on pairs that have a majority to agree with, per row."""
    with_majority = {items.ids[k] for k in np.flatnonzero(crowd.others.sum(1) > 0)}
    lost: Counter[str] = Counter()
    for (annotator, pair), count in failed.items():
        if pair in with_majority:
            lost.update({annotator: count, "pool": count})
    return dict(lost)


def loo_agreement(verdicts: Ints, votes: Ints, *, seed: int, ties: Ties = "half") -> Estimate:
    """The number ``agreement`` of one annotator from plain arrays, one instruction per pair.

    ``verdicts`` has shape (n,), ``votes`` (n, people); entries -1, 0, +1 as in :class:`farm.study.ballots.Ballots`.
    """
    n = len(votes)
    counts = np.stack([(votes == s).sum(1) for s in (-1, 0, 1)], axis=1).astype(float)
    _, others = left_out(counts, ties)
    earned = np.einsum("nk,nk->n", credit(ties)[verdicts + 1], others)
    usable = others.sum(1) > 0
    if ties == "decided":
        usable &= verdicts != 0
    return estimate([Share(earned * usable, usable.astype(float))], np.arange(n, dtype=np.int64), seed=seed)[0]
