"""What a paid judge does to its callers: it is slow, limits their rate, runs out of quota, breaks off, talks nonsense.

Every fault is a keyed draw over what was asked and how many times it has been asked, so a rehearsal meets the same
faults at any concurrency and in any order, and a call that failed may well succeed when tried again. Faults of the
answer itself (a refusal, a filtered text) hang on the content alone: asking again does not help, as in life.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from farm.errors import DataError
from farm.seeds import uniform
from farm.world.limits import rate_limited
from farm.world.wire import Refused

# Not billed: the call is refused, or the connection ends before the judge has worked.
REFUSING = {
    "429": "rate limit without a hint when to come back",
    "429-seconds": "rate limit with Retry-After in seconds",
    "429-ms": "rate limit with retry-after-ms",
    "429-date": "rate limit with Retry-After as a date",
    "quota": "429 with code insufficient_quota",
    "400": "the prompt is refused by a content filter",
    "401": "the key is not accepted any more",
    "500": "internal error",
    "502": "a proxy's HTML page instead of JSON",
    "503": "overloaded",
    "redirect": "307 to another address",
    "hang": "no answer at all",
    "drop": "the connection is cut before the judge has worked",
}
# Billed: the judge has answered, and something is wrong with the answer or its way.
ANSWERING = {
    "lost": "the connection is cut after the judge has worked",
    "truncated": "the connection is cut in the middle of the answer",
    "malformed": "status 200 and something that is no completion",
    "refusal": "the model declines",
    "empty": "an empty text",
    "null": "no content at all",
    "filter": "finish reason content_filter",
    "length": "cut off by the token limit",
    "drift": "another model answers",
}
OF_ANSWER = {"refusal", "empty", "null", "filter", "length", "drift"}
# Of the content alone; the rest is drawn anew each time the same is asked.
LASTING = {"400", "refusal", "empty", "null", "filter", "length"}
BATCHES = {
    "failed": "a batch fails validation",
    "expired": "a batch expires with some of its lines done",
    "stuck": "a batch stays in progress until it is cancelled",
    "503": "a call about files or batches is refused",
    "lost": "a call about files or batches does its work, and the connection is cut before the answer",
}
_HANG_SECONDS = 3600.0
_BATCH = "batch:"


@dataclass(frozen=True)
class Conditions:
    """How the server behaves. Times in seconds; ``spread`` is the sigma of a log-normal factor on ``latency``.

    ``rpm`` and ``tpm`` are token buckets that refill continuously and hold ``burst`` seconds' worth; a call is
    admitted while its bucket is not empty, and pays the tokens it used. ``retry_after`` is the hint on their 429s
    (``ms`` sends both headers); ``pause`` what the drawn 429s announce. ``faults``: name to rate; ``batch:NAME`` is
    about batches. ``prices``: model (or ``*``) to USD per million prompt and completion tokens; batches cost half.
    ``models``: further names to answer to, each with a taste of its own, so that a rehearsal needs no other recipe.
    After ``quota`` USD every call is refused. ``canned``: answer with one of these texts instead of judging.
    ``batch_seconds``: how long a batch takes. Raises DataError for what cannot be.
    """

    latency: float = 0.0
    spread: float = 0.0
    rpm: float | None = None
    tpm: float | None = None
    burst: float = 1.0
    retry_after: Literal["none", "seconds", "ms", "date"] = "ms"
    pause: float = 1.0
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quota: float | None = None
    canned: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    batch_seconds: float = 0.0
    log: Path | None = None

    def __post_init__(self) -> None:
        for name in ("latency", "spread", "pause", "batch_seconds"):
            _require(0 <= getattr(self, name) <= 86_400, f"{name} must be from 0 to 86400, got {getattr(self, name)}")
        for name in ("rpm", "tpm", "burst", "quota"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, f"{name} must be above 0, got {value}")
        _require(
            self.retry_after in ("none", "seconds", "ms", "date"),
            f"retry_after is none, seconds, ms or date, got {self.retry_after!r}",
        )
        known = [*REFUSING, *ANSWERING, *(_BATCH + name for name in BATCHES)]
        for name, rate in self.faults.items():
            _require(name in known, f"no fault {name!r}; there are {', '.join(known)}")
            _require(0 <= rate <= 1, f"the rate of fault {name} must be from 0 to 1, got {rate}")
        for batch in (False, True):
            total = sum(rate for name, rate in self.faults.items() if name.startswith(_BATCH) is batch)
            _require(total <= 1 + 1e-9, f"the rates of all faults add up to {total:g}, more than 1")
        for model, price in self.prices.items():
            _require(
                len(price) == 2 and all(0 <= p < math.inf for p in price),
                f"the price of {model} must be two numbers from 0 (prompt, completion), got {price}",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"log": None if self.log is None else str(self.log)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Conditions:
        """Raises DataError for an unknown field."""
        try:
            made = dict(fields)
            made["prices"] = {model: tuple(price) for model, price in made.get("prices", {}).items()}
            made |= {name: tuple(made.get(name, ())) for name in ("canned", "models")}
            made["log"] = Path(made["log"]) if made.get("log") else None
            return cls(**made)
        except TypeError as e:
            raise DataError(f"conditions of the judge server: {e}") from None

    def fault(self, content: str, time: int) -> str | None:
        """The fault that strikes content asked for the ``time``-th time, if any."""
        if not self.faults:
            return None
        for names, key in ((LASTING, (content,)), (None, (content, time))):
            chosen = {
                name: rate
                for name, rate in self.faults.items()
                if not name.startswith(_BATCH) and (name in LASTING) is (names is not None)
            }
            if (name := _draw(chosen, self.seed, *key)) is not None:
                return name
        return None

    def batch_fault(self, names: set[str], *key: object) -> str | None:
        """One of ``names`` (of BATCHES), if it strikes."""
        return _draw({n: self.faults.get(_BATCH + n, 0.0) for n in sorted(names)}, self.seed, "batch", *key)

    def seconds(self, content: str, time: int) -> float:
        """How long an answer is held back."""
        if self.spread == 0 or self.latency == 0:
            return self.latency
        a, b = (uniform(self.seed, "latency", content, time, i) for i in "ab")
        normal = math.sqrt(-2 * math.log(1 - a)) * math.cos(2 * math.pi * b)  # Box and Muller
        return min(self.latency * math.exp(self.spread * normal), _HANG_SECONDS)

    def usd(self, model: str, prompt: int, completion: int) -> float:
        """Price of an answer, outside batches."""
        per_prompt, per_completion = self.prices.get(model) or self.prices.get("*") or (0.0, 0.0)
        return (prompt * per_prompt + completion * per_completion) / 1e6


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise DataError(f"conditions of the judge server: {message}")


def _draw(rates: Mapping[str, float], seed: int, *key: object) -> str | None:
    if not any(rates.values()):
        return None
    u = uniform(seed, "fault", *key)
    for name, rate in rates.items():
        if u < rate:
            return name
        u -= rate
    return None


def refusal(fault: str, conditions: Conditions, now: float) -> tuple[Refused, float | None]:
    """The answer of a refusing fault that has one, and the end of the pause it announces."""
    if fault.startswith("429"):
        form = fault.partition("-")[2] or "none"
        return rate_limited(form, conditions.pause, now, "Rate limit reached")
    status, message, code = {
        "quota": (429, "You exceeded your current quota, please check your plan and billing.", "insufficient_quota"),
        "400": (400, "The prompt was refused by the content management policy.", "content_filter"),
        "401": (401, "Incorrect API key provided.", "invalid_api_key"),
        "500": (500, "The server had an error while processing your request.", "server_error"),
        "502": (502, "Bad gateway", "bad_gateway"),
        "503": (503, "The engine is currently overloaded, please try again later.", "overloaded"),
        "redirect": (307, "moved", "moved"),
    }[fault]
    headers = {"Location": "/elsewhere/v1/chat/completions"} if fault == "redirect" else None
    return Refused(status, message, code, headers), None


def spoil(fault: str | None, body: dict[str, Any], content: str) -> bytes:
    """An answer's bytes, with the fault that is about its content."""
    choice = body["choices"][0]
    message = choice.get("message")
    if fault == "drift":
        body["model"] = f"{body['model']}-drifted"
        body["system_fingerprint"] = "fp_drifted"
    elif fault == "refusal" and message is not None:
        message["content"], message["refusal"] = None, _SORRY
    elif fault == "refusal":
        choice["text"] = _SORRY
    elif fault in ("empty", "null", "filter"):
        text = None if fault == "null" and message is not None else ""
        choice["finish_reason"] = "content_filter" if fault == "filter" else "stop"
        (choice if message is None else message)["text" if message is None else "content"] = text
    elif fault == "length":
        choice["finish_reason"] = "length"
        place, name = (choice, "text") if message is None else (message, "content")
        place[name] = place[name][: len(place[name]) // 2]
    data = json.dumps(body).encode()
    if fault != "malformed":
        return data
    return _MALFORMED[int(content, 16) % len(_MALFORMED)](data)


_SORRY = "I'm sorry, but I cannot help with that."
_MALFORMED: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: data[: len(data) // 2],
    lambda data: b"<html><body>Please wait ...</body></html>",
    lambda data: b"",
    lambda data: b'{"object": "chat.completion", "choices": []}',
    lambda data: b"null",
    lambda data: data.replace(b'"choices"', b'"choice"'),
)
