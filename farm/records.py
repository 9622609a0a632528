"""The records that pass between stages: frozen, typed, one JSON object per line, unknown field = error.

Three rules carry most of the weight. A label names a response id, never a position. A Judgement (one act by
one annotator) is not a Preference (what training reads). Failures are counted, never converted.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farm.errors import DataError
from farm.seeds import digest

Split = Literal["sft", "preference", "unlabeled", "val", "eval"]


class Record(BaseModel):
    """Base of all records: immutable, strict about types and about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Instruction(Record):
    """One task for a policy. ``id`` is a hash of ``text`` and ``input``.

    ``output`` is the reference output: the demonstration in a training split, the reference model's
    response in an evaluation set. ``source`` names the sub-distribution or the file it came from.
    """

    id: str
    text: str = Field(min_length=1)
    input: str = ""
    output: str = ""
    source: str = ""
    split: Split

    @classmethod
    def make(cls, text: str, input: str = "", output: str = "", source: str = "", split: Split = "sft") -> Self:
        return cls(
            id="i" + digest("instruction", text, input),
            text=text,
            input=input,
            output=output,
            source=source,
            split=split,
        )

    @property
    def full_text(self) -> str:
        """Instruction and input as one text, the way a judge or a person is shown it."""
        return f"{self.text}\n\n{self.input}" if self.input else self.text


class Sampling(Record):
    """How a response was drawn. ``top_p`` 1 and ``top_k`` 0 mean the full distribution."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(300, ge=1)
    seed: int = 0


class Response(Record):
    """One text by one policy. All its scores (reward models, gold) travel with it, by model name.

    ``n_tokens`` counts generated tokens without the end token; ``finished`` is False when the length limit cut it.
    """

    id: str
    instruction_id: str
    text: str
    policy: str
    draw: int = 0
    sampling: Sampling | None = None
    n_tokens: int = Field(ge=0)
    finished: bool = True
    scores: dict[str, float] = {}

    @classmethod
    def make(
        cls,
        instruction_id: str,
        text: str,
        policy: str,
        draw: int = 0,
        *,
        n_tokens: int,
        finished: bool = True,
        sampling: Sampling | None = None,
        scores: dict[str, float] | None = None,
    ) -> Self:
        return cls(
            id="r" + digest("response", instruction_id, policy, draw, text),
            instruction_id=instruction_id,
            text=text,
            policy=policy,
            draw=draw,
            sampling=sampling,
            n_tokens=n_tokens,
            finished=finished,
            scores=scores or {},
        )


class Pair(Record):
    """Two responses to one instruction, unordered: ``a < b`` by id. An order exists only when shown."""

    id: str
    instruction_id: str
    a: str
    b: str

    @classmethod
    def of(cls, first: Response, second: Response) -> Self:
        if first.instruction_id != second.instruction_id:
            raise DataError(f"a pair needs one instruction, got {first.instruction_id} and {second.instruction_id}")
        a, b = sorted((first.id, second.id))
        return cls(id="p" + digest("pair", a, b), instruction_id=first.instruction_id, a=a, b=b)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.a < self.b:
            raise ValueError(f"a pair needs two different ids with a < b, got a={self.a!r}, b={self.b!r}")
        return self


class Outcome(StrEnum):
    """What became of one act of judging. Only DECIDED names a winner; TIE and IDENTICAL count half a win."""

    DECIDED = "decided"
    TIE = "tie"
    IDENTICAL = "identical"  # the two texts are equal: not sent
    REFUSED = "refused"
    UNPARSEABLE = "unparseable"
    TRUNCATED = "truncated"
    FILTERED = "filtered"  # the provider's content filter
    FAILED = "failed"  # no answer after all attempts
    SKIPPED = "skipped"  # noise decides the label, so no call was paid

    @property
    def judged(self) -> bool:
        """Whether the act yields a verdict that enters a win rate."""
        return self in (Outcome.DECIDED, Outcome.TIE, Outcome.IDENTICAL)


class Cost(Record):
    """What something took. ``usd`` is 0 for local judges; ``seconds`` is time waited, summed over calls."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{k: getattr(self, k) + getattr(other, k) for k in Cost.model_fields})


class Judgement(Record):
    """One act by one annotator on one pair.

    ``shown`` are the two response ids in the order shown. ``probability`` is that of the smaller id (``Pair.a``)
    winning, where the judge reveals one; ``mass`` is how much probability the two labels' tokens held there together
    (a low mass makes the probability a guess). ``fingerprint`` identifies template, parser, sampling and model.
    """

    pair_id: str
    instruction_id: str
    annotator: str
    fingerprint: str = ""
    model: str = ""
    shown: tuple[str, str]
    outcome: Outcome
    winner_id: str | None = None
    probability: float | None = Field(None, ge=0, le=1)
    mass: float | None = Field(None, ge=0, le=1)
    raw: str = ""
    strength: float | None = Field(None, ge=0)  # how clear the preference is, where a person said so
    draw: int = 0
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _winner(self) -> Self:
        if (self.outcome is Outcome.DECIDED) != (self.winner_id is not None):
            raise ValueError(
                f"outcome {self.outcome} with winner_id {self.winner_id!r}: exactly 'decided' has a winner"
            )
        if self.winner_id is not None and self.winner_id not in self.shown:
            raise ValueError(f"winner_id {self.winner_id!r} is not one of the two responses shown {self.shown}")
        return self

    @property
    def id(self) -> str:
        return "j" + digest("judgement", self.pair_id, self.annotator, self.draw)


