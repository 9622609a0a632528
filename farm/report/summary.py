"""summary.json: the numbers of a run, typed and versioned. docs/report.md describes every field.

Measured times and memory are the only content that may differ between two runs with the same inputs;
:func:`stable` blanks them, so that reruns can be compared byte for byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from farm.errors import DataError
from farm.evaluate.canaries import CanaryRow
from farm.evaluate.scores import finished_share, mean_score, mean_tokens
from farm.records import (
    Agreement,
    Budget,
    Cost,
    Estimate,
    RankCorrelation,
    Record,
    Response,
    RewardCurve,
    WinRate,
    problems,
)
from farm.reward.report import RewardReport
from farm.study.annotators import AnnotatorRow
from farm.study.arms import ArmAlarm
from farm.study.budgets import Affordable, Choice
from farm.study.contrasts import Contrast
from farm.study.overoptimization import Verdict

SCHEMA_VERSION = 1


class MethodRow(Record):
    """One method trained with one seed, on the evaluation instructions. Rates are shares in [0, 1].

    ``n`` counts verdicts, ``n_failed`` acts of judging without one. ``cost_usd`` and ``seconds`` are those of making
    and judging this policy; ``kl`` is in nats per sequence from the SFT policy; ``best_of`` > 1 says how many responses
    are drawn for each one given.
    """

    method: str
    seed: int
    policy: str
    win_rate: float | None
    ci95_low: float | None
    ci95_high: float | None
    lc_win_rate: float | None
    gold: float | None
    proxy: float | None
    kl: float | None
    mean_tokens: float | None
    n: int
    n_failed: int
    cost_usd: float
    seconds: float | None
    n_tie: int = 0
    standard_error: float | None = None
    low_if_failed_lose: float | None = None
    high_if_failed_win: float | None = None
    lc_ci95_low: float | None = None
    lc_ci95_high: float | None = None
    human_win_rate: Estimate | None = None
    finished: float | None = None
    outcomes: dict[str, int] = Field(default_factory=dict)
    by_source: dict[str, WinRate] = Field(default_factory=dict)
    budget: Budget | None = None
    best_of: int = 0


class CurveRow(Record):
    """One point of an over-optimization curve, flat. ``n`` = responses (or prompts) behind it."""

    method: str
    seed: int
    x_name: str
    x: float
    proxy: float
    gold: float | None
    kl: float | None
    n: int
    proxy_se: float | None = None
    gold_se: float | None = None
    kl_se: float | None = None
    mean_tokens: float | None = None
    finished: float | None = None
    sequences: int | None = None


class RewardRow(Record):
    """The reward model that one training seed's methods were trained on, on preferences held out from its training."""

    seed: int
    report: RewardReport


class StageCost(Record):
    """What one stage took. ``seconds`` is wall time; ``cost`` counts judge calls."""

    stage: str
    seconds: float | None = None
    cost: Cost = Cost()


