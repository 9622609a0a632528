"""Per-instruction tables of what travels with the responses: gold, proxy, token counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farm.evaluate.intervals import Scores
from farm.records import Response


def per_instruction(responses: Iterable[Response], name: str) -> dict[str, float]:
    """Instruction id -> mean of ``Response.scores[name]`` over its draws; responses without that score are left out.

    The caller selects the responses of one policy first. An empty result means: not scored.
    """
    groups: dict[str, list[float]] = {}
    for response in responses:
        if name in response.scores:
            groups.setdefault(response.instruction_id, []).append(response.scores[name])
    return {i: sum(values) / len(values) for i, values in groups.items()}


def mean_score(responses: Iterable[Response], name: str) -> float | None:
    """Mean over instructions of :func:`per_instruction`; None when nothing was scored."""
    values = per_instruction(responses, name)
    return sum(values.values()) / len(values) if values else None


def mean_tokens(responses: Sequence[Response]) -> float | None:
    """Mean number of generated tokens; None for no responses."""
    return sum(r.n_tokens for r in responses) / len(responses) if responses else None


def finished_share(responses: Sequence[Response]) -> float | None:
    """Share of responses that ended by themselves, in [0, 1]; None for no responses."""
    return sum(r.finished for r in responses) / len(responses) if responses else None


def average(tables: Sequence[Scores]) -> dict[str, float]:
    """Average several score tables (training seeds of one method) instruction by instruction."""
    groups: dict[str, list[float]] = {}
    for one in tables:
        for i, value in one.items():
            groups.setdefault(i, []).append(value)
    return {i: sum(values) / len(values) for i, values in groups.items()}
