"""Twenty kills at random moments of a run of 5,000 pairs against the judge server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "annotate"))
from kills import kill_and_resume

pytestmark = pytest.mark.slow


def test_twenty_kills_lose_nothing_and_pay_nothing_twice(tmp_path: Path) -> None:
    account = kill_and_resume(5000, 20, 64, tmp_path, latency=0.05, seed=1)
    assert len(account.judgements) == 5000
    assert not [j for j in account.judgements if j.outcome == "failed"]
    assert account.accepted <= 5000 + 20 * 64
    assert account.unlisted == 0
    assert account.server_tokens == account.ledger_tokens + account.unknown_tokens
    # The promise is a tenth of a second; a loaded machine gets more.
    print(
        f"accepted {account.accepted}, lost by kills: {len(account.late)}, latest {max(account.late, default=0):.3f} s"
    )
    assert max(account.late, default=0.0) < 2.0
