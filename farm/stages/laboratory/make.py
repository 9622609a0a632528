"""Steps of the laboratory that make things: reward models, the sampled pool, policies (labels: ``labels``).

All variants of one seed share the SFT policy, its samples and the judges' answers; a reward model is trained once for
all rewards that use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from farm import records, runs
from farm.errors import DataError
from farm.progress import Progress, say
from farm.records import Instruction, Preference, Response, Sampling
from farm.runs import Step
from farm.seeds import key
from farm.stages.common import SFT, Made, Run, adapted, gold, new_task, settings_of, split, usable
from farm.stages.laboratory.settings import Laboratory, Reward, Trunk
from farm.stages.train import sft

PURPOSE = "laboratory pool"


@dataclass(frozen=True)
class Model:
    """One reward model: ``count`` labelled pairs from ``first`` on, the trunk it starts from, and which member of an
    ensemble it is. ``refreshed`` names the model whose choices replace the second half of its pairs."""

    labels: str
    first: int
    count: int | None
    trunk: Trunk | None = None
    member: int = 0
    other_start: bool = False
    refreshed: Model | None = None
    epochs: float | None = None
    lr: float | None = None

    @property
    def key(self) -> str:
        """Its folder: what it was made from, in words."""
        parts = [self.labels or "recipe", f"{self.first}+{self.count or 'all'}"]
        if self.trunk:
            parts += [f"{k}={v}".replace("/", "_") for k, v in self.trunk.model_dump().items() if v is not None]
        if self.epochs is not None:
            parts.append(f"epochs={self.epochs:g}")
        if self.lr is not None:
            parts.append(f"lr={self.lr:g}")
        if self.refreshed:
            parts.append("refreshed")
        if self.other_start:
            parts.append("other")
        return "-".join([*parts, f"m{self.member}"])


def models_of(lab: Laboratory, name: str, replicate: int = 0) -> list[Model]:
    """The reward models that a reward (one of its replicates) is made of."""
    r = lab.rewards[name]
    source = models_of(lab, r.refresh)[0] if r.refresh else None
    other = r.starts == "other"
    numbers = range(replicate * r.members, (replicate + 1) * r.members)
    return [
        Model(r.labels, r.skip, r.preferences, r.trunk, k, other and k > 0, source, r.epochs, r.lr) for k in numbers
    ]


def all_models(lab: Laboratory) -> list[Model]:
    """Every reward model of the laboratory once, those that refreshed ones choose with included."""
    found: dict[str, Model] = {}
    for name, r in lab.rewards.items():
        for m in (m for k in range(r.replicates) for m in models_of(lab, name, k)):
            if m.refreshed:
                found.setdefault(m.refreshed.key, m.refreshed)
            found.setdefault(m.key, m)
    return list(found.values())


def _trunk_run(run: Run, trunk: Trunk | None) -> Run:
    changes = trunk.model_dump(exclude_none=True) if trunk else {}
    return replace(run, recipe=run.recipe.model_copy(update={"policy": run.recipe.policy.model_copy(update=changes)}))


def trunk_name(trunk: Trunk) -> str:
    """Name of an SFT policy of another size among the finished steps."""
    return "-".join(f"{k}={v}".replace("/", "_") for k, v in trunk.model_dump(exclude_none=True).items())


def trunk_sft(run: Run, seed: int, made: Made, trunk: Trunk) -> Step:
    """An SFT policy of another size, for reward models to start from."""
    return sft(_trunk_run(run, trunk), seed, made, f"1-sft/{trunk_name(trunk)}")


def reward_model(
    run: Run, seed: int, made: Made, model: Model, start: Step, labelled: Step, fresh: Step | None = None
) -> Step:
    """``model/`` of one reward model, trained from the policy of ``start`` on its share of the labelled pairs
    (``fresh``: refreshed labels)."""
    config = run.recipe.reward
    changes = {k: v for k, v in (("epochs", model.epochs), ("lr", model.lr)) if v is not None}
    config = config.model_copy(update={"optim": config.optim.model_copy(update=changes)})

    def work(folder: Any) -> None:
        from farm.reward.train import train_reward

        preferences = _share(records.read(labelled.file("preferences.jsonl"), Preference), model)
        if fresh is not None:
            newer = records.read(fresh.file("preferences.jsonl"), Preference)
            preferences = preferences[: len(preferences) // 2] + newer
        train_reward(
            start.file("policy"),
            preferences,
            records.by_id(split(made, "preference")),
            records.by_id(records.read(made["sample"].file("responses.jsonl"), Response)),
            adapted(run, config),
            seed=key(seed, "ensemble member", model.member) if model.member else seed,
            folder=folder / "model",
            progress=Progress(f"reward {model.key}, seed {seed}"),
        )

    settings = settings_of(run, seed, config, {"first": model.first, "count": model.count, "member": model.member})
    inputs = [made["sample"], labelled, start, *([fresh] if fresh else [])]
    return runs.perform(run.step(f"4-reward/{model.key}/seed-{seed}"), settings, inputs, work)


def _share(preferences: Sequence[Preference], model: Model) -> list[Preference]:
    """The model's pairs. A pair in fifty may have lost its label to failed judgements; more than that is an error."""
    last = None if model.count is None else model.first + model.count
    rows = list(preferences[model.first : last])
    if not rows or (model.count is not None and len(rows) < 0.98 * model.count):
        raise DataError(
            f"reward model {model.key} asks for {model.count} preferences after the first {model.first}, but there are "
            f"{len(preferences)} labelled pairs: raise sample.instructions or lower 'preferences'"
        )
    return rows


