"""Proximal policy optimisation for language models, in one sitting (Schulman et al. 2017; Ziegler et al. 2019).

One step: draw a response to each of ``rollouts`` prompts, score it, and improve

    sum over tokens of min(rho A, clip(rho, 1 - c, 1 + c) A),   rho = pi(y_t) / pi_old(y_t)

with A from generalised advantage estimation on the token rewards
    r_t = - kl_coef (log pi_old(y_t) - log pi_ref(y_t)) + [last token] (score - penalty if unfinished)
so the fixed point is pi_ref exp(score / kl_coef) / Z. Details follow Huang et al. 2022 and 2024 ("N implementation
details"): KL as k1 in the reward and never clamped, log-probabilities under the sampling temperature (1), padding in
no statistic, score at the last real token, advantages whitened over the batch's real tokens, value clipping, Adam
eps 1e-5, a gradient norm that is really clipped, losses divided by the tokens of the whole minibatch.
KL in the reward may also be k3 or the divergence over the vocabulary, its price may adapt towards a target, and a run
that was cut off goes on exactly from its last checkpoint. Left out: reward whitening (the reward model is
normalised), entropy bonus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from farm.errors import DataError
from farm.lm import parallel
from farm.lm.hub import load_hf, load_tokenizer, same_tokens
from farm.lm.load import (
    Lora,
    Policy,
    copy_frozen,
    load_policy,
    reference_of,
    save_policy,
    trainable,
)
from farm.lm.logprobs import (
    batches,
    by_row,
    logprobs,
    response_logits,
    sequence_sums,
    token_kl,
    token_logprobs,
)
from farm.lm.prompts import Batch, Ids, encode_prompts, lay_out
from farm.lm.sample import draw
from farm.lm.train import mixed_precision, rate, step
from farm.lm.trunk import hidden_at
from farm.methods import losses, resume
from farm.methods.curve import Track
from farm.methods.on_policy import prompt_stream
from farm.methods.task import Clock, Result, Task, checked, to_responses
from farm.records import Budget, Instruction, Record, Sampling, write
from farm.seeds import rng


class Config(BaseModel):
    """Settings of PPO. The default rate suits a tiny model; for a pretrained one start at 1e-5 (full), 1e-4 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(60, ge=1, description="rollout batches")
    rollouts: int = Field(256, ge=2, description="responses per step, one per prompt")
    epochs: int = Field(2, ge=1, description="passes over each batch of rollouts")
    minibatches: int = Field(2, ge=1, description="updates per pass")
    lr: float = Field(1e-3, gt=0, description="first learning rate; falls linearly to its last step's share")
    kl_coef: float = Field(0.1, ge=0, description="price of one nat of KL from the SFT policy, in reward units")
    kl_estimator: Literal["k1", "k3", "full"] = Field("k1", description="KL in the reward; logs always show k1")
    kl_target: float | None = Field(None, gt=0, description="adapt kl_coef towards this KL, nats per sequence")
    kl_horizon: int = Field(10_000, ge=1, description="responses over which kl_coef adapts")
    target_kl_stop: float | None = Field(None, gt=0, description="stop when KL exceeds this, nats per sequence")
    clip: float = Field(0.2, gt=0, description="clip range of the probability ratio and of the value")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of advantage estimation; gamma is 1")
    value: Literal["head", "network"] = Field("head", description="value head on the policy's trunk, or its own trunk")
    value_from: Literal["reward", "policy"] = Field("reward", description="what a value network of its own starts as")
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss")
    max_grad_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    missing_eos_penalty: float = Field(1.0, ge=0, description="subtracted from the score of an unfinished response")
    curve_every: int = Field(5, ge=1, description="steps between points of the curve")
    lora: Lora | None = Field(None, description="train adapters; the reference is then the model without them")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of matrix products in training passes; weights stay float32. bfloat16 pays from 10M up"
    )


class StepLog(Record):
    """One PPO step. ``kl`` is k1 against the SFT policy in nats per sequence; the rest are means over real tokens."""

    step: int
    score: float
    kl: float
    kl_coef: float
    finished: float
    mean_tokens: float
    policy_loss: float
    value_loss: float
    clip_fraction: float
    grad_norm: float
    first_ratio_error: float
    explained_variance: float


@dataclass(frozen=True)
class Rollouts:
    """A batch of B drawn responses, packed by row: lists of [tokens] tensors, and scores [B]."""

    prompts: list[Ids]
    responses: list[Ids]
    scores: Tensor
    finished: list[bool]
    reference: list[Tensor]
    price: list[Tensor] | None  # KL of each token by the estimator of the reward; None = k1, from the old policy
    kl: float  # mean k1 of the draws, nats per sequence


