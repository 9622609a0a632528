"""Training an ensemble: members that differ in head and data order, then one reward of them (farm/reward/ensemble.py).

All members see the same training pairs and leave out the same held-out ones, on which the whole is measured. Members
err alike where the preferences themselves mislead, since they share data and start; what an ensemble removes is the
error that differs from one training to the next (Coste et al. 2023, arXiv 2310.02743).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from farm.errors import TrainError
from farm.lm.train import Progress
from farm.records import Instruction, Preference, Response, write
from farm.reward.ensemble import Ensemble, Score, average_weights, first_member
from farm.reward.model import RewardModel
from farm.reward.report import RewardReport, measured
from farm.reward.train import NORMALISE_ON, Config, gold_differences, held_out, target, texts_of, train_reward
from farm.seeds import key


def train_rewards(
    sft: str | Path,
    preferences: Sequence[Preference],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    config: Config,
    *,
    seed: int,
    folder: Path,
    reference: Sequence[Response] = (),
    progress: Progress | None = None,
    gold: Score | None = None,
) -> RewardReport:
    """Train ``config.members`` reward models and write them to ``folder`` as the one reward that
    ``ensemble.load_reward`` reads, normalised anew on ``reference``. ``report.jsonl``: the whole, then every member.

    One member is a plain reward model, as is the average of weights. Raises as ``train_reward`` does.
    """
    if config.members == 1:
        return train_reward(
            sft, preferences, instructions, responses, config,
            seed=seed, folder=folder, reference=reference, progress=progress, gold=gold,
        )  # fmt: skip
    names = [f"member-{k}" for k in range(config.members)]
    reports = [
        train_reward(
            sft, preferences, instructions, responses, config,
            seed=key(seed, "ensemble member", k) if k else seed,
            folder=folder / name,
            reference=reference,
            progress=_part(progress, k, config.members),
            gold=gold,
            split_seed=seed,
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
    samples = [r for r in reference or list(responses.values())[:NORMALISE_ON] if r.instruction_id in instructions]
    if config.combine == "weights":
        average_weights([folder / n for n in names], folder, instructions, samples)
        whole: RewardModel | Ensemble = RewardModel.load(folder)
        unit = whole.sd
        for n in names:
            shutil.rmtree(folder / n)
    else:
        members = tuple(RewardModel.load(folder / n) for n in names)
        whole = _normalised(Ensemble(members, config.combine, config.strength), samples, instructions)
        whole.save(folder, names)
        unit = whole.sd * sum(m.sd for m in members) / len(members)  # chances are stated in the members' own scale
    held = held_out(preferences, config.held_out, seed)[1]
    texts = texts_of([preferences[i] for i in held], instructions, responses)
    asked, sides = [t[0] for t in texts], ([t[1] for t in texts], [t[2] for t in texts])
    reader = RewardModel.load(first_member(folder))
    first, second = (np.array(whole.score(asked, side)) if texts else np.zeros(0) for side in sides)
    lengths = [[len(r) for r in reader.encode(asked, side)[1]] for side in sides]
    report = measured(
        (unit * (first - second)).tolist(),
        [target(preferences[i]) for i in held],
        [a - b for a, b in zip(*lengths, strict=True)],
        gold_differences(gold, texts),
        seed,
    ).model_copy(
        update={
            "n_train": reports[0].n_train,
            "train_loss": sum(r.train_loss for r in reports) / len(reports),
            "reward_mean": whole.mean,
            "reward_sd": whole.sd,
            "train_tokens": sum(r.train_tokens for r in reports),
            "updates": sum(r.updates for r in reports),
            "too_long": reports[0].too_long,
            "combine": config.combine,
        }
    )
    numbered = [r.model_copy(update={"member": k}) for k, r in enumerate(reports)]
    write(folder / "report.jsonl", [report, *numbered])
    return report


def _normalised(rough: Ensemble, samples: Sequence[Response], instructions: Mapping[str, Instruction]) -> Ensemble:
    values = np.array(rough.score([instructions[r.instruction_id] for r in samples], samples))
    if values.std() < 1e-6:
        raise TrainError(
            "reward: the ensemble's reward is constant; another 'combine' or a smaller 'strength' may help"
        )
    return replace(rough, mean=float(values.mean()), sd=float(values.std()))


def _part(progress: Progress | None, k: int, members: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, figures: progress(k * total + done, members * total, figures)
