"""What all steps share: the run with its recipe and manifest, splits, settings, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import records, runs, world
from farm.errors import DataError, MissingExtra
from farm.progress import Progress, say
from farm.recipe import Recipe, Shapes, dump
from farm.records import Instruction, Response, Sampling
from farm.runs import Step

if TYPE_CHECKING:
    from farm.methods.task import Task

Made = dict[str, Step]
WRITERS = ("weak-writer", "strong-writer")  # fixed policies of the offline world, ranked beside the trained ones
SFT = "sft"
SELECTED = "select:"  # before a row's name: its selected checkpoint among the finished steps
REFERENCE = "reference"


@dataclass
class Run:
    """One run folder and its recipe, with a manifest of what was done when."""

    folder: Path
    recipe: Recipe
    worked: bool = False
    manifest: dict[str, Any] = field(default_factory=dict)

    def begin(self, planned: Sequence[str] = ()) -> None:
        """Write the resolved recipe and open the manifest; ``planned`` names the steps of the whole line."""
        (self.folder / "recipe.yaml").write_text(dump(self.recipe), encoding="utf-8")
        self.manifest = runs.read_json(self.folder / "manifest.json") or {"wall_seconds": 0.0, "steps": {}}
        self.before = float(self.manifest["wall_seconds"])
        if planned and self.manifest.get("planned") != list(planned):
            self.manifest["planned"] = list(planned)
            runs.write_json(self.folder / "manifest.json", self.manifest)

    def note(self, stage: str, steps: Sequence[Step], elapsed: float) -> None:
        """Keep the manifest: steps with their fingerprints, wall seconds over all calls that did work, peak memory."""
        fresh = any(s.fresh for s in steps)
        # A run killed between finishing a step and noting it leaves a finished step that the manifest does not know.
        unknown = any(str(s.folder.relative_to(self.folder)) not in self.manifest["steps"] for s in steps)
        if not (fresh or unknown):
            return
        self.worked = self.worked or fresh
        for s in steps:
            name = str(s.folder.relative_to(self.folder))
            self.manifest["steps"][name] = {"fingerprint": s.fingerprint, "seconds": round(s.seconds, 3)}
        self.manifest["wall_seconds"] = round(self.before + elapsed, 3)
        workers = max((s.peak_memory_mb for s in steps), default=0.0) * min(self.recipe.compute.jobs, len(steps))
        peak = workers + runs.peak_memory_mb()
        self.manifest["peak_memory_mb"] = round(max(peak, self.manifest.get("peak_memory_mb", 0.0)), 1)
        runs.write_json(self.folder / "manifest.json", self.manifest)

    def stage_seconds(self) -> dict[str, float]:
        """Seconds by stage, summed over its steps (which run side by side), in pipeline order."""
        total: dict[str, float] = {}
        for name, step in sorted(self.manifest["steps"].items()):
            stage = name.split("/")[0].partition("-")[2]
            total[stage] = round(total.get(stage, 0.0) + step["seconds"], 3)
        return total

    @property
    def offline(self) -> bool:
        return self.recipe.data.world == "offline"

    def step(self, name: str) -> Path:
        return self.folder / name


def shapes() -> Shapes:
    """The settings classes of the training stages, for checking recipes."""
    from farm import methods

    try:
        from farm.reward.train import Config as Reward
        from farm.stages.laboratory.settings import Laboratory, Row

        configs = {name: methods.module(name).Config for name in (SFT, *methods.NAMES)}
    except ImportError as e:
        raise MissingExtra(f"a run trains models ({e.name} is missing): pip install 'rlhf-farm[train]'") from e
    return Shapes(sft=configs.pop(SFT), reward=Reward, methods=configs, laboratory=Laboratory, row=Row)


def policies(run: Run) -> list[str]:
    """Rows of the evaluation: SFT, every method of the recipe, and in the offline world two fixed writers."""
    return [SFT, *run.recipe.improve, *(WRITERS if run.offline else ())]


def result_of(made: Made, row: str) -> Step | None:
    """The step that holds a row's result: its selection where there is one, else its training."""
    return made.get(f"{SELECTED}{row}", made.get(row))


