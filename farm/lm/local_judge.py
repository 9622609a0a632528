"""A judge in this process: any language model of transformers, from a folder or the Hub.

For a few hundred judgements without a server; ``transformers serve`` or vLLM behind ``kind: openai`` are faster, since
they batch. Prompts are read one at a time on purpose: the same prompt and seed then give the same answer whatever else
is asked, after a crash too.

The texts under judgement are tokenized as plain text. A response that holds ``<|im_start|>`` or ``</s>`` puts those
characters before the judge, never the special token, so it cannot open a turn of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from farm.lm.decoder import engine
from farm.lm.load import Policy, load_policy
from farm.lm.sample import choose, uniforms
from farm.records import Sampling
from farm.seeds import digest, key

_BEFORE = 4  # tokens that a token is decoded after, so that its leading space is kept


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer; ``top_logprobs`` are nats by token text, per generated token, where asked for."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: list[dict[str, float]] | None = None


class TransformersJudge:
    """Answers chat and completion prompts; ``model`` is a folder or a Hub id, loaded when first asked and kept.

    ``device`` defaults to the accelerator where there is one; half precision there, full on the processor.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded: dict[str, Policy] = {}

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        seed: int = 0,
        logprobs: int = 0,
    ) -> Completion:
        """The answer to a conversation. Raises DataError when there is no such model."""
        policy = self._policy(model)
        return self._answer(policy, chat_ids(policy.tokenizer, messages), temperature, max_tokens, seed, logprobs)

    def complete(
        self,
        model: str,
        prompt: str,
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        seed: int = 0,
        logprobs: int = 0,
    ) -> Completion:
        """How the model continues a text. Raises DataError when there is no such model."""
        policy = self._policy(model)
        ids = [*_opening(policy.tokenizer), *plain_ids(policy.tokenizer, prompt)]
        return self._answer(policy, ids, temperature, max_tokens, seed, logprobs)

    def _policy(self, model: str) -> Policy:
        if model not in self._loaded:
            dtype = "bfloat16" if self.device.startswith("cuda") else "float32"
            self._loaded[model] = load_policy(model, device=self.device, dtype=dtype)
        return self._loaded[model]

    @torch.no_grad()
    def _answer(
        self, policy: Policy, prompt: list[int], temperature: float, max_tokens: int, seed: int, logprobs: int
    ) -> Completion:
        """Draws token by token. A prompt that leaves no room in the model's context gets an empty, cut answer."""
        room = min(max_tokens, _context(policy) - len(prompt))
        if room < 1:
            return Completion("", "length", len(prompt), 0, [] if logprobs else None)
        sampling = Sampling(temperature=temperature, max_tokens=room, seed=seed)
        u = torch.from_numpy(uniforms(_keys(seed, prompt), room)).to(policy.device)
        ends, said, top = _ends(policy), list[int](), list[dict[str, float]]()
        steps = engine(policy)
        ids = torch.tensor([prompt], device=policy.device)
        logits = steps.start(ids, torch.ones_like(ids), 1, room)
        finished = False
        while not finished and len(said) < room:
            if said:
                logits = steps.step(torch.tensor(said[-1:], device=policy.device))
            chosen = int(choose(logits, u[:, len(said)], sampling)[0])
            finished = chosen in ends
            if not finished:
                if logprobs:
                    top.append(_alternatives(policy.tokenizer, logits[0], said, chosen, logprobs))
                said.append(chosen)
        text = _text(policy.tokenizer, said)
        return Completion(text, "stop" if finished else "length", len(prompt), len(said), top if logprobs else None)


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the answer begins: the template's own markers as special tokens, the
    contents as plain text. A template without a system role gets the system's text before the first turn; a tokenizer
    without template, turns headed by their roles."""
    turns = [(m["role"], m["content"]) for m in messages]
    if not tokenizer.chat_template:
        text = "\n\n".join(f"{role.capitalize()}: {content}" for role, content in turns)
        return [*_opening(tokenizer), *plain_ids(tokenizer, text + "\n\nAssistant:")]
    mark = _mark([content for _, content in turns])
    try:
        rendered = _template(tokenizer, turns, mark)
    except Exception:  # whatever a template raises at a role that it does not know
        if turns[0][0] != "system" or len(turns) == 1:
            raise
        (_, rules), (role, content), *rest = turns
        turns = [(role, f"{rules}\n\n{content}"), *rest]
        rendered = _template(tokenizer, turns, mark)
    ids: list[int] = []
    for k, part in enumerate(re.split(rf"{mark}-(\d+)-", rendered)):
        if k % 2:
            ids += plain_ids(tokenizer, turns[int(part)][1])
        elif part:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text in which nothing is a special token."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _mark(contents: Sequence[str]) -> str:
    """A word that stands in for the contents while the template is filled, and occurs in none of them."""
    attempt = 0
    while any((mark := digest("content", attempt, *contents)) in content for content in contents):
        attempt += 1
    return mark


def _template(tokenizer: Any, turns: Sequence[tuple[str, str]], mark: str) -> str:
    shown = [{"role": role, "content": f"{mark}-{k}-"} for k, (role, _) in enumerate(turns)]
    return str(tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True))


def _opening(tokenizer: Any) -> list[int]:
    """The token with which this tokenizer begins every text, if any."""
    ids = tokenizer("a")["input_ids"]
    return [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else []


def _keys(seed: int, prompt: Sequence[int]) -> Any:
    import numpy as np

    return np.array([key(seed, "local judge", *prompt)], dtype=np.uint64)


def _ends(policy: Policy) -> set[int]:
    """Tokens that end an answer; chat models have several."""
    given = getattr(policy.model.generation_config, "eos_token_id", None)
    return {policy.tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}


def _context(policy: Policy) -> int:
    return int(getattr(policy.model.config, "max_position_embeddings", 0) or 2**31)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _alternatives(tokenizer: Any, logits: torch.Tensor, said: list[int], chosen: int, count: int) -> dict[str, float]:
    """The likeliest next tokens and the chosen one, as they would read after what was said. Of two tokens that read
    alike the likelier is kept."""
    logp = logits.float().log_softmax(0)
    values, ids = logp.topk(min(count, len(logp)))
    before = said[-_BEFORE:]
    start = len(_text(tokenizer, before))
    found: dict[str, float] = {}
    rows = [(chosen, float(logp[chosen])), *zip(ids.tolist(), values.tolist(), strict=True)]
    for id, value in rows:
        token = _text(tokenizer, [*before, id])[start:]
        found[token] = max(found.get(token, value), value)
    return found