class Critic:
    """Values of response tokens: a linear head on the policy's trunk (zero at the start) or on a network of its own,
    which starts as the SFT policy (head zero) or as the reward model (its value at the last token is the reward)."""

    def __init__(self, policy: Policy, task: Task, config: Config) -> None:
        self.own: Policy | None = None
        if config.value == "network" and config.value_from == "policy":
            self.own = load_policy(task.sft, name="value")
        elif config.value == "network":
            self.own = self._reward_model(task, policy)
        width = (self.own or policy).model.config.hidden_size
        self.head = torch.nn.Linear(width, 1, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        if self.own is not None and config.value_from == "reward":
            settings = self.own.model.config
            mean, sd = getattr(settings, "reward_mean", 0.0), getattr(settings, "reward_sd", 1.0)
            with torch.no_grad():
                self.head.weight.copy_(self.own.model.score.weight / sd)
                self.head.bias.fill_(-mean / sd)

    @staticmethod
    def _reward_model(task: Task, policy: Policy) -> Policy:
        from transformers import AutoModelForSequenceClassification

        advice = "set value_from: policy"
        if task.reward is None:
            raise DataError(f"ppo: value_from 'reward' needs the folder of a reward model; give one, or {advice}")
        if not same_tokens(load_tokenizer(task.reward), policy.tokenizer):
            raise DataError(f"ppo: the reward model {task.reward} has another tokenizer than the policy; {advice}")
        model = load_hf(AutoModelForSequenceClassification, task.reward, str(policy.device), "float32")
        return Policy(model.eval(), policy.tokenizer, "value", str(task.reward))

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.head.parameters(), *(trainable(self.own) if self.own else [])]

    def __call__(self, hidden: Tensor, batch: Batch) -> Tensor:
        if self.own is not None:
            hidden = hidden_at(self.own.model, batch, batch.predicts)
        return self.head(hidden.float())[:, 0]  # type: ignore[no-any-return]


def run(task: Task, config: Config) -> Result:
    """Train from ``task.sft`` against ``task.score``; writes the policy, its curve and ``steps.jsonl``.

    Raises DataError without prompts or reward, TrainError when a reward, loss or gradient is not finite.
    """
    task.need("ppo", score=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name="ppo", seed=task.seed)
    frozen = copy_frozen(policy) if config.lora is None else None
    critic = Critic(policy, task, config)
    parameters = trainable(policy) + critic.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, eps=1e-5, weight_decay=0.0, fused=True)
    source = prompt_stream(task.instructions, config.rollouts, task.seed, "ppo prompts")
    encoded = encode_prompts(task.instructions, policy.tokenizer)
    prompts = {i.id: row for i, row in zip(task.instructions, encoded, strict=True)}
    logs: list[StepLog] = []
    track = Track(task, "step", policy, frozen)
    sequences = tokens = trained = done = 0
    kl_coef = config.kl_coef
    if (known := resume.load(task.folder, parameters, optimizer)) is not None:
        done, saved = known
        sequences, tokens, trained, kl_coef = saved["numbers"]
        logs = [StepLog.model_validate(row) for row in saved["logs"]]
        track.restore(saved["track"])
    else:
        track.measure(0)
    for number in range(1, config.steps + 1):
        chosen = next(source)
        if number <= done:
            continue
        data = roll_out(task, policy, frozen, chosen, [prompts[i.id] for i in chosen], number, config)
        sequences += len(chosen)
        tokens += sum(len(r) for r in data.responses)
        if config.target_kl_stop is not None and data.kl > config.target_kl_stop:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate(number - 1, config.steps, 0.0, "linear")
        log = improve(policy, critic, optimizer, parameters, data, kl_coef, config, task.seed, number)
        if config.kl_target is not None:
            kl_coef = adapt(kl_coef, log.kl, config.kl_target, len(chosen), config.kl_horizon)
        logs.append(log)
        trained += config.epochs * sum(len(p) + len(r) for p, r in zip(data.prompts, data.responses, strict=True))
        done = number
        if number % config.curve_every == 0 and number < config.steps:
            track.measure(number, sequences)
            numbers = [sequences, tokens, trained, kl_coef]
            saved = {"numbers": numbers, "logs": [row.model_dump() for row in logs], "track": track.state()}
            resume.save(task.folder, number, parameters, optimizer, saved)
        if task.progress is not None:
            task.progress(number, config.steps, {"score": log.score, "kl": log.kl, "tokens": log.mean_tokens})
    track.measure(done, sequences)
    save_policy(policy, task.folder / "policy")
    write(task.folder / "steps.jsonl", logs)
    budget = Budget(
        generated_sequences=sequences,
        generated_tokens=tokens,
        reward_scorings=sequences,
        train_tokens=trained,
        updates=done * config.epochs * config.minibatches,
        seconds=clock.seconds,
    )
    return Result(method="ppo", policy="policy", curve=track.finish("ppo"), budget=budget, notes={"steps": done}).save(
        task.folder
    )


