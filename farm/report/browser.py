"""The sample browser: a page of pairs with both responses and every verdict on them, filtered without a script.

The filters are radio buttons and style sheet rules. Texts are hostile: escaped, isolated and made visible as in every
page. A page stays below 3 MB; what does not fit is left out by a rule that it states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from farm import records
from farm.records import Instruction, Judgement, Outcome, Response
from farm.report import html, plots
from farm.seeds import digest

LIMIT = 2_900_000  # bytes of a page
CROSS = "pairs judged by every annotator"
# Filters by what the verdicts on a pair say to each other.
FILTERS = {
    "split": "annotators disagree",
    "agree": "annotators agree",
    "people": "people against the annotators",
    "gold": "annotators against gold",
    "failed": "an act without verdict",
}


@dataclass(frozen=True)
class Opinion:
    """One act. ``prefers`` is the label of a response, or None where there is no winner; ``first`` the label of the
    response shown first; ``person`` tells people from the annotators of a pool."""

    annotator: str
    prefers: str | None
    outcome: str
    first: str
    probability: float | None
    raw: str
    person: bool


@dataclass(frozen=True)
class Entry:
    """A pair: the instruction, the two responses by label, and every opinion. ``disputed`` is the share of the
    annotators' winners that are not the most frequent one; ``kinds`` are the filters it passes."""

    group: str
    pair: str
    instruction: str
    source: str
    responses: tuple[tuple[str, Response], tuple[str, Response]]
    opinions: tuple[Opinion, ...]

    @property
    def disputed(self) -> float:
        votes = self._winners(person=False)
        return 1 - max(votes.values()) / sum(votes.values()) if votes else 0.0

    @property
    def kinds(self) -> tuple[str, ...]:
        pool, people = self._winners(person=False), self._winners(person=True)
        asked = [o for o in self.opinions if not o.person]
        found = {
            "split": len(pool) == 2,
            "agree": len(pool) == 1 and max(pool.values()) > 1,
            "people": bool(pool and people)
            and _most(pool) != _most(people)
            and None not in (_most(pool), _most(people)),
            "gold": _most(pool) is not None and _most(pool) == self._worse("gold"),
            "failed": any(o.outcome not in (Outcome.DECIDED, Outcome.TIE, Outcome.IDENTICAL) for o in asked),
        }
        return tuple(name for name in FILTERS if found[name])

    @property
    def tally(self) -> str:
        """Who won how often, the annotators' acts and then the people's."""
        parts = []
        for person in (False, True):
            counts: dict[str, int] = {}
            for o in self.opinions:
                if o.person == person:
                    name = o.outcome if o.prefers is None else o.prefers
                    counts[name] = counts.get(name, 0) + 1
            if counts:
                shown = ", ".join(f"{name} \u00d7 {n}" for name, n in sorted(counts.items(), key=lambda one: -one[1]))
                parts.append(f"people: {shown}" if person else shown)
        return "; ".join(parts)

    def _winners(self, *, person: bool) -> dict[str, int]:
        votes: dict[str, int] = {}
        for o in self.opinions:
            if o.person == person and o.prefers is not None:
                votes[o.prefers] = votes.get(o.prefers, 0) + 1
        return votes

    def _worse(self, score: str) -> str | None:
        (first, a), (second, b) = self.responses
        if score not in a.scores or score not in b.scores or a.scores[score] == b.scores[score]:
            return None
        return first if a.scores[score] < b.scores[score] else second


def _most(votes: Mapping[str, int]) -> str | None:
    """The label with most votes; None where two are even or nobody voted."""
    ranked = sorted(votes.items(), key=lambda one: -one[1])
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def collect(run: Path) -> list[Entry]:
    """The pairs of a run folder: those that everybody judged, then every policy of the evaluation against the
    reference, each with its first training seed. Raises DataError when a file of a finished step is malformed."""
    entries: list[Entry] = []
    for step in sorted((run / "7-study" / "cross").glob("seed-*"))[:1]:
        sampled, labelled = run / "2-sample" / step.name, run / "3-annotate" / step.name
        asked = _instructions([run / "0-data" / "preference.jsonl", labelled / "instructions.jsonl"])
        texts = _responses([sampled / "responses.jsonl", labelled / "responses.jsonl"])
        entries += _entries(CROSS, step, asked, texts, None)
    asked = _instructions([run / "0-data" / "eval.jsonl"])
    for row in sorted((run / "6-evaluate").glob("*")):
        for step in sorted(row.glob("seed-*"), key=_number)[:1]:
            mine, reference = _responses([step / "responses.jsonl"]), _responses([step / "reference.jsonl"])
            labels = {r.id: r.policy for r in (*reference.values(), *mine.values())}
            entries += _entries(row.name, step, asked, mine | reference, labels)
    return entries


