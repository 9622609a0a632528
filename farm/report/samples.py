"""Which responses to show side by side: chosen by a rule that the report states, not by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from farm.records import Instruction, Judgement, Outcome, Record, Response

SHOWN_VERDICTS = 6


class Shown(Record):
    """One response as the report shows it."""

    label: str
    text: str
    gold: float | None
    proxy: float | None
    n_tokens: int
    finished: bool


class Opinion(Record):
    """One annotator's verdict: ``prefers`` is a label, or the outcome where there is no winner."""

    annotator: str
    prefers: str
    raw: str = ""


class Exhibit(Record):
    """Responses to one instruction, and why it was chosen."""

    reason: str
    instruction: str
    source: str
    shown: tuple[Shown, ...]
    opinions: tuple[Opinion, ...] = ()


def choose(
    instructions: Sequence[Instruction],
    responses: Mapping[str, Sequence[Response]],
    judgements: Iterable[Judgement] = (),
    *,
    reference: str,
    baseline: str,
    focus: str,
    exploit: str | None = None,
    proxy: str = "proxy",
    gold: str = "gold",
    each: int = 2,
) -> list[Exhibit]:
    """Exhibits for the best, the typical and the worst instruction of ``focus``, then those of ``exploit``.

    ``responses`` maps a label (a method, or whatever ``reference`` is called) to that policy's responses. Shown side
    by side: reference, baseline, focus, and for the last group ``exploit``. ``focus`` is ranked by its gain over
    ``baseline`` in gold (in proxy where gold is missing). ``exploit``, an over-optimized policy, is ranked by proxy
    gain minus gold gain, each in units of its spread: where the proxy is fooled most. Ties are broken by instruction
    id, so the same run shows the same samples.
    """
    first = {label: _first(rows) for label, rows in responses.items()}
    acts = list(judgements)
    labels = {r.id: label for label, rows in responses.items() for r in rows}

    def exhibit(reason: str, instruction: Instruction, names: Sequence[str], about: str) -> Exhibit:
        shown = [(name, first[name][instruction.id]) for name in names if instruction.id in first.get(name, {})]
        mine = first[about][instruction.id].id
        opinions = [_opinion(j, labels) for j in acts if j.instruction_id == instruction.id and mine in j.shown]
        return Exhibit(
            reason=reason,
            instruction=instruction.full_text,
            source=instruction.source,
            shown=tuple(_shown(name, r, proxy, gold) for name, r in shown),
            opinions=tuple(opinions[:SHOWN_VERDICTS]),
        )

    result: list[Exhibit] = []
    names = list(dict.fromkeys((reference, baseline, focus)))
    measure = gold if _gains(first, focus, baseline, gold) else proxy
    ranked = _ranked(instructions, _gains(first, focus, baseline, measure))
    if ranked:
        middle = len(ranked) // 2
        typical = ranked[middle : middle + 1]
        parts = (("largest", ranked[::-1][:each]), ("median", typical), ("smallest", ranked[:each]))
        for word, chosen in parts:
            reason = f"{word} gain of {focus} over {baseline} in {'gold' if measure == gold else 'proxy'}"
            result += [exhibit(reason, one, names, focus) for one in chosen]
    if exploit and exploit in first:
        up, real = _gains(first, exploit, baseline, proxy), _gains(first, exploit, baseline, gold)
        scale = (_spread(up), _spread(real))
        fooled = {i: up[i] / scale[0] - real[i] / scale[1] for i in up if i in real} or up
        reason = f"{exploit}: where the proxy rose most beyond gold"
        for one in _ranked(instructions, fooled)[::-1][: each + 1]:
            result.append(exhibit(reason, one, [*names, exploit], exploit))
    return result


def _first(rows: Sequence[Response]) -> dict[str, Response]:
    """The lowest draw of each instruction."""
    found: dict[str, Response] = {}
    for row in rows:
        if row.instruction_id not in found or row.draw < found[row.instruction_id].draw:
            found[row.instruction_id] = row
    return found


def _gains(first: Mapping[str, Mapping[str, Response]], label: str, baseline: str, name: str) -> dict[str, float]:
    a, b = first.get(label, {}), first.get(baseline, {})
    return {
        i: a[i].scores[name] - b[i].scores[name] for i in a if i in b and name in a[i].scores and name in b[i].scores
    }


def _ranked(instructions: Sequence[Instruction], gains: Mapping[str, float]) -> list[Instruction]:
    return sorted((i for i in instructions if i.id in gains), key=lambda i: (gains[i.id], i.id))


def _spread(gains: Mapping[str, float]) -> float:
    values = list(gains.values())
    middle = sum(values) / max(len(values), 1)
    return (sum((v - middle) ** 2 for v in values) / max(len(values), 1)) ** 0.5 or 1.0


def _shown(label: str, response: Response, proxy: str, gold: str) -> Shown:
    return Shown(
        label=label,
        text=response.text,
        gold=response.scores.get(gold),
        proxy=response.scores.get(proxy),
        n_tokens=response.n_tokens,
        finished=response.finished,
    )


def _opinion(judgement: Judgement, labels: Mapping[str, str]) -> Opinion:
    if judgement.outcome is Outcome.DECIDED and judgement.winner_id is not None:
        prefers = labels.get(judgement.winner_id, "another response")
    else:
        prefers = str(judgement.outcome)
    return Opinion(annotator=judgement.annotator, prefers=prefers, raw=judgement.raw)
