"""Verdicts in columns: many judgements of one judge on one model, as arrays, where records would be too slow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from farm.data.collect import UNORDERED
from farm.errors import DataError
from farm.records import Judgement, Response

OTHERS, REFERENCE = "others", "reference"
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """All acts in which ``annotator`` (one judge, or a pool) compared ``model`` with ``reference``, in file order.

    Columns have one entry per act. ``ids`` names the instruction; ``score`` is P(model preferred) in [0, 1], 0.5 for a
    tie and NaN without a verdict; ``longer_by`` the model's text minus the reference's in characters, NaN where a text
    is unknown; ``model_first`` 1 or 0, NaN where the order shown is unknown; ``judges`` the members of a pool;
    ``seeds`` the training seed of the model; ``opponents`` the policy met, where the reference is
    'others'. ``outputs``, ``reference_outputs`` and ``asked`` are texts by instruction, where they are known;
    ``rejected`` counts rows of the file that could not be used.
    """

    annotator: str
    reference: str
    model: str
    ids: tuple[str, ...]
    score: Array
    longer_by: Array
    model_first: Array
    judges: tuple[str, ...]
    seeds: tuple[int, ...]
    opponents: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    rejected: int = 0
    reference_outputs: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {len(c) for c in (self.ids, self.score, self.longer_by, self.model_first, self.judges, self.seeds)}
        if len(sizes) != 1:
            raise DataError(f"verdicts on {self.model}: columns of different lengths {sorted(sizes)}")

    @property
    def name(self) -> tuple[str, str, str]:
        return self.annotator, self.reference, self.model

    def take(self, keep: npt.NDArray[np.bool_]) -> Verdicts:
        """Some of the acts."""
        where = np.flatnonzero(keep)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in where),
            score=self.score[where],
            longer_by=self.longer_by[where],
            model_first=self.model_first[where],
            judges=tuple(self.judges[i] for i in where),
            seeds=tuple(self.seeds[i] for i in where),
            opponents=tuple(self.opponents[i] for i in where) if self.opponents else (),
        )

    def by_instruction(self) -> tuple[list[str], Array, Array]:
        """Sorted instruction ids with the mean score and mean ``longer_by`` of the acts that have a verdict."""
        valid = ~np.isnan(self.score)
        names, codes = np.unique(np.array(self.ids, dtype=object)[valid].astype(str), return_inverse=True)
        count = np.bincount(codes, minlength=len(names))
        score = np.bincount(codes, self.score[valid], len(names)) / np.maximum(count, 1)
        longer = np.bincount(codes, self.longer_by[valid], len(names)) / np.maximum(count, 1)
        return [str(n) for n in names], score, longer


def of_records(
    judgements: Iterable[Judgement],
    responses: Mapping[str, Response],
    *,
    reference: str | None = None,
    pool: str | None = None,
    seed: int = 0,
    soft: bool = True,
) -> list[Verdicts]:
    """Columns of the farm's own records, one per annotator and policy judged against ``reference``.

    Without a ``reference`` every policy is set against all it met, under the name 'others'. ``pool`` puts all
    annotators under one name and keeps them apart in ``judges``. ``soft`` uses the probability a judge revealed instead
    of its verdict. Pairs without the reference are left out. Raises DataError when a judgement names an unknown
    response or occurs twice.
    """
    rows: dict[tuple[str, str], list[tuple[str, float, float, float, str, str]]] = {}
    texts: dict[tuple[str, str], dict[str, str]] = {}
    seen: set[tuple[str, str, int]] = set()
    for j in judgements:
        if any(i not in responses for i in j.shown):
            missing = next(i for i in j.shown if i not in responses)
            raise DataError(
                f"judgement on pair {j.pair_id} by {j.annotator} names response {missing}, which is not among the "
                f"{len(responses)} responses given: pass the responses that were judged"
            )
        if (j.pair_id, j.annotator, j.draw) in seen:
            raise DataError(f"pair {j.pair_id}, annotator {j.annotator}, draw {j.draw}: judged twice; number the draws")
        seen.add((j.pair_id, j.annotator, j.draw))
        shown = [responses[i] for i in j.shown]
        for mine, other in (shown, shown[::-1]):
            if mine.policy == other.policy or (reference is not None and other.policy != reference):
                continue
            key = (pool or j.annotator, mine.policy)
            longer = float(len(mine.text) - len(other.text)) if mine.text or other.text else math.nan
            first = math.nan if j.fingerprint == UNORDERED else float(j.shown[0] == mine.id)
            act = (j.instruction_id, _score(j, mine.id, soft), longer, first, j.annotator, other.policy)
            rows.setdefault(key, []).append(act)
            if mine.text:
                texts.setdefault(key, {})[j.instruction_id] = mine.text
    return [
        Verdicts(
            annotator,
            reference or OTHERS,
            model,
            tuple(r[0] for r in group),
            np.array([r[1] for r in group]),
            np.array([r[2] for r in group]),
            np.array([r[3] for r in group]),
            tuple(r[4] for r in group),
            (seed,) * len(group),
            tuple(r[5] for r in group),
            texts.get((annotator, model), {}),
        )
        for (annotator, model), group in rows.items()
    ]


def common_policy(judgements: Sequence[Judgement], responses: Mapping[str, Response]) -> str | None:
    """The one policy that every judgement is about, such as the reference of a study; None without such a policy. Where
    all judgements are about the same two, it is the one called 'reference', as a run calls it, if one is."""
    shared: set[str] | None = None
    for j in judgements:
        names = {responses[i].policy for i in j.shown if i in responses}
        shared = names if shared is None else shared & names
    if shared and len(shared) == 1:
        return next(iter(shared))
    return REFERENCE if shared and REFERENCE in shared else None


def _score(judgement: Judgement, mine: str, soft: bool) -> float:
    if not judgement.outcome.judged:
        return float("nan")
    if soft and judgement.probability is not None:
        a = min(judgement.shown)
        return judgement.probability if mine == a else 1.0 - judgement.probability
    return 0.5 if judgement.winner_id is None else float(judgement.winner_id == mine)


def joined(parts: Iterable[Verdicts]) -> list[Verdicts]:
    """Verdicts on the same model by the same annotator put together, such as those of several training seeds."""
    groups: dict[tuple[str, str, str], list[Verdicts]] = {}
    for part in parts:
        groups.setdefault(part.name, []).append(part)
    return [
        Verdicts(
            *name,
            tuple(i for v in group for i in v.ids),
            np.concatenate([v.score for v in group]),
            np.concatenate([v.longer_by for v in group]),
            np.concatenate([v.model_first for v in group]),
            tuple(j for v in group for j in v.judges),
            tuple(s for v in group for s in v.seeds),
            tuple(o for v in group for o in v.opponents),
            {i: t for v in group for i, t in v.outputs.items()},
            sum(v.rejected for v in group),
            {i: t for v in group for i, t in v.reference_outputs.items()},
            {i: t for v in group for i, t in v.asked.items()},
        )
        for name, group in groups.items()
    ]