def roll_out(
    task: Task,
    policy: Policy,
    frozen: Policy | None,
    instructions: Sequence[Instruction],
    prompts: list[Ids],
    number: int,
    config: Config,
) -> Rollouts:
    """One response per instruction from the full distribution at temperature 1, with score and reference."""
    sampling = Sampling(temperature=1.0, max_tokens=task.sampling.max_tokens, seed=task.seed)
    keys = [f"{i.id}/{place}" for place, i in enumerate(instructions)]  # a small prompt set may repeat in a batch
    draws = draw(policy, prompts, keys, 1, sampling, purpose=f"ppo {number}")
    responses = to_responses(policy, instructions, draws, "ppo", sampling)
    assert task.score is not None  # need() has seen to it
    scores = torch.tensor(checked("ppo", task.score(instructions, responses), responses))
    finished = [d.finished for d in draws]
    scores = scores - config.missing_eos_penalty * (~torch.tensor(finished))
    ids = [d.ids for d in draws]
    with reference_of(policy, frozen) as reference, mixed_precision(policy.device.type, config.dtype):
        theirs = logprobs(reference, prompts, ids)
    price = None
    if config.kl_estimator == "k3":
        price = [losses.k3(torch.tensor(d.logprobs), row) for d, row in zip(draws, theirs, strict=True)]
    elif config.kl_estimator == "full":
        price = token_kl(policy, frozen, prompts, ids)[1]
    kl = sum(sum(d.logprobs) for d in draws) - float(sequence_sums(theirs).sum())
    return Rollouts(prompts, ids, scores, finished, theirs, price, kl / len(draws))


def adapt(kl_coef: float, kl: float, target: float, responses: int, horizon: int) -> float:
    """The next price of KL: raised while KL is above ``target``, lowered while below (Ziegler et al. 2019, section 2.2:
    proportional in the log, the error clipped to 0.2)."""
    return kl_coef * (1 + min(0.2, max(-0.2, kl / target - 1)) * responses / horizon)


def improve(
    policy: Policy,
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    data: Rollouts,
    kl_coef: float,
    config: Config,
    seed: int,
    number: int,
) -> StepLog:
    """Update on one batch of rollouts: ``epochs`` passes in ``minibatches`` parts. Raises TrainError on a bad loss."""
    count = len(data.responses)
    orders = [rng(seed, "ppo order", number, e).permutation(count).tolist() for e in range(config.epochs)]
    cuts = [[order[k :: config.minibatches] for k in range(config.minibatches)] for order in orders]
    cuts = [[rows for rows in pass_ if rows] for pass_ in cuts]
    # Old values are computed in the very batches of the first pass: its first ratio is then 1 to the bit.
    with mixed_precision(policy.device.type, config.dtype):
        old, values = _evaluate(policy, critic, data, cuts[0])
    mask = pad_sequence([torch.ones(len(r), dtype=torch.bool) for r in data.responses], batch_first=True)
    price = data.price or [losses.k1(ours, theirs) for ours, theirs in zip(old, data.reference, strict=True)]
    rewards = token_rewards(price, data.scores, kl_coef)
    advantages, returns = losses.gae(rewards, pad_sequence(values, batch_first=True), mask, 1.0, config.gae_lambda)
    sizes = mask.sum(1).tolist()
    white = losses.whiten(advantages, mask)
    packed = [(a[:n], r[:n]) for a, r, n in zip(white, returns, sizes, strict=True)]
    totals: dict[str, float] = {}
    norms: list[float] = []
    first_error = 0.0
    for pass_ in cuts:
        for rows in pass_:
            total = sum(len(data.responses[i]) for i in rows)
            # Left after every minibatch: autocast keeps its casts of the weights until then, past updates of them.
            with mixed_precision(policy.device.type, config.dtype):
                for part in _parts(data, parallel.share(rows)):
                    for loss, stats in _part_losses(policy, critic, data, part, old, values, packed, config):
                        (loss / total).backward()  # type: ignore[no-untyped-call]
                        ratio_error = stats.pop("ratio_error", 0.0)
                        if not norms:
                            first_error = max(first_error, ratio_error)
                        for k, v in stats.items():
                            totals[k] = totals.get(k, 0.0) + v
            norms.append(step(optimizer, parameters, config.max_grad_norm))
    totals = parallel.total(totals)
    seen = config.epochs * int(mask.sum())
    everything = losses.masked_mean(returns, mask)
    spread = losses.masked_mean((returns - everything).square(), mask)
    unexplained = losses.masked_mean((returns - pad_sequence(values, batch_first=True)).square(), mask)
    return StepLog(
        step=number,
        score=float(data.scores.mean()),
        kl=float((sequence_sums(old) - sequence_sums(data.reference)).mean()),
        kl_coef=kl_coef,
        finished=sum(data.finished) / count,
        mean_tokens=float(mask.sum()) / count,
        policy_loss=totals["policy"] / seen,
        value_loss=totals["value"] / seen,
        clip_fraction=totals["clipped"] / seen,
        grad_norm=sum(norms) / len(norms),
        first_ratio_error=max(parallel.everyone(first_error)),
        explained_variance=float(1 - unexplained / spread.clamp(min=1e-12)),
    )


