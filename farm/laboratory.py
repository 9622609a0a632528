"""The over-optimization laboratory, in order: one seed's SFT policy and samples, many rewards, many curves.

    sft -> samples -> labels -> reward models -> scores of one pool, and policies -> signals, judges -> conclusions

Every step is cached like those of ``farm/pipeline.py`` and in the same folders, so a variant repeats only what it
changes; steps that a run beside this one has already made are taken from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import runs, stages, workers
from farm.errors import RecipeError
from farm.recipe import Recipe
from farm.runs import Step
from farm.stages import Made, Run
from farm.stages.laboratory import labels, make, measure
from farm.stages.laboratory.bench import Bench, reward_keys
from farm.stages.laboratory.conclude import conclude
from farm.stages.laboratory.make import Model, models_of, tell
from farm.stages.laboratory.settings import GOLD, HUMANS, Laboratory

if TYPE_CHECKING:
    from farm.report.overoptimization import Numbers

Task = tuple[int, str, Callable[..., Step], tuple[Any, ...]]  # seed, key of the result, step function, its arguments


def run(study: Recipe, folder: Path, reuse: bool = True) -> Numbers:
    """Run a laboratory recipe; returns what it found (also ``8-laboratory/numbers.json`` in ``folder``).

    With ``reuse``, finished steps of the runs beside ``folder`` are taken where they are the same. Raises RecipeError
    when the recipe has no section ``laboratory``, other FarmError children for anything else that a person can mend.
    """
    from farm.report.overoptimization import read

    if study.laboratory is None:
        raise RecipeError(f"recipe '{study.name}' has no section 'laboratory' (see farm recipes show overoptimize)")
    if study.reward.members != 1:
        raise RecipeError("reward.members: in a laboratory give each of laboratory.rewards its own members")
    cross = study.laboratory.crossing
    if cross and cross.independent == HUMANS and study.data.world != "offline":
        raise RecipeError(
            "laboratory.crossing.independent: simulated humans live in the offline world only; name a pool of judges "
            "other than those that label"
        )
    people = [name for name, how in study.laboratory.labels.items() if how.pool == HUMANS]
    if people and study.data.world != "offline":
        raise RecipeError(f"laboratory.labels.{people[0]}.pool: simulated humans live in the offline world only")
    true = [name for name, how in study.laboratory.labels.items() if how.pool == GOLD]
    if true and study.data.world != "offline" and study.laboratory.gold.reward_model is None:
        raise RecipeError(
            f"laboratory.labels.{true[0]}.pool: nobody knows gold here; give laboratory.gold.reward_model, or name a "
            "pool of judges"
        )
    folder = folder.resolve()
    beside = [p.parent for p in sorted(folder.parent.glob("*/manifest.json")) if p.parent != folder] if reuse else []
    with runs.locked(folder), workers.pool(study.compute.jobs, study.compute.threads) as each:
        this = Run(folder, study)
        this.begin()
        with runs.borrowing(folder, beside):
            made: dict[int, Made] = {s: {"data": stages.data(this)} for s in study.seeds}
        line = _Line(this, study.laboratory, made, each, beside)
        return read(line.work().file("numbers.json"))


class _Line:
    """The stages one after another; ``made`` collects the finished steps of every seed by key."""

    def __init__(
        self, this: Run, lab: Laboratory, made: dict[int, Made], each: workers.Each, lenders: Sequence[Path]
    ) -> None:
        self.run, self.lab, self.made, self.each, self.lenders = this, lab, made, each, tuple(lenders)
        self.start = time.perf_counter()

    def do(self, stage: str, tasks: Sequence[Task]) -> None:
        """Run steps side by side and keep them."""
        calls = [
            (_borrowing, self.run.folder, self.lenders, f, (self.run, s, dict(self.made[s]), *a))
            for s, _, f, a in tasks
        ]
        steps = self.each(calls)
        for (seed, key, _, _), step in zip(tasks, steps, strict=True):
            self.made[seed][key] = step
        self.run.note(stage, steps, time.perf_counter() - self.start)
        tell(stage, steps)

    def work(self) -> Step:
        """The line."""
        lab, made = self.lab, self.made
        models = make.all_models(lab)
        trunks = {make.trunk_name(m.trunk): m.trunk for m in models if m.trunk}

        # 1. The policy that everything starts from, and SFT policies of other sizes for reward models.
        starts: list[Task] = [(s, "sft", stages.sft, ()) for s in made]
        self.do("sft", starts + [(s, name, make.trunk_sft, (trunk,)) for s in made for name, trunk in trunks.items()])

        # 2. Pairs to label, and the one pool that every best-of-n comes from.
        samples: list[Task] = [(s, "sample", stages.sample, ()) for s in made]
        self.do("sample", samples + [(s, "pool", make.pool, (lab,)) for s in made])

        # 3. The pairs labelled in every way that a reward asks for.
        names = list(dict.fromkeys(m.labels for m in models))
        self.do("labels", [(s, f"labels:{name}", labels.labels, (lab, name)) for s in made for name in names])

        # 4. Reward models; those with refreshed labels after the ones that choose their pairs; averages of members.
        self.do("rewards", [self._train(s, m) for s in made for m in models if not m.refreshed])
        self._refresh([m for m in models if m.refreshed])
        averages = [name for name, r in lab.rewards.items() if r.combine == "weights"]
        self.do(
            "averages",
            [
                (s, f"model:{n}-averaged", make.averaged, (n, [made[s][f"model:{m.key}"] for m in models_of(lab, n)]))
                for s in made
                for n in averages
            ],
        )

        # 5. Every policy, and every reward model's scores of the pool.
        policies: list[Task] = [
            (s, measure.POLICY + row, make.policy, self._policy(s, row)) for row in lab.policies for s in made
        ]
        self.do("policies and scores", policies + self._scores())

        # 6. What a user could see along the policies' curves, and win rates by judges.
        watched = self._watched()
        signals: list[Task] = [
            (s, f"signals:{row}", measure.trace, (row, self._steps(s, watched))) for s in made for row in lab.policies
        ]
        self.do("signals and judges", signals + self._judges())

        # 7. What follows from it all.
        step = conclude(Bench(self.run, lab, made))
        self.run.note("laboratory", [step], time.perf_counter() - self.start)
        tell("laboratory", [step])
        return step

    def _train(self, seed: int, m: Model) -> Task:
        made, seeds = self.made[seed], list(self.made)
        start = made[make.trunk_name(m.trunk) if m.trunk else "sft"]
        if m.other_start:
            start = self.made[seeds[(seeds.index(seed) + m.member) % len(seeds)]]["sft"]
        labelled = made[f"labels:{m.labels}"]
        return seed, f"model:{m.key}", make.reward_model, (m, start, labelled, made.get(f"labels:{m.key}"))

    def _refresh(self, models: Sequence[Model]) -> None:
        each = [(s, m) for s in self.made for m in models]
        chosen = {m.key: m.refreshed.key for m in models if m.refreshed}
        pairs: list[Task] = [
            (s, f"pairs:{m.key}", labels.refreshed_pairs, (m, self.made[s][f"model:{chosen[m.key]}"])) for s, m in each
        ]
        self.do("refreshed pairs", pairs)
        asked: list[Task] = [
            (s, f"labels:{m.key}", labels.refreshed_labels, (self.lab, m, self.made[s][f"pairs:{m.key}"]))
            for s, m in each
        ]
        self.do("refreshed labels", asked)
        self.do("refreshed rewards", [self._train(s, m) for s, m in each])

    def _policy(self, seed: int, row: str) -> tuple[Any, ...]:
        reward = self.lab.policies[row][2].reward or self.lab.base
        members = [self.made[seed][f"model:{k}"] for k in reward_keys(self.lab, reward)]
        return self.lab, row, members, self.made[seed][f"labels:{self.lab.rewards[reward].labels}"]

    def _scores(self) -> list[Task]:
        rewards = [(name, k) for name, r in self.lab.rewards.items() for k in range(r.replicates)]
        keys = dict.fromkeys(key for name, k in rewards for key in reward_keys(self.lab, name, k))
        tasks: list[Task] = [
            (s, f"scores:{k}", measure.scores, (k, "model", self.made[s][f"model:{k}"]))
            for s in self.made  # seed by seed: workers then read each pool once
            for k in keys
        ]
        if gold := self.lab.gold.reward_model:
            tasks += [
                (s, "scores:gold", measure.scores, ("gold", gold, labels.model_fingerprint(gold))) for s in self.made
            ]
        return tasks

    def _watched(self) -> list[str]:
        names = [n for n in (self.lab.second, self.lab.ensemble) if n]
        return list(dict.fromkeys(m.key for n in names for m in models_of(self.lab, n)))

    def _steps(self, seed: int, keys: Sequence[str]) -> dict[str, Step | str]:
        found: dict[str, Step | str] = {k: self.made[seed][f"model:{k}"] for k in keys}
        return found | ({"gold": self.lab.gold.reward_model} if self.lab.gold.reward_model else {})

    def _judges(self) -> list[Task]:
        """Win rates for the 2x2, and for gold where judges stand for it."""
        lab, tasks = self.lab, list[Task]()
        if c := lab.crossing:
            sizes = (c.instructions, c.draws, c.votes)
            for reward, row in ((c.population, c.population_policy), (c.single, c.single_policy)):
                for side, judge in (("same", measure.judge_of(self.run, lab, reward)), ("independent", c.independent)):
                    tasks += self._judged(f"{reward}:{side}", reward, row, f"{row}:{side}", judge, sizes)
        if lab.gold.pool:
            sizes = (lab.pool.instructions, lab.gold.draws, lab.gold.votes)
            for name in lab.selecting:
                tasks += self._judged(f"gold:{name}", name, None, "", lab.gold.pool, sizes)
            for row in lab.policies:
                tasks += self._judged("", None, row, f"gold:{row}", lab.gold.pool, sizes)
        return tasks

    def _judged(
        self, name: str, reward: str | None, row: str | None, row_name: str, judge: str, sizes: tuple[int, int, int]
    ) -> list[Task]:
        tasks: list[Task] = []
        for s, made in self.made.items():
            if reward is not None:
                scored = [made[f"scores:{k}"] for k in reward_keys(self.lab, reward)]
                arguments = (name.replace(":", "-"), self.lab.rewards[reward], scored, judge, sizes)
                tasks.append((s, f"judged:{name}", measure.judge_best_of_n, arguments))
            if row is not None:
                arguments_ = (row_name.replace(":", "-"), row, judge, sizes)
                tasks.append((s, f"judged:{row_name}", measure.judge_policy, arguments_))
        return tasks


def _borrowing(root: Path, lenders: Sequence[Path], function: Callable[..., Step], arguments: tuple[Any, ...]) -> Step:
    with runs.borrowing(root, lenders):
        return function(*arguments)