def averaged(run: Run, seed: int, made: Made, name: str, members: Sequence[Step]) -> Step:
    """``model/``: one reward model with the mean of the members' weights."""

    def work(folder: Any) -> None:
        from farm.reward.ensemble import average_weights
        from farm.reward.train import NORMALISE_ON

        responses = records.read(made["sample"].file("responses.jsonl"), Response)[:NORMALISE_ON]
        asked = records.by_id(split(made, "preference"))
        average_weights([m.file("model") for m in members], folder / "model", asked, responses)

    step = run.step(f"4-reward/{name}-averaged/seed-{seed}")
    return runs.perform(step, settings_of(run, seed), [made["sample"], *members], work)


def pool(run: Run, seed: int, made: Made, lab: Laboratory) -> Step:
    """``pool.jsonl``: samples of the SFT policy for the first instructions of ``val``, each with its log-probability
    under that policy, its share of repeated words and, in the offline world, gold."""

    def work(folder: Any) -> None:
        from farm.lm.load import load_policy
        from farm.lm.prompts import encode_prompts
        from farm.lm.sample import draw
        from farm.methods.task import to_responses

        prompts = usable(run, made, "val", lab.pool.instructions, folder)
        policy = load_policy(made[SFT].file("policy"), name=SFT)
        sampling = Sampling(max_tokens=run.recipe.policy.max_tokens, seed=seed)
        rows: list[Response] = []
        progress = Progress(f"pool, seed {seed}")
        at_once = max(1, 8192 // lab.pool.n)
        for start in range(0, len(prompts), at_once):
            chosen = prompts[start : start + at_once]
            encoded = encode_prompts(chosen, policy.tokenizer)
            draws = draw(policy, encoded, [i.id for i in chosen], lab.pool.n, sampling, purpose=PURPOSE)
            asked = [i for i in chosen for _ in range(lab.pool.n)]
            responses = to_responses(policy, asked, draws, SFT, sampling)
            columns = {"log_prob": [sum(d.logprobs) for d in draws], "repeats": [repeated(r.text) for r in responses]}
            if true := gold(run):
                columns["gold"] = true(asked, responses)
            for k, r in enumerate(responses):
                rows.append(r.model_copy(update={"scores": {name: values[k] for name, values in columns.items()}}))
            progress(start + len(chosen), len(prompts))
        records.write(folder / "pool.jsonl", rows)

    settings = settings_of(run, seed, lab.pool, PURPOSE)
    return runs.perform(run.step(f"5-pool/seed-{seed}"), settings, [made[SFT]], work)


def repeated(text: str) -> float:
    """Share of words that occur earlier in the text, in [0, 1)."""
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 0.0


def reward_of(spec: Reward, members: Sequence[Step], made: Made) -> Any:
    """A reward of the laboratory as a ``Score``: members combined, then transformed."""
    from farm.reward.ensemble import ensemble, shaped
    from farm.reward.model import RewardModel

    scores = [RewardModel.load(m.file("model")).score for m in members]
    together = ensemble(scores, "mean" if spec.combine == "weights" else spec.combine, spec.strength)
    reference: list[float] = []
    if spec.transform == "quantile":
        responses = records.read(made["sample"].file("responses.jsonl"), Response)[:4096]
        asked = records.by_id(split(made, "preference"))
        reference = together([asked[r.instruction_id] for r in responses], responses)
    return shaped(together, spec.transform, clip=spec.clip, reference=reference, length_penalty=spec.length_penalty)


def policy(run: Run, seed: int, made: Made, lab: Laboratory, row: str, members: Sequence[Step], labelled: Step) -> Step:
    """``policy/``, ``result.json`` and the curve of one trained policy of the laboratory."""
    method, config, more = lab.policies[row]
    spec = lab.rewards[more.reward or lab.base]

    def work(folder: Any) -> None:
        from farm.methods import module

        limit = getattr(config, "prompts", None) or len(split(made, "unlabeled"))
        instructions: list[Instruction] = usable(run, made, "unlabeled", limit, folder)
        given: dict[str, Any] = {}
        if getattr(module(method), "LEARNS_FROM_PREFERENCES", False):
            model = models_of(lab, more.reward or lab.base)[0]
            given["preferences"] = _share(records.read(labelled.file("preferences.jsonl"), Preference), model)
            given["responses"] = records.by_id(records.read(made["sample"].file("responses.jsonl"), Response))
            instructions = split(made, "preference")
        task = new_task(
            run,
            seed,
            folder,
            made[SFT].file("policy"),
            instructions,
            Progress(f"{row}, seed {seed}"),
            score=reward_of(spec, members, made),
            reward=members[0].file("model"),
            gold=gold(run),
            val=usable(run, made, "val", lab.curve_instructions, folder),
            **given,
        )
        module(method).run(task, adapted(run, config))

    shown = spec.model_dump(exclude={"against", "question", "replicates", "epochs", "lr"})
    settings = settings_of(run, seed, method, config, shown, lab.curve_instructions)
    return runs.perform(run.step(f"5-improve/{row}/seed-{seed}"), settings, [*members, labelled], work)


def tell(stage: str, steps: Iterable[Step]) -> None:
    """Say what a stage did: made, found finished, or taken from another run."""
    steps = list(steps)
    fresh, taken = [s for s in steps if s.fresh], [s for s in steps if s.lender]
    if fresh:
        say(f"{stage}: done, {len(fresh)} of {len(steps)} steps, {sum(s.seconds for s in fresh):.1f} s")
    for lender in dict.fromkeys(s.lender for s in taken):
        count = sum(s.lender == lender for s in taken)
        say(f"{stage}: {count} of {len(steps)} steps are the same as in {lender} and were reused")
    kept = len(steps) - len(fresh) - len(taken)
    if kept and (fresh or taken):
        say(f"{stage}: {kept} of {len(steps)} steps stood already")
