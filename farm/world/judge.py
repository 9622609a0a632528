"""The scripted judge: an annotator that reads a prompt and answers as text, the way a language model would.

It finds the texts by their fences, forms an opinion with the taste its model name stands for, and replies in the form
the prompt asks for. Now and then it does not: it hedges, refuses, or loses itself in prose, as models do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from farm.seeds import digest, uniform
from farm.world import raters
from farm.world.features import Features, features
from farm.world.prompts import Form, Shown, read
from farm.world.raters import Rater

MODELS = tuple(f"scripted/{name}" for name in raters.ANNOTATOR_IDS)

_LOST = "I would be glad to compare two responses, but I could not find them in this message."
_HEDGES = (
    "Both responses have their merits, and it is hard to say which of them is better.",
    "It depends on what the reader is looking for; neither of the two stands out.",
    "The two are about equally good, so a clear preference is not possible here.",
)
_REFUSALS = (
    "I'm sorry, but I cannot compare these responses.",
    "I'm sorry, but as a language model I have no personal preference.",
)
_PROSE = (
    "The responses differ in tone and in how much they say. One should weigh clarity against completeness, and a "
    "longer look at both would be needed before a decision."
)
# name of a rater's term -> (what speaks for a response, what speaks against the other)
_REASONS = {
    "coverage": ("gives more of what was asked for", "leaves out more of what was asked for"),
    "correct": ("gets everything right", "is not entirely right"),
    "form": ("is well formed", "is badly formed"),
    "addressed": ("speaks to the person named", "does not speak to the person named"),
    "polite": ("has a friendly and confident tone", "has a less fitting tone"),
    "fillers": ("wastes fewer words", "uses too many filler words"),
    "repeats": ("repeats itself less", "repeats itself"),
    "off_topic": ("stays closer to the topic", "wanders off the topic"),
    "over_length": ("is more concise", "is longer than it needs to be"),
    "length": ("has a better length", "has a less fitting length"),
    "bullets": ("has a better layout", "has a less fitting layout"),
    "degenerate": ("reads normally", "is hardly readable"),
}


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. Token counts are of the judge's own tokens (words and marks). ``top_logprobs``: per generated token
    the alternatives with their log-probabilities, when asked for."""

    text: str
    finish_reason: Literal["stop", "length", "content_filter"]
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: list[dict[str, float]] | None = None


class ScriptedJudge:
    """Answers chat and completion prompts. ``answers`` maps ``Instruction.full_text`` to a known answer that the
    judge may compare with; it matters for real text only, the world's instructions explain themselves."""

    def __init__(self, answers: Mapping[str, str] | None = None) -> None:
        self._answers = {text.strip(): answer for text, answer in (answers or {}).items()}

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        seed: int = 0,
        logprobs: int = 0,
    ) -> Completion:
        """The answer to a conversation. Turns of the assistant (worked examples) are not read.

        The same ``(model, messages, seed)`` give the same answer; ``temperature`` 0 gives the most likely one.
        """
        prompt = "\n\n".join(str(m.get("content") or "") for m in messages if m.get("role") != "assistant")
        return self.complete(
            model, prompt, temperature=temperature, max_tokens=max_tokens, seed=seed, logprobs=logprobs
        )

    def complete(
        self,
        model: str,
        prompt: str,
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        seed: int = 0,
        logprobs: int = 0,
    ) -> Completion:
        """The answer to a completion prompt. See ``chat``."""
        rater = rater_of(model)
        pairs, form = (asked := read(prompt)).pairs, asked.form
        draw = digest(model, seed, prompt)
        if not pairs or form is None:
            pieces: list[_Piece] = [(_LOST, None)]
        elif temperature > 0 and (failure := _failure(rater, draw)):
            pieces = [(failure, None)]
        else:
            pieces = []
            for shown in pairs:
                pieces += [("\n", None)] if pieces else []
                pieces += self._verdict(rater, form, shown, temperature, uniform(seed, "judge", draw, shown.number))
        return _completion(pieces, _count(prompt), max_tokens, logprobs)

    def _verdict(self, rater: Rater, form: Form, shown: Shown, temperature: float, u: float) -> list[_Piece]:
        """The reply about one pair in pieces; the label carries the probability that the first is better."""
        answer = self._answers.get(shown.instruction.strip())
        first, second = (features(shown.instruction, text, answer) for text in (shown.first, shown.second))
        p = rater.prefers_first(first, second)
        first_is_better = p >= 0.5 if temperature <= 0 else u < _sharpen(p, temperature)
        reason = _reason(rater, first, second, first_is_better) if "<reason>" in form.before + form.after else ""
        before, label, after = form.fill(shown.number, reason, first_is_better)
        other = form.second if first_is_better else form.first
        return [(before, None), (label, (other, p if first_is_better else 1 - p)), (after, None)]