class Preference(Record):
    """What training reads: the label of a pair after noise, voting or human override. ``winner_id`` None = tie.

    ``probability`` is the target P(winner preferred): 1 for a hard label, less for a soft one. ``strength`` is how
    clear the preference is, 1 slightly to 3 much better, where people said so.
    """

    pair_id: str
    instruction_id: str
    responses: tuple[str, str]
    winner_id: str | None
    probability: float = Field(1.0, ge=0.5, le=1)
    weight: float = Field(1.0, ge=0)
    origin: Literal["simulated", "human", "gold"]
    judgements: tuple[str, ...] = ()
    flipped: bool = False
    strength: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _winner(self) -> Self:
        if self.winner_id is not None and self.winner_id not in self.responses:
            raise ValueError(f"winner_id {self.winner_id!r} is not one of {self.responses}")
        return self

    @property
    def loser_id(self) -> str | None:
        if self.winner_id is None:
            return None
        return self.responses[1] if self.winner_id == self.responses[0] else self.responses[0]


class WinRate(Record):
    """Share of instructions on which ``policy`` is preferred to ``reference``, in [0, 1]; ties count half.

    ``n`` counts verdicts, ``n_failed`` acts without one; ``low_if_failed_lose``/``high_if_failed_win`` bound the value
    with all failures imputed either way. None = not estimable.
    """

    policy: str
    reference: str
    judge: str
    value: float | None
    standard_error: float | None
    ci95_low: float | None
    ci95_high: float | None
    lc_value: float | None = None
    n: int
    n_tie: int = 0
    n_failed: int = 0
    low_if_failed_lose: float | None = None
    high_if_failed_win: float | None = None
    outcomes: dict[str, int] = {}


class Estimate(Record):
    """A number with its 95% interval and the n it rests on. ``value`` None = not estimable (``note`` says why)."""

    value: float | None
    ci95_low: float | None = None
    ci95_high: float | None = None
    n: int
    note: str = ""


class Agreement(Record):
    """How one annotator relates to a group: shares in [0, 1], each with its interval and n (docs/agreement.md).

    ``low_if_failed`` is the agreement with every failed act counted as a disagreement.
    """

    annotator: str
    group: str
    agreement: Estimate
    prefers_longer: Estimate
    prefers_list: Estimate
    prefers_first: Estimate
    with_majority: Estimate | None = None
    one_vote: Estimate | None = None
    one_vote_decided: Estimate | None = None
    bias: Estimate | None = None
    variance: Estimate | None = None
    self_agreement: Estimate | None = None
    low_if_failed: float | None = None
    outcomes: dict[str, int] = {}


class RankCorrelation(Record):
    """Association between two sets of method scores, n = number of methods. ``about`` says what intervals are about."""

    about: str = ""
    first: str
    second: str
    methods: tuple[str, ...]
    spearman: Estimate
    kendall: Estimate
    pearson: Estimate
    mean_absolute_error: Estimate


class CurvePoint(Record):
    """One point of an over-optimization curve: mean proxy and gold reward on ``n`` responses at one ``x``.

    ``kl`` is the KL divergence from the SFT policy in nats per sequence; ``sequences`` counts the responses drawn for
    training until then.
    """

    x: float
    proxy: float
    gold: float | None = None
    kl: float | None = None
    n: int
    proxy_se: float | None = None
    gold_se: float | None = None
    kl_se: float | None = None
    mean_tokens: float | None = None
    finished: float | None = None
    sequences: int | None = None


class RewardCurve(Record):
    """Proxy and gold against optimisation pressure for one method and seed; ``x_name`` is
    'n', 'step', 'update' or 'epoch'."""

    method: str
    seed: int
    x_name: str
    points: tuple[CurvePoint, ...]


class Budget(Record):
    """What a method consumed, so that methods can be compared at equal budget.

    ``reward_scorings`` counts responses scored, not members of an ensemble. docs/methods.md says what the others count.
    """

    comparisons: int = 0
    generated_sequences: int = 0
    generated_tokens: int = 0
    reward_scorings: int = 0
    train_tokens: int = 0
    updates: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Budget) -> Budget:
        return Budget(**{k: getattr(self, k) + getattr(other, k) for k in Budget.model_fields})


R = TypeVar("R", bound=Record)


def write(path: Path, rows: Iterable[Record]) -> int:
    """Write records as JSON lines, atomically: readers see the old file or the whole new one. Returns the count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as f:
        for row in rows:
            f.write(row.model_dump_json() + "\n")
            count += 1
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)
    return count


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered non-empty lines of a text file, gzip by suffix. Raises DataError when it cannot be read."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, EOFError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from e


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Numbered JSON objects of a JSON-lines file. Raises DataError naming file and line."""
    for number, line in lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise DataError(f"{path}, line {number}: not JSON ({e.msg} at column {e.colno})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a row must be a JSON object, got {type(row).__name__}")
        yield number, row


def read(path: Path, model: type[R]) -> list[R]:
    """Read records from JSON lines. Raises DataError naming file, line and field."""
    rows: list[R] = []
    for number, line in lines(path):
        try:
            rows.append(model.model_validate_json(line))
        except ValidationError as e:
            raise DataError(f"{path}, line {number}: " + problems(e)) from None
    return rows


def problems(error: ValidationError) -> str:
    """A pydantic error as 'field: what is wrong' clauses, with the offending value."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(p) for p in item["loc"]) or "row"
        shown = "" if item["type"] in ("missing", "json_invalid") else f" (got {str(item.get('input'))[:60]!r})"
        parts.append(f"{where}: {item['msg']}{shown}")
    return "; ".join(parts)


def by_id(rows: Sequence[R]) -> dict[str, R]:
    """Index records by their ``id``."""
    return {row.id: row for row in rows}  # type: ignore[attr-defined]
