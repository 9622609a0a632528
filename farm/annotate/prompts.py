"""Annotator prompt templates: parsed once, filled in a single pass, sent as a list of messages.

A chat template is a text file with sections ``[system]``, ``[user]`` and ``[assistant]``, each alone on its line; a
completion template has none. The lines between ``{each}`` and ``{end}`` are the block shown for every pair, with the
slots ``{instruction}``, ``{first}``, ``{second}`` and ``{n}``. Worked examples come from the pool's ``demos.yaml``:
``{show garden, tides swapped}`` shows them through the same block, ``{answer ...}`` gives the reply in the template's
own reply format, ``{why ...}`` the reason alone, so a demonstration cannot contradict its label.

Roles and slots are found in the template only. Text under judgement goes in last, between fences whose key does not
occur in it, so nothing a response contains can become a role, a slot or the end of a fence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from farm.annotate.parsing import MARK, Form
from farm.seeds import digest

ROLES = ("system", "user", "assistant")
_SLOT = re.compile(r"\{([a-z][a-z0-9_ ,]*)\}")
_TEXTS = ("instruction", "first", "second")
EXAMPLE = "example"  # the fence key of worked examples; a judge ignores what it encloses


class Demo(BaseModel):
    """A worked example: two responses, which is better, and why (``{better}``/``{worse}`` name them as shown)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field(min_length=1)
    first: str = Field(min_length=1)
    second: str = Field(min_length=1)
    better: Literal["first", "second"]
    why: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Shown:
    """One pair as it is put before a judge."""

    instruction: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Template:
    """``messages`` are (role, before, after): the pair blocks stand between; only the last message has any."""

    form: Form
    messages: tuple[tuple[str, str, str], ...]
    block: tuple[str, ...]  # literal text and slot names, alternating, starting with text
    demos: tuple[str, ...]  # names of the worked examples used

    def render(self, pairs: Sequence[Shown], salt: str) -> list[Message]:
        """The messages for these pairs. A completion template gives one message of role ``prompt``."""
        nonce = _nonce(pairs, salt)
        *fixed, (role, before, after) = self.messages
        blocks = "\n".join(_fill(self.block, p, i, nonce) for i, p in enumerate(pairs, 1))
        return [Message(r, text) for r, text, _ in fixed] + [Message(role, before + blocks + after)]


def parse(text: str, style: Literal["chat", "completion"], demos: Mapping[str, Demo]) -> Template:
    """Raises ValueError listing every mistake in the template."""
    problems: list[str] = []
    forms = [line[len(MARK) :].strip() for line in text.splitlines() if line.startswith(MARK)]
    form = Form("A or B", "A", "B")
    if len(forms) != 1:
        problems.append(f"needs exactly one line that starts with '{MARK}', found {len(forms)}")
    else:
        try:
            form = Form.read(forms[0])
        except ValueError as e:
            problems.append(str(e))
    sections = _sections(text, style, problems)
    if not sections:
        raise ValueError("; ".join(problems))
    role, body = sections[-1]
    before, block, after = _block(body, problems)
    if forms and MARK not in after:
        problems.append(f"the '{MARK}' line must come after the pairs, so that no response can follow it with its own")
    used: list[str] = []
    fill = _Static(form, block, demos, problems, used)
    messages = [(r, fill(t), "") for r, t in sections[:-1]] + [(role, fill(before), fill(after))]
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return Template(form, tuple(messages), block, tuple(dict.fromkeys(used)))


class _Static:
    """Fills the slots that do not depend on the pair: worked examples, their answers and reasons."""

    def __init__(
        self, form: Form, block: tuple[str, ...], demos: Mapping[str, Demo], problems: list[str], used: list[str]
    ) -> None:
        self.form, self.block, self.demos, self.problems, self.used = form, block, demos, problems, used

    def __call__(self, text: str) -> str:
        return _SLOT.sub(lambda m: self._slot(m[1]), text)

    def _slot(self, slot: str) -> str:
        verb, _, rest = slot.partition(" ")
        if verb not in ("show", "answer", "why"):
            self.problems.append(f"unknown slot {{{slot}}} outside {{each}} ... {{end}}")
            return ""
        out = []
        for number, item in enumerate(rest.split(","), 1):
            name, *swap = item.split() or [""]
            if name not in self.demos or swap not in ([], ["swapped"]):
                known = ", ".join(sorted(self.demos))
                self.problems.append(f"{{{slot}}}: {item.strip()!r} is not a demonstration (known: {known})")
                return ""
            self.used.append(name)
            demo = self.demos[name]
            first_is_better = (demo.better == "first") != bool(swap)
            first, second = (demo.second, demo.first) if swap else (demo.first, demo.second)
            reason = _reason(demo.why, self.form, first_is_better)
            if verb == "show":
                out.append(_fill(self.block, Shown(demo.instruction, first, second), number, EXAMPLE))
            else:
                out.append(reason if verb == "why" else self.form.fill(first_is_better, reason, number))
        return "\n".join(out)


