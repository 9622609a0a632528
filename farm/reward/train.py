"""Training the reward model: Bradley-Terry on preferences, started from the SFT policy or another model.

    loss = - w [t log s(d) + (1 - t) log s(-d)] / sum of w,   d = r_1 - r_2 - m (2 t' - 1),   t = P(first preferred)

with t' the hard label. A tie has t = 1/2; soft labels and weights of the preferences are honoured. A margin m > 0 asks
for clearer differences where the preference is clearer (Touvron et al. 2023, arXiv 2307.09288, section 3.2.2). The loss
is the same in either order of the two responses. One epoch by default: a second one learns the noise. The head starts
with standard deviation 1/sqrt(d + 1) (Stiennon et al. 2020). Ensembles: ``ensemble``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch.nn.functional import binary_cross_entropy_with_logits

from farm.errors import DataError, TrainError
from farm.lm.hub import own_pad
from farm.lm.load import Lora, Policy, add_lora, load_policy, trainable
from farm.lm.prompts import Ids, encode_prompts, encode_responses, lay_out
from farm.lm.train import Optim, Progress, Trained, fit
from farm.records import Instruction, Preference, Response, write
from farm.reward.ensemble import Score
from farm.reward.model import RewardModel, fitting, places, rewards
from farm.reward.report import RewardReport, measured
from farm.seeds import rng, torch_rng

NORMALISE_ON = 4096  # responses; the standard error of the mean is then below 0.02
CLEAREST = 3.0  # of people's strengths: 1 slightly, 2 clearly, 3 much better
UNSAID = 2.0  # the strength of a choice of which nobody said how clear it is, where others did


class Config(BaseModel):
    """Settings of reward modelling. For a pretrained model start at lr 3e-6 (full) or 1e-4 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optim: Optim = Field(Optim(lr=1e-3, epochs=1, batch=32, schedule="cosine"), description="see lm.train.Optim")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the instructions kept for validation")
    max_tokens: int = Field(512, ge=1, description="longest response in tokens, end token included")
    lora: Lora | None = Field(None, description="train adapters, merged into the saved model")
    model: str | None = Field(
        None, description="start from this language model or one-output classifier, not the SFT's"
    )
    margin: Literal["none", "strength", "confidence"] = Field("none", description="what makes a preference clear")
    margin_scale: float = Field(1.0, ge=0, description="margin of the clearest preference, in raw reward")
    engine: Literal["farm", "trl"] = Field(
        "farm", description="our loop, or TRL's RewardTrainer on the same token rows"
    )
    members: int = Field(1, ge=1, le=32, description="models of an ensemble; they differ in seed and data order")
    combine: Literal["mean", "worst", "variance", "soft", "weights"] = Field("mean", description="see reward.ensemble")
    strength: float = Field(0.5, ge=0, description="of variance and soft")

    @model_validator(mode="after")
    def _positive(self) -> Config:
        if self.combine == "soft" and self.strength == 0:
            raise ValueError("strength must be positive for 'soft' (its limit at 0 is 'worst')")
        return self


