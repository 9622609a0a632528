"""What the training benchmarks share: two sides that take turns, each in a process of its own, and honest arithmetic.

Peak memory is the process's resident maximum, imports included. What was resident when everything was imported and
nothing loaded is stated beside it, and so is the difference: it is what models, optimizer and activations took.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Mark = tuple[float, float]  # wall and processor seconds


def now() -> Mark:
    return time.perf_counter(), time.process_time()


def resident_mb() -> float:
    """What this process holds in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def peak_mb() -> float:
    """The most that this process has held; getrusage would count its parent, too, from before exec."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def run_child(script: str, arguments: Sequence[str], threads: int, extra: Mapping[str, str] | None = None) -> Any:
    """The JSON that ``script`` prints last, run in a process of its own, offline, on ``threads`` threads."""
    settings = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=os.environ | settings | dict(extra or {}), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def take_turns(sides: Sequence[str], repetitions: int, measure: Callable[[str], Any]) -> dict[str, list[Any]]:
    """What ``measure`` gives for each side, again and again; who goes first alternates."""
    got: dict[str, list[Any]] = {side: [] for side in sides}
    for repetition in range(repetitions):
        for side in sides[:: 1 if repetition % 2 else -1]:
            got[side].append(measure(side))
            print(f"{side} {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
    return got


def compare(got: Mapping[str, list[dict[str, Any]]], peer: str) -> dict[str, Any]:
    """Figures of each side and ratios to ``peer``, paired by repetition.

    A run gives ``samples``, ``wall`` and ``cpu`` seconds, ``peak_mb`` and ``imports_mb``; what else it gives is kept
    from the last one. Speeds are medians, memory is the maximum over the runs.
    """
    result: dict[str, Any] = {}
    memory: dict[str, tuple[float, float]] = {}
    for side, runs in got.items():
        peak, imports = max(r["peak_mb"] for r in runs), statistics.median(r["imports_mb"] for r in runs)
        memory[side] = peak, peak - imports
        result[side] = {
            "samples_per_second": round(statistics.median(r["samples"] / r["wall"] for r in runs), 2),
            "cpu_ms_per_sample": round(1000 * statistics.median(r["cpu"] / r["samples"] for r in runs), 1),
            "peak_mb": round(peak),
            "imports_mb": round(imports),
            "above_imports_mb": round(peak - imports),
        } | {k: v for k, v in runs[-1].items() if k not in ("samples", "wall", "cpu", "peak_mb", "imports_mb")}
    result["ratios"] = {}
    for side, runs in got.items():
        pairs = list(zip(runs, got[peer], strict=True))
        speeds = sorted(a["samples"] / a["wall"] / (b["samples"] / b["wall"]) for a, b in pairs)
        costs = [a["cpu"] / a["samples"] / (b["cpu"] / b["samples"]) for a, b in pairs]
        if side != peer:
            result["ratios"][side] = {
                "samples_per_second": round(statistics.median(speeds), 2),
                "samples_per_second_each": [round(s, 2) for s in speeds],
                "cpu_seconds": round(statistics.median(costs), 2),
                "peak_memory": round(memory[side][0] / memory[peer][0], 2),
                "peak_memory_above_imports": round(memory[side][1] / memory[peer][1], 2),
            }
    return result


def share_of_products(work: Callable[[], Any]) -> float:
    """Share of operator time that ``work`` spends in matrix products and attention, by torch's profiler, on one
    thread: what a faster loop around the same model cannot save."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    events = profiled.key_averages()
    names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product", "mkldnn::")
    inside = sum(e.self_cpu_time_total for e in events if e.key.startswith(names))
    return round(float(inside / sum(e.self_cpu_time_total for e in events)), 2)


def conditions(**settings: Any) -> dict[str, Any]:
    """Settings and machine: how busy it was matters as much as what it is."""
    import torch
    import transformers

    return settings | {
        "cores": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
