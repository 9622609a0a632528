"""Policies: a causal language model with its tokenizer, from a local folder or a Hub id, full or with LoRA adapters.

Everything is in the Hugging Face format with safetensors weights; code shipped with a model is never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from farm.errors import DataError, MissingExtra, TrainError
from farm.lm import parallel
from farm.lm.hub import adapter_base, load_hf, load_tokenizer, pickles, reason


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
    device: str = "",
    dtype: str = "float32",
    seed: int = 0,
) -> Policy:
    """Load a policy from a local folder (full model or saved adapter) or a Hub id; with ``lora``, add fresh adapters.

    A saved adapter is merged into its base, so a loaded policy is always one plain model. ``device`` left out is that
    of the environment variable FARM_DEVICE, else the processor.
    Raises DataError when nothing whole and fitting is there, TrainError when it has no EOS token, MissingExtra when
    adapters are needed and peft is not installed.
    """
    tokenizer = load_tokenizer(source)
    model = _load_merged(source, device, dtype)
    embeddings = model.get_input_embeddings()
    if tokenizer.pad_token_id >= embeddings.num_embeddings:
        tokenizer.pad_token = tokenizer.eos_token
    elif len(tokenizer) > embeddings.num_embeddings:
        raise DataError(
            f"{source}: the tokenizer knows {len(tokenizer)} tokens, the model has embeddings for "
            f"{embeddings.num_embeddings}; call model.resize_token_embeddings({len(tokenizer)}) and save the model anew"
        )
    if embeddings.padding_idx == tokenizer.eos_token_id:
        embeddings.padding_idx = None  # else EOS would get no gradient where it is read
    model.config.pad_token_id = tokenizer.pad_token_id
    model.eval()  # no dropout anywhere: a policy and its copy must agree to the bit
    policy = Policy(model, tokenizer, name or Path(source).name, str(source))
    return add_lora(policy, lora, seed) if lora is not None else policy


def _load_merged(source: str | Path, device: str, dtype: str, above: tuple[str, ...] = ()) -> Any:
    from transformers import AutoModelForCausalLM

    base = adapter_base(source)
    if base is None:
        return load_hf(AutoModelForCausalLM, source, device, dtype)
    here = str(Path(source).resolve())
    if here in above:
        raise DataError(f"{source}/adapter_config.json: 'base_model_name_or_path' leads back to the adapter itself")
    try:
        model = _load_merged(base, device, dtype, (*above, here))  # the base may itself be an adapter of something
    except DataError as e:
        raise DataError(
            f"{source}/adapter_config.json: the adapter's base, 'base_model_name_or_path': {base!r}, is not to be had. "
            f"Put it there, or name the folder or Hub id where it is now. {e}"
        ) from None
    return _merge(model, Path(source), base)


def _merge(model: Any, adapter: Path, base: str) -> Any:
    """``model`` with a saved adapter added to its weights. Raises DataError unless every weight finds its place."""
    peft = _peft()
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        raise DataError(f"{weights}: no such file{pickles(adapter)}; an adapter is read from safetensors only")
    try:
        with safe_open(weights, "pt") as f:
            saved = set(f.keys())
    except (OSError, SafetensorError) as e:
        raise DataError(
            f"{weights}: cut off or not a safetensors file ({e}); copy or train the adapter again"
        ) from None
    other = f"{adapter}: this adapter was trained on another base than {base!r}, which its adapter_config.json names"
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(adapter), use_safetensors=True)
        wanted = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    except (RuntimeError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{other} ({reason(e, 'size mismatch')}). Name its own base in 'base_model_name_or_path'."
        ) from None
    if strange := sorted(saved ^ wanted):
        raise DataError(
            f"{other} ({len(strange)} weights have no counterpart, the first is {strange[0]}). "
            "Name its own base in 'base_model_name_or_path'."
        )
    return adapted.merge_and_unload()


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