# prompt, first, second, P(first preferred), weight, margin (positive in favour of the first)
Example = tuple[Ids, Ids, Ids, float, float, float]


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
    gold: Score | None = None,
    split_seed: int | None = None,
) -> RewardReport:
    """Train one model on ``preferences`` and write it and ``report.jsonl`` to ``folder``; ``config.members`` is for
    :func:`farm.reward.members.train_rewards`.

    ``reference`` are samples of the SFT policy on which the reward gets mean 0 and standard deviation 1 (empty: the
    first ``NORMALISE_ON`` of ``responses``). Instructions and responses are looked up by id. ``gold``, where it is
    known, is compared on the held-out pairs, which ``split_seed`` (default: ``seed``) chooses.
    Raises DataError when there are no preferences, one names something unknown or they lack what the margin is made
    of, TrainError when the loss is not finite or the reward is constant.
    """
    if not preferences:
        raise DataError("reward: the set of preferences is empty; label some pairs first")
    start = start_of(config.model or sft, seed)
    wrapped = start if config.lora is None else add_lora(start, config.lora, seed, task="SEQ_CLS")
    texts = texts_of(preferences, instructions, responses)
    examples, too_long = _examples(preferences, texts, start, config)
    training, held = held_out(preferences, config.held_out, seed if split_seed is None else split_seed)
    learned = [examples[i] for i in training]
    if config.engine == "trl":
        trained = _with_trl(wrapped, learned, config, seed, progress)
    else:
        trained = fit(
            trainable(wrapped),
            learned,
            lambda rows: pair_loss(wrapped, rows),
            config.optim,
            seed=seed,
            purpose="reward",
            size=lambda e: 2 * len(e[0]) + len(e[1]) + len(e[2]),
            weight=lambda e: e[4],
            progress=progress,
        )
    finished = wrapped.model.merge_and_unload() if wrapped.adapted else wrapped.model
    rm = RewardModel(finished.eval().requires_grad_(False), start.tokenizer, max_tokens=config.max_tokens)
    mean, sd = normalise(rm, reference or list(responses.values())[:NORMALISE_ON], instructions)
    rm = RewardModel(rm.model, rm.tokenizer, mean, sd, config.max_tokens)
    rows = [examples[i] for i in held]
    prompts = [r[0] for r in rows]
    first, second = rm.raw(prompts, [r[1] for r in rows]), rm.raw(prompts, [r[2] for r in rows])
    report = measured(
        (first - second).tolist(),
        [r[3] for r in rows],
        [len(r[1]) - len(r[2]) for r in rows],
        gold_differences(gold, [texts[i] for i in held]),
        seed,
    ).model_copy(
        update={
            "n_train": len(training),
            "train_loss": sum(trained.losses) / len(trained.losses),
            "reward_mean": mean,
            "reward_sd": sd,
            "train_tokens": trained.tokens,
            "updates": trained.updates,
            "too_long": too_long,
        }
    )
    rm.save(folder)
    write(folder / "report.jsonl", [report])
    return report


def pair_loss(start: Policy, rows: list[Example]) -> tuple[torch.Tensor, dict[str, float]]:
    """Summed weighted loss of some pairs, and how many are ordered as labelled."""
    device = start.device
    batch = lay_out(
        [r[0] for r in rows] * 2, [r[1] for r in rows] + [r[2] for r in rows], start.tokenizer.pad_token_id, device
    )
    first, second = rewards(start.model, batch).chunk(2)
    target, weight, margin = (torch.tensor([r[k] for r in rows], device=device) for k in (3, 4, 5))
    each = binary_cross_entropy_with_logits(first - second - margin, target, reduction="none")
    right = ((first > second) == (target > 0.5)).float().sum()
    return (weight * each).sum(), {"accuracy": float(right)}


def _with_trl(start: Policy, rows: list[Example], config: Config, seed: int, progress: Progress | None) -> Trained:
    """The same pairs through TRL's trainer. Raises DataError for labels it does not know."""
    from farm.lm import trl_engine

    if any(r[3] not in (0.0, 1.0) or r[4] != 1.0 for r in rows):
        raise DataError("reward: TRL knows no ties, soft labels or weights; use engine: farm for these preferences")
    pairs = [(p + a, p + b) if t == 1.0 else (p + b, p + a) for p, a, b, t, _, _ in rows]
    margins = [abs(r[5]) for r in rows] if config.margin != "none" else []
    with TemporaryDirectory(prefix="farm-trl-") as scratch:
        return trl_engine.reward(
            start, pairs, config.optim, seed=seed, folder=Path(scratch), progress=progress, margins=margins
        )


def start_of(source: str | Path, seed: int) -> Policy:
    """What training starts from: a one-output classifier as it is, or a language model with a fresh head.

    Its family and tokenizer need not be those of the policy that it will score.
    """
    if _is_classifier(source):
        rm = RewardModel.load(source)
        return Policy(rm.model, rm.tokenizer, "reward", str(source))
    policy = load_policy(source)
    return Policy(from_policy(policy, seed), policy.tokenizer, "reward", str(source))


def _is_classifier(source: str | Path) -> bool:
    from transformers import AutoConfig

    try:
        named = AutoConfig.from_pretrained(str(source), trust_remote_code=False).architectures or []
    except (OSError, ValueError):  # an adapter's folder, or nothing loadable: load_policy knows or says
        return False
    return any(str(n).endswith("ForSequenceClassification") for n in named)


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
    own_pad(model, policy.tokenizer)
    return model.to(policy.device).eval()


Text = tuple[Instruction, Response, Response]