def token_rewards(kl: Sequence[Tensor], scores: Tensor, kl_coef: float) -> Tensor:
    """Rewards [B, T]: minus the price of each token's KL (rows of [tokens]), plus the score on the last real one."""
    rows = []
    for each, score in zip(kl, scores, strict=True):
        row = -kl_coef * each
        row[-1] += score
        rows.append(row)
    return pad_sequence(rows, batch_first=True)


def _parts(data: Rollouts, rows: list[int]) -> Iterator[list[int]]:
    """A minibatch in parts of like length that fit memory, always the same for the same rows."""
    rows = sorted(rows)
    for part in batches([data.prompts[i] for i in rows], [data.responses[i] for i in rows]):
        yield [rows[k] for k in part]


def _forward(policy: Policy, data: Rollouts, part: list[int]) -> tuple[Tensor, Tensor, Batch]:
    """Log-probabilities [N] of the response tokens of some rows, the hidden states [N, d] behind them, and the rows."""
    batch = lay_out(
        [data.prompts[i] for i in part], [data.responses[i] for i in part], policy.tokenizer.pad_token_id, policy.device
    )
    logits, hidden = response_logits(policy.model, batch)
    return token_logprobs(logits, batch.targets), hidden, batch


@torch.no_grad()
def _evaluate(
    policy: Policy, critic: Critic, data: Rollouts, minibatches: list[list[int]]
) -> tuple[list[Tensor], list[Tensor]]:
    mine: dict[int, tuple[Tensor, Tensor]] = {}
    for rows in minibatches:
        for part in _parts(data, parallel.share(rows)):
            logp, hidden, batch = _forward(policy, data, part)
            value = critic(hidden, batch)
            mine |= dict(zip(part, zip(by_row(logp, batch), by_row(value, batch), strict=True), strict=True))
    known = {row: both for share in parallel.everyone(mine) for row, both in share.items()}
    return [known[i][0] for i in range(len(known))], [known[i][1] for i in range(len(known))]


def _part_losses(
    policy: Policy,
    critic: Critic,
    data: Rollouts,
    part: list[int],
    old: list[Tensor],
    values: list[Tensor],
    packed: list[tuple[Tensor, Tensor]],
    config: Config,
) -> Iterator[tuple[Tensor, dict[str, float]]]:
    """Summed losses over the tokens of some rows, and summed statistics: policy and value together where they share a
    trunk, else one after the other, so that only one network's activations are in memory at a time."""
    logp, hidden, batch = _forward(policy, data, part)
    before, guess = (torch.cat([x[i] for i in part]).to(policy.device) for x in (old, values))
    advantage, returns = (torch.cat([packed[i][k] for i in part]).to(policy.device) for k in (0, 1))
    each, ratio, clipped = losses.ppo_policy(logp, before, advantage, config.clip)
    loss = each.sum()
    stats = {
        "policy": float(loss.detach()),
        "clipped": float(clipped.sum()),
        "ratio_error": float((ratio.detach() - 1).abs().max()),
    }
    if critic.own is not None:
        yield loss, stats
        hidden, loss, stats = hidden.detach(), torch.zeros_like(loss), {}
    worth = losses.ppo_value(critic(hidden, batch), guess, returns, config.clip).sum()
    yield loss + config.value_coef * worth, stats | {"value": float(worth.detach())}
