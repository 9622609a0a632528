"""How often the farm's 95% intervals hold the truth, in the offline world, where the truth is known by construction.

A world of simulated people and annotators (``farm.world.raters``) votes on responses of known writers; a *method* is a
mixture of writers, so that any number of methods with exactly known true scores can be drawn. Every study draws
instructions, texts and votes anew, computes an interval with the farm's own functions, and asks whether the truth lies
in it. The percentile bootstrap over methods, and the bootstrap that ignores that scores are noisy already, are shown
for comparison.

    python benchmarks/coverage.py --studies 500 --json coverage.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from farm.evaluate.win_rate import Act, Comparison, win_rate
from farm.records import Estimate, Outcome
from farm.seeds import key, rng
from farm.study.agreement import loo_agreement
from farm.study.correlation import STATISTICS, Measured, associate, from_errors, from_scores, spearman
from farm.study.planning import allocate
from farm.study.prediction_powered import prediction_powered
from farm.world.features import features
from farm.world.instructions import evaluation
from farm.world.raters import ANNOTATOR_IDS, annotator, humans
from farm.world.writers import REFERENCE_SKILL, write

Array = npt.NDArray[np.float64]
SKILLS = (0.05, 0.25, 0.45, 0.6, 0.75, 0.85, 0.97)
MANNERS = " thank you for asking . i am glad to help . surely this is right ."


@dataclass(frozen=True)
class World:
    """Chance that each rater prefers a writer's text to the reference's: (writers, instructions, raters), the order of
    showing being even. Instructions are drawn from this set with replacement, so that its means are the truth."""

    people: Array
    pool: Array


@dataclass(frozen=True)
class Row:
    """Coverage of one interval. ``width`` is its mean width; ``missed_low``: the truth lay below."""

    quantity: str
    setting: str
    interval: str
    studies: int
    coverage: float
    missed_low: float
    width: float

    @property
    def chance(self) -> float:
        """Standard error of the coverage when the interval is right."""
        return math.sqrt(0.95 * 0.05 / self.studies)


@lru_cache(maxsize=2)
def world(instructions: int = 200) -> World:
    """Writers of seven skills, each plain, repeating itself (annotators hardly notice) and all too polite."""
    rows = evaluation()[:: max(1, 805 // instructions)][:instructions]
    texts: list[list[str]] = []
    for skill in SKILLS:
        plain = [write(i, skill, 0, f"writer {skill}") for i in rows]
        texts += [plain, [f"{t} {t}" for t in plain], [t + MANNERS for t in plain]]
    reference = [write(i, REFERENCE_SKILL, 0, "reference") for i in rows]
    seen = [[features(i.full_text, t) for i, t in zip(rows, some, strict=True)] for some in [*texts, reference]]
    raters = [*humans(), *(annotator(a) for a in ANNOTATOR_IDS)]
    utility = np.array([[[r.utility(f) for r in raters] for f in some] for some in seen])
    gaps = (utility[:-1] - utility[-1]) / np.array([r.temperature for r in raters])
    lean = np.array([r.position_bias for r in raters])
    chance = (_sigmoid(gaps + lean) + _sigmoid(gaps - lean)) / 2
    people = len(humans())
    return World(chance[..., :people], chance[..., people:])


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def mixtures(r: np.random.Generator, methods: int, writers: int) -> Array:
    """Weights of the writers in each method, (methods, writers): a few writers make up most of a method."""
    return r.dirichlet(np.full(writers, 0.15), size=methods)


def vote(r: np.random.Generator, chance: Array, mix: Array, chosen: npt.NDArray[np.intp], votes: int) -> Array:
    """Mean of ``votes`` 0/1 verdicts per method and drawn instruction, (methods, n), on texts of its own."""
    return judged(r, chance, texts(r, mix, len(chosen)), chosen, votes)


def texts(r: np.random.Generator, mix: Array, n: int) -> npt.NDArray[np.intp]:
    """Which writer wrote each method's text to each of n instructions, (methods, n)."""
    return np.array([r.choice(mix.shape[1], size=n, p=w) for w in mix])