def _reason(why: str, form: Form, first_is_better: bool) -> str:
    names = (form.first, form.second)
    if names in (("true", "false"), ("first", "second")):
        names = ("the first", "the second")
    better, worse = names if first_is_better else names[::-1]
    text = why.replace("{better}", better).replace("{worse}", worse)
    return text[0].upper() + text[1:] if names[0].startswith("the ") else text


def _sections(text: str, style: str, problems: list[str]) -> list[tuple[str, str]]:
    """(role, text) of a template; a completion template is one section with role ``prompt``."""
    heads = [line.strip()[1:-1] for line in text.splitlines() if line.strip() in {f"[{r}]" for r in ROLES}]
    if style == "completion":
        if heads:
            problems.append(f"a completion template has no sections, found [{heads[0]}]")
        return [("prompt", text.rstrip("\n"))]
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.strip() in {f"[{r}]" for r in ROLES}:
            found.append((line.strip()[1:-1], []))
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            problems.append(f"text before the first section: {line.strip()[:40]!r}")
    roles = [r for r, _ in found]
    wanted = (["system"] if roles[:1] == ["system"] else []) + ["user", "assistant"] * len(roles)
    if not roles or roles[-1] != "user" or roles != wanted[: len(roles)]:
        shape = "[user], or [system] [user], with [assistant] [user] turns between"
        problems.append(f"sections are {' '.join(f'[{r}]' for r in roles) or 'missing'}; a chat template is {shape}")
    return [(r, "\n".join(lines).strip("\n")) for r, lines in found]


def _block(body: str, problems: list[str]) -> tuple[str, tuple[str, ...], str]:
    """Splits the last message at its ``{each}`` ... ``{end}`` block, which must be there exactly once."""
    lines = body.splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip() == "{each}"]
    ends = [i for i, line in enumerate(lines) if line.strip() == "{end}"]
    if len(starts) != 1 or len(ends) != 1 or starts[0] > ends[0]:
        problems.append("needs one {each} line and one {end} line after it, in the last message")
        return body, ("",), ""
    start, end = starts[0], ends[0]
    parts = tuple(_SLOT.split("\n".join(lines[start + 1 : end])))
    slots = parts[1::2]
    for name in _TEXTS:
        if slots.count(name) != 1:
            problems.append(f"{{{name}}} must occur once between {{each}} and {{end}}, found {slots.count(name)}")
    for name in slots:
        if name not in (*_TEXTS, "n"):
            problems.append(f"unknown slot {{{name}}} between {{each}} and {{end}}")
            parts = ("",)  # worked examples cannot be shown through it
    head = "\n".join(lines[:start])
    return (head + "\n" if head else ""), parts, "\n" + "\n".join(lines[end + 1 :])


def _fill(block: tuple[str, ...], pair: Shown, number: int, nonce: str) -> str:
    values = {"instruction": pair.instruction, "first": pair.first, "second": pair.second}
    out = []
    for i, part in enumerate(block):
        if not i % 2:
            out.append(part)
        elif part == "n":
            out.append(str(number))
        else:
            out.append(f"<<{part} {number} {nonce}>>\n{values[part]}\n<<end {nonce}>>")
    return "".join(out)


def _nonce(pairs: Sequence[Shown], salt: str) -> str:
    """A fence key that depends on the contents and occurs in none of them."""
    texts = [text for p in pairs for text in (p.instruction, p.first, p.second)]
    attempt = 0
    while True:
        nonce = digest("fence", salt, attempt, *texts, size=4)
        if not any(nonce in text for text in texts):
            return nonce
        attempt += 1
