"""The label of a calibrated annotator: a draw from what people would say, given what the judges said.

``farm calibrate`` fits these numbers to human votes and writes them into ``pool.yaml``; ``noise.settle`` draws with
them instead of flipping labels uniformly. With the two responses ``a`` and ``b`` (the smaller id first), the m acts
with a verdict on a pair are read as evidence that people prefer ``a``, in log-odds:

    E = sum_t  (verdict * v_t + confidence * q_t + position * o_t) / (1 + (m - 1) * dependence)
      + mean_t (length * l + lists * d)                            / (1 + (m - 1) * fading)

    v_t  +1 when act t chose a, -1 when b, 0 for a tie
    q_t  log-odds of the act's own probability for a, clipped to [0.02, 0.98]; 0 when the judge reveals none
    o_t  +1 when act t was shown a first, -1 when b
    l    (characters of a - characters of b) / (their sum)
    d    +1 when only a looks like a list, -1 when only b, else 0

The weights are those of act t's annotator. Verdicts add up, discounted because judges err together; what the texts look
like says less the more verdicts there are. The person whom annotator k stands for has a lean to the response it was
shown first and a taste for length of its own:

    P_k(a) = sigmoid( E + first_k * o_k + longer_k * l )

One act alone is the case m = 1: nothing but the act itself, the texts and the order is needed. The label is a draw,
so a contested pair (P near 1/2) gets noisy labels and a clear one does not. Part of the luck belongs to the pair and
not to the person: people agree on a pair more than their predicted probabilities say, because they see something that
no judge saw. With standard normal draws keyed by pair (``g``) and by pair, annotator and draw (``h``),

    label is a  when  Phi( sqrt(shared) * g + sqrt(1 - shared) * h ) < P_k(a),

which leaves every single label's chance at exactly P_k(a) whatever ``shared`` is (a Gaussian copula).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

import yaml
from pydantic import BaseModel, ConfigDict, Field

from farm.data.collect import UNORDERED
from farm.data.looks import looks_like_list, relative_length
from farm.errors import AnnotatorError, DataError
from farm.records import Judgement, Outcome, Pair
from farm.seeds import uniform

CLIP = 0.02
_NORMAL = NormalDist()


class ActNoise(BaseModel):
    """One annotator's weights, in log-odds: ``annotators[].noise`` in ``pool.yaml``. The first five say how its acts
    are read, ``first`` and ``longer`` what the person it stands for likes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    verdict: float = 0.0
    confidence: float = 0.0
    position: float = 0.0
    length: float = 0.0
    lists: float = 0.0
    first: float = 0.0
    longer: float = 0.0


