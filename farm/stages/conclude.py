"""Steps that conclude: the best-of-n pool, the study across policies, the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farm import records, resources, runs
from farm.progress import Progress
from farm.records import Cost, Instruction, Judgement, Response, RewardCurve
from farm.runs import Step
from farm.stages import judging
from farm.stages.common import (
    REFERENCE,
    SELECTED,
    SFT,
    WRITERS,
    Made,
    Run,
    gold,
    new_task,
    proxy,
    result_of,
    settings_of,
    texts,
    usable,
)
from farm.stages.controls import MODEL

if TYPE_CHECKING:
    from farm.evaluate.win_rate import Comparison
    from farm.methods.task import Result
    from farm.report.summary import MethodRow, RewardRow, Summary
    from farm.study.budgets import Choice
    from farm.study.contrasts import Arm
    from farm.study.overoptimization import PromptCurve

Arms = Mapping[tuple[str, int], Step]
POOL, HUMANS = "pool", "humans"


def best_of_n(run: Run, seed: int, made: Made) -> Step | None:
    """``pool.jsonl``: many scored samples per instruction of ``val``, from which every best-of-n is estimated."""
    config = run.recipe.study.best_of_n
    if config is None:
        return None

    def work(folder: Path) -> None:
        from farm.lm.load import load_policy
        from farm.methods.best_of_n import pool

        prompts = usable(run, made, "val", config.instructions, folder)
        progress = Progress(f"best-of-n pool, seed {seed}")
        task = new_task(
            run, seed, folder, made[SFT].file("policy"), prompts, progress, score=proxy(made), gold=gold(run)
        )
        policy = load_policy(made[SFT].file("policy"), name=SFT)
        records.write(folder / "pool.jsonl", pool(task, policy, prompts, config.n))

    return runs.perform(
        run.step(f"7-study/best-of-n/seed-{seed}"), settings_of(run, seed, config), [made["reward"]], work
    )


def study(run: Run, made: Mapping[int, Made], arms: Arms, extra: Sequence[Step]) -> Step:
    """``summary.json`` without measured times, and ``exhibits.jsonl``: everything the report shows."""
    r = run.recipe
    inputs = [*arms.values(), *extra]

    def work(folder: Path) -> None:
        from farm.report import summary

        summary.write(folder / "summary.json", _summary(run, made, arms, extra))
        records.write(folder / "exhibits.jsonl", _exhibits(run, arms))

    settings = {"name": r.name, "seeds": r.seeds, "study": r.study.model_dump(), "evaluate": r.evaluate.model_dump()}
    return runs.perform(run.step("7-study/across"), settings, inputs, work)


def _summary(run: Run, made: Mapping[int, Made], arms: Arms, extra: Sequence[Step]) -> Summary:
    from farm.evaluate.length_control import lc_win_rates
    from farm.report import summary as report
    from farm.study import contrasts
    from farm.study.budgets import affordable
    from farm.study.overoptimization import verdict

    compared = {key: _comparison(key[0], step, "judgements.jsonl", POOL) for key, step in arms.items()}
    voted = {key: _comparison(key[0], step, "votes.jsonl", HUMANS) for key, step in arms.items()}
    controlled: dict[tuple[str, int], records.Estimate] = {}
    for seed in run.recipe.seeds:  # the policies of one seed are fitted together: they share instruction difficulty
        fitted = lc_win_rates([c for key, c in compared.items() if key[1] == seed], seed=seed)
        controlled |= {(policy, seed): estimate for (policy, _), estimate in fitted.items()}
    rows, measured = [], []
    for (name, seed), step in arms.items():
        key = (name, seed)
        result = _result(made[seed], name)
        rows.append(_row(name, seed, step, compared[key], voted[key], controlled[key], result))
        measured.append(_arm(name, seed, step, compared[key], voted[key]))
    curves = _curves(run, made, extra)
    by_method: dict[str, list[PromptCurve | RewardCurve]] = {}
    for curve in curves:
        by_method.setdefault(_plain(curve).method, []).append(curve)
    acts = [j for step in arms.values() for j in _judgements(step)]
    labels = [j for m in made.values() for j in _judgements(m["annotate"])]
    seed = run.recipe.seeds[0]
    choices = _choices(made, run.recipe.improve)
    chosen_from = {(c.method, c.seed): _row_curve(made[c.seed], c.method) for c in choices}
    return report.Summary(
        farm_version=resources.installed() or "0",
        recipe=run.recipe.name,
        seeds=tuple(run.recipe.seeds),
        reference=REFERENCE,
        judge=run.recipe.evaluate.pool,
        baseline=SFT,
        yardsticks=WRITERS if run.offline else (),
        controls=tuple(name for name, (_, _, what) in run.recipe.improve.items() if what.reward != MODEL),
        n_instructions=run.recipe.evaluate.instructions,
        rows=tuple(rows),
        levels=tuple(contrasts.levels(measured, seed=seed)),
        differences=tuple(contrasts.differences(measured, baseline=SFT, seed=seed)),
        rewards=tuple(_rewards(made)),
        curves=report.curve_rows([_plain(c) for c in curves]),
        choices=tuple(choices),
        affordable=tuple(affordable(choices, {k: c for k, c in chosen_from.items() if c}, seed=seed)),
        verdicts=tuple(verdict(group, seed=seed) for group in by_method.values()),
        correlation=_correlation(measured, seed) if any(c.acts for c in voted.values()) else None,
        agreement=tuple(_agreement(run, made[seed], extra)),
        annotators=tuple(judging.annotators(run, made[seed], arms, extra, acts, labels)),
        canaries=tuple(judging.canaries(run, extra)),
        canary_limit=run.recipe.evaluate.canary_limit,
        arms=tuple(judging.unequal(arms)),
        outcomes=report.add_up([c.outcomes for c in compared.values()]),
        training_outcomes=report.add_up([{str(j.outcome): 1} for j in labels]),
        costs=(
            report.StageCost(stage="annotate", cost=_cost(labels)),
            report.StageCost(stage="evaluate", cost=_cost([*acts, *judging.canary_acts(extra)])),
        ),
        notes=tuple(_notes(run)),
        provenance=_provenance(),
    )


def _rewards(made: Mapping[int, Mapping[str, Step]]) -> list[RewardRow]:
    from farm.report.summary import RewardRow
    from farm.reward.report import RewardReport

    paths = {seed: steps["reward"].file("model/report.jsonl") for seed, steps in made.items()}
    return [RewardRow(seed=s, report=records.read(p, RewardReport)[0]) for s, p in paths.items() if p.is_file()]


def _judgements(step: Step, file: str = "judgements.jsonl") -> list[Judgement]:
    path = step.file(file)
    return records.read(path, Judgement) if path.is_file() else []


def _responses(step: Step) -> list[Response]:
    return records.read(step.file("responses.jsonl"), Response)


def _comparison(name: str, step: Step, file: str, judge: str) -> Comparison:
    from farm.evaluate.win_rate import compare

    texts = records.by_id([*_responses(step), *records.read(step.file("reference.jsonl"), Response)])
    return compare(_judgements(step, file), texts, policy=name, reference=REFERENCE, judge=judge)


def _result(made: Made, name: str) -> Result | None:
    from farm.methods.task import Result

    step = result_of(made, name)
    return Result.load(step.folder) if step else None


def _kl(name: str, result: Result | None) -> float | None:
    """KL from the SFT policy in nats per sequence: 0 for SFT, the upper bound for best-of-n, else the curve's last."""
    from farm.study.best_of_n import kl_upper_bound

    if name == SFT:
        return 0.0
    if result is None:
        return None
    if result.best_of > 1:
        return kl_upper_bound(result.best_of)
    return result.curve.points[-1].kl if result.curve else None


