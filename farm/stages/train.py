"""Steps that make instructions and models: data, sft, sample, reward, improve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farm import records, runs, world
from farm.errors import DataError, RecipeError
from farm.progress import Progress, say
from farm.records import Instruction, Pair, Preference, Response, Sampling
from farm.runs import Step
from farm.seeds import rng
from farm.stages.common import SFT, Made, Run, adapted, gold, new_task, settings_of, split, texts, usable
from farm.stages.controls import MODEL, learns_from_preferences, scorer


def data(run: Run) -> Step:
    """``{sft,preference,unlabeled,val,eval}.jsonl`` and, for real text, ``answers.jsonl`` for the scripted judge."""
    r = run.recipe.data
    files = [p for p in (r.path, r.exclude, r.eval_path) if p and Path(p).is_file()]
    inputs = [runs.file_fingerprint(Path(p)) for p in files]

    def work(folder: Path) -> None:
        answers: dict[str, str] = {}
        if run.offline:
            from farm.world import instructions

            splits, held = instructions.training(), instructions.evaluation()
        else:
            from farm.data.cards import is_original, load_card
            from farm.data.load import evaluation, training

            assert r.path is not None
            assert r.eval_path is not None
            card = load_card(r.eval_set)
            held, answers = evaluation(card, r.eval_path)
            if is_original(card, r.eval_path) is False:
                say(f"note: {r.eval_path} differs from the file that the card of {card.name} was written for")
            splits = training(r.path, r.exclude, held, r.seed, r.max_prompt_chars)
            answers |= {i.full_text: i.output for i in splits["preference"] if i.output}
        for name, rows in {**splits, "eval": held}.items():
            records.write(folder / f"{name}.jsonl", rows)
        runs.write_json(folder / "answers.json", answers)

    return runs.perform(run.step("0-data"), {"data": r.model_dump(), "world": world.VERSION}, inputs, work)


def sft(run: Run, seed: int, made: Made, name: str = "1-sft") -> Step:
    """``policy/``: the model in the Hugging Face format; ``result.json``: what it took."""
    p, config = run.recipe.policy, run.recipe.sft

    def work(folder: Path) -> None:
        from farm.methods import sft as method

        demonstrations = split(made, "sft")
        source = p.model
        if p.model == "tiny":
            source = str(_tiny(run, seed, demonstrations, folder / "untrained"))
        demonstrations = usable(run, made, "sft", len(demonstrations), folder, source)
        task = new_task(run, seed, folder, source, demonstrations, Progress(f"sft, seed {seed}"))
        method.run(task, adapted(run, config))

    return runs.perform(run.step(f"{name}/seed-{seed}"), settings_of(run, seed, config), [made["data"]], work)


def _tiny(run: Run, seed: int, demonstrations: Sequence[Instruction], folder: Path) -> Path:
    from farm.lm import tiny

    p = run.recipe.policy
    settings = tiny.TinySettings(
        hidden=p.hidden,
        layers=p.layers,
        heads=p.heads,
        mlp=3 * p.hidden,
        positions=p.max_prompt_tokens + p.max_tokens,
        vocabulary=p.vocabulary,
    )
    if run.offline:
        from farm.world.grammar import vocabulary

        return tiny.create(folder, settings, seed, vocabulary=vocabulary())
    texts = [t for i in demonstrations for t in (i.full_text, i.output)]
    return tiny.create(folder, settings, seed, texts=texts)


def sample(run: Run, seed: int, made: Made) -> Step:
    """``responses.jsonl``: n per instruction; ``pairs.jsonl``: one pair of different texts per instruction."""
    config = run.recipe.sample

    def work(folder: Path) -> None:
        from farm.lm.load import load_policy
        from farm.lm.sample import sample as draw

        instructions = usable(run, made, "preference", config.instructions, folder)
        policy = load_policy(made[SFT].file("policy"), name=SFT)
        sampling = Sampling(
            temperature=config.temperature, top_p=config.top_p, max_tokens=run.recipe.policy.max_tokens, seed=seed
        )
        progress = Progress(f"sample, seed {seed}")
        responses = draw(policy, instructions, config.n, sampling, name=SFT, purpose="pairs", progress=progress)
        records.write(folder / "responses.jsonl", responses)
        records.write(folder / "pairs.jsonl", pair_up(responses, seed))

    return runs.perform(run.step(f"2-sample/seed-{seed}"), settings_of(run, seed, config), [made[SFT]], work)


def pair_up(responses: Sequence[Response], seed: int) -> list[Pair]:
    """One random pair of different texts per instruction, in the order of instructions; none where all are equal."""
    groups: dict[str, dict[str, Response]] = {}
    for r in responses:
        groups.setdefault(r.instruction_id, {}).setdefault(r.text, r)
    pairs = []
    for instruction, distinct in groups.items():
        if len(distinct) > 1:
            first, second = rng(seed, "pair", instruction).choice(len(distinct), size=2, replace=False)
            options = list(distinct.values())
            pairs.append(Pair.of(options[first], options[second]))
    if not pairs:
        raise DataError("sample: no instruction has two different responses; raise sample.n or sample.temperature")
    return pairs


def reward(run: Run, seed: int, made: Made) -> Step:
    """``model/``: a one-output sequence classifier or an ensemble of them (``farm.reward.ensemble.load_reward`` reads
    either), normalised on SFT samples, with its report."""
    config = run.recipe.reward
    start = [runs.file_fingerprint(Path(config.model))] if config.model and Path(config.model).is_dir() else []

    def work(folder: Path) -> None:
        from farm.reward.members import train_rewards

        _check_value_network(run, made)
        train_rewards(
            made[SFT].file("policy"),
            records.read(made["annotate"].file("preferences.jsonl"), Preference),
            *texts(made),
            adapted(run, config),
            seed=seed,
            folder=folder / "model",
            progress=Progress(f"reward, seed {seed}"),
            gold=gold(run),
        )

    settings = settings_of(run, seed, config)
    return runs.perform(run.step(f"4-reward/seed-{seed}"), settings, [made["annotate"], *start], work)


def _check_value_network(run: Run, made: Made) -> None:
    """Raises RecipeError now for what would stop a method after the reward model is trained."""
    from farm.lm.hub import load_tokenizer, same_tokens

    start = run.recipe.reward.model
    rows = [
        row
        for row, (_, config, what) in run.recipe.improve.items()
        if what.reward == MODEL
        and getattr(config, "value_from", "") == "reward"
        and getattr(config, "value", "") == "network"
    ]
    if start and rows and not same_tokens(load_tokenizer(start), load_tokenizer(made[SFT].file("policy"))):
        raise RecipeError(
            f"improve.{rows[0]}: its value network would start as the reward model, which with reward.model: {start} "
            "has another tokenizer than the policy; set value_from: policy"
        )


def improve(run: Run, seed: int, made: Made, row: str) -> Step:
    """``policy/`` and ``result.json`` of one row, ``curve.jsonl`` where it has one, ``checkpoints/`` to select from."""
    method, config, what = run.recipe.improve[row]
    curve, keep = run.recipe.study.curve_instructions, run.recipe.select is not None

    def work(folder: Path) -> None:
        from farm.methods import module
        from farm.reward.ensemble import first_member

        limit = getattr(config, "prompts", None) or len(split(made, "unlabeled"))
        instructions = usable(run, made, "unlabeled", limit, folder)
        more: dict[str, Any] = {}
        preferences = records.read(made["annotate"].file("preferences.jsonl"), Preference)
        from_pairs = learns_from_preferences(method)
        if from_pairs:
            more["preferences"] = preferences
            asked, more["responses"] = texts(made)
            instructions = list(asked.values())
        task = new_task(
            run,
            seed,
            folder,
            made[SFT].file("policy"),
            instructions,
            Progress(f"{row}, seed {seed}"),
            score=scorer(what.reward, seed, made),
            reward=first_member(made["reward"].file("model")) if what.reward == MODEL else None,
            gold=gold(run),
            val=usable(run, made, "val", curve, folder),
            keep=keep,
            **more,
        )
        result = module(method).run(task, adapted(run, config))
        if what.reward == MODEL and not from_pairs:  # the labels that its reward model learned from are its labels
            budget = result.budget.model_copy(update={"comparisons": len(preferences)})
            result.model_copy(update={"budget": budget}).save(folder)

    settings = settings_of(run, seed, method, config, what, curve, keep)
    return runs.perform(run.step(f"5-improve/{row}/seed-{seed}"), settings, [made["reward"]], work)
