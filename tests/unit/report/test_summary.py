import json

import pytest

from farm.errors import DataError
from farm.evaluate.win_rate import Act, Comparison, win_rate
from farm.records import Budget, Cost, Outcome
from farm.report import summary as rs

PROMISED = [
    "win_rate",
    "ci95_low",
    "ci95_high",
    "lc_win_rate",
    "gold",
    "proxy",
    "kl",
    "mean_tokens",
    "n",
    "n_failed",
    "cost_usd",
    "seconds",
    "method",
    "seed",
]


def test_round_trip_and_promised_fields(one, tmp_path):
    summary, _ = one
    rs.write(tmp_path / "summary.json", summary)
    assert rs.read(tmp_path / "summary.json") == summary
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["schema_version"] == 1
    for row in data["rows"]:
        assert set(PROMISED) <= set(row)
    for point in data["curves"]:
        assert {"method", "seed", "x_name", "x", "proxy", "gold", "kl", "n"} <= set(point)
    assert {"wall_seconds", "peak_memory_mb", "differences", "verdicts", "correlation", "agreement"} <= set(data)
    assert "NaN" not in (tmp_path / "summary.json").read_text()


def test_outcomes_add_up(one):
    summary, _ = one
    for row in summary.rows:
        assert sum(row.outcomes.values()) == row.n + row.n_failed == summary.n_instructions
    assert sum(summary.outcomes.values()) == sum(row.n + row.n_failed for row in summary.rows)


def test_stable_hides_measured_times_and_nothing_else(one):
    summary, _ = one
    row = summary.rows[0].model_copy(update={"seconds": 99.0, "budget": Budget(updates=3, seconds=5.0)})
    slow = summary.model_copy(
        update={
            "wall_seconds": 1e4,
            "peak_memory_mb": 1.0,
            "rows": (row, *summary.rows[1:]),
            "costs": tuple(
                c.model_copy(update={"seconds": 7.0, "cost": c.cost + Cost(seconds=2.0)}) for c in summary.costs
            ),
        }
    )
    quick = summary.model_copy(
        update={"rows": (row.model_copy(update={"seconds": 1.0, "budget": Budget(updates=3)}), *summary.rows[1:])}
    )
    assert rs.dumps(slow) != rs.dumps(quick)
    assert rs.dumps(rs.stable(slow)) == rs.dumps(rs.stable(quick))
    other = summary.model_copy(update={"rows": (row.model_copy(update={"gold": 0.0}), *summary.rows[1:])})
    assert rs.dumps(rs.stable(other)) != rs.dumps(rs.stable(slow))


def test_same_inputs_same_bytes(builder):
    assert rs.dumps(builder((0,), n=30)[0]) == rs.dumps(builder((0,), n=30)[0])


def test_free_mappings_are_sorted(one):
    summary, _ = one
    turned = summary.model_copy(update={"provenance": dict(reversed(summary.provenance.items()))})
    assert rs.dumps(turned) == rs.dumps(summary)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.DECIDED])
def test_rows_of_one_instruction_and_of_failures_only(outcome: Outcome):
    act = Act("i0", outcome, 1.0 if outcome is Outcome.DECIDED else None, 3)
    row = rs.method_row("ppo", 0, win_rate(Comparison("p", "r", "j", (act,)), seed=0), [])
    assert row.win_rate == (1.0 if outcome is Outcome.DECIDED else None)
    assert row.ci95_low is row.gold is row.mean_tokens is None
    assert row.n + row.n_failed == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"schema_version": 2}', "schema_version is 2"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 1, "recipe": "x", "colour": 3}', "colour"),
    ],
)
def test_bad_files_are_named(content: str, message: str, tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as e:
        rs.read(path)
    assert str(path) in str(e.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        rs.read(tmp_path / "summary.json")
