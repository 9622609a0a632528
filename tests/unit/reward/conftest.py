"""Preferences for the response with more of the letter 'a'."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def world(toy, asks):
    """Instructions and responses by id, and preferences; a quarter of the pairs are ties."""
    from farm import records
    from farm.lm.load import load_policy
    from farm.lm.sample import sample
    from farm.records import Pair, Preference, Sampling

    policy = load_policy(toy)
    responses = sample(policy, asks, 30, Sampling(max_tokens=8), name="sft", purpose="pairs")
    preferences = []
    for first, second in zip(responses[::2], responses[1::2], strict=True):
        a, b = (r.text.lower().split().count("a") for r in (first, second))
        if first.id != second.id and first.text != second.text:
            pair = Pair.of(first, second)
            winner = None if a == b else (first if a > b else second).id
            preferences.append(
                Preference(
                    pair_id=pair.id,
                    instruction_id=pair.instruction_id,
                    responses=(pair.a, pair.b),
                    winner_id=winner,
                    probability=1.0 if winner else 0.5,
                    origin="gold",
                )
            )
    return records.by_id(asks), records.by_id(responses), preferences
