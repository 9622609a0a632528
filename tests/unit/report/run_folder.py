"""A finished run folder, made up: three policies, people, and three annotators on every cross-annotated pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from farm import records
from farm.records import Instruction, Judgement, Outcome, Pair, Response
from farm.report import summary as rs

METHODS = {"sft": 0.3, "ppo": 0.75, "dpo": 0.55}  # how often the judge prefers it to the reference
ANNOTATORS = ("a01", "a02", "a03")


def make(
    folder: Path,
    summary: rs.Summary,
    exhibits: Sequence[records.Record],
    *,
    n: int = 40,
    better: float = 0.0,
    texts: Sequence[str] = (),
    reference: str = "A reference",
) -> Path:
    """``better`` raises ppo's chance to win; ``texts`` stand in for instructions, responses and raw answers."""

    def text(k: int, plain: str) -> str:
        return texts[k % len(texts)] if texts else plain

    r = np.random.default_rng(0)
    asked = [Instruction.make(text(k, f"Name a fruit ({k})."), source="lists", split="eval") for k in range(n)]
    records.write(folder / "0-data" / "eval.jsonl", asked)
    records.write(folder / "0-data" / "preference.jsonl", asked)
    theirs = [Response.make(i.id, f"{reference} {k}.", "reference", n_tokens=3) for k, i in enumerate(asked)]
    for method, share in METHODS.items():
        rate = share + (better if method == "ppo" else 0.0)
        mine = [
            Response.make(i.id, text(k, f"{method} says {k}."), method, n_tokens=4, scores={"gold": rate, "proxy": 1.0})
            for k, i in enumerate(asked)
        ]
        step = folder / "6-evaluate" / method / "seed-0"
        acts = [
            act(a, b, "a01", k < rate * n, raw=text(k, "I prefer it."))
            for k, (a, b) in enumerate(zip(mine, theirs, strict=True))
        ]
        votes = [
            act(a, b, f"human-{h}", r.random() < rate) for a, b in zip(mine, theirs, strict=True) for h in range(2)
        ]
        _step(step, {"responses": mine, "reference": theirs, "judgements": acts, "votes": votes})
    first = [Response.make(i.id, f"An apple {k}.", "sft", 0, n_tokens=3) for k, i in enumerate(asked)]
    second = [Response.make(i.id, f"Well, a ripe pear {k}.", "sft", 1, n_tokens=6) for k, i in enumerate(asked)]
    pairs = list(zip(first, second, strict=True))
    acts = [act(a, b, who, (k + m) % 3 > 0) for k, (a, b) in enumerate(pairs) for m, who in enumerate(ANNOTATORS)]
    votes = [act(a, b, f"human-{(k + h) % 6}", r.random() < 0.6) for k, (a, b) in enumerate(pairs) for h in range(3)]
    _step(folder / "2-sample" / "seed-0", {"responses": [*first, *second], "pairs": [Pair.of(a, b) for a, b in pairs]})
    _step(folder / "7-study" / "cross" / "seed-0", {"judgements": acts, "votes": votes})
    _step(folder / "7-study" / "across", {"exhibits": exhibits})
    numbers = summary.model_copy(update={"rows": tuple(row for row in summary.rows if row.method in METHODS)})
    rs.write(folder / "8-report" / "summary.json", numbers)
    recipe = f"name: made-up\nseeds: [0]\nimprove:\n  ppo:\n  - ppo\n  - {{steps: {int(100 * better)}}}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"wall_seconds": 1.0, "steps": {}}), encoding="utf-8")
    return folder


def act(mine: Response, other: Response, who: str, wins: bool | None, raw: str = "") -> Judgement:
    """``wins`` None: no verdict."""
    return Judgement(
        pair_id=Pair.of(mine, other).id,
        instruction_id=mine.instruction_id,
        annotator=who,
        shown=(mine.id, other.id),
        outcome=Outcome.REFUSED if wins is None else Outcome.DECIDED,
        winner_id=None if wins is None else (mine if wins else other).id,
        raw=raw,
    )


def _step(folder: Path, files: dict[str, Sequence[records.Record]]) -> None:
    for name, rows in files.items():
        records.write(folder / f"{name}.jsonl", rows)
    step = {"fingerprint": folder.name, "settings": {"world": 1}, "seconds": 2.0, "peak_memory_mb": 1.0}
    (folder / "step.json").write_text(json.dumps(step), encoding="utf-8")
