"""What the on-policy methods without a value function share: rollouts in groups, one update loop, one log.

Each step draws ``group`` responses to each of some prompts, scores them, and makes ``epochs`` x ``minibatches``
updates. A method brings its settings, a signal per response (an advantage, a label) and a loss of packed tokens. PPO,
with its critic, is its own file (``farm/methods/ppo.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from farm.lm import parallel
from farm.lm.load import Lora, Policy, copy_frozen, load_policy, reference_of, save_policy, trainable
from farm.lm.logprobs import batches, by_row, logprobs, response_logits, sequence_sums, token_logprobs
from farm.lm.prompts import Batch, Ids, encode_prompts, lay_out
from farm.lm.sample import draw
from farm.lm.train import rate, step
from farm.methods import resume
from farm.methods.curve import Track
from farm.methods.task import Clock, Result, Task, checked, to_responses
from farm.records import Budget, Instruction, Record, Sampling, write
from farm.seeds import rng


class OnPolicy(BaseModel):
    """Settings that the on-policy methods share. The default rate suits a tiny model; for a pretrained one start at
    1e-6 (full) or 1e-5 (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(60, ge=1, description="rollout batches")
    prompts_per_step: int = Field(64, ge=1, description="prompts per rollout batch")
    epochs: int = Field(1, ge=1, description="passes over each batch of rollouts")
    minibatches: int = Field(1, ge=1, description="updates per pass")
    lr: float = Field(7e-4, gt=0, description="first learning rate; falls linearly to its last step's share")
    kl_coef: float = Field(0.1, ge=0, description="price of one nat of KL from the SFT policy, in reward units")
    max_grad_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    missing_eos_penalty: float = Field(1.0, ge=0, description="subtracted from the score of an unfinished response")
    curve_every: int = Field(5, ge=1, description="steps between points of the curve")
    lora: Lora | None = Field(None, description="train adapters; the reference is then the model without them")


class StepLog(Record):
    """One step. ``kl`` is k1 against the SFT policy in nats per sequence, ``score`` the mean reward after the
    penalty for unfinished responses, ``signal_sd`` the spread of the method's signal."""

    step: int
    score: float
    kl: float
    finished: float
    mean_tokens: float
    loss: float
    grad_norm: float
    signal_sd: float


@dataclass(frozen=True)
class Rollouts:
    """B = prompts x group responses, those of a prompt side by side: token rows, rewards [B], log-probabilities of
    the SFT policy by row, and the mean k1 of the draws in nats per sequence. ``drawn`` and ``tokens`` count all that
    was generated for them."""

    group: int
    instructions: list[Instruction]
    prompts: list[Ids]
    responses: list[Ids]
    scores: Tensor
    finished: list[bool]
    reference: list[Tensor]
    sampled: Tensor  # summed log-probability [B] under the policy that drew
    drawn: int
    tokens: int

    @property
    def kl(self) -> Tensor:
        """k1 of each response [B]: log pi - log pi_ref, summed over its tokens."""
        return (self.sampled - sequence_sums(self.reference)).float()


@dataclass(frozen=True)
class Part:
    """Rows of a minibatch in one forward pass, groups kept whole.

    Packed over their N tokens: ``logp`` (with gradient), ``old`` and ``reference`` log-probabilities, ``row`` (which
    of the part's rows). Where the method asks for them: ``full_kl``, the divergence from the reference summed over
    the vocabulary, and ``entropy`` of the policy's next token. ``signal`` is per row.
    """

    logp: Tensor
    old: Tensor
    reference: Tensor
    row: Tensor
    signal: Tensor
    full_kl: Tensor | None = None
    entropy: Tensor | None = None

    def sums(self, x: Tensor) -> Tensor:
        """Sum of packed values [N] over each row's tokens, [rows]."""
        return torch.zeros(len(self.signal), device=x.device).index_add(0, self.row, x)


Signal = Callable[[Rollouts], Tensor]  # [B]; NaN leaves a response out of the updates
Loss = Callable[[Part], Tensor]  # summed over the part
Roll = Callable[[Task, Policy, Policy | None, list[Instruction], int, OnPolicy, int], Rollouts]


def prompt_stream(
    instructions: Sequence[Instruction], count: int, seed: int, purpose: str
) -> Iterator[list[Instruction]]:
    """Batches of ``count`` instructions without end: keyed shuffles of all of them, one after another."""
    epoch, queue = 0, list[Instruction]()
    while True:
        while len(queue) < count:
            order = rng(seed, purpose, epoch).permutation(len(instructions)).tolist()
            queue += [instructions[i] for i in order]
            epoch += 1
        yield queue[:count]
        queue = queue[count:]


def roll_out(
    task: Task,
    policy: Policy,
    frozen: Policy | None,
    instructions: list[Instruction],
    number: int,
    config: OnPolicy,
    group: int,
) -> Rollouts:
    """``group`` responses per instruction from the full distribution at temperature 1, with score and reference."""
    sampling = Sampling(temperature=1.0, max_tokens=task.sampling.max_tokens, seed=task.seed)
    keys = [f"{i.id}/{place}" for place, i in enumerate(instructions)]  # a small prompt set may repeat in a batch
    cued = encode_prompts(instructions, policy.tokenizer)
    draws = draw(policy, cued, keys, group, sampling, purpose=f"{policy.name} {number}")
    asked = [i for i in instructions for _ in range(group)]
    responses = to_responses(policy, asked, draws, policy.name, sampling)
    assert task.score is not None  # need() has seen to it
    scores = torch.tensor(checked(policy.name, task.score(asked, responses), responses), dtype=torch.float32)
    finished = [d.finished for d in draws]
    scores = scores - config.missing_eos_penalty * (~torch.tensor(finished))
    ids = [d.ids for d in draws]
    plain = [row for row in encode_prompts(instructions, policy.tokenizer, cue=False) for _ in range(group)]
    with reference_of(policy, frozen) as reference:
        theirs = logprobs(reference, plain, ids)
    sampled = torch.tensor([sum(d.logprobs) for d in draws], dtype=torch.float64)
    prompts = [row for row in cued for _ in range(group)]
    return Rollouts(
        group, asked, prompts, ids, scores, finished, theirs, sampled, len(ids), sum(len(row) for row in ids)
    )  # fmt: skip


def train(
    task: Task,
    config: OnPolicy,
    method: str,
    *,
    group: int,
    signal: Signal,
    loss: Loss,
    per: str = "sequences",
    roll: Roll = roll_out,
    full_kl: bool = False,
    resumable: bool = True,
) -> Result:
    """The loop: from ``task.sft`` against ``task.score``; writes the policy, its curve and ``steps.jsonl``.

    The summed loss is divided by the minibatch's number of ``per`` ("sequences" or "tokens"). Every ``curve_every``
    steps a checkpoint is kept, from which the same call goes on exactly (not for a ``roll`` with a memory of its own).
    Raises DataError without prompts or reward, TrainError when a reward, loss or gradient is not finite.
    """
    task.need(method, score=True)
    clock = Clock()
    policy = load_policy(task.sft, lora=config.lora, name=method, seed=task.seed)
    frozen = copy_frozen(policy) if config.lora is None else None
    parameters = trainable(policy)
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, eps=1e-5, weight_decay=0.0, fused=True)
    source = prompt_stream(task.instructions, config.prompts_per_step, task.seed, f"{method} prompts")
    logs: list[StepLog] = []
    track = Track(task, "step", policy, frozen)
    sequences = tokens = trained = before = 0
    if (known := resume.load(task.folder, parameters, optimizer) if resumable else None) is not None:
        before, saved = known
        sequences, tokens, trained = saved["counts"]
        logs = [StepLog.model_validate(row) for row in saved["logs"]]
        track.restore(saved["track"])
    if not before:
        track.measure(0)
    for number in range(1, config.steps + 1):
        chosen = next(source)
        if number <= before:
            continue
        data = roll(task, policy, frozen, chosen, number, config, group)
        sequences, tokens = sequences + data.drawn, tokens + data.tokens
        for settings in optimizer.param_groups:
            settings["lr"] = config.lr * rate(number - 1, config.steps, 0.0, "linear")
        values = signal(data)
        update = Update(policy, frozen, data, values, loss, per, full_kl)
        value, norm, pushed = update.run(optimizer, parameters, config, task.seed, f"{method} order {number}")
        trained += pushed
        logs.append(_log(number, data, values, value, norm))
        if number % config.curve_every == 0 and number < config.steps:
            track.measure(number, sequences)
            if resumable:
                saved = {"counts": [sequences, tokens, trained], "logs": [row.model_dump() for row in logs]}
                resume.save(task.folder, number, parameters, optimizer, saved | {"track": track.state()})
        if task.progress is not None:
            task.progress(number, config.steps, {"score": logs[-1].score, "kl": logs[-1].kl})
    track.measure(config.steps, sequences)
    save_policy(policy, task.folder / "policy")
    write(task.folder / "steps.jsonl", logs)
    budget = Budget(
        generated_sequences=sequences,
        generated_tokens=tokens,
        reward_scorings=sequences,
        train_tokens=trained,
        updates=config.steps * config.epochs * config.minibatches,
        seconds=clock.seconds,
    )
    return Result(method=method, policy="policy", curve=track.finish(method), budget=budget).save(task.folder)