def _row(
    name: str,
    seed: int,
    step: Step,
    pool: Comparison,
    humans: Comparison,
    lc: records.Estimate,
    result: Result | None,
) -> MethodRow:
    from farm.evaluate.win_rate import by_source, win_rate
    from farm.report.summary import method_row

    cost = _cost(_judgements(step))
    return method_row(
        name,
        seed,
        win_rate(pool, seed=seed),
        _responses(step),
        lc=lc,
        kl=_kl(name, result),
        human=win_rate(humans, seed=seed) if humans.acts else None,
        by_source=by_source(pool, _instructions(step), seed=seed),
        cost_usd=cost.usd,
        seconds=round(step.seconds + (result.budget.seconds if result else 0.0), 3),
        budget=result.budget if result else None,
        best_of=result.best_of if result else 0,
    )


def _instructions(step: Step) -> list[Instruction]:
    """The evaluation instructions, found beside the run's other steps."""
    return records.read(step.folder.parents[2] / "0-data" / "eval.jsonl", Instruction)


def _arm(name: str, seed: int, step: Step, pool: Comparison, humans: Comparison) -> Arm:
    from farm.evaluate.scores import per_instruction
    from farm.study.contrasts import Arm

    responses = _responses(step)
    scores = {"win_rate": pool.scores, "proxy": per_instruction(responses, "proxy")}
    scores["gold"] = per_instruction(responses, "gold")
    scores["human_win_rate"] = humans.scores
    return Arm(name, seed, {measure: table for measure, table in scores.items() if table})


