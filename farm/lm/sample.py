"""Drawing responses: keyed, batched, cached.

Every row has its own stream of uniforms keyed by (seed, purpose, instruction id, draw) and each token is the
inverse of the cumulative distribution at the next uniform. A response is therefore the same whatever it is batched
with, and one more instruction changes no other. (It is also cheaper than a multinomial draw.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from farm.lm import parallel
from farm.lm.decoder import Steps, engine
from farm.lm.load import Policy
from farm.lm.prompts import Ids, encode_prompts
from farm.records import Instruction, Response, Sampling
from farm.seeds import key

Progress = Callable[[int, int, dict[str, float]], None]

CACHE_BYTES = 32 * 2**20  # keys and values of one batch; beyond about this the cache leaves the processor's own


@dataclass(frozen=True)
class Draw:
    """One drawn sequence: ``ids`` with EOS if it finished, and the log-probability each token was drawn with.

    Log-probabilities are those of softmax(logits / temperature) before any top-k or top-p cut (temperature 0: of
    softmax(logits)).
    """

    ids: Ids
    logprobs: list[float]
    finished: bool


def uniforms(keys: np.ndarray, steps: int) -> np.ndarray:
    """Uniforms in [0, 1), float64 [rows, steps], from one 63-bit key per row (SplitMix64; Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64)[:, None] + np.arange(1, steps + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    out: np.ndarray = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
    return out


def sample(
    policy: Policy,
    instructions: Sequence[Instruction],
    n: int,
    sampling: Sampling,
    *,
    name: str,
    purpose: str,
    progress: Progress | None = None,
) -> list[Response]:
    """Draw ``n`` responses to each instruction; the result holds the n draws of each instruction in turn.

    ``name`` is the policy name written into the responses. Progress is called with (responses done, total, {}).
    """
    prompts = encode_prompts(instructions, policy.tokenizer)
    draws = draw(policy, prompts, [i.id for i in instructions], n, sampling, purpose=purpose, progress=progress)
    texts = decode(policy, draws)
    return [
        Response.make(
            instructions[row // n].id,
            text,
            name,
            row % n,
            n_tokens=len(d.ids) - d.finished,
            finished=d.finished,
            sampling=sampling,
        )
        for row, (d, text) in enumerate(zip(draws, texts, strict=True))
    ]


def decode(policy: Policy, draws: Sequence[Draw]) -> list[str]:
    """The texts of drawn sequences, without special tokens."""
    return list(policy.tokenizer.batch_decode([d.ids for d in draws], skip_special_tokens=True))


def draw(
    policy: Policy,
    prompts: Sequence[Ids],
    ids: Sequence[str],
    n: int,
    sampling: Sampling,
    *,
    purpose: str,
    progress: Progress | None = None,
) -> list[Draw]:
    """Draw ``n`` token sequences after each prompt, with their log-probabilities; order as in ``sample``.

    The longest prompts go first, so that batches hold prompts of nearly one length; a prefix is read once for all
    draws of a prompt, and rows that have finished leave the batch.
    """
    if parallel.place()[1] > 1:
        mine = parallel.share(list(zip(prompts, ids, strict=True)))
        rows_of = _draw(policy, [p for p, _ in mine], [i for _, i in mine], n, sampling, purpose, progress)
        return [d for group in parallel.gather([rows_of[k : k + n] for k in range(0, len(rows_of), n)]) for d in group]
    return _draw(policy, prompts, ids, n, sampling, purpose, progress)


def _draw(
    policy: Policy,
    prompts: Sequence[Ids],
    ids: Sequence[str],
    n: int,
    sampling: Sampling,
    purpose: str,
    progress: Progress | None,
) -> list[Draw]:
    keys = np.array([key(sampling.seed, purpose, i, k) for i in ids for k in range(n)], dtype=np.uint64)
    out: list[Draw | None] = [None] * (len(prompts) * n)
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    steps, done, start = engine(policy), 0, 0
    while start < len(order):
        room = _rows_at_once(policy, len(prompts[order[start]]) + sampling.max_tokens)
        for chunk, first, last in _chunks(order[start : start + max(1, room // n)], n, room):
            rows = [p * n + k for p in chunk for k in range(first, last)]
            u = torch.from_numpy(uniforms(keys[rows], sampling.max_tokens)).to(policy.device)
            drawn = _run(steps, policy, [prompts[p] for p in chunk], last - first, u, sampling)
            for row, d in zip(rows, drawn, strict=True):
                out[row] = d
            done += len(rows)
            if progress is not None:
                progress(done, len(out), {})
        start += max(1, room // n)
    return [d for d in out if d is not None]


def _chunks(prompts: list[int], n: int, room: int) -> list[tuple[list[int], int, int]]:
    """(prompts, first draw, end draw) of each batch: many prompts with all their draws, or one prompt in parts."""
    return [(prompts, k, min(k + room, n)) for k in range(0, n, room)]


def _rows_at_once(policy: Policy, length: int) -> int:
    config = policy.model.config
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_row = 2 * 4 * config.num_hidden_layers * heads * width * length
    limit = CACHE_BYTES if policy.device.type == "cpu" else 64 * CACHE_BYTES
    return int(max(32, limit // bytes_per_row))


def _run(steps: Steps, policy: Policy, prompts: list[Ids], copies: int, u: Tensor, sampling: Sampling) -> list[Draw]:
    """One batch from prompt to end. ``u`` [rows, max_tokens] are the uniforms; rows = prompts x copies."""
    pad, eos, device = policy.tokenizer.pad_token_id, policy.tokenizer.eos_token_id, policy.device
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    limit, rows = sampling.max_tokens, len(prompts) * copies
    tokens = torch.full((rows, limit), pad, device=device)
    kept = torch.zeros(rows, limit, device=device)
    length = torch.full((rows,), limit, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    logits = steps.start(ids, attention, copies, limit).repeat_interleave(copies, 0)
    batch = torch.arange(rows, device=device)  # which row each line of the engine's batch belongs to
    for t in range(limit):
        chosen, logp = choose(logits, u[batch, t], sampling)
        tokens[batch, t], kept[batch, t] = chosen, logp
        # Lines of finished rows may linger until the next compaction; what they write lies beyond their length.
        ended = (chosen == eos) & ~finished[batch]
        length[batch[ended]], finished[batch[ended]] = t + 1, True
        alive = ~finished[batch]
        left = int(alive.sum())
        if left == 0 or t == limit - 1:
            break
        if left < 0.8 * len(batch):
            index = alive.nonzero()[:, 0]
            steps.keep(index)
            batch, chosen = batch[index], chosen[index]
        logits = steps.step(chosen)
    sizes = length.tolist()
    return [
        Draw(row[:size], logp[:size], done)
        for row, logp, size, done in zip(tokens.tolist(), kept.tolist(), sizes, finished.tolist(), strict=True)
    ]


def choose(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens [rows] at uniforms ``u`` [rows] and their log-probabilities [rows], from logits [rows, V]."""
    if sampling.temperature == 0:
        chosen = logits.argmax(1)
        return chosen, logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    total = logits.logsumexp(1)
    p = (logits - total[:, None]).exp()
    if sampling.top_p < 1 or sampling.top_k:
        p = _cut(p, sampling)
    mass = p.cumsum(1)
    # right=True never picks a token of probability 0, except beyond the end through rounding at the very top.
    chosen = torch.searchsorted(mass, (u.to(mass.dtype) * mass[:, -1])[:, None], right=True)[:, 0]
    over = chosen >= p.shape[1]
    if bool(over.any()):
        chosen = torch.where(over, p.argmax(1), chosen)
    return chosen, logits.gather(1, chosen[:, None])[:, 0] - total


def _cut(p: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities outside the top-k and outside the smallest set of mass top-p set to zero (not renormalised)."""
    ranked, order = p.sort(1, descending=True)
    keep = ranked.cumsum(1) - ranked < sampling.top_p  # mass before this token
    if sampling.top_k:
        keep[:, sampling.top_k :] = False
    return torch.zeros_like(p).scatter(1, order, ranked * keep)