def judged(
    r: np.random.Generator, chance: Array, writer: npt.NDArray[np.intp], chosen: npt.NDArray[np.intp], votes: int
) -> Array:
    """Mean verdict on each text, (methods, n), by ``votes`` raters drawn without replacement per text."""
    who = r.random((*writer.shape, chance.shape[2])).argsort(axis=2)[..., :votes]
    p = chance[writer[..., None], chosen[None, :, None], who]
    result: Array = (r.random(p.shape) < p).mean(axis=2)
    return result


def truth(chance: Array, mix: Array) -> Array:
    """True win rate of each method: over all instructions, raters and its writers."""
    result: Array = mix @ chance.mean(axis=(1, 2))
    return result


Study = tuple[Estimate, float]  # an interval and the truth it is about


def _covered(quantity: str, setting: str, interval: str, studies: list[Study]) -> Row:
    tops = [(e.ci95_low, e.ci95_high, t) for e, t in studies if e.ci95_low is not None and e.ci95_high is not None]
    below = sum(t < low - 1e-9 for low, _, t in tops)
    above = sum(t > high + 1e-9 for _, high, t in tops)
    width = float(np.mean([high - low for low, high, _ in tops])) if tops else 0.0
    return Row(quantity, setting, interval, len(tops), 1 - (below + above) / len(tops), below / len(tops), width)


def win_rates(studies: int, n: int, seed: int, w: World, *, side: str, votes: int) -> Row:
    """Win rate of one method against the reference, a new method in every study."""
    chance = w.people if side == "people" else w.pool
    rows: list[Study] = []
    for k in range(studies):
        r = rng(seed, "win rate", side, n, votes, k)
        mix = mixtures(r, 1, len(chance))
        scores = vote(r, chance, mix, r.integers(0, chance.shape[1], n), votes)[0]
        acts = [
            Act(f"i{i}", Outcome.DECIDED, float(v), 0)
            for i, s in enumerate(scores)
            for v in np.arange(votes) < round(s * votes)
        ]
        found = win_rate(Comparison("method", "reference", side, tuple(acts)), seed=k)
        rows.append(
            (
                Estimate(value=found.value, ci95_low=found.ci95_low, ci95_high=found.ci95_high, n=n),
                float(truth(chance, mix)[0]),
            )
        )
    return _covered("win rate", f"{side}, {votes} vote(s) on {n} instructions", "bootstrap over instructions", rows)


def agreements(studies: int, n: int, seed: int, w: World) -> Row:
    """Leave-one-out agreement of one annotator with four people, the annotator changing from study to study."""
    rows: list[Study] = []
    writers, size, people = w.people.shape
    first = w.people.sum(axis=2)
    second, third = (w.people**2).sum(axis=2), (w.people**3).sum(axis=2)
    pairs = (first**2 - second) / (people * (people - 1))
    triples = (first**3 - 3 * first * second + 2 * third) / (people * (people - 1) * (people - 2))
    majority = 3 * pairs - 2 * triples  # of three people drawn without replacement
    for k in range(studies):
        r = rng(seed, "agreement", n, k)
        who = k % w.pool.shape[2]
        writer, chosen = r.integers(0, writers, n), r.integers(0, size, n)
        crowd = r.random((n, people)).argsort(axis=1)[:, :4]
        votes = np.where(r.random((n, 4)) < w.people[writer[:, None], chosen[:, None], crowd], 1, -1)
        verdicts = np.where(r.random(n) < w.pool[writer, chosen, who], 1, -1)
        p = w.pool[..., who]
        rows.append((loo_agreement(verdicts, votes, seed=k), float((p * majority + (1 - p) * (1 - majority)).mean())))
    return _covered("agreement", f"1 annotator, 4 people, {n} pairs", "bootstrap over instructions", rows)


