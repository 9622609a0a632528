"""Policies: a causal language model with its tokenizer, from a local folder or a Hub id, full or with LoRA adapters.

Everything is in the Hugging Face format with safetensors weights; code shipped with a model is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers.utils import logging as transformers_logging

from farm.errors import DataError, MissingExtra, TrainError
from farm.lm import parallel

transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class Lora(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W + (alpha / rank) B A, only A and B are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1, description="rank of the update")
    alpha: float = Field(32.0, gt=0, description="scale of the update is alpha / rank")
    targets: str | tuple[str, ...] = Field("all-linear", description="module names to adapt")


@dataclass(frozen=True)
class Policy:
    """A model ready to sample from or to train. ``name`` labels its responses, ``source`` is its folder or Hub id."""

    model: Any
    tokenizer: Any
    name: str
    source: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def adapted(self) -> bool:
        """Whether the model carries LoRA adapters (its base is then the policy it started from)."""
        return hasattr(self.model, "peft_config")


def load_policy(
    source: str | Path,
    *,
    lora: Lora | None = None,
    name: str = "",
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
) -> Policy:
    """Load a policy from a local folder (full model or saved adapter) or a Hub id; with ``lora``, add fresh adapters.

    A saved adapter is merged into its base, so a loaded policy is always one plain model.
    Raises DataError when nothing loadable is there, TrainError when it has no EOS token or no pad token beside it,
    MissingExtra when adapters are needed and peft is not installed.
    """
    tokenizer = load_tokenizer(source)
    model = _load_merged(source, device, dtype)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.eval()  # no dropout anywhere: a policy and its copy must agree to the bit
    policy = Policy(model, tokenizer, name or Path(source).name, str(source))
    return add_lora(policy, lora, seed) if lora is not None else policy


def _load_merged(source: str | Path, device: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    base = adapter_base(source)
    if base is None:
        return load_hf(AutoModelForCausalLM, source, device, dtype)
    model = _load_merged(base, device, dtype)  # the base may itself be an adapter of something
    return _peft().PeftModel.from_pretrained(model, str(source), use_safetensors=True).merge_and_unload()


def adapter_base(source: str | Path) -> str | None:
    """The base model of a saved adapter folder, or None when ``source`` holds a full model."""
    path = Path(source) / "adapter_config.json"
    if not path.is_file():
        return None
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise DataError(f"{path}: 'base_model_name_or_path' is missing, so the adapter's base is unknown")
    beside = Path(source) / str(base)  # written relative to the adapter, so that a run folder can be moved
    return str(beside.resolve()) if beside.is_dir() else str(base)


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a folder or Hub id, with a pad token that is not EOS.

    Raises DataError when it cannot be loaded, TrainError when no pad token can be found that differs from EOS.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise DataError(_cannot_load(source, e)) from None
    if tokenizer.eos_token_id is None:
        raise TrainError(f"{source}: the tokenizer has no EOS token, so a finished response cannot be told")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        # An EOS that counts as padding is masked and never learned. Hub models without a pad token get a new one.
        tokenizer.add_special_tokens({"pad_token": "<|farm_pad|>"})
    return tokenizer


def load_hf(auto: Any, source: str | Path, device: str, dtype: str, **settings: Any) -> Any:
    """``auto.from_pretrained`` from safetensors only, with errors that say what to do."""
    try:
        model = auto.from_pretrained(
            str(source), dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False, **settings
        )
    except (OSError, ValueError, KeyError) as e:
        raise DataError(_cannot_load(source, e)) from None
    if device == "cpu" and sum(p.numel() for p in model.parameters()) < 5_000_000 and _attention(model) != "eager":
        model.set_attn_implementation("eager")  # measured: 1.2 times the speed of fused attention at this size
    return model.to(device)


def _attention(model: Any) -> str:
    return str(getattr(model.config, "_attn_implementation", ""))


def _cannot_load(source: str | Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{source}: no model can be loaded from there ({reason}). Give a local folder with config.json, "
        "tokenizer.json and safetensors weights, or the id of a model on the Hub (which needs a network)."
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtra("LoRA needs 'peft', which is not installed: install the extra 'train'") from None
    return peft


def add_lora(policy: Policy, lora: Lora, seed: int, task: str = "CAUSAL_LM") -> Policy:
    """The policy with fresh adapters; B = 0, so it equals its base."""
    peft = _peft()
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        task_type=task,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = peft.get_peft_model(policy.model, config)
    model.eval()
    return Policy(model, policy.tokenizer, policy.name, policy.source)


def trainable(policy: Policy) -> list[torch.nn.Parameter]:
    """The parameters that training moves: the adapters of an adapted policy, else all of them."""
    if not policy.adapted:
        policy.model.requires_grad_(True)
    return [p for p in policy.model.parameters() if p.requires_grad]


def copy_frozen(policy: Policy) -> Policy:
    """A frozen copy that serves as the reference of a policy about to be trained."""
    import copy

    model = copy.deepcopy(policy.model).eval().requires_grad_(False)
    return Policy(model, policy.tokenizer, policy.name + " (reference)", policy.source)


@contextmanager
def reference_of(policy: Policy, frozen: Policy | None) -> Iterator[Policy]:
    """The reference policy: the frozen copy, or the same model with its adapters switched off."""
    if frozen is not None:
        yield frozen
        return
    if not policy.adapted:
        raise TrainError("a policy without adapters needs a frozen copy as its reference")
    with policy.model.disable_adapter():
        yield policy


def save_policy(policy: Policy, folder: Path) -> None:
    """Write model (or adapter) and tokenizer to ``folder``, safetensors only.

    An adapter names its base relative to the folder when the base is a local folder.
    """
    import os

    if parallel.place()[0] > 0:
        return  # the first process writes
    folder.mkdir(parents=True, exist_ok=True)
    if policy.adapted:
        base = Path(policy.source)
        if base.is_dir():
            relative = os.path.relpath(base.resolve(), folder.resolve())
            for config in policy.model.peft_config.values():
                config.base_model_name_or_path = relative
    # Embeddings are never trained here, so an adapter need not carry them.
    more = {"save_embedding_layers": False} if policy.adapted else {}
    policy.model.save_pretrained(str(folder), safe_serialization=True, **more)
    policy.tokenizer.save_pretrained(str(folder))
