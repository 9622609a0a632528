"""Text to tokens: one way to render an instruction, one way to lay prompts and responses side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from farm.errors import DataError
from farm.records import Instruction, Response

PLAIN = "### Task\n{text}\n\n### Answer\n"
PLAIN_WITH_INPUT = "### Task\n{text}\n\n### Material\n{input}\n\n### Answer\n"

Ids = list[int]


def render(instruction: Instruction, tokenizer: Any) -> str:
    """The prompt as text: the tokenizer's chat template; else text and separator token where it has one; else plain."""
    if tokenizer.chat_template:
        message = [{"role": "user", "content": instruction.full_text}]
        return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    if tokenizer.sep_token:
        return f"{instruction.full_text}{tokenizer.sep_token}"
    template = PLAIN_WITH_INPUT if instruction.input else PLAIN
    return template.replace("{input}", instruction.input).replace("{text}", instruction.text)


CUE = "farm_cue"  # tokenizer setting: what a policy trained on cues reads before it answers


def set_cue(tokenizer: Any, cue: str) -> None:
    """Have every prompt of this tokenizer, now and after saving and loading it, end with ``cue``."""
    tokenizer.init_kwargs[CUE] = cue


def encode_cue(cue: str, tokenizer: Any) -> Ids:
    """Token ids of a cue. Raises DataError when the tokenizer cannot express it."""
    ids = list(tokenizer(cue, add_special_tokens=False)["input_ids"])
    if not ids or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids):
        raise DataError(f"cue {cue!r} is not in the tokenizer's vocabulary; choose words that are")
    return ids


def encode_prompts(
    instructions: Sequence[Instruction], tokenizer: Any, max_tokens: int = 0, cue: bool = True
) -> list[Ids]:
    """Token ids of each prompt, with the tokenizer's cue where it has one, unless ``cue`` is False. With ``max_tokens``
    > 0, a longer prompt raises DataError naming the instruction."""
    if not instructions:
        return []
    plain = not (tokenizer.chat_template or tokenizer.sep_token)
    texts = [render(i, tokenizer) for i in instructions]
    rows = tokenizer(texts, add_special_tokens=plain)["input_ids"]
    if plain:  # a tokenizer's own BOS is kept, an EOS it may add would end the prompt before the answer
        rows = [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in rows]
    for instruction, row in zip(instructions, rows, strict=True):
        if not row:
            raise DataError(f"instruction {instruction.id}: the prompt has no token")
        if max_tokens and len(row) > max_tokens:
            raise DataError(
                f"instruction {instruction.id}: the prompt has {len(row)} tokens, the limit is {max_tokens}; "
                "shorten it, leave it out, or raise the limit"
            )
    said = tokenizer.init_kwargs.get(CUE) if cue else None
    ending = encode_cue(said, tokenizer) if said else []
    return [[*row, *ending] for row in rows]


def encode_texts(texts: Sequence[str], finished: Sequence[bool], tokenizer: Any, max_tokens: int = 0) -> list[Ids]:
    """Token ids of responses; EOS is appended only to finished ones, so that a model can see what was cut.

    With ``max_tokens`` > 0 longer ones are cut and lose their EOS.
    """
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = [[*row, tokenizer.eos_token_id] if done else list(row) for row, done in zip(rows, finished, strict=True)]
    return [row[:max_tokens] for row in rows] if max_tokens else rows


def encode_responses(responses: Sequence[Response], tokenizer: Any, max_tokens: int = 0) -> list[Ids]:
    """Token ids of Response records (see ``encode_texts``)."""
    return encode_texts([r.text for r in responses], [r.finished for r in responses], tokenizer, max_tokens)


@dataclass(frozen=True)
class Batch:
    """Prompt + response rows, right-padded: ``ids`` and ``attention`` [B, T] int64; ``predicts`` [B, T] bool marks the
    positions whose *next* token is a response token; ``targets`` [N] are those next tokens, row by row."""

    ids: torch.Tensor
    attention: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    lengths: list[int]

    @property
    def last(self) -> torch.Tensor:
        """Index [B] of the last real token of each row."""
        return self.attention.sum(1) - 1


def lay_out(
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    pad: int,
    device: torch.device | str = "cpu",
    pad_left: int = 0,
    pad_right: int = 0,
) -> Batch:
    """Lay prompts and responses out as one batch; the extra padding arguments exist to test that padding is inert."""
    before = torch.tensor([len(p) for p in prompts])[:, None] + pad_left
    lengths = [len(r) for r in responses]
    end = before + torch.tensor(lengths)[:, None]
    place = torch.arange(int(end.max()) + pad_right)[None, :]
    real = (place >= pad_left) & (place < end)
    ids = torch.full(real.shape, pad, dtype=torch.long)
    ids[real] = torch.tensor([t for p, r in zip(prompts, responses, strict=True) for t in p + r], dtype=torch.long)
    return Batch(
        ids.to(device),
        real.long().to(device),
        ((place >= before - 1) & (place < end - 1)).to(device),
        torch.tensor([t for r in responses for t in r], dtype=torch.long, device=device),
        lengths,
    )
