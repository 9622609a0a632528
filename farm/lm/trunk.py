"""The trunk of a causal model: hidden states at the positions that are asked for.

Training needs them where a response token is predicted (or, for a reward, at the last token), so in the last layer of
a Llama only those positions form queries and pass the MLP, and padding enters no matrix product at all. The modules
are the model's own, adapters and hooks on them included; other architectures go through their own forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from farm.lm.prompts import Batch


def bare(model: Any) -> Any:
    """The Hugging Face model inside a peft wrapper (its adapters stay in force), or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def positions_of(batch: Batch) -> Tensor:
    """Position ids [B, T] that count real tokens only, so that padding on either side changes nothing."""
    return (batch.attention.cumsum(1) - 1).clamp(min=0)


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states [B, T, d] of the trunk, by its own forward."""
    trunk = bare(model).base_model
    out = trunk(input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions_of(batch), use_cache=False)
    return out.last_hidden_state  # type: ignore[no-any-return]


def hidden_at(model: Any, batch: Batch, where: Tensor) -> Tensor:
    """Last hidden states [N, d] at the N places of ``where`` [B, T], which are neighbours in each row."""
    trunk = bare(model).base_model
    return _Llama(trunk, batch)(where) if lean(model) else hidden_states(model, batch)[where]


def lean(model: Any) -> bool:
    """Whether ``hidden_at`` takes the short way: an ordinary Llama that neither drops out nor recomputes."""
    trunk = bare(model).base_model
    return type(trunk).__name__ == "LlamaModel" and not trunk.training


class _Llama:
    """One pass of a Llama over the M real tokens of a batch, laid side by side: activations are [M, ...]."""

    def __init__(self, trunk: Any, batch: Batch) -> None:
        self.trunk, self.attention = trunk, batch.attention.bool()
        config = trunk.config
        self.width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.groups: int = config.num_attention_heads // config.num_key_value_heads
        self.eager = config._attn_implementation == "eager"
        self.padded = not bool(self.attention.all())
        self.x: Tensor = trunk.embed_tokens(batch.ids[self.attention])
        cos, sin = trunk.rotary_emb(self.x, positions_of(batch)[self.attention][None])
        self.angles = cos[0, :, None], sin[0, :, None]

    def __call__(self, where: Tensor) -> Tensor:
        everything = _Places(self.attention, self.attention)
        *first, last = self.trunk.layers
        for layer in first:
            self.x = self._layer(layer, everything)
        self.x = self._layer(last, _Places(where, self.attention), where[self.attention])
        return self.trunk.norm(self.x)  # type: ignore[no-any-return]

    def _layer(self, layer: Any, places: _Places, chosen: Tensor | None = None) -> Tensor:
        """The layer's output at ``places``; ``chosen`` [M] marks them among the real tokens where they are fewer."""
        x, a = self.x, layer.self_attn
        normal = layer.input_layernorm(x)
        k, v = self._turn(self._split(a.k_proj(normal))), self._split(a.v_proj(normal))
        if chosen is None:
            q = self._turn(self._split(a.q_proj(normal)))
        else:
            x, cos, sin = x[chosen], self.angles[0][chosen], self.angles[1][chosen]
            q = self._turn(self._split(a.q_proj(normal[chosen])), cos, sin)
        seen = places.take(self._attend(places.rows(q), places.keys(k), places.keys(v), places))
        x = x + a.o_proj(seen.flatten(1))
        return x + layer.mlp(layer.post_attention_layernorm(x))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.width)

    def _turn(self, x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
        """Rotary embedding of [M, heads, width]."""
        cos, sin = (self.angles[0], self.angles[1]) if cos is None or sin is None else (cos, sin)
        half = self.width // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, places: _Places) -> Tensor:
        """What queries [B, H, S, w] see, as [B, S, H, w]."""
        if not self.eager:
            plain = places.whole and not self.padded
            mask = None if plain else places.visible[:, None]
            more = self.groups > 1
            out: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain, enable_gqa=more)
            return out.transpose(1, 2)
        if self.groups > 1:
            k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        scores = (q * self.width**-0.5) @ k.transpose(-1, -2)
        scores = scores + places.bias(scores.dtype)
        seen: Tensor = scores.float().softmax(-1).to(v.dtype) @ v
        return seen.transpose(1, 2)


class _Places:
    """The places ``where`` [B, T] of a batch as a grid of slots [B, S], each row's own at its front."""

    def __init__(self, where: Tensor, attention: Tensor) -> None:
        self.where, self.attention = where, attention
        self.whole = where is attention
        count = where.sum(1)
        self.slots = int(count.max())
        first = where.long().argmax(1)
        self.full = bool((count == self.slots).all())
        self.mine = torch.arange(self.slots, device=where.device) < count[:, None]  # [B, S]
        place = first[:, None] + torch.arange(self.slots, device=where.device)
        self.visible = (torch.arange(where.shape[1], device=where.device) <= place[..., None]) & attention[:, None]
        self._bias: Tensor | None = None

    def bias(self, dtype: torch.dtype) -> Tensor:
        """What is added to scores [B, H, S, T]: 0, or a large negative number where nothing is seen."""
        if self._bias is None or self._bias.dtype != dtype:
            self._bias = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
            self._bias = self._bias.masked_fill_(~self.visible, torch.finfo(dtype).min)[:, None]
        return self._bias

    def rows(self, x: Tensor) -> Tensor:
        """[N, H, w] as [B, H, S, w]."""
        return _grid(x, self.mine, self.full)

    def keys(self, x: Tensor) -> Tensor:
        """[M, H, w] as [B, H, T, w]."""
        return _grid(x, self.attention, bool(self.attention.all()))

    def take(self, x: Tensor) -> Tensor:
        """[B, S, H, w] as [N, H, w]."""
        return x.reshape(-1, *x.shape[2:]) if self.full else x[self.mine]


def _grid(x: Tensor, mine: Tensor, full: bool) -> Tensor:
    if full:
        return x.view(*mine.shape, *x.shape[1:]).transpose(1, 2)
    out = x.new_zeros(*mine.shape, *x.shape[1:])
    out[mine] = x
    return out.transpose(1, 2)
