"""Importers of human preference data, and of judges' verdicts recorded in the same files.

:func:`read` returns the farm's own records; a row that cannot be read is listed with its line and the reason, and an
act without a verdict (a skip, an unusable answer of a judge) is kept as such. Formats, with their columns, are
described in docs/agreement.md: trl, alpacafarm, mtbench, pandalm, csv and farm.

The ``farm`` format is the long table of single judgements that ``farm label export`` writes, JSON lines or CSV, one
row per act. Columns (``instruction``, ``first``, ``second``, ``annotator`` and ``winner`` are needed):

    instruction, input        the task as it was shown; ``input`` may be empty
    first, second             the texts of the two responses, in the order in which they were shown
    annotator                 who judged
    winner                    first | second | tie | skip
    pair_id                   the pair's id in the farm's records; made from the texts when absent
    first_id, second_id       response ids in the farm's records, both or neither; made from the texts when absent
    first_policy, second_policy   names of the policies, in an export for analysis (never in what annotators see)
    strength                  1 slightly, 2 clearly, 3 much better; empty = not asked
    reason                    free text, such as why a pair was skipped
    seconds                   time taken
    draw                      0 for the first time this annotator saw this pair, 1 for the next, ...
    time                      ISO 8601, when it was judged; not imported
    source, split             of the instruction; split is one of the farm's splits, else 'eval'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from farm.data import collect
from farm.data.collect import UNORDERED, Collector, Row, Unusable, name, number, text, whole
from farm.data.judged import Judged
from farm.errors import DataError
from farm.progress import Progress
from farm.records import Instruction, Outcome, Split, problems

Format = Literal["trl", "alpacafarm", "mtbench", "pandalm", "csv", "farm"]
Texts = dict[tuple[int, int], tuple[str, dict[str, str]]]  # (question, turn) -> question's text, answer by model
_SEEDS = re.compile(r"^(.+?)_(\d+)seeds$")


def read(path: Path, format: str | None = None, *, judges: bool = False, texts: Path | None = None) -> Judged:
    """Read a file of judgements; ``format`` None recognises it by its columns.

    Files that hold people's votes and judges' verdicts side by side (alpacafarm, pandalm) give the people's, or with
    ``judges`` the judges'. ``texts`` is a file of MT-bench questions and answers, for votes that name systems only.
    Raises DataError when the file cannot be read, its format is not known, or no row of it is usable.
    """
    numbered = list(collect.rows(path))
    form = format or _recognise(path, numbered)
    if form not in _READERS:
        raise DataError(f"format {form!r} is not known: one of {', '.join(_READERS)}")
    if texts is not None and form != "mtbench":
        raise DataError(f"texts are for MT-bench votes, which name systems only; {path} has the format {form}")
    answers = _mtbench_texts(texts) if texts else {}
    found, progress = Collector(), Progress(f"reading {path.name}", bar=True)
    for done, (line, row) in enumerate(numbered):
        if done % 500 == 0:
            progress(done, len(numbered))
        if isinstance(row, str):
            found.reject(line, row)
            continue
        before = len(found.judgements)
        try:
            _READERS[form](found, line, row, judges, answers)
        except Unusable as e:
            found.reject(line, str(e))
        except ValidationError as e:
            found.reject(line, problems(e))
        except DataError as e:
            found.reject(line, str(e))
        else:
            if len(found.judgements) == before and _empty_is_wrong(form):
                found.reject(line, "the row holds no judgement")
    progress.close()
    result = _both_orders(found.result()) if form == "mtbench" else found.result()
    if not result.judgements:
        what = "judges' verdicts" if judges else "judgements"
        first = "".join(f"\n- line {r.line}: {r.reason}" for r in result.rejected[:5])
        raise DataError(f"{path}: no {what} in {len(numbered)} rows read as format {form}{first}")
    return result


def _empty_is_wrong(form: str) -> bool:
    """Whether every row must hold an act: files with several people's columns may leave a row without any."""
    return form not in ("alpacafarm", "pandalm")