def _number(step: Path) -> int:
    text = step.name.removeprefix("seed-")
    return int(text) if text.isdigit() else 1 << 62  # a half-made step


def _instructions(paths: Iterable[Path]) -> dict[str, Instruction]:
    return {i.id: i for p in paths if p.is_file() for i in records.read(p, Instruction)}


def _responses(paths: Iterable[Path]) -> dict[str, Response]:
    return {r.id: r for p in paths if p.is_file() for r in records.read(p, Response)}


def _entries(
    group: str,
    step: Path,
    asked: Mapping[str, Instruction],
    texts: Mapping[str, Response],
    labels: Mapping[str, str] | None,
) -> list[Entry]:
    acts: dict[str, list[tuple[Judgement, bool]]] = {}
    for name, person in (("judgements.jsonl", False), ("votes.jsonl", True)):
        for act in records.read(step / name, Judgement) if (step / name).is_file() else ():
            acts.setdefault(act.pair_id, []).append((act, person))
    found = []
    for pair, on in acts.items():
        judged = on[0][0]
        ids = sorted(judged.shown, key=lambda i: (labels is not None and labels.get(i) == "reference", i))
        if judged.instruction_id not in asked or not all(i in texts for i in ids):
            continue
        called = {i: labels[i] if labels and i in labels else f"response {k}" for k, i in enumerate(ids, 1)}
        found.append(
            Entry(
                group,
                pair,
                asked[judged.instruction_id].full_text,
                asked[judged.instruction_id].source,
                ((called[ids[0]], texts[ids[0]]), (called[ids[1]], texts[ids[1]])),
                tuple(_opinion(act, called, person) for act, person in on),
            )
        )
    return found


def _opinion(act: Judgement, called: Mapping[str, str], person: bool) -> Opinion:
    prefers = called[act.winner_id] if act.winner_id is not None else None
    probability = act.probability
    if probability is not None and prefers is not None and act.winner_id != min(act.shown):
        probability = 1 - probability  # that of the winner, where there is one
    return Opinion(act.annotator, prefers, str(act.outcome), called[act.shown[0]], probability, act.raw, person)


def render(entries: Sequence[Entry], title: str, *, limit: int = LIMIT) -> str:
    """The page. Where not all entries fit into ``limit`` bytes, the groups take turns and each gives its entries in an
    order drawn by their ids; within the page a group's most disputed pairs come first."""
    templates = html.environment()
    one = templates.get_template("sample.html.j2")
    groups = list(dict.fromkeys(e.group for e in entries))
    shown = dict.fromkeys(FILTERS, 0)
    parts: dict[str, list[tuple[Entry, str]]] = {g: [] for g in groups}
    room = limit - 40_000  # the page around them
    for entry in _turns(entries, groups):
        part = one.render(e=entry, group=groups.index(entry.group))
        room -= (size := len(part.encode()))
        if room < 0:
            room += size
            continue
        parts[entry.group].append((entry, part))
        for kind in entry.kinds:
            shown[kind] += 1
    for some in parts.values():
        some.sort(key=lambda one: (-one[0].disputed, one[0].pair))
    page = templates.get_template("samples.html.j2").render(
        title=title,
        palette=plots.SERIES,
        groups=[(k, g, len(parts[g])) for k, g in enumerate(groups)],
        kinds=[(k, FILTERS[k], shown[k]) for k in FILTERS if shown[k]],
        parts=[Markup(part) for some in parts.values() for _, part in some],  # noqa: S704  (made by the template)
        total=len(entries),
    )
    return page.rstrip() + "\n"


def _turns(entries: Sequence[Entry], groups: Sequence[str]) -> list[Entry]:
    """One entry of every group, then the next of every group, each group in an order drawn by its pairs' ids."""
    drawn = {g: sorted((e for e in entries if e.group == g), key=lambda e: digest("browse", e.pair)) for g in groups}
    longest = max(map(len, drawn.values()), default=0)
    return [drawn[g][k] for k in range(longest) for g in groups if k < len(drawn[g])]