class PoolNoise(BaseModel):
    """What the whole pool shares: ``noise`` at the top of ``pool.yaml``. ``dependence`` 0 = judges err independently,
    1 = they count as one; ``fading`` is how fast the texts' looks lose weight as verdicts are added; ``shared`` is the
    part of the luck that all labels of one pair have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    dependence: float = Field(1.0, ge=0, le=1)
    fading: float = Field(0.0, ge=0, le=1)
    shared: float = Field(0.0, ge=0, lt=1)


def log_odds(probability: float | None) -> float:
    """Log-odds of a probability clipped to [0.02, 0.98]; 0 when there is none."""
    if probability is None:
        return 0.0
    p = min(max(probability, CLIP), 1 - CLIP)
    return math.log(p / (1 - p))


def side(judgement: Judgement, pair: Pair) -> int:
    """+1 when the act chose ``pair.a``, -1 when ``pair.b``, 0 otherwise."""
    return (judgement.winner_id == pair.a) - (judgement.winner_id == pair.b)


def order(judgement: Judgement, pair: Pair) -> int:
    """+1 when the act was shown ``pair.a`` first, -1 when ``pair.b``, 0 when an imported act does not say."""
    return 0 if judgement.fingerprint == UNORDERED else 1 if judgement.shown[0] == pair.a else -1


def chances(
    acts: Sequence[Judgement],
    pair: Pair,
    texts: tuple[str, str],
    noise: Mapping[str, ActNoise],
    population: PoolNoise,
) -> list[float | None]:
    """P(a) of the label of every act on ``pair``, in order; None for an act without a verdict or on identical texts.

    ``texts`` are those of ``pair.a`` and ``pair.b``; ``noise`` is keyed by annotator id.
    Raises DataError when an act's annotator has no noise.
    """
    length = relative_length(*texts)
    lists = int(looks_like_list(texts[0])) - int(looks_like_list(texts[1]))
    usable = [j.outcome.judged and j.outcome is not Outcome.IDENTICAL for j in acts]
    said, looks, m = 0.0, 0.0, 0
    for j, use in zip(acts, usable, strict=True):
        if not use:
            continue
        w = noise.get(j.annotator)
        if w is None:
            raise DataError(f"annotator {j.annotator} has no calibrated noise (calibrated: {', '.join(sorted(noise))})")
        said += w.verdict * side(j, pair) + w.confidence * log_odds(j.probability) + w.position * order(j, pair)
        looks += w.length * length + w.lists * lists
        m += 1
    evidence = 0.0
    if m:
        evidence = said / (1 + (m - 1) * population.dependence) + looks / m / (1 + (m - 1) * population.fading)
    return [
        _sigmoid(evidence + noise[j.annotator].first * order(j, pair) + noise[j.annotator].longer * length)
        if use
        else None
        for j, use in zip(acts, usable, strict=True)
    ]


def labels(
    acts: Sequence[Judgement],
    pair: Pair,
    texts: tuple[str, str],
    noise: Mapping[str, ActNoise],
    population: PoolNoise,
    seed: int,
) -> list[int | None]:
    """The calibrated label of every act: +1 for ``pair.a``, -1 for ``pair.b``, 0 identical texts, None no verdict.

    A pure function of the acts on this pair and of ``seed``: other pairs, order and concurrency do not matter.
    """
    found: list[int | None] = []
    for j, p in zip(acts, chances(acts, pair, texts, noise, population), strict=True):
        if p is None:
            found.append(0 if j.outcome is Outcome.IDENTICAL else None)
        else:
            found.append(1 if luck(seed, j, population.shared) < p else -1)
    return found


def luck(seed: int, judgement: Judgement, shared: float) -> float:
    """The act's luck in (0, 1): uniform for each act, correlated between acts on one pair."""
    own = _NORMAL.inv_cdf(_inner(uniform(seed, "noise act", judgement.pair_id, judgement.annotator, judgement.draw)))
    pair = _NORMAL.inv_cdf(_inner(uniform(seed, "noise pair", judgement.pair_id)))
    return _NORMAL.cdf(math.sqrt(shared) * pair + math.sqrt(1 - shared) * own)


def _inner(u: float) -> float:
    """Keeps a uniform draw off the ends, where the normal quantile is infinite."""
    return min(max(u, 1e-12), 1 - 1e-12)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def write_pool(
    base: Path, out: Path, noise: Mapping[str, ActNoise], population: PoolNoise, name: str, about: str
) -> None:
    """Copy the pool in folder ``base`` to ``out`` with fitted noise for each of its annotators; ``about`` says where
    the numbers come from. Raises AnnotatorError when ``out`` exists already or cannot be written."""
    if out.exists():
        raise AnnotatorError(f"{out} exists already; it is not overwritten: choose another --out, or remove it")
    try:
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(base, partial)
        path = partial / "pool.yaml"
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        data |= {"name": name, "description": about, "noise": population.model_dump()}
        data["annotators"] = [row | {"noise": noise[row["id"]].model_dump()} for row in data["annotators"]]
        order = ["name", "description", "noise", "annotators"]
        text = yaml.safe_dump({k: data[k] for k in order}, sort_keys=False, allow_unicode=True, width=110)
        path.write_text(
            "# Written by 'farm calibrate'; the numbers are explained in docs/agreement.md.\n" + text, "utf-8"
        )
        partial.replace(out)
    except OSError as e:
        raise AnnotatorError(f"{out}: the pool cannot be written ({e})") from e
