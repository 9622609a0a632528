"""Training the reward model: Bradley-Terry on preferences, started from the SFT policy.

    loss = - w [t log s(r_1 - r_2) + (1 - t) log s(r_2 - r_1)] / sum of w,   t = P(first preferred)

A tie has t = 1/2; soft labels and weights of the preferences are honoured. One epoch by default: a second one learns
the noise. The head starts with standard deviation 1/sqrt(d + 1) (Stiennon et al. 2020). Ensembles: ``ensemble``.
Left out: margins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import binary_cross_entropy_with_logits

from farm.errors import DataError, TrainError
from farm.lm.load import Lora, Policy, add_lora, load_policy, trainable
from farm.lm.prompts import Ids, encode_prompts, encode_responses, lay_out
from farm.lm.train import Optim, Progress, fit
from farm.records import Estimate, Instruction, Preference, Record, Response, write
from farm.reward.model import RewardModel, rewards
from farm.seeds import rng, torch_rng

NORMALISE_ON = 4096  # responses; the standard error of the mean is then below 0.02


class Config(BaseModel):
    """Settings of reward modelling. For a pretrained model start at lr 3e-6 (full) or 1e-4 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optim: Optim = Field(Optim(lr=1e-3, epochs=1, batch=32, schedule="cosine"), description="see lm.train.Optim")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the instructions kept for validation")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    lora: Lora | None = Field(None, description="train adapters, merged into the saved model")


class RewardReport(Record):
    """How well the reward model predicts held-out labels (ties left out; equal lengths count half)."""

    n_train: int
    n_validation: int
    accuracy: Estimate
    longer_wins: Estimate
    validation_loss: float | None
    train_loss: float
    reward_mean: float
    reward_sd: float
    train_tokens: int
    updates: int


Example = tuple[Ids, Ids, Ids, float, float]  # prompt, first, second, P(first preferred), weight