def planned(run: Run) -> list[str]:
    """Names of all steps of the line (``farm/pipeline.py``), in its order."""
    r = run.recipe
    names = ["0-data"]
    for stage in ("1-sft", "2-sample", "3-annotate", "4-reward", *(f"5-improve/{row}" for row in r.improve)):
        names += [f"{stage}/seed-{s}" for s in r.seeds]
    if r.select is not None:
        names += [f"5-select/{row}/seed-{s}" for row in r.improve for s in r.seeds]
    if r.study.best_of_n is not None:
        names += [f"7-study/best-of-n/seed-{s}" for s in r.seeds]
    if r.study.agreement_pairs:
        names.append(f"7-study/cross/seed-{r.seeds[0]}")
    names += [f"6-evaluate/{row}/seed-{s}" for row in policies(run) for s in r.seeds]
    if r.evaluate.canaries:
        names.append(f"6-evaluate/canaries/seed-{r.seeds[0]}")
    return [*names, "7-study/across", "8-report"]


def split(made: Made, name: str, limit: int | None = None) -> list[Instruction]:
    return records.read(made["data"].file(f"{name}.jsonl"), Instruction)[:limit]


def texts(made: Made) -> tuple[dict[str, Instruction], dict[str, Response]]:
    """Instructions and responses, by id, that preferences may be about: the run's own samples first, and what people's
    labels brought along."""
    labelled = made["annotate"]
    instructions = records.by_id(split(made, "preference"))
    responses = records.by_id(records.read(made["sample"].file("responses.jsonl"), Response))
    if labelled.file("responses.jsonl").is_file():
        instructions = records.by_id(records.read(labelled.file("instructions.jsonl"), Instruction)) | instructions
        responses |= records.by_id(records.read(labelled.file("responses.jsonl"), Response))
    return instructions, responses


def usable(
    run: Run, made: Made, name: str, limit: int, folder: Path, model: str | Path | None = None
) -> list[Instruction]:
    """The first ``limit`` instructions of a training split whose prompt fits, by the tokenizer of ``model`` (the SFT
    policy); how many did not is said and written down."""
    from farm.lm.hub import load_tokenizer
    from farm.lm.prompts import encode_prompts

    longest = run.recipe.policy.max_prompt_tokens
    tokenizer = load_tokenizer(model or made[SFT].file("policy"))
    rows = split(made, name, limit + limit // 2)  # a margin, so that the limit is reached although some are dropped
    lengths = [len(ids) for ids in encode_prompts(rows, tokenizer)]
    fitting = [i for i, n in zip(rows, lengths, strict=True) if n <= longest]
    if not fitting:
        raise DataError(
            f"split '{name}': no prompt fits in policy.max_prompt_tokens={longest}; the shortest of {len(rows)} has "
            f"{min(lengths)} tokens. Raise it in the recipe"
        )
    kept, too_long = fitting[:limit], len(rows) - len(fitting)
    if too_long:
        say(f"note: {name}: {too_long} of {len(rows)} prompts exceed policy.max_prompt_tokens={longest}; left out")
    runs.write_json(folder / f"{name}.used.json", {"used": len(kept), "too_long": too_long})
    return kept


def adapted(run: Run, config: Any) -> Any:
    """The method's settings with the recipe's LoRA switch applied where the method has none of its own."""
    if run.recipe.policy.lora_rank and "lora" in type(config).model_fields and config.lora is None:
        from farm.lm.load import Lora

        return config.model_copy(update={"lora": Lora(rank=run.recipe.policy.lora_rank)})
    return config


def settings_of(run: Run, seed: int, *parts: Any) -> dict[str, Any]:
    """What a step's fingerprint is made of, besides its inputs."""
    r = run.recipe
    shown = [p.model_dump(mode="json") if hasattr(p, "model_dump") else p for p in parts]
    policy, threads = r.policy.model_dump(), r.compute.threads
    return {"seed": seed, "policy": policy, "threads": threads, "world": world.VERSION, "settings": shown}


def new_task(
    run: Run,
    seed: int,
    folder: Path,
    source: str | Path,
    instructions: Sequence[Instruction],
    progress: Progress,
    **more: Any,
) -> Task:
    from farm.methods.task import Task

    sampling = Sampling(max_tokens=run.recipe.policy.max_tokens, seed=seed)
    return Task(seed, folder, source, instructions, sampling, progress=progress, **more)


def proxy(made: Made) -> Any:
    from farm.reward.ensemble import load_reward

    return load_reward(made["reward"].file("model")).score


def gold(run: Run) -> Any:
    return _true_reward if run.offline else None


def _true_reward(instructions: Sequence[Instruction], responses: Sequence[Response]) -> list[float]:
    from farm.world.gold import score

    return score(instructions, [r.text for r in responses], [r.finished for r in responses])
