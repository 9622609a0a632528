"""What lies in a model's folder or on the Hub, read as it should be: safetensors only, whole, of the right shape,
finite, and never by running code that came with it. Everything else is one DataError that says what to do.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from farm.errors import DataError, TrainError

transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
_OWN_PAD = "<|farm_pad|>"


def adapter_base(source: str | Path) -> str | None:
    """The base model of a saved adapter folder, or None when ``source`` holds a full model."""
    path = Path(source) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as e:
        raise DataError(f"{path}: not the settings of an adapter ({e}); copy or train the adapter again") from None
    if not base:
        raise DataError(f"{path}: 'base_model_name_or_path' is missing, so the adapter's base is unknown")
    beside = Path(source) / str(base)  # written relative to the adapter, so that a run folder can be moved
    return str(beside.resolve()) if beside.is_dir() else str(base)


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a folder or Hub id; an adapter without one has that of its base.

    Without a pad token, EOS fills: what is padding is told by length everywhere, never by token, so a true EOS is
    learned and counted all the same (:func:`own_pad` is for classifiers, which tell it by token).
    Raises DataError when it cannot be loaded, TrainError when it has no EOS token.
    """
    from transformers import AutoTokenizer

    if not any((Path(source) / name).is_file() for name in _TOKENIZER) and (base := adapter_base(source)):
        return load_tokenizer(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False, **_where(source))
    except Exception as e:  # the tokenizers library raises plain Exceptions
        raise DataError(_cannot_load(source, e)) from None
    if tokenizer.eos_token_id is None:
        raise TrainError(f"{source}: the tokenizer has no EOS token, so a finished response cannot be told")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def own_pad(model: Any, tokenizer: Any) -> None:
    """Give a classifier whose pad token is EOS one of its own, in place, with an embedding of zeros.

    The classifiers of transformers read their score before the first pad token, which would be before EOS.
    """
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": _OWN_PAD})
    elif tokenizer.pad_token_id < rows:
        return
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.pad_token_id] = 0.0
    model.config.pad_token_id = tokenizer.pad_token_id


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers know the same tokens by the same numbers, padding of :func:`own_pad` aside."""
    ours, theirs = ({k: v for k, v in t.get_vocab().items() if k != _OWN_PAD} for t in (one, other))
    return bool(ours == theirs)


def load_hf(auto: Any, source: str | Path, device: str, dtype: str, **settings: Any) -> Any:
    """``auto.from_pretrained`` from safetensors only, put on ``device`` (left empty: FARM_DEVICE, else the processor).

    Raises DataError, which says what to do, unless every weight is there, of the shape that the config says, and
    finite."""
    device = device or home()
    where = _where(source)
    more = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True, "adapter_kwargs": where}
    try:
        model, info = auto.from_pretrained(str(source), dtype=getattr(torch, dtype), **where, **more, **settings)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as e:
        raise DataError(_cannot_load(source, e)) from None
    if hasattr(model, "peft_config"):
        raise DataError(f"{source}: an adapter on the Hub; copy it into a folder (hf download) and give that folder")
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{source}: the weights are not whole: {len(missing)} are missing, the first is '{missing[0]}'. Copy the "
            f"model again, or give one that is a {auto.__name__.removeprefix('AutoModelFor')} model."
        )
    bad = next((name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if bad is not None:
        raise DataError(f"{source}: weight '{bad}' is not finite (NaN or infinity); train or copy the model again")
    if device == "cpu" and sum(p.numel() for p in model.parameters()) < 5_000_000 and _attention(model) != "eager":
        model.set_attn_implementation("eager")  # measured: 1.2 times the speed of fused attention at this size
    limit_positions(model)
    return model.to(device)


def home() -> str:
    """Where models are put: what the environment variable FARM_DEVICE says, else the processor.

    Raises DataError when torch knows or has no such device."""
    named = os.environ.get("FARM_DEVICE") or "cpu"
    try:
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise DataError(f"FARM_DEVICE={named}: no such device here ({reason(e)}); leave it out, or say cpu") from None
    return named


def limit_positions(model: Any) -> None:
    """Have a model with learned position embeddings refuse a longer row by name (else: an index out of range)."""
    for name, part in model.named_modules():
        if name.rpartition(".")[2] in ("wpe", "embed_positions") and isinstance(part, torch.nn.Embedding):
            part.register_forward_pre_hook(_refuse_long_rows, with_kwargs=True)


def _refuse_long_rows(part: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    room = part.num_embeddings - getattr(part, "offset", 0)
    places = named.get("position_ids", arguments[0] if arguments else None)
    if isinstance(places, torch.Tensor) and int(places.max()) >= room:
        raise DataError(
            f"prompt and response take {int(places.max()) + 1} tokens, this model has {room} positions: lower "
            "policy.max_prompt_tokens or max_tokens, or leave the longest texts out"
        )


def _attention(model: Any) -> str:
    return str(getattr(model.config, "_attn_implementation", ""))


def _where(source: str | Path) -> dict[str, Any]:
    """Keep to this machine for a folder, and where the Hub's name is not known: its client would try for a minute."""
    from huggingface_hub import constants

    if Path(source).is_dir():
        return {"local_files_only": True}
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return {"local_files_only": True}
    return {}


def reason(error: Exception, prefer: str = "") -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return next((line for line in lines if prefer and prefer in line), lines[0])[:300]


def pickles(folder: Path) -> str:
    found = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
    return f", only {found[0]}, a pickled file, which could run code when it is read" if found else ""


def _cannot_load(source: str | Path, error: Exception) -> str:
    folder = Path(source)
    if not folder.is_dir() and (folder.is_absolute() or str(source).startswith(".") or len(folder.parts) > 2):
        return f"{source}: no such folder, so no model can be loaded from there. Give the folder that holds the model."
    if isinstance(error, SafetensorError):
        return (
            f"{_broken(folder)}: cut off or not a safetensors file ({reason(error)}), so no model can be loaded from "
            "there. Copy it again; in a run, remove the folder of that step and run again: every other step is kept."
        )
    if isinstance(error, RuntimeError) and "mismatch" in str(error):
        return f"{source}: no model can be loaded from there: the weights have other shapes than its config.json says"
    if not list(folder.glob("*.safetensors")) and (found := pickles(folder)):
        return (
            f"{source}: no model can be loaded from there: there are no safetensors weights{found}. Convert it once "
            "where you trust it: AutoModelForCausalLM.from_pretrained(OLD, use_safetensors=False).save_pretrained(NEW)"
        )
    return (
        f"{source}: no model can be loaded from there ({reason(error)}). Give a local folder with config.json, "
        "tokenizer.json and safetensors weights, or the id of a model on the Hub (which needs a network)."
    )


def _broken(folder: Path) -> Path:
    """The safetensors file of a folder that cannot be read."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError):
            return path
    return folder