def _curves(run: Run, made: Mapping[int, Made], extra: Sequence[Step]) -> list[PromptCurve | RewardCurve]:
    curves: list[PromptCurve | RewardCurve] = []
    for step in extra:
        if step.file("pool.jsonl").is_file():
            curves.append(_pool_curve(step, int(step.folder.name.removeprefix("seed-"))))
    for row in run.recipe.improve:
        for m in made.values():
            curve = _row_curve(m, row)
            if curve and len(curve.curve.points) > 2:
                curves.append(curve)
    return curves


def _row_curve(made: Made, row: str) -> PromptCurve | None:
    """The whole curve of a row, beyond the checkpoint that was selected."""
    from farm.methods.task import Result

    result = Result.load(made[row].folder)
    return _by_prompt(result.curve.model_copy(update={"method": row}), made[row]) if result.curve else None


def _choices(made: Mapping[int, Made], rows: Iterable[str]) -> list[Choice]:
    from farm.study.budgets import Choice

    steps = [m[SELECTED + row] for row in rows for m in made.values() if SELECTED + row in m]
    return [c for step in steps for c in records.read(step.file("choices.jsonl"), Choice)]


def _by_prompt(curve: RewardCurve, step: Step) -> PromptCurve:
    """A method's curve with the values behind it, so that its points can be compared prompt by prompt."""
    import numpy as np

    from farm.study.overoptimization import PromptCurve

    values = runs.read_json(step.file("curve_values.json"))
    gold = np.array(values["gold"]) if values["gold"] else None
    return PromptCurve(curve, tuple(values["prompts"]), np.array(values["proxy"]), gold)


def _pool_curve(step: Step, seed: int) -> PromptCurve:
    from farm.study.best_of_n import best_of_n_curve

    groups: dict[str, list[Response]] = {}
    for r in records.read(step.file("pool.jsonl"), Response):
        groups.setdefault(r.instruction_id, []).append(r)

    def table(name: str) -> list[list[float]]:
        return [[r.scores[name] for r in g] for g in groups.values()]

    size = min(len(g) for g in groups.values())
    has_gold = all("gold" in r.scores for g in groups.values() for r in g)
    return best_of_n_curve(
        table("proxy"),
        table("gold") if has_gold else None,
        list(groups),
        [2**k for k in range(size.bit_length())],
        seed=seed,
        tokens=[[r.n_tokens for r in g] for g in groups.values()],
    )


def _plain(curve: PromptCurve | RewardCurve) -> RewardCurve:
    return curve if isinstance(curve, RewardCurve) else curve.curve


def _correlation(measured: Sequence[Arm], seed: int) -> records.RankCorrelation:
    """Simulated against human win rates over all policies, each averaged over its training seeds."""
    from farm.evaluate.scores import average
    from farm.study.correlation import rank_correlation

    def side(measure: str) -> dict[str, dict[str, float]]:
        names = dict.fromkeys(arm.method for arm in measured)
        return {n: average([a.scores.get(measure, {}) for a in measured if a.method == n]) for n in names}

    return rank_correlation(side("win_rate"), side("human_win_rate"), seed=seed)


def _agreement(run: Run, made: Made, extra: Sequence[Step]) -> list[records.Agreement]:
    """Annotators against humans on cross-annotated pairs; without such, what the training judgements show."""
    from farm.study.agreement import agreement

    _, responses = texts(made)
    for step in extra:
        if step.file("votes.jsonl").is_file():
            votes = _judgements(step, "votes.jsonl")
            return agreement(_judgements(step), votes, responses, seed=run.recipe.seeds[0])
    return agreement(_judgements(made["annotate"]), [], responses, seed=run.recipe.seeds[0])


