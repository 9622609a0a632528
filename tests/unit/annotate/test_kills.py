"""A few kills at random moments; tests/slow has the twenty."""

from __future__ import annotations

from pathlib import Path

from kills import judge, kill_and_resume

from farm.world.serve import background


def test_after_kills_both_sides_have_the_same_account_and_labels(tmp_path: Path) -> None:
    account = kill_and_resume(300, 2, 8, tmp_path, latency=0.02, seed=3)
    assert account.accepted <= 300 + 2 * 8
    assert account.unlisted == 0
    assert account.server_tokens == account.ledger_tokens + account.unknown_tokens
    with background() as (url, token):
        whole = judge(300, url, token, tmp_path / "whole.sqlite", 32)
    assert [(j.id, j.outcome, j.winner_id, j.raw) for j in account.judgements] == [
        (j.id, j.outcome, j.winner_id, j.raw) for j in whole
    ]
