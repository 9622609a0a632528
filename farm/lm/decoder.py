"""One decoding step at a time, with a key-value cache: the two engines behind the sampler.

``LlamaSteps`` reads the weights of a Hugging Face Llama once and decodes without its per-call overhead; ``HubSteps``
drives any causal model of transformers through its own forward. Both keep rows aligned by left padding and can drop
rows that have finished.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

from farm.lm.load import Policy
from farm.lm.trunk import bare

COPIED = 50_000_000  # parameters up to which the lean decoder's copy of the matrices is cheap; above, calls cost little


class Steps(Protocol):
    """What the sampler needs of an engine. Logits are [rows, V] for the next token."""

    def start(self, ids: Tensor, attention: Tensor, copies: int, room: int) -> Tensor:
        """Read left-padded prompts [B, T]; later rows are ``copies`` of each prompt in turn. Logits [B, V]."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row."""

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""


def engine(policy: Policy) -> Steps:
    """The fastest engine that is exact for this model."""
    return LlamaSteps(policy.model) if LlamaSteps.fits(policy.model) else HubSteps(policy.model)


def _weight(module: Any) -> Tensor:
    """Weight of a linear layer, with the active LoRA updates of a wrapped one added."""
    if not hasattr(module, "base_layer"):
        return module.weight  # type: ignore[no-any-return]
    total: Tensor = module.base_layer.weight
    if not module.disable_adapters:
        for name in module.active_adapters:
            total = total + module.get_delta_weight(name)
    return total


class LlamaSteps:
    """Lean decoder for a small LlamaForCausalLM (grouped-query attention, any rotary scaling, LoRA included). It holds
    a fused copy of the matrices while it lives."""

    @staticmethod
    def fits(model: Any) -> bool:
        config = bare(model).config
        plain = not getattr(config, "attention_bias", False) and not getattr(config, "mlp_bias", False)
        small = sum(p.numel() for p in model.parameters()) <= COPIED
        return config.model_type == "llama" and config.hidden_act == "silu" and plain and small

    @torch.no_grad()
    def __init__(self, model: Any) -> None:
        inner = bare(model)
        config = inner.config
        self.eps: float = config.rms_norm_eps
        self.heads: int = config.num_key_value_heads
        self.groups: int = config.num_attention_heads // config.num_key_value_heads
        self.width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.rotary: Any = inner.model.rotary_emb
        self.embed: Tensor = _weight(inner.model.embed_tokens)
        self.head = _weight(inner.lm_head) * inner.model.norm.weight
        self.layers = [self._fuse(layer) for layer in inner.model.layers]

    def _fuse(self, layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four matrices of a layer; norm weights and the attention scale are folded into their columns and rows."""
        a, m = layer.self_attn, layer.mlp
        q = _weight(a.q_proj) * self.width**-0.5
        into = torch.cat([q, _weight(a.k_proj), _weight(a.v_proj)]) * layer.input_layernorm.weight
        up = torch.cat([_weight(m.gate_proj), _weight(m.up_proj)]) * layer.post_attention_layernorm.weight
        return into, _weight(a.o_proj), up, _weight(m.down_proj)

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary embedding of [B, H, T, width] by angles [B, 1, T, width]."""
        half = self.width // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def _heads(self, x: Tensor, into: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, heads * groups, T, w], keys and values [B, heads, T, w] of inputs [B, T, d]."""
        b, t, _ = x.shape
        n, w = self.heads, self.width
        q, k, v = linear(self._norm(x), into).split([n * self.groups * w, n * w, n * w], -1)  # type: ignore[no-untyped-call]
        q, k, v = (y.view(b, t, -1, w).transpose(1, 2) for y in (q, k, v))
        return self._turn(q, *angles), self._turn(k, *angles), v

    def _mix(self, x: Tensor, seen: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
        x = x + linear(seen, out)
        gate, value = linear(self._norm(x), up).chunk(2, -1)
        return x + linear(silu(gate) * value, down)

    @torch.no_grad()
    def start(self, ids: Tensor, attention: Tensor, copies: int, room: int) -> Tensor:
        b, t = ids.shape
        places = (attention.cumsum(1) - 1).clamp(min=0)
        x = embedding(ids, self.embed)
        angles = self._angles(x, places)
        visible = attention[:, None, None, :].bool() & torch.ones(t, t, dtype=torch.bool, device=ids.device).tril()
        # A padding position sees nothing; -inf everywhere would be NaN, a large number only makes it inert.
        bias = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill_(~visible, -1e9)
        self.cache: list[tuple[Tensor, Tensor]] = []
        for into, out, up, down in self.layers:
            q, k, v = self._heads(x, into, angles)
            q = q.reshape(b, self.heads, self.groups, t, self.width)
            scores = q @ k[:, :, None].transpose(-1, -2) + bias[:, :, None]
            seen = scores.softmax(-1) @ v[:, :, None]
            self.cache.append((self._reserve(k, copies, room), self._reserve(v, copies, room)))
            x = self._mix(x, seen.view(b, -1, t, self.width).transpose(1, 2).reshape(b, t, -1), out, up, down)
        self.at = t
        self.place = attention.sum(1).repeat_interleave(copies)
        padded = bool((attention == 0).any())
        self.bias = bias[:, :, -1].repeat_interleave(copies, 0) if padded else None
        return linear(self._norm(x[:, -1]), self.head)

    def _angles(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(x, places)
        return cos[:, None], sin[:, None]

    @staticmethod
    def _reserve(x: Tensor, copies: int, room: int) -> Tensor:
        """Repeat rows and leave room for the tokens to come."""
        b, n, t, w = x.shape
        out = x.new_empty(b * copies, n, t + room, w)
        out[:, :, :t] = x.repeat_interleave(copies, 0)
        return out

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        r = len(tokens)
        x = embedding(tokens, self.embed)[:, None]
        angles = self._angles(x, self.place[:, None])
        end = self.at + 1
        for (into, out, up, down), (keys, values) in zip(self.layers, self.cache, strict=True):
            q, k, v = self._heads(x, into, angles)
            keys[:, :, self.at] = k[:, :, 0]
            values[:, :, self.at] = v[:, :, 0]
            scores = q.reshape(r, self.heads, self.groups, self.width) @ keys[:, :, :end].transpose(-1, -2)
            if self.bias is not None:
                scores[..., : self.bias.shape[-1]] += self.bias[:, :, None]
            seen = scores.softmax(-1) @ values[:, :, :end]
            x = self._mix(x, seen.reshape(r, 1, -1), out, up, down)
        self.at = end
        self.place = self.place + 1
        return linear(self._norm(x[:, 0]), self.head)

    def keep(self, rows: Tensor) -> None:
        self.cache = [(k[rows], v[rows]) for k, v in self.cache]
        self.place = self.place[rows]
        self.bias = self.bias[rows] if self.bias is not None else None


class HubSteps:
    """Any causal language model of transformers, through its own forward and cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def start(self, ids: Tensor, attention: Tensor, copies: int, room: int) -> Tensor:
        places = (attention.cumsum(1) - 1).clamp(min=0)
        out = self.model(input_ids=ids, attention_mask=attention, position_ids=places, use_cache=True)
        self.cache = out.past_key_values
        if copies > 1:
            self.cache.batch_repeat_interleave(copies)
        self.attention = attention.repeat_interleave(copies, 0)
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        places = self.attention.sum(1, keepdim=True)
        self.attention = torch.cat([self.attention, torch.ones_like(places)], 1)
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.attention,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.attention = self.attention[rows]
