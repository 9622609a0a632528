import numpy as np
import pytest

from farm.errors import DataError
from farm.study.contrasts import Arm, differences, levels

R = np.random.default_rng(0)
BASE = R.normal(0, 1, 100)


def arm(method: str, seed: int, lift: float, *, gold: bool = True) -> Arm:
    values = {f"i{k}": float(BASE[k] + lift + R.normal(0, 0.1)) for k in range(100)}
    return Arm(method, seed, {"win_rate": values, "gold": values if gold else {}})


def test_one_seed():
    rows = differences([arm("sft", 0, 0), arm("ppo", 0, 0.5), arm("dpo", 0, 0, gold=False)], baseline="sft", seed=0)
    found = {(r.method, r.measure, r.seed): r.estimate for r in rows}
    assert set(found) == {("ppo", "win_rate", 0), ("ppo", "gold", 0), ("dpo", "win_rate", 0)}
    assert found["ppo", "gold", 0].ci95_low > 0.4
    assert found["dpo", "win_rate", 0].ci95_low < 0 < found["dpo", "win_rate", 0].ci95_high


def test_several_seeds_add_a_row_over_seeds():
    arms = [a for s in range(3) for a in (arm("sft", s, 0), arm("ppo", s, 0.5 + 0.05 * s))]
    rows = [r for r in differences(arms, baseline="sft", seed=0) if r.measure == "gold"]
    assert [r.seed for r in rows] == [0, 1, 2, None]
    assert rows[-1].seeds == (0, 1, 2)
    assert rows[-1].estimate.value == pytest.approx(0.55, abs=0.03)
    assert rows[-1].estimate.ci95_low > 0.3
    assert [r.method for r in levels(arms, seed=0) if r.measure == "gold"] == ["sft", "ppo"]


def test_missing_baseline_and_doubles_are_named():
    with pytest.raises(DataError, match=r"no sft with seed \[1\]"):
        differences([arm("sft", 0, 0), arm("ppo", 1, 0)], baseline="sft", seed=0)
    with pytest.raises(DataError, match="seed 0 was given twice"):
        levels([arm("sft", 0, 0), arm("sft", 0, 0)], seed=0)