def texts_of(
    preferences: Sequence[Preference], instructions: Mapping[str, Instruction], responses: Mapping[str, Response]
) -> list[Text]:
    try:
        return [
            (instructions[p.instruction_id], responses[p.responses[0]], responses[p.responses[1]]) for p in preferences
        ]
    except KeyError as e:
        raise DataError(f"reward: a preference names {e}, which is not among the instructions or responses") from None


def _examples(
    preferences: Sequence[Preference], texts: Sequence[Text], start: Policy, config: Config
) -> tuple[list[Example], int]:
    """Token rows, and how many responses were longer than ``max_tokens`` or, with their prompt, than the model."""
    tokenizer, room = start.tokenizer, places(start.model)
    prompts = encode_prompts([asked for asked, _, _ in texts], tokenizer)
    sides, too_long = [], 0
    for k in (1, 2):
        whole = encode_responses([t[1] if k == 1 else t[2] for t in texts], tokenizer)
        pairs = zip(prompts, whole, strict=True)
        too_long += sum(len(r) > config.max_tokens or 0 < room < len(p) + len(r) for p, r in pairs)
        sides.append([r[: config.max_tokens] for r in whole])
    if room:  # both responses of a pair follow the same end of their prompt
        longest = [max(len(a), len(b)) for a, b in zip(*sides, strict=True)]
        prompts = fitting(prompts, [[0] * n for n in longest], room)[0]
        sides = [[r[: room - 1] for r in side] for side in sides]
    wanted = [target(p) for p in preferences]
    if config.margin == "confidence":  # a chance that is the margin is not the label as well
        wanted = [float(t > 0.5) if t != 0.5 else t for t in wanted]
    said = zip(wanted, (p.weight for p in preferences), margins(preferences, config), strict=True)
    return [(p, a, b, *more) for p, a, b, more in zip(prompts, *sides, said, strict=True)], too_long


def target(preference: Preference) -> float:
    """P(first of ``preference.responses`` preferred): 1/2 for a tie."""
    if preference.winner_id is None:
        return 0.5
    first = preference.winner_id == preference.responses[0]
    return preference.probability if first else 1 - preference.probability


def margins(preferences: Sequence[Preference], config: Config) -> list[float]:
    """How much the first response's raw reward must exceed the second's before the loss is ln 2; negative where the
    second is preferred, 0 for a tie.

    ``strength``: people's strengths, 3 being the clearest; ``confidence``: 2 P(winner preferred) - 1 of soft labels,
    which then no longer soften the label itself.
    Raises DataError where the preferences carry none of it.
    """
    if config.margin == "none":
        return [0.0] * len(preferences)
    if config.margin == "strength":
        if all(p.strength is None for p in preferences):
            raise DataError(
                "reward.margin: no preference has a strength, which people's labels may bring (annotate.human); use "
                "margin: confidence with annotate.soft, or margin: none"
            )
        clear = [(UNSAID if p.strength is None else p.strength) / CLEAREST for p in preferences]
    else:
        if all(p.winner_id is None or p.probability == 1 for p in preferences):
            raise DataError("reward.margin: confidence needs soft labels; set annotate.soft: true, or margin: none")
        clear = [2 * p.probability - 1 for p in preferences]
    signs = [0 if p.winner_id is None else 1 if p.winner_id == p.responses[0] else -1 for p in preferences]
    return [config.margin_scale * sign * c for sign, c in zip(signs, clear, strict=True)]


def held_out(preferences: Sequence[Preference], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers for training and validation; all rows of one instruction fall on the same side."""
    groups = [p.instruction_id for p in preferences]
    names = sorted(set(groups))
    order = rng(seed, "reward held out").permutation(len(names)).tolist()
    held = {names[i] for i in order[: int(share * len(names))]}
    return [i for i, g in enumerate(groups) if g not in held], [i for i, g in enumerate(groups) if g in held]


def gold_differences(gold: Score | None, texts: Sequence[Text]) -> list[float] | None:
    """True reward of the first response minus that of the second, pair by pair; None where it is not known."""
    if gold is None or not texts:
        return None
    asked = [t[0] for t in texts]
    first, second = gold(asked, [t[1] for t in texts]), gold(asked, [t[2] for t in texts])
    return [a - b for a, b in zip(first, second, strict=True)]


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