def correlations(studies: int, methods: int, n: int, seed: int, w: World, *, errors_only: bool = False) -> list[Row]:
    """Rank correlation of the true scores of these methods, from one vote of the pool and two people per text.

    ``errors_only``: from a table of scores and standard errors, as published, instead of scores per instruction.
    """
    found: dict[str, list[Study]] = {name: [] for name in STATISTICS}
    naive: list[Study] = []
    for k in range(studies):
        r = rng(seed, "correlation", methods, n, k)
        mix = mixtures(r, methods, len(w.people))
        chosen = r.integers(0, w.people.shape[1], n)
        writer = texts(r, mix, n)
        sides = [judged(r, w.pool, writer, chosen, 1), judged(r, w.people, writer, chosen, 2)]
        measured = _measured(sides, errors_only, k)
        true = np.array([truth(w.pool, mix), truth(w.people, mix)])
        result = associate(measured, seed=k).these
        for name, statistic in STATISTICS.items():
            found[name].append((getattr(result, name), float(statistic(true[:1], true[1:])[0])))
        if measured.errors is not None:
            noisy = spearman(*np.moveaxis(measured.values + measured.errors, 1, 0))
            low, high = np.nanquantile(noisy, [0.025, 0.975])
            e = Estimate(value=result.spearman.value, ci95_low=float(low), ci95_high=float(high), n=methods)
            naive.append((e, found["spearman"][-1][1]))
    what = "scores and standard errors" if errors_only else "scores per instruction"
    setting = f"{methods} methods, {n} instructions, {what}"
    rows = [_covered(name, setting, "these methods", studies_) for name, studies_ in found.items()]
    return [*rows, _covered("spearman", setting, "naive bootstrap (for comparison)", naive)]


def _measured(sides: list[Array], errors_only: bool, seed: int) -> Measured:
    names = [f"m{j}" for j in range(len(sides[0]))]
    if errors_only:
        values = np.array([s.mean(axis=1) for s in sides])
        errors = np.array([s.std(axis=1, ddof=1) / math.sqrt(s.shape[1]) for s in sides])
        return from_errors(names, values, errors, names=("pool", "people"), seed=seed)
    tables = [
        {m: {f"i{i}": float(v) for i, v in enumerate(row)} for m, row in zip(names, s, strict=True)} for s in sides
    ]
    return from_scores(tables[0], tables[1], names=("pool", "people"), seed=seed)


def over_methods(studies: int, methods: int, seed: int, w: World) -> list[Row]:
    """Correlation in the population of methods, from true scores of a random sample of them (no standard errors)."""
    many = mixtures(rng(seed, "population of methods"), 4000, len(w.people))
    population = np.array([truth(w.pool, many), truth(w.people, many)])
    target = {name: float(statistic(population[:1], population[1:])[0]) for name, statistic in STATISTICS.items()}
    found: dict[str, list[Study]] = {name: [] for name in STATISTICS}
    naive: list[Study] = []
    for k in range(studies):
        r = rng(seed, "methods", methods, k)
        values = population[:, r.integers(0, len(many), methods)]
        names = [f"m{j}" for j in range(methods)]
        result = associate(from_errors(names, values, None, names=("pool", "people"), seed=k), seed=0).like_these
        for name in STATISTICS:
            found[name].append((getattr(result, name), target[name]))
        again = values[:, r.integers(0, methods, (500, methods))]
        low, high = np.nanquantile(spearman(again[0], again[1]), [0.025, 0.975])
        naive.append((Estimate(value=0.0, ci95_low=float(low), ci95_high=float(high), n=methods), target["spearman"]))
    setting = f"{methods} methods, no standard errors"
    rows = [_covered(name, setting, "methods like these", studies_) for name, studies_ in found.items()]
    return [*rows, _covered("spearman", setting, "percentile bootstrap over methods (for comparison)", naive)]