def _recognise(path: Path, numbered: list[tuple[int, Row | str]]) -> str:
    row = next((r for _, r in numbered if isinstance(r, dict)), None)
    if row is None:
        raise DataError(f"{path}: holds no row that could be read" if numbered else f"{path}: is empty")
    has = set(row)
    if {"model_a", "model_b", "winner"} <= has:
        return "mtbench"
    if {"chosen", "rejected"} <= has:
        return "trl"
    if {"output_1", "output_2"} <= has and has & {"preference", "human_votes"} | {k for k in has if _SEEDS.match(k)}:
        return "alpacafarm"
    if {"response1", "response2"} <= has and any(re.fullmatch(r"annotator\d+", k) for k in has):
        return "pandalm"
    if {"instruction", "first", "second", "annotator", "winner"} <= has:
        return "farm"
    if "winner" in has:
        return "csv"
    raise DataError(
        f"{path}: no known format has the columns {', '.join(map(str, row))}; say --format with one of "
        f"{', '.join(_READERS)}, whose columns docs/agreement.md lists"
    )


# -- farm and plain CSV -----------------------------------------------------------------------------------------------

_WINNERS: dict[str, tuple[Outcome, int | None]] = {
    "first": (Outcome.DECIDED, 0),
    "second": (Outcome.DECIDED, 1),
    "tie": (Outcome.TIE, None),
    "skip": (Outcome.REFUSED, None),
}
_ALIASES = {"1": "first", "a": "first", "2": "second", "b": "second", "0": "tie", "": "skip"}


def _farm(found: Collector, line: int, row: Row, judges: bool, answers: Texts) -> None:
    _act(found, line, row, name(row, "annotator"), text(row, "winner"))


def _csv(found: Collector, line: int, row: Row, judges: bool, answers: Texts) -> None:
    said = str(row.get("winner", "")).strip().lower()
    _act(found, line, row, name(row, "annotator", default=_one(judges)), _ALIASES.get(said, said))


def _act(found: Collector, line: int, row: Row, annotator: str, said: str) -> None:
    if said not in _WINNERS:
        raise Unusable(f"winner: must be one of {', '.join(_WINNERS)}, got {said[:60]!r}")
    outcome, winner = _WINNERS[said]
    task = _instruction(found, row)
    ids = (row.get("first_id"), row.get("second_id"))
    if (ids[0] is None) != (ids[1] is None):
        raise Unusable("first_id and second_id: give both or neither")
    pair, shown = found.pair(
        task,
        (
            text(row, "first", "response_1", "output_1", "response_a"),
            text(row, "second", "response_2", "output_2", "response_b"),
        ),
        (text(row, "first_policy", default=""), text(row, "second_policy", default="")),
        ids=(str(ids[0]), str(ids[1])) if ids[0] is not None else None,
        pair_id=text(row, "pair_id", default="") or None,
    )
    found.act(
        line,
        pair,
        shown,
        annotator,
        outcome,
        winner,
        draw=whole(row, "draw", 0),
        raw=text(row, "reason", default=""),
        seconds=number(row, "seconds", 0) or 0.0,
        strength=number(row, "strength", 0),
    )


def _one(judges: bool) -> str:
    """What the only annotator of a file is called that names none."""
    return "judge" if judges else "human"


def _instruction(found: Collector, row: Row) -> Instruction:
    asked, given = text(row, "instruction", "prompt"), text(row, "input", default="")
    if not asked.strip():  # the task stands in the input alone
        asked, given = given, ""
    if not asked.strip():
        raise Unusable("instruction: empty, and so is the input")
    split = text(row, "split", default="")
    return found.instruction(
        asked,
        given,
        text(row, "source", "dataset", default=""),
        split if split in get_args(Split) else "eval",
    )


# -- HF/TRL -----------------------------------------------------------------------------------------------------------


def _trl(found: Collector, line: int, row: Row, judges: bool, answers: Texts) -> None:
    prompt, chosen, rejected = trl_texts(row)
    if not prompt.strip():
        raise Unusable("prompt: missing, and chosen and rejected have no common beginning")
    task = found.instruction(prompt, source=text(row, "source", default=""))
    pair, ids = found.pair(task, (chosen, rejected))
    shown = (pair.a, pair.b)
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same text")
    found.act(
        line,
        pair,
        shown,
        name(row, "annotator", default=_one(judges)),
        Outcome.DECIDED,
        shown.index(ids[0]),
        draw=whole(row, "draw", 0),
        ordered=False,
        strength=number(row, "margin", 0),
    )