class Summary(Record):
    """Everything a run concluded. ``levels`` are means over seeds, ``differences`` are paired with ``baseline``.

    ``yardsticks`` names the methods in ``rows`` that were not trained (fixed writers): shown, but never a finding;
    ``controls`` are rows that optimised noise or length instead of the reward model.
    ``choices`` are the checkpoints that every row's policy was selected from, ``affordable`` the rows at equal numbers
    of responses drawn for training; both are empty unless the recipe selects. ``annotators`` are counted over all acts
    of the run, ``canaries`` are texts that deserve to lose, ``arms`` policies that the judge did not treat as it
    treats the others.
    """

    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    farm_version: str
    recipe: str
    seeds: tuple[int, ...]
    reference: str
    judge: str
    baseline: str
    yardsticks: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    n_instructions: int = Field(ge=0)
    rows: tuple[MethodRow, ...]
    levels: tuple[Contrast, ...] = ()
    differences: tuple[Contrast, ...] = ()
    rewards: tuple[RewardRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    choices: tuple[Choice, ...] = ()
    affordable: tuple[Affordable, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    correlation: RankCorrelation | None = None
    agreement: tuple[Agreement, ...] = ()
    annotators: tuple[AnnotatorRow, ...] = ()
    canaries: tuple[CanaryRow, ...] = ()
    canary_limit: float = 0.5
    arms: tuple[ArmAlarm, ...] = ()
    outcomes: dict[str, int] = Field(default_factory=dict)
    training_outcomes: dict[str, int] = Field(default_factory=dict)
    costs: tuple[StageCost, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: dict[str, str] = Field(default_factory=dict)
    wall_seconds: float | None = None
    peak_memory_mb: float | None = None


def method_row(
    method: str,
    seed: int,
    rate: WinRate,
    responses: Sequence[Response],
    *,
    proxy: str = "proxy",
    gold: str = "gold",
    lc: Estimate | None = None,
    kl: float | None = None,
    human: WinRate | None = None,
    by_source: Mapping[str, WinRate] | None = None,
    cost_usd: float = 0.0,
    seconds: float | None = None,
    budget: Budget | None = None,
    best_of: int = 0,
) -> MethodRow:
    """Assemble a row. ``responses`` are this policy's evaluation responses, their scores under the names given."""
    return MethodRow(
        method=method,
        seed=seed,
        policy=rate.policy,
        win_rate=rate.value,
        ci95_low=rate.ci95_low,
        ci95_high=rate.ci95_high,
        lc_win_rate=lc.value if lc else rate.lc_value,
        gold=mean_score(responses, gold),
        proxy=mean_score(responses, proxy),
        kl=kl,
        mean_tokens=mean_tokens(responses),
        n=rate.n,
        n_failed=rate.n_failed,
        cost_usd=cost_usd,
        seconds=seconds,
        n_tie=rate.n_tie,
        standard_error=rate.standard_error,
        low_if_failed_lose=rate.low_if_failed_lose,
        high_if_failed_win=rate.high_if_failed_win,
        lc_ci95_low=lc.ci95_low if lc else None,
        lc_ci95_high=lc.ci95_high if lc else None,
        human_win_rate=_estimate(human) if human else None,
        finished=finished_share(responses),
        outcomes=rate.outcomes,
        by_source=dict(by_source or {}),
        budget=budget,
        best_of=best_of,
    )


def _estimate(rate: WinRate) -> Estimate:
    return Estimate(value=rate.value, ci95_low=rate.ci95_low, ci95_high=rate.ci95_high, n=rate.n)


def curve_rows(curves: Sequence[RewardCurve]) -> tuple[CurveRow, ...]:
    """The points of all curves as flat rows, in the order given."""
    return tuple(
        CurveRow(method=c.method, seed=c.seed, x_name=c.x_name, **p.model_dump()) for c in curves for p in c.points
    )


def add_up(outcomes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Sum outcome counts, keys sorted."""
    keys = sorted({k for one in outcomes for k in one})
    return {k: sum(one.get(k, 0) for one in outcomes) for k in keys}


def stable(summary: Summary) -> Summary:
    """The same content without measured times and memory: equal for two runs with the same inputs."""
    rows = [
        row.model_copy(
            update={
                "seconds": None,
                "budget": row.budget.model_copy(update={"seconds": 0.0}) if row.budget else None,
            }
        )
        for row in summary.rows
    ]
    costs = [
        stage.model_copy(update={"seconds": None, "cost": stage.cost.model_copy(update={"seconds": 0.0})})
        for stage in summary.costs
    ]
    annotators = tuple(a.model_copy(update={"seconds_per_call": None}) for a in summary.annotators)
    blank = {
        "rows": tuple(rows),
        "costs": tuple(costs),
        "annotators": annotators,
        "wall_seconds": None,
        "peak_memory_mb": None,
    }
    return summary.model_copy(update=blank)


def dumps(summary: Summary) -> str:
    """The JSON text of summary.json: indented, fields in the order of the schema, free mappings sorted by key."""
    return json.dumps(_ordered(summary.model_dump(mode="json")), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_FREE = {"outcomes", "training_outcomes", "by_source", "provenance"}


def _ordered(value: Any, free: bool = False) -> Any:
    if isinstance(value, dict):
        names = sorted(value) if free else list(value)
        return {name: _ordered(value[name], name in _FREE) for name in names}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def write(path: Path, summary: Summary) -> None:
    """Write summary.json atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as f:
        f.write(dumps(summary))
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)


def read(path: Path) -> Summary:
    """Read summary.json. Raises DataError naming the file and the field, or an unknown schema version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); give the summary.json of a run") from None
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e})") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version is {version!r}, this version of farm reads {SCHEMA_VERSION}")
    try:
        return Summary.model_validate_json(json.dumps(data))
    except ValidationError as e:
        raise DataError(f"{path}: " + problems(e)) from None