_Piece = tuple[str, tuple[str, float] | None]  # text, and for a label: (the other label, probability of this one)


@lru_cache(maxsize=1024)
def rater_of(model: str) -> Rater:
    """The taste a model name stands for: one of the 13 by id, else one keyed by the name."""
    name = model.rpartition("/")[2]
    return raters.annotator(name) if name in raters.ANNOTATOR_IDS else raters.stranger(model)


def _failure(rater: Rater, draw: str) -> str | None:
    """An answer without verdict at the entity's rate, else None."""
    u = uniform(0, "judge-failure", draw) / rater.failure_rate if rater.failure_rate else 1.0
    if u >= 1:
        return None
    if u < 0.5:
        return _HEDGES[int(u / 0.5 * len(_HEDGES))]
    return _REFUSALS[int((u - 0.5) / 0.25 * len(_REFUSALS))] if u < 0.75 else _PROSE


def _sharpen(p: float, temperature: float) -> float:
    """``p`` after its log-odds are divided by ``temperature``."""
    if temperature == 1 or p in (0.0, 1.0):
        return p
    x = max(-700.0, min(700.0, math.log(p / (1 - p)) / temperature))
    return 1 / (1 + math.exp(-x))


def _reason(rater: Rater, first: Features, second: Features, first_is_better: bool) -> str:
    """A sentence with what weighed most for the winner, or that little did."""
    a, b = rater.terms(first), rater.terms(second)
    sign = 1 if first_is_better else -1
    names = sorted(a, key=lambda name: -abs(a[name] - b[name]))
    pros = [name for name in names if sign * (a[name] - b[name]) > 0.02][:2]
    if not pros:
        return "The two are close, and only the general impression decides."
    winner, loser = ("first", "second") if first_is_better else ("second", "first")
    text = f"The {winner} one {_REASONS[pros[0]][0]}"
    if len(pros) > 1:
        text += f", and the {loser} one {_REASONS[pros[1]][1]}"
    return text + "."


_TOKEN = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


def _count(text: str) -> int:
    """How many tokens a text has, about as an ordinary tokenizer counts: words and marks."""
    return len(_TOKEN.findall(text))


def _completion(pieces: Sequence[_Piece], prompt_tokens: int, max_tokens: int, logprobs: int) -> Completion:
    tokens: list[str] = []
    alternatives: list[dict[str, float]] = []
    for text, choice in pieces:
        new = _TOKEN.findall(text)
        tokens += new
        if logprobs:
            alternatives += _alternatives(new, choice)
    cut = len(tokens) > max_tokens
    tokens = tokens[:max_tokens]
    return Completion(
        text="".join(tokens),
        finish_reason="length" if cut else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(tokens),
        top_logprobs=alternatives[:max_tokens] if logprobs else None,
    )


def _alternatives(tokens: Sequence[str], choice: tuple[str, float] | None) -> list[dict[str, float]]:
    """Certainty everywhere but at the token that tells the two labels apart."""
    out = [{token: 0.0} for token in tokens]
    if choice is not None:
        other, p = choice
        for i, (token, rival) in enumerate(zip(tokens, _TOKEN.findall(other), strict=False)):
            if token != rival:
                out[i] = {token: _log(p), rival: _log(1 - p)}
                break
    return out


def _log(p: float) -> float:
    return math.log(max(p, 1e-12))