def trl_texts(row: Row) -> tuple[str, str, str]:
    """Prompt, chosen and rejected text of a row with TRL's preference columns, conversational or plain, the prompt
    explicit or the common beginning of both. Raises Unusable."""
    asked = row.get("prompt", row.get("instruction"))
    both = row.get("chosen"), row.get("rejected")
    if isinstance(both[0], list) != isinstance(both[1], list):
        raise Unusable("chosen and rejected: both must be texts or both conversations")
    if isinstance(both[0], list):
        prompt, one, other = _messages(asked, "prompt"), _messages(both[0], "chosen"), _messages(both[1], "rejected")
        if asked is None:
            same = _common(one, other)
            prompt, one, other = one[:same], one[same:], other[same:]
        if not one or not other:
            raise Unusable("chosen and rejected: each must end with an answer that the other does not have")
        return _conversation(prompt), _conversation(one), _conversation(other)
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    if asked is not None:
        return _conversation(_messages(asked, "prompt")), chosen, rejected
    same = _common(chosen, rejected)
    while same and not chosen[same - 1].isspace():
        same -= 1
    return chosen[:same].strip(), chosen[same:], rejected[same:]


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the common beginning."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same


def _messages(value: Any, column: str) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, str):
        return [("user", value)]
    if not isinstance(value, list):
        raise Unusable(f"{column}: a text or a list of messages is needed, got {type(value).__name__}")
    found = []
    for m in value:
        if not isinstance(m, dict) or not isinstance(m.get("content"), str) or not isinstance(m.get("role"), str):
            raise Unusable(f"{column}: every message needs a role and a content")
        found.append((m["role"], m["content"]))
    return found


def _conversation(messages: list[tuple[str, str]]) -> str:
    """One message as its text, several with their roles."""
    if len(messages) == 1:
        return messages[0][1]
    return "\n\n".join(f"{role}: {content}" for role, content in messages)


# -- AlpacaFarm and PandaLM -------------------------------------------------------------------------------------------


def _choice(value: Any) -> tuple[Outcome, int | None, float | None]:
    """Outcome, winner and probability of the first from 1, 2, 0 or 1.5 (tie), or 1 + P(second) in between."""
    if value is None:
        return Outcome.UNPARSEABLE, None, None
    try:
        x = float(value)
    except (TypeError, ValueError):
        raise Unusable(f"a choice is 1, 2 or 0, got {value!r}") from None
    if isinstance(value, bool) or not (x == 0 or 1 <= x <= 2):
        raise Unusable(f"a choice is 1, 2, 0 or 1.5 (tie), or 1 + P(second) in between; got {value!r}")
    if x in (0, 1.5):
        return Outcome.TIE, None, None
    return Outcome.DECIDED, int(x > 1.5), None if x in (1, 2) else 2 - x


def _choices(
    found: Collector, line: int, pair: Any, shown: tuple[str, str], acts: Iterator[tuple[str, int, Any]]
) -> None:
    """Every (annotator, draw, choice) of one row; one bad choice does not cost the others."""
    for annotator, draw, value in acts:
        try:
            outcome, winner, first = _choice(value)
            found.act(line, pair, shown, annotator, outcome, winner, probability_first=first, draw=draw)
        except Unusable as e:
            found.reject(line, f"{annotator}: {e}")


def _alpacafarm(found: Collector, line: int, row: Row, judges: bool, answers: Texts) -> None:
    task = _instruction(found, row)
    texts = text(row, "output_1"), text(row, "output_2")
    policies = text(row, "generator_1", default=""), text(row, "generator_2", default="")
    pair, shown = found.pair(task, texts, policies)
    _choices(found, line, pair, shown, _seeds(row) if judges else _alpacafarm_votes(row))


def _seeds(row: Row) -> Iterator[tuple[str, int, Any]]:
    """A judge's verdicts over seeds: a column ``<judge>_<n>seeds`` holding a list."""
    for column, values in row.items():
        if match := _SEEDS.match(column):
            if not isinstance(values, list):
                raise Unusable(f"{column}: a list of choices is needed")
            yield from ((match[1], draw, value) for draw, value in enumerate(values))
    if "preference" in row:
        yield name(row, "annotator", default=_one(True)), whole(row, "draw", 0), row["preference"]


def _alpacafarm_votes(row: Row) -> Iterator[tuple[str, int, Any]]:
    """``human_votes`` is a list of [annotator, choice]; else ``preference`` is one vote by ``annotator_index``."""
    votes = row.get("human_votes")
    if votes is not None:
        if not isinstance(votes, list) or not all(isinstance(v, list) and len(v) == 2 for v in votes):
            raise Unusable("human_votes: a list of [annotator, choice] is needed")
        yield from ((f"human-{who}", 0, value) for who, value in votes)
    elif "preference" in row:
        who = row.get("annotator_index")
        one = name(row, "annotator", default=_one(False)) if who is None else f"human-{who}"
        yield one, whole(row, "draw", 0), row["preference"]


