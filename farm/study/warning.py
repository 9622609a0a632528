"""The warning light: how far may one optimise when nobody can measure gold?

Signals are what a user has. Each is a number along the curve, compared with its start, that should stay low while the
proxy can be trusted; the light goes on where it first exceeds its threshold, and the point before is the mark "safe up
to here". Thresholds are calibrated where gold is known (the offline world) so that stopping at the mark leaves little
gold on the table, and are validated on training seeds that the calibration has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from farm.errors import DataError
from farm.evaluate.intervals import Array, two_way
from farm.records import Estimate, Record

SIGNALS = {
    "second reward model": "reward of a model trained on the other half of the preferences: how far it has come down "
    "from its highest point, in standard deviations under SFT",
    "proxy gap": "gain of the proxy minus gain of the second reward model, in standard deviations under SFT",
    "ensemble disagreement": "standard deviation over ensemble members, relative to its start",
    "KL spent": "KL from SFT, nats per sequence",
    "KL rate": "nats of KL that the last gain in proxy cost, per standard deviation",
    "length drift": "mean length relative to SFT, up or down",
    "repetition drift": "share of words that repeat earlier ones, minus that of SFT",
}
# Calibrated in the offline world over best-of-n and PPO (docs/overoptimization.md); used where gold is unknown.
DEFAULTS: dict[str, float] = {
    "second reward model": 0.02,
    "proxy gap": 0.5,
    "ensemble disagreement": 1.1,
    "KL spent": 2.3,
    "KL rate": 3.0,
    "length drift": 0.5,
    "repetition drift": 0.03,
}


MOST_CANDIDATES = 200  # thresholds tried in calibration


@dataclass(frozen=True)
class Trace:
    """One curve with its signals, every array [points]; ``gold`` None where nobody knows it."""

    name: str
    seed: int
    x_name: str
    x: Array
    gold: Array | None
    signals: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, values in (("x", self.x), ("gold", self.gold), *self.signals.items()):
            if values is not None and len(values) != len(self.x):
                raise DataError(f"trace {self.name}: {what} has {len(values)} points, the curve has {len(self.x)}")
            if values is not None and not np.isfinite(values).all():
                raise DataError(f"trace {self.name}, seed {self.seed}: {what} is not finite at every point")


class Mark(Record):
    """'Safe up to here' on one curve by one signal: ``x`` of the last point before the light; None = no light."""

    curve: str
    seed: int
    signal: str
    threshold: float
    x_name: str
    safe_x: float
    fired: bool


class Reliability(Record):
    """How one signal did on curves whose seed the calibration had not seen.

    ``fired`` and ``in_time`` count curves: the light went on at all, and no later than the first point after the gold
    peak. ``left`` is gold at the peak minus gold at the mark: what was left on the table, by stopping too early or
    too late; ``without`` the same for ignoring the light and going to the end; ``saved`` their paired difference.
    """

    signal: str
    threshold: float
    curves: int
    fired: int
    in_time: int
    left: Estimate
    without: Estimate
    saved: Estimate


def signals(
    proxy: npt.ArrayLike,
    *,
    kl: npt.ArrayLike | None = None,
    second: npt.ArrayLike | None = None,
    spread: npt.ArrayLike | None = None,
    tokens: npt.ArrayLike | None = None,
    repeats: npt.ArrayLike | None = None,
) -> dict[str, Array]:
    """Signals from what was measured along a curve, each [points]; what is None gives no signal.

    ``proxy`` and ``second`` are mean rewards in standard deviations under SFT, ``spread`` the mean standard deviation
    over ensemble members, ``tokens`` the mean length, ``repeats`` the mean share of repeated words.
    """
    out: dict[str, Array] = {}
    rise = np.asarray(proxy, dtype=float) - np.asarray(proxy, dtype=float)[0]
    if second is not None:
        other = np.asarray(second, dtype=float) - np.asarray(second, dtype=float)[0]
        out["second reward model"] = np.maximum.accumulate(other) - other
        out["proxy gap"] = rise - other
    if spread is not None:
        s = np.asarray(spread, dtype=float)
        out["ensemble disagreement"] = s / max(float(s[0]), 1e-12)
    if kl is not None:
        spent = np.maximum(np.asarray(kl, dtype=float), 0.0)
        out["KL spent"] = spent
        gained = np.maximum(np.diff(rise), 1e-3)
        out["KL rate"] = np.concatenate([[0.0], np.maximum(np.diff(spent), 0.0) / gained])
    if tokens is not None:
        t = np.asarray(tokens, dtype=float)
        out["length drift"] = np.abs(t / max(float(t[0]), 1e-12) - 1)
    if repeats is not None:
        r = np.asarray(repeats, dtype=float)
        out["repetition drift"] = r - r[0]
    return out


def safe_point(values: Array, threshold: float) -> int:
    """Index of the last point before ``values`` first exceed the threshold (the end when they never do)."""
    over = np.flatnonzero(np.asarray(values) > threshold)
    return max(0, int(over[0]) - 1) if len(over) else len(values) - 1


def marks(traces: Sequence[Trace], thresholds: Mapping[str, float] = DEFAULTS) -> list[Mark]:
    """'Safe up to here' on every curve by every signal it has a threshold for."""
    out = []
    for t in traces:
        for signal, values in t.signals.items():
            if signal in thresholds:
                k = safe_point(values, thresholds[signal])
                out.append(
                    Mark(
                        curve=t.name,
                        seed=t.seed,
                        signal=signal,
                        threshold=thresholds[signal],
                        x_name=t.x_name,
                        safe_x=float(t.x[k]),
                        fired=bool((values > thresholds[signal]).any()),
                    )
                )
    return out


def calibrate(traces: Sequence[Trace], signal: str) -> float:
    """The threshold at which stopping leaves least gold on the table, averaged over curves with known gold.

    Candidates lie between the values seen; of equally good ones the middle is taken. Raises DataError when no trace
    has both gold and the signal.
    """
    known = [(t.signals[signal], t.gold) for t in traces if signal in t.signals and t.gold is not None]
    if not known:
        raise DataError(f"signal '{signal}' cannot be calibrated: no curve has it together with gold")
    seen = np.unique(np.concatenate([values for values, _ in known]))
    between = (seen[1:] + seen[:-1]) / 2
    between = between[np.linspace(0, len(between) - 1, min(len(between), MOST_CANDIDATES)).astype(int)]
    candidates = np.concatenate([between, [seen[-1] + 1e-9]])
    left = [float(np.mean([gold.max() - gold[safe_point(values, c)] for values, gold in known])) for c in candidates]
    best = np.flatnonzero(np.array(left) <= min(left) + 1e-12)
    return float(candidates[best[len(best) // 2]])


def validate(traces: Sequence[Trace], *, seed: int) -> list[Reliability]:
    """Calibrate on all training seeds but one, test on that one, and so on; one row per signal that all curves have.

    Raises DataError with fewer than two seeds (nothing would be left to test on) or where gold is missing.
    """
    seeds = sorted({t.seed for t in traces})
    names = list(dict.fromkeys(t.name for t in traces))
    if len(seeds) < 2:
        raise DataError("the warning light is validated on unseen training seeds, so it needs at least two")
    if any(t.gold is None for t in traces):
        raise DataError("the warning light can only be validated where gold is known")
    rows = []
    for signal in SIGNALS:
        if not all(signal in t.signals for t in traces):
            continue
        left = np.full((len(seeds), len(names)), np.nan)
        without = left.copy()
        fired = in_time = 0
        for s, held in enumerate(seeds):
            threshold = calibrate([t for t in traces if t.seed != held], signal)
            for t in (t for t in traces if t.seed == held):
                assert t.gold is not None
                values, column = t.signals[signal], names.index(t.name)
                peak, mark = int(t.gold.argmax()), safe_point(values, threshold)
                lit = bool((values > threshold).any())
                fired += lit
                in_time += lit and mark <= peak
                left[s, column] = t.gold[peak] - t.gold[mark]
                without[s, column] = t.gold[peak] - t.gold[-1]
        rows.append(
            Reliability(
                signal=signal,
                threshold=calibrate(traces, signal),
                curves=len(traces),
                fired=fired,
                in_time=in_time,
                left=two_way(left, seed=seed),
                without=two_way(without, seed=seed),
                saved=two_way(without - left, seed=seed),
            )
        )
    return rows