def train_reward(
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
) -> RewardReport:
    """Train on ``preferences`` and write the model and ``report.jsonl`` to ``folder``.

    ``reference`` are samples of the SFT policy on which the reward gets mean 0 and standard deviation 1 (empty: the
    first ``NORMALISE_ON`` of ``responses``). Instructions and responses are looked up by id.
    Raises DataError when there are no preferences or one names something unknown, TrainError when the loss is not
    finite or the reward is constant.
    """
    if not preferences:
        raise DataError("reward: the set of preferences is empty; label some pairs first")
    policy = load_policy(sft)
    model = from_policy(policy, seed)
    wrapped = Policy(model, policy.tokenizer, "reward", str(sft))
    if config.lora is not None:
        wrapped = add_lora(wrapped, config.lora, seed, task="SEQ_CLS")
    examples = _examples(preferences, instructions, responses, policy.tokenizer, config.max_tokens)
    training, validation = _split([p.instruction_id for p in preferences], config.held_out, seed)
    pad, device = policy.tokenizer.pad_token_id, policy.device

    def loss(rows: list[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        batch = lay_out([r[0] for r in rows] * 2, [r[1] for r in rows] + [r[2] for r in rows], pad, device)
        first, second = rewards(wrapped.model, batch).chunk(2)
        target, weight = (torch.tensor([r[k] for r in rows], device=device) for k in (3, 4))
        each = binary_cross_entropy_with_logits(first - second, target, reduction="none")
        right = ((first > second) == (target > 0.5)).float().sum()
        return (weight * each).sum(), {"accuracy": float(right)}

    trained = fit(
        trainable(wrapped),
        [examples[i] for i in training],
        loss,
        config.optim,
        seed=seed,
        purpose="reward",
        size=lambda e: 2 * len(e[0]) + len(e[1]) + len(e[2]),
        weight=lambda e: e[4],
        progress=progress,
    )
    finished = wrapped.model.merge_and_unload() if wrapped.adapted else wrapped.model
    rm = RewardModel(finished.eval().requires_grad_(False), policy.tokenizer)
    mean, sd = normalise(rm, reference or list(responses.values())[:NORMALISE_ON], instructions)
    finished.config.reward_mean, finished.config.reward_sd = mean, sd
    report = _report(rm, [examples[i] for i in validation]).model_copy(
        update={
            "n_train": len(training),
            "train_loss": sum(trained.losses) / len(trained.losses),
            "reward_mean": mean,
            "reward_sd": sd,
            "train_tokens": trained.tokens,
            "updates": trained.updates,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    finished.save_pretrained(str(folder), safe_serialization=True)
    policy.tokenizer.save_pretrained(str(folder))
    write(folder / "report.jsonl", [report])
    return report


def from_policy(policy: Policy, seed: int) -> Any:
    """A one-output sequence classifier with the policy's trunk and a fresh, keyed head."""
    from transformers import AutoModelForSequenceClassification

    language_model = policy.model
    config = language_model.config.__class__.from_dict(language_model.config.to_dict())
    config.num_labels, config.pad_token_id = 1, policy.tokenizer.pad_token_id
    attention = language_model.config._attn_implementation
    auto: Any = AutoModelForSequenceClassification
    model = auto.from_config(config, attn_implementation=attention)
    if not hasattr(model, "score"):
        raise DataError(f"{policy.source}: no reward head is known for the architecture '{config.model_type}'")
    getattr(model, model.base_model_prefix).load_state_dict(language_model.base_model.state_dict())
    width = model.score.weight.shape[1]
    head = torch.randn(model.score.weight.shape, generator=torch_rng(seed, "reward head")) / math.sqrt(width + 1)
    model.score.weight.data = head
    return model.to(policy.device).eval()


def _examples(
    preferences: Sequence[Preference],
    instructions: Mapping[str, Instruction],
    responses: Mapping[str, Response],
    tokenizer: Any,
    max_tokens: int,
) -> list[Example]:
    try:
        asked = [instructions[p.instruction_id] for p in preferences]
        first, second = ([responses[p.responses[k]] for p in preferences] for k in (0, 1))
    except KeyError as e:
        raise DataError(f"reward: a preference names {e}, which is not among the instructions or responses") from None
    prompts = encode_prompts(asked, tokenizer)
    one, two = (encode_responses(side, tokenizer, max_tokens) for side in (first, second))
    return [(prompt, a, b, target(p), p.weight) for prompt, a, b, p in zip(prompts, one, two, preferences, strict=True)]


def target(preference: Preference) -> float:
    """P(first of ``preference.responses`` preferred): 1/2 for a tie."""
    if preference.winner_id is None:
        return 0.5
    first = preference.winner_id == preference.responses[0]
    return preference.probability if first else 1 - preference.probability


def _split(groups: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers for training and validation; all rows of one instruction fall on the same side."""
    names = sorted(set(groups))
    order = rng(seed, "reward held out").permutation(len(names)).tolist()
    held = {names[i] for i in order[: int(share * len(names))]}
    return [i for i, g in enumerate(groups) if g not in held], [i for i, g in enumerate(groups) if g in held]


def normalise(
    rm: RewardModel, reference: Sequence[Response], instructions: Mapping[str, Instruction]
) -> tuple[float, float]:
    """Mean and standard deviation of the raw rewards of ``reference`` samples. Raises DataError when none of their
    instructions is known, TrainError when the reward is constant."""
    known = [r for r in reference if r.instruction_id in instructions]
    if not known:
        raise DataError("reward: none of the reference responses belongs to a known instruction")
    raw = torch.tensor(rm.score([instructions[r.instruction_id] for r in known], known), dtype=torch.float64)
    sd = float(raw.std(correction=0))
    if sd < 1e-6:
        raise TrainError("reward: the trained reward is constant, so it cannot rank anything; check the preferences")
    return float(raw.mean()), sd


def _report(rm: RewardModel, rows: list[Example]) -> RewardReport:
    prompts = [r[0] for r in rows]
    first, second = rm.raw(prompts, [r[1] for r in rows]), rm.raw(prompts, [r[2] for r in rows])
    targets = torch.tensor([r[3] for r in rows])
    loss = float(binary_cross_entropy_with_logits(first - second, targets)) if rows else None
    wins = [(float(a > b), r) for a, b, r in zip(first.tolist(), second.tolist(), rows, strict=True) if r[3] != 0.5]
    model = [w if r[3] > 0.5 else 1 - w for w, r in wins]
    longer = [_longer_wins(r) for _, r in wins]
    return RewardReport(
        n_train=0,
        n_validation=len(rows),
        accuracy=share(model),
        longer_wins=share(longer),
        validation_loss=loss,
        train_loss=0.0,
        reward_mean=0.0,
        reward_sd=1.0,
        train_tokens=0,
        updates=0,
    )


def _longer_wins(row: Example) -> float:
    first_longer = 0.5 + 0.5 * ((len(row[1]) > len(row[2])) - (len(row[1]) < len(row[2])))
    return first_longer if row[3] > 0.5 else 1 - first_longer


def share(hits: Sequence[float]) -> Estimate:
    """Mean of values in [0, 1] with its Wilson 95% interval."""
    n = len(hits)
    if n == 0:
        return Estimate(value=None, n=0, note="no decided pair was held out")
    p, z = sum(hits) / n, 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(value=p, ci95_low=centre - half, ci95_high=centre + half, n=n)
