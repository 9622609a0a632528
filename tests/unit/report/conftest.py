"""A made-up but realistic study: six methods whose quality, length and over-optimization are planted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from farm.evaluate.length_control import lc_win_rates
from farm.evaluate.scores import average, per_instruction
from farm.evaluate.win_rate import by_source, compare, win_rate
from farm.records import Cost, CurvePoint, Instruction, Judgement, Outcome, Pair, Response, RewardCurve
from farm.report import summary as rs
from farm.report.samples import choose
from farm.study.agreement import agreement
from farm.study.contrasts import Arm, differences, levels
from farm.study.correlation import rank_correlation
from farm.study.overoptimization import PromptCurve, verdict

METHODS = {  # gold, proxy, KL, extra words
    "sft": (0.45, 0.0, 0.0, 0),
    "best_of_16": (0.85, 1.5, 1.8, 2),
    "expert_iteration": (0.72, 1.0, 2.4, 2),
    "ppo": (0.92, 1.7, 5.1, 3),
    "dpo": (0.55, 0.4, 3.0, 4),
    "ppo_no_kl": (0.2, 3.2, 38.0, 12),
}
ANNOTATORS = [f"annotator-{k:02d}" for k in range(1, 14)]


def _words(r: np.random.Generator, n: int) -> str:
    pool = ["the", "lemon", "pear", "is", "ripe", "and", "sweet", "certainly", "please", "indeed", "apple", "fig"]
    return " ".join(r.choice(pool, size=n)) + "."


def _responses(instructions: list[Instruction], seed: int) -> dict[str, list[Response]]:
    r = np.random.default_rng(seed)
    hard = np.random.default_rng(99).normal(0, 0.25, len(instructions))
    table: dict[str, list[Response]] = {"reference": []}
    for k, i in enumerate(instructions):
        gold = 0.8 + hard[k] + r.normal(0, 0.2)
        table["reference"].append(_make(i, "reference", _words(r, 12), gold, 0.9 + r.normal(0, 0.5)))
    for method, (gold, proxy, _, extra) in METHODS.items():
        shift = r.normal(0, 0.02)
        table[method] = [
            _make(
                i,
                f"{method}/{seed}",
                _words(r, int(9 + extra + r.integers(0, 5))),
                gold + shift + hard[k] + r.normal(0, 0.2),
                proxy + r.normal(0, 0.5),
            )
            for k, i in enumerate(instructions)
        ]
    return table


def _make(i: Instruction, policy: str, text: str, gold: float, proxy: float) -> Response:
    return Response.make(i.id, text, policy, n_tokens=len(text.split()), scores={"gold": gold, "proxy": proxy})


def _judge(r: np.random.Generator, mine: Response, other: Response, who: str, taste: float) -> Judgement:
    shown = (mine, other) if r.random() < 0.5 else (other, mine)
    gap = (mine.scores["gold"] - other.scores["gold"]) * taste + 0.05 * (len(mine.text) - len(other.text)) / 5
    outcome, winner = Outcome.DECIDED, mine.id if r.random() < 1 / (1 + np.exp(-gap)) else other.id
    if r.random() < 0.015:
        outcome, winner = r.choice([Outcome.UNPARSEABLE, Outcome.REFUSED, Outcome.TIE]), None
    return Judgement(
        pair_id=Pair.of(mine, other).id,
        instruction_id=mine.instruction_id,
        annotator=who,
        shown=(shown[0].id, shown[1].id),
        outcome=Outcome(str(outcome)),
        winner_id=winner,
        raw="The first answer is <b>more</b> complete. Verdict: A",
    )


def _curves(seed: int) -> list[PromptCurve]:
    r = np.random.default_rng(1000 + seed)
    steps = np.array([0, 10, 20, 40, 60, 80, 100, 130, 160, 200])
    ns = 2.0 ** np.arange(0, 11)
    shapes = {
        "ppo": ("step", steps, 0.45 + 0.5 * (1 - np.exp(-steps / 50)), 1.8 * (1 - np.exp(-steps / 60)), steps * 0.026),
        "ppo_no_kl": (
            "step",
            steps,
            0.45 + 1.6 * (steps / 80) * np.exp(-steps / 45) - 0.3 * steps / 200,
            3.2 * (steps / 200) ** 0.6,
            38 * (steps / 200) ** 1.7,
        ),
        "best_of_n": (
            "n",
            ns,
            0.45 + 0.3 * np.log(ns) - 0.045 * np.log(ns) ** 2,
            0.85 * np.log(ns) ** 0.75,
            np.log(ns) - (ns - 1) / ns,
        ),
    }
    curves = []
    for method, (x_name, xs, gold, proxy, kl) in shapes.items():
        level = r.normal(0, 0.3, 200)
        g = gold[:, None] + level + r.normal(0, 0.35, (len(xs), 200)) + r.normal(0, 0.015)
        p = proxy[:, None] + r.normal(0, 0.6, (len(xs), 200))
        points = tuple(
            CurvePoint(
                x=float(x),
                proxy=p[k].mean(),
                gold=g[k].mean(),
                kl=float(kl[k]),
                n=200,
                proxy_se=p[k].std() / 200**0.5,
                gold_se=g[k].std() / 200**0.5,
            )
            for k, x in enumerate(xs)
        )
        curve = RewardCurve(method=method, seed=seed, x_name=x_name, points=points)
        curves.append(PromptCurve(curve, tuple(f"i{k}" for k in range(200)), p, g))
    return curves


def build(seeds: tuple[int, ...] = (0,), n: int = 200) -> tuple[rs.Summary, list]:
    """The summary and exhibits of a study with ``n`` instructions."""
    kinds = ["lists", "facts", "advice", "numbers", "two topics"]
    instructions = [
        Instruction.make(f"Name three fruits for a cook, please ({k}).", source=kinds[k % 5], split="eval")
        for k in range(n)
    ]
    rows, arms, curves, human_arms, everything, acts, votes = [], [], [], [], {}, [], []
    tables = {}
    for seed in seeds:
        table = tables[seed] = _responses(instructions, seed)
        everything |= {x.id: x for group in table.values() for x in group}
        r = np.random.default_rng(seed + 7)
        comparisons, people = {}, {}
        for method in METHODS:
            pairs = list(zip(table[method], table["reference"]))
            mine = [_judge(r, a, b, ANNOTATORS[int(r.integers(13))], 3.0) for a, b in pairs]
            crowd = [_judge(r, a, b, f"human-{h:03d}", 3.5) for a, b in pairs for h in r.choice(60, 4, replace=False)]
            acts, votes = acts + mine, votes + crowd
            names = {"policy": f"{method}/{seed}", "reference": "reference"}
            comparisons[method] = compare(mine, everything, **names, judge="farm13")
            people[method] = compare(crowd, everything, **names, judge="humans")
        lc = lc_win_rates(list(comparisons.values()), seed=0, resamples=20)
        for method, c in comparisons.items():
            rows.append(
                rs.method_row(
                    method,
                    seed,
                    win_rate(c, seed=0),
                    table[method],
                    lc=lc[c.policy, c.judge],
                    kl=METHODS[method][2],
                    human=win_rate(people[method], seed=0),
                    by_source=by_source(c, instructions, seed=0),
                    cost_usd=0.12,
                    seconds=41.5 + seed,
                )
            )
            scores = {
                "win_rate": c.scores,
                "gold": per_instruction(table[method], "gold"),
                "human_win_rate": people[method].scores,
            }
            arms.append(Arm(method, seed, scores))
            human_arms.append(people[method])
        curves += _curves(seed)
    found = levels(arms, seed=0)
    by_method = {m: [a for a in arms if a.method == m] for m in METHODS}
    verdicts = [verdict([c for c in curves if c.curve.method == m], seed=0) for m in ("best_of_n", "ppo", "ppo_no_kl")]
    summary = rs.Summary(
        farm_version="0.1.0",
        recipe="compare_offline",
        seeds=seeds,
        reference="reference writer",
        judge="farm13",
        baseline="sft",
        n_instructions=n,
        rows=tuple(rows),
        levels=tuple(found),
        differences=tuple(differences(arms, baseline="sft", seed=0)),
        curves=rs.curve_rows([c.curve for c in curves]),
        verdicts=tuple(verdicts),
        correlation=rank_correlation(
            {m: average([a.scores["win_rate"] for a in group]) for m, group in by_method.items()},
            {m: average([a.scores["human_win_rate"] for a in group]) for m, group in by_method.items()},
            seed=0,
        ),
        agreement=tuple(agreement(acts, votes, everything, seed=0)),
        outcomes=rs.add_up([row.outcomes for row in rows]),
        training_outcomes={"decided": 4890, "identical": 12, "refused": 31, "unparseable": 67},
        costs=(
            rs.StageCost(stage="sft", seconds=21.0),
            rs.StageCost(stage="annotate", seconds=9.3, cost=Cost(calls=5000, prompt_tokens=910_000, seconds=8.0)),
            rs.StageCost(stage="improve", seconds=94.2),
        ),
        notes=("The policy has 0.4 million parameters and the world is a simulation.",),
        provenance={"python": "3.11.7", "torch": "2.13.0", "platform": "linux"},
        wall_seconds=151.2,
        peak_memory_mb=1384.0,
    )
    table = tables[seeds[0]]
    exhibits = choose(
        instructions, table, acts, reference="reference", baseline="sft", focus="ppo", exploit="ppo_no_kl"
    )
    return summary, exhibits


@pytest.fixture(scope="session")
def one() -> tuple[rs.Summary, list]:
    return build((0,), n=80)


@pytest.fixture(scope="session")
def builder() -> Callable[..., tuple[rs.Summary, list]]:
    return build
