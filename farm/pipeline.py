"""The whole study, in order. Read this first.

    instructions -> sft -> sample -> annotate -> reward -> improve (-> select) -> evaluate -> study -> report

Every step reads records from the run folder and writes records to it (``farm/stages.py`` says what), is skipped when
nothing it depends on has changed, and is redone when it was cut off. ``runs/<name>/`` shows the same order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from farm import progress, recipe, runs, stages, workers
from farm.stages import Made, Run


def load(
    name: str | Path, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None, full: bool = False
) -> recipe.Recipe:
    """A recipe by path or shipped name, checked whole. Raises RecipeError listing every mistake."""
    study = recipe.load(name, stages.shapes(), overrides, seeds, full)
    stages.check(study)
    return study


def run(study: recipe.Recipe, folder: Path, until: str = "report") -> str:
    """Run a study up to and including one stage; returns the path to look at.

    Steps that are already done stand. Raises a FarmError child for anything a person can mend; what is finished by
    then is kept.
    """
    start = time.perf_counter()
    with runs.locked(folder), workers.pool(study.compute.jobs, study.compute.threads) as each:
        this = Run(folder.resolve(), study)
        this.begin(stages.planned(this))
        for stage, steps in _line(this, each):
            fresh = [s for s in steps if s.fresh]
            this.note(stage, steps, time.perf_counter() - start)
            if fresh:
                progress.say(
                    f"{stage}: done, {len(fresh)} of {len(steps)} steps, {sum(s.seconds for s in fresh):.1f} s"
                )
            if stage == until:
                break
    if not this.worked:
        progress.say(f"nothing to do: every step of '{study.name}' up to {until} is done and up to date")
    if until != "report":
        return str(steps[-1].folder)
    for finding in stages.findings(steps[-1]):
        progress.say(f"- {finding}")
    return str(folder / "8-report" / "index.html")


def _line(this: Run, each: workers.Each) -> Iterator[tuple[str, list[runs.Step]]]:
    """The line. ``made[seed]`` collects the finished steps of one training seed; ``each`` runs calls side by side."""
    seeds = this.recipe.seeds

    # 0. Instructions: four training splits and the evaluation set, the same for every seed.
    data = stages.data(this)
    made: dict[int, Made] = {seed: {"data": data} for seed in seeds}

    # 1. A policy that imitates demonstrations.
    yield "sft", _collect(made, "sft", each([(stages.sft, this, s, made[s]) for s in seeds]))

    # 2. Its responses to the instructions of the preference split, in pairs.
    yield "sample", _collect(made, "sample", each([(stages.sample, this, s, made[s]) for s in seeds]))

    # 3. The annotator pool judges the pairs; noise is put on top; judgements become preferences.
    yield "annotate", _collect(made, "annotate", each([(stages.annotate, this, s, made[s]) for s in seeds]))

    # 4. A reward model learns the preferences.
    yield "reward", _collect(made, "reward", each([(stages.reward, this, s, made[s]) for s in seeds]))

    # 5. Every method of the recipe optimises against it (or against the preferences), from the same SFT policy.
    #    What the study needs besides is drawn and judged alongside, to keep all workers busy.
    tasks = [(row, s) for row in this.recipe.improve for s in seeds]
    aside = [(stages.best_of_n, this, s, made[s]) for s in seeds] + [(stages.cross, this, seeds[0], made[seeds[0]])]
    improved = each([(stages.improve, this, s, made[s], row) for row, s in tasks] + aside)
    for (row, s), step in zip(tasks, improved, strict=False):
        made[s][row] = step
    extra = [step for step in improved[len(tasks) :] if step is not None]
    #    Where the recipe asks for it, judges choose every row's best checkpoint, on validation prompts only.
    selected = each([(stages.select, this, s, made[s], row) for row, s in tasks])
    chosen = {(row, s): step for (row, s), step in zip(tasks, selected, strict=True) if step is not None}
    for (row, s), step in chosen.items():
        made[s][stages.SELECTED + row] = step
    yield "improve", [*improved[: len(tasks)], *extra, *chosen.values()]

    # 6. Every policy answers the evaluation instructions; the pool, without noise, compares it with the reference.
    #    So are, where the recipe asks for it, texts that deserve to lose.
    tasks = [(row, s) for row in stages.policies(this) for s in seeds]
    controls = [(stages.canaries, this, seeds[0], made[seeds[0]])]
    evaluated = each([(stages.evaluate, this, s, made[s], row) for row, s in tasks] + controls)
    arms = dict(zip(tasks, evaluated, strict=False))
    controlled = [step for step in evaluated[len(tasks) :] if step is not None]
    yield "evaluate", [*arms.values(), *controlled]

    # 7. What follows across policies: curves and their verdicts, rank correlation, agreement.
    study = stages.study(this, made, arms, extra + controlled)
    yield "study", [study]

    # 8. One page for people, one file of numbers for programs.
    yield "report", [stages.report(this, study, made)]


def _collect(made: dict[int, Made], stage: str, steps: list[runs.Step]) -> list[runs.Step]:
    for seed, step in zip(made, steps, strict=True):
        made[seed][stage] = step
    return steps