def _pandalm(found: Collector, line: int, row: Row, judges: bool, answers: Texts) -> None:
    task = _instruction(found, row)
    sides = [str(v) if isinstance(v := row.get(c), bool) else text(row, c) for c in ("response1", "response2")]
    systems = text(row, "pair", default="").split("_")
    pair, shown = found.pair(task, (sides[0], sides[1]), (systems[0], systems[1]) if len(systems) == 2 else ("", ""))
    wanted = r"(.+)_(?:verdict|result)" if judges else r"(annotator\d+)"
    columns = [(m[1], column) for column in row if (m := re.fullmatch(wanted, column))]
    _choices(found, line, pair, shown, ((who, 0, row[column]) for who, column in columns))


# -- MT-bench ---------------------------------------------------------------------------------------------------------

_MTBENCH: dict[str, tuple[Outcome, int | None]] = {
    "model_a": (Outcome.DECIDED, 0),
    "model_b": (Outcome.DECIDED, 1),
    "tie": (Outcome.TIE, None),
    "tie (inconsistent)": (Outcome.TIE, None),
    "error": (Outcome.UNPARSEABLE, None),
}


def _mtbench(found: Collector, line: int, row: Row, judges: bool, answers: Texts) -> None:
    said = text(row, "winner")
    if said not in _MTBENCH:
        raise Unusable(f"winner: must be one of {', '.join(_MTBENCH)}, got {said[:60]!r}")
    outcome, winner = _MTBENCH[said]
    systems = name(row, "model_a"), name(row, "model_b")
    if systems[0] == systems[1]:
        raise Unusable(f"model_a and model_b: both are {systems[0]}")
    question, turn = whole(row, "question_id"), whole(row, "turn", 1)
    asked, by_model = answers.get((question, turn), (f"MT-bench question {question}, turn {turn}", {}))
    known = all(s in by_model for s in systems)
    sides = (by_model[systems[0]], by_model[systems[1]]) if known else ("", "")
    conversations = row.get("conversation_a"), row.get("conversation_b")
    if all(isinstance(c, list) and len(c) >= 2 * turn for c in conversations):
        said_a, said_b = (_messages(c, "conversation")[: 2 * turn] for c in conversations)
        asked = "\n\n".join(content for role, content in said_a if role == "user")
        sides = said_a[-1][1], said_b[-1][1]
    task = found.instruction(asked, source="mt-bench")
    pair, shown = found.pair(task, sides, systems)
    judge = row.get("judge")
    who = ", ".join(map(str, judge)) if isinstance(judge, list) else name(row, "judge")
    found.act(line, pair, shown, who, outcome, winner, raw=said if outcome is Outcome.TIE else "")


def _both_orders(judged: Judged) -> Judged:
    """A judge with inconsistent ties was asked in both orders: none of its acts has an order of its own."""
    both = {j.annotator for j in judged.judgements if j.raw == "tie (inconsistent)"}
    acts = [j.model_copy(update={"fingerprint": UNORDERED}) if j.annotator in both else j for j in judged.judgements]
    return Judged(judged.instructions, judged.responses, judged.pairs, acts, judged.rejected)


def _mtbench_texts(path: Path) -> Texts:
    """Rows of question_id, turns and answers {model: [turn 1, turn 2]}. Raises DataError naming file and line."""
    found: Texts = {}
    for line, row in collect.rows(path):
        try:
            if isinstance(row, str):
                raise Unusable(row)
            turns, answers = row["turns"], row["answers"]
            for k in range(len(turns)):
                said = {model: given[k] for model, given in answers.items()}
                found[whole(row, "question_id"), k + 1] = ("\n\n".join(turns[: k + 1]), said)
        except (Unusable, KeyError, TypeError, IndexError, AttributeError) as e:
            raise DataError(f"{path}, line {line}: not a question with turns and answers ({e})") from None
    return found


_READERS: dict[str, Callable[[Collector, int, Row, bool, Texts], None]] = {
    "trl": _trl,
    "alpacafarm": _alpacafarm,
    "mtbench": _mtbench,
    "pandalm": _pandalm,
    "csv": _csv,
    "farm": _farm,
}
