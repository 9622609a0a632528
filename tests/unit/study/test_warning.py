"""The warning light: signals, marks, calibration on some seeds and validation on others."""

from __future__ import annotations

import numpy as np
import pytest

from farm.errors import DataError
from farm.study import warning
from farm.study.warning import Trace

X = np.arange(8.0)


def trace(name: str, seed: int, peak: int, lead: int = 0) -> Trace:
    """Gold rises to ``peak`` and falls; a good signal passes 1 one point after the peak (``lead`` points earlier), a
    useless one is the same everywhere."""
    good = np.where(np.arange(8) > peak - lead, 1.5, 0.2)
    return Trace(name, seed, "step", X, -np.abs(X - peak), {"proxy gap": good, "length drift": np.zeros(8)})


def traces() -> list[Trace]:
    return [trace(f"arm{k}", s, 2 + k) for s in range(3) for k in range(3)]


def test_signals_start_at_their_zero_and_say_what_they_measure():
    found = warning.signals(
        [0.0, 1.0, 2.0],
        kl=[-0.01, 1.0, 3.0],
        second=[0.1, 0.8, 0.5],
        spread=[0.5, 0.6, 1.0],
        tokens=[10, 12, 5],
        repeats=[0.1, 0.1, 0.4],
    )
    assert set(found) == set(warning.SIGNALS)
    assert found["second reward model"] == pytest.approx([0, 0, 0.3])
    assert found["proxy gap"] == pytest.approx([0, 0.3, 1.6])
    assert found["ensemble disagreement"] == pytest.approx([1, 1.2, 2])
    assert found["KL spent"] == pytest.approx([0, 1, 3])
    assert found["KL rate"] == pytest.approx([0, 1, 2])
    assert found["length drift"] == pytest.approx([0, 0.2, 0.5])
    assert found["repetition drift"] == pytest.approx([0, 0, 0.3])
    assert set(warning.signals([0.0, 1.0])) == set()
    assert set(warning.DEFAULTS) == set(warning.SIGNALS)


def test_safe_up_to_the_last_point_before_the_light():
    values = np.array([0.0, 0.1, 0.2, 0.9, 0.1])
    assert warning.safe_point(values, 0.5) == 2
    assert warning.safe_point(values, 2.0) == 4  # never lit
    assert warning.safe_point(values, -1.0) == 0  # lit at once: the start is all that is safe
    marks = warning.marks([trace("a", 0, 3)], {"proxy gap": 1.0})
    assert [(m.signal, m.safe_x, m.fired) for m in marks] == [("proxy gap", 3.0, True)]


def test_calibration_finds_the_threshold_that_loses_no_gold():
    threshold = warning.calibrate(traces(), "proxy gap")
    assert 0.3 < threshold < 1.5
    with pytest.raises(DataError, match="cannot be calibrated"):
        warning.calibrate(traces(), "KL spent")


def test_validation_tells_a_good_signal_from_a_useless_one():
    rows = {r.signal: r for r in warning.validate(traces(), seed=0)}
    good, useless = rows["proxy gap"], rows["length drift"]
    assert (good.curves, good.fired, good.in_time) == (9, 9, 9)
    assert good.left.value == 0
    assert useless.fired == 0
    assert useless.left.value == useless.without.value == pytest.approx(np.mean([7 - 2, 7 - 3, 7 - 4]))
    assert good.saved.value == pytest.approx(useless.without.value)


def test_an_early_light_leaves_gold_on_the_table():
    early = [trace(f"arm{k}", s, 3, lead=2) for s in range(3) for k in range(3)]
    row = warning.validate(early, seed=0)[0]
    assert row.left.value == 2
    assert row.in_time == 9


def test_validation_needs_gold_and_a_seed_to_spare():
    with pytest.raises(DataError, match="at least two"):
        warning.validate([trace("a", 0, 2)], seed=0)
    blind = [Trace("a", s, "n", X, None, {"KL spent": X}) for s in (0, 1)]
    with pytest.raises(DataError, match="gold is known"):
        warning.validate(blind, seed=0)
    with pytest.raises(DataError, match="not finite"):
        Trace("a", 0, "n", X, X * np.nan)