def _cost(judgements: Sequence[Judgement]) -> Cost:
    total = [j.cost for j in judgements]
    return Cost(
        calls=sum(c.calls for c in total),
        prompt_tokens=sum(c.prompt_tokens for c in total),
        completion_tokens=sum(c.completion_tokens for c in total),
        usd=sum(c.usd for c in total),
        seconds=round(sum(c.seconds for c in total), 3),
    )


def _notes(run: Run) -> list[str]:
    notes = []
    if run.offline:
        notes.append(
            "Everything here happens in the offline world: instructions, writers, humans and annotators are simulated, "
            "and gold is known only because we wrote it. It shows how methods behave, not how good a real model is."
        )
    else:
        notes.append("Real text has no gold reward and no simulated humans: those columns are empty on purpose.")
        if run.recipe.policy.model == "tiny":
            notes.append(
                "The policy is a small model trained from scratch on the sft split. It writes poorly, whatever its win "
                "rate says; the point of this run is that every part works on real text at real size."
            )
        if run.recipe.annotate.endpoint.kind != "openai":
            notes.append(
                "The judge is a script that compares texts with known answers; its verdicts say nothing about "
                "what people prefer."
            )
    notes.append(
        "The pool that labels the training pairs also judges the evaluation, as in AlpacaFarm: its biases are shared."
    )
    return notes


def _provenance() -> dict[str, str]:
    found = {name: resources.installed(name) for name in ("torch", "transformers", "numpy", "scipy", "pydantic")}
    return {name: version for name, version in found.items() if version is not None}


def _exhibits(run: Run, arms: Arms) -> Sequence[records.Record]:
    """Samples side by side: SFT, the methods, the reference; the policy pushed furthest shows its exploit."""
    from farm.report.samples import choose

    seed = run.recipe.seeds[0]
    rows = [name for name, s in arms if s == seed and name not in WRITERS]
    responses = {name: _responses(arms[name, seed]) for name in rows}
    any_step = arms[SFT, seed]
    shown = {**responses, REFERENCE: records.read(any_step.file("reference.jsonl"), Response)}
    acts = [j for name in rows for j in _judgements(arms[name, seed])]

    def mean(name: str, score: str) -> float:
        values = [r.scores.get(score, r.scores["proxy"]) for r in responses[name]]
        return sum(values) / len(values)

    improved = [name for name in rows if name != SFT]
    focus = max(improved, key=lambda name: mean(name, "gold"), default=SFT)
    worst = min(improved, key=lambda name: mean(name, "gold") - mean(name, "proxy"), default=None)
    exploit = worst if worst != focus and run.offline else None
    rows_of = _instructions(any_step)
    return choose(rows_of, shown, acts, reference=REFERENCE, baseline=SFT, focus=focus, exploit=exploit)


def report(run: Run, across: Step, made: Mapping[int, Made]) -> Step:
    """``summary.json``, ``index.html`` and, beside it, the sample browser."""

    def work(folder: Path) -> None:
        from farm.report import again, summary

        numbers = summary.read(across.file("summary.json"))
        judged = {c.stage: c.cost for c in numbers.costs}
        measured = {
            "costs": tuple(
                summary.StageCost(stage=name, seconds=seconds, cost=judged.get(name, Cost()))
                for name, seconds in run.stage_seconds().items()
            ),
            "wall_seconds": run.manifest.get("wall_seconds"),
            "peak_memory_mb": run.manifest.get("peak_memory_mb"),
        }
        numbers = numbers.model_copy(update=measured)
        summary.write(folder / "summary.json", numbers)
        again.write(run.folder, numbers, folder / "index.html")

    about = {"about": run.recipe.about, "version": resources.installed() or "0", "pages": ["index", "samples"]}
    return runs.perform(run.step("8-report"), about, [across], work)


def findings(step: Step) -> list[str]:
    """What the run found, in sentences, for the terminal."""
    from farm.report.headline import headline
    from farm.report.summary import read

    return [point.text for point in headline(read(step.file("summary.json")))]