@dataclass(frozen=True)
class Update:
    """The updates on one batch of rollouts."""

    policy: Policy
    frozen: Policy | None
    data: Rollouts
    signal: Tensor
    loss: Loss
    per: str
    full_kl: bool

    def run(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[torch.nn.Parameter],
        config: OnPolicy,
        seed: int,
        purpose: str,
    ) -> tuple[float, float, int]:
        """Mean loss, mean gradient norm and tokens pushed through. Raises TrainError when a gradient is not finite."""
        group, data = self.data.group, self.data
        groups = [
            g for g in range(len(data.responses) // group) if any(not self.signal[i].isnan() for i in self._rows([g]))
        ]
        orders = [rng(seed, purpose, e).permutation(groups).tolist() for e in range(config.epochs)]
        cuts = [[order[k :: config.minibatches] for k in range(config.minibatches)] for order in orders]
        reused = config.epochs * config.minibatches > 1
        old = self._old(cuts[0]) if reused else None
        total, norms, pushed = 0.0, list[float](), 0
        for minibatch in (m for cut in cuts for m in cut if m):
            rows = [i for i in self._rows(minibatch) if not self.signal[i].isnan()]
            weight = len(rows) if self.per == "sequences" else sum(len(data.responses[i]) for i in rows)
            for part in self._parts(parallel.share(minibatch)):
                value = self.loss(self._part(part, old)) / weight
                value.backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
                pushed += sum(len(data.prompts[i]) + len(data.responses[i]) for i in part)
            norms.append(step(optimizer, parameters, config.max_grad_norm))
        total = parallel.total({"loss": total})["loss"]
        pushed = sum(parallel.everyone(pushed))
        count = max(1, len(norms))
        return total / count, sum(norms) / count, pushed

    def _rows(self, groups: Sequence[int]) -> list[int]:
        return [g * self.data.group + k for g in groups for k in range(self.data.group)]

    def _parts(self, groups: list[int]) -> Iterator[list[int]]:
        """Rows that have a signal, in forward passes of like length, groups kept whole; the same for equal groups."""
        group, data = self.data.group, self.data
        groups = sorted(groups)
        longest = [
            [0] * max(len(data.prompts[i]) + len(data.responses[i]) for i in self._rows([g])) * group for g in groups
        ]
        for chosen in batches(longest, [[]] * len(groups)):
            rows = [i for i in self._rows([groups[k] for k in chosen]) if not self.signal[i].isnan()]
            yield rows

    def _old(self, minibatches: list[list[int]]) -> dict[int, Tensor]:
        """Log-probabilities by row before the first update, computed in the very batches of the first pass."""
        old: dict[int, Tensor] = {}
        with torch.no_grad():
            for minibatch in minibatches:
                for rows in self._parts(parallel.share(minibatch)):
                    batch = self._lay_out(rows)
                    logits, _ = response_logits(self.policy.model, batch)
                    old |= dict(zip(rows, by_row(token_logprobs(logits, batch.targets), batch), strict=True))
        return {row: values for share in parallel.everyone(old) for row, values in share.items()}

    def _lay_out(self, rows: list[int], plain: bool = False) -> Batch:
        data, tokenizer = self.data, self.policy.tokenizer
        prompts = [data.prompts[i] for i in rows]
        if plain:
            prompts = encode_prompts([data.instructions[i] for i in rows], tokenizer, cue=False)
        return lay_out(prompts, [data.responses[i] for i in rows], tokenizer.pad_token_id, self.policy.device)

    def _part(self, rows: list[int], old: dict[int, Tensor] | None) -> Part:
        batch = self._lay_out(rows)
        logits, _ = response_logits(self.policy.model, batch)
        logp = token_logprobs(logits, batch.targets)
        device = logp.device
        lengths = torch.tensor(batch.lengths, device=device)
        full_kl, entropy = self._divergence(rows, logits) if self.full_kl else (None, None)
        return Part(
            logp=logp,
            old=logp.detach() if old is None else torch.cat([old[i] for i in rows]).to(device),
            reference=torch.cat([self.data.reference[i] for i in rows]).to(device),
            row=torch.arange(len(rows), device=device).repeat_interleave(lengths),
            signal=self.signal[rows].to(device),
            full_kl=full_kl,
            entropy=entropy,
        )

    def _divergence(self, rows: list[int], logits: Tensor) -> tuple[Tensor, Tensor]:
        """KL to the reference and entropy of the policy's next token, both [N], over the whole vocabulary."""
        batch = self._lay_out(rows, plain=True)
        with torch.no_grad(), reference_of(self.policy, self.frozen) as reference:
            theirs = response_logits(reference.model, batch)[0].log_softmax(1)
        ours = logits.log_softmax(1)
        p = ours.exp()
        return (p * (ours - theirs)).sum(1), -(p * ours).sum(1)


def clipped(part: Part, clip: float, level: str = "token") -> Tensor:
    """Clipped surrogate [N] or, for ``level`` "sequence", [rows]: - min(rho A, clip(rho, 1 - c, 1 + c) A), the ratio
    rho of tokens or of whole sequences (arXiv 1707.06347)."""
    difference, advantage = part.logp - part.old, part.signal[part.row]
    if level == "sequence":
        difference, advantage = part.sums(difference), part.signal
    ratio = difference.exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def _log(number: int, data: Rollouts, signal: Tensor, loss: float, norm: float) -> StepLog:
    count = len(data.responses)
    known = signal[~signal.isnan()]
    return StepLog(
        step=number,
        score=float(data.scores.mean()),
        kl=float(data.kl.mean()),
        finished=sum(data.finished) / count,
        mean_tokens=sum(len(row) for row in data.responses) / count,
        loss=loss,
        grad_norm=norm,
        signal_sd=float(known.std(correction=0)) if len(known) else 0.0,
    )