def powered(studies: int, labelled: int, n: int, seed: int, w: World, *, informative: bool = True) -> list[Row]:
    """Human win rate of one method from ``labelled`` instructions with people's votes and n with simulated ones."""
    rows: dict[str, list[Study]] = {
        "prediction-powered": [],
        "human labels alone": [],
        "prediction-powered, planned": [],
    }
    for k in range(studies):
        r = rng(seed, "powered", labelled, n, informative, k)
        mix = mixtures(r, 1, len(w.people))
        chosen = r.integers(0, w.people.shape[1], n)
        writer = texts(r, mix, n)
        people = judged(r, w.people, writer, chosen, 5)[0]
        pool = judged(r, w.pool, writer, chosen, 13)[0]
        if not informative:
            pool = r.permutation(pool)
        simulated = {f"i{i}": float(v) for i, v in enumerate(pool)}
        ids = sorted(simulated, key=lambda i: key(k, "labelled", i))
        human = {i: float(people[int(i[1:])]) for i in ids[:labelled]}
        found = prediction_powered(human, simulated)
        true = float(truth(w.people, mix)[0])
        rows["prediction-powered"].append((found.estimate, true))
        rows["human labels alone"].append((found.human_only, true))
        strata = {i: "clear" if abs(v - 0.5) > 0.3 else "unclear" for i, v in simulated.items()}
        groups = {s: [i for i in ids if strata[i] == s] for s in ("clear", "unclear")}
        sizes = {s: len(g) for s, g in groups.items()}
        if min(sizes.values()) >= 5:
            plan = allocate(sizes, {"clear": 0.3, "unclear": 0.5}, labelled, fewest=5)
            human = {i: float(people[int(i[1:])]) for s, g in groups.items() for i in g[: plan[s]]}
            rows["prediction-powered, planned"].append(
                (prediction_powered(human, simulated, strata=strata).estimate, true)
            )
    kind = "" if informative else ", simulator knows nothing"
    setting = f"{labelled} human of {n} simulated labels{kind}"
    return [_covered("human win rate", setting, name, studies_) for name, studies_ in rows.items() if studies_]


def everything(studies: int, seed: int, w: World) -> Iterator[Row]:
    """All rows of the table, as they are done."""
    for side, votes, n in (("people", 1, 60), ("people", 3, 150), ("pool", 1, 60), ("pool", 3, 150)):
        yield win_rates(studies, n, seed, w, side=side, votes=votes)
    for n in (60, 200):
        yield agreements(studies, n, seed, w)
    for methods, n in ((5, 150), (8, 80), (10, 200), (20, 150)):
        yield from correlations(studies, methods, n, seed, w)
    yield from correlations(studies, 10, 200, seed, w, errors_only=True)
    for methods in (4, 6, 10, 25):
        yield from over_methods(studies, methods, seed, w)
    for labelled in (20, 60):
        yield from powered(studies, labelled, 300, seed, w)
    yield from powered(studies, 40, 300, seed, w, informative=False)


def line(row: Row) -> str:
    """One row of the table."""
    off = "" if abs(row.coverage - 0.95) <= 0.02 else " *"
    share, below = f"{100 * row.coverage:5.1f}%{off}", f"{100 * row.missed_low:5.1f}%"
    return f"{row.quantity:<20} {row.setting:<58} {row.interval:<52} {share:<9} {below} {row.width:7.3f}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--studies", type=int, default=500)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--instructions", type=int, default=200, help="size of the set that instructions are drawn from")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    print(f"{'quantity':<20} {'setting':<58} {'interval':<52} {'covers':<9} {'below':>6} {'width':>7}")
    rows = []
    for row in everything(args.studies, args.seed, world(args.instructions)):
        rows.append(row)
        print(line(row), flush=True)
    print(f"* beyond 95% +- 2; chance alone moves {args.studies} studies by {100 * rows[0].chance:.1f} points (1 s.e.)")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
