"""Reads an annotator's prompt: the texts between fences, and the reply format it asks for.

A slot is fenced by ``<<first 2 5f2c91ab>>`` and ``<<end 5f2c91ab>>`` (what it is, pair number, nonce). The text of a
slot ends at its own nonce and nowhere else, so a response cannot forge a fence, a verdict or a reply format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_OPEN = re.compile(r"<<(instruction|first|second) (\d{1,6}) ([0-9a-f]{8}|example)>>\n?")
_FORM = re.compile(r"^[ \t]*Reply format:[ \t]*(.*\S)[ \t]*$", re.MULTILINE)
_LABEL = r'(?:"[^"\n]+"|\w+ \(\w+\)|\w+ \[\w+\]|[^\s]+)'
_CHOICE = re.compile(rf"({_LABEL}) or ({_LABEL})")


@dataclass(frozen=True, slots=True)
class Shown:
    """One pair of responses as the prompt shows it."""

    number: int
    instruction: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Form:
    """A reply format: the text before the choice, its two labels, the text after."""

    before: str
    first: str
    second: str
    after: str

    def fill(self, number: int, reason: str, first_is_better: bool) -> tuple[str, str, str]:
        """The reply for one pair, split around the label. The reason is escaped where the format is JSON."""
        if self.before.lstrip().startswith("{"):
            reason = json.dumps(reason)[1:-1]
        before, after = (
            part.replace("<n>", str(number)).replace("<reason>", reason) for part in (self.before, self.after)
        )
        return before, self.first if first_is_better else self.second, after


@dataclass(frozen=True, slots=True)
class Prompt:
    """The pairs to be judged, by number, and the format of the reply; None when the prompt states none."""

    pairs: tuple[Shown, ...]
    form: Form | None


def read(prompt: str) -> Prompt:
    """The pairs and the reply format of a prompt. Worked examples (nonce ``example``) are skipped."""
    slots: dict[int, dict[str, str]] = {}
    outside: list[str] = []
    at, rest = 0, len(prompt)
    while opening := _OPEN.search(prompt, at):
        name, number, nonce = opening.groups()
        end = prompt.find(f"<<end {nonce}>>", opening.end())
        if end < 0:  # cut open: whatever follows may be text under judgement, so none of it is read
            rest = opening.start()
            break
        outside.append(prompt[at : opening.start()])
        if nonce != "example":
            slots.setdefault(int(number), {}).setdefault(name, prompt[opening.end() : end].removesuffix("\n"))
        at = end + len(f"<<end {nonce}>>")
    outside.append(prompt[at:rest])
    pairs = tuple(
        Shown(number, texts.get("instruction", ""), texts["first"], texts["second"])
        for number, texts in sorted(slots.items())
        if "first" in texts and "second" in texts
    )
    forms = _FORM.findall("\n".join(outside))
    return Prompt(pairs, _form(forms[-1]) if forms else None)


def _form(text: str) -> Form | None:
    choice = _CHOICE.search(text)
    if choice is None:
        return None
    first, second = choice.groups()
    before, after = text[: choice.start()], text[choice.end() :]
    # A bracket or comma that belongs to the format, not to the label: {"ok": true or false}.
    while len(second) > 1 and second[-1] in "},.;" and not first.endswith(second[-1]):
        second, after = second[:-1], second[-1] + after
    while len(first) > 1 and first[0] in "{[,:" and not second.startswith(first[0]):
        first, before = first[1:], before + first[0]
    return Form(before, first, second, after)
