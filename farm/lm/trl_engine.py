"""TRL as the second engine of SFT, the reward model and DPO: the same examples and settings, its trainers.

Where TRL's packing, fused kernels, FSDP or DeepSpeed pay, a recipe says ``engine: trl``; and the losses of our own loop
are tested against it. The trainers get token rows, so prompts, end tokens and masks are ours. Differences that stay:
TRL knows no weights and no soft labels (refused here), averages the loss of accumulated parts its own way, shuffles by
its own seed, and its IPO averages log-ratios over tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farm.errors import DataError, MissingExtra, TrainError
from farm.lm import sharded
from farm.lm.load import Policy
from farm.lm.prompts import Ids
from farm.lm.train import BETAS, Optim, Trained

Progress = Callable[[int, int, dict[str, float]], None]
DPO_LOSSES = ("hinge", "exo_pair", "nca_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
              "bco_pair", "sigmoid_norm")  # fmt: skip


def sft(
    policy: Policy,
    examples: Sequence[tuple[Ids, Ids]],
    optim: Optim,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None,
) -> Trained:
    """Fine-tune ``policy`` in place on (prompt, response) token rows with TRL's SFTTrainer; ``folder`` is scratch."""
    trl = _trl()
    rows = [{"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in examples]
    config = trl.SFTConfig(**_settings(policy, optim, seed, folder), completion_only_loss=True, max_length=None)
    trainer = trl.SFTTrainer(
        policy.model,
        config,
        train_dataset=_dataset(rows),
        processing_class=policy.tokenizer,
        callbacks=_callbacks(progress),
    )
    return _run(trainer, sum(len(row["input_ids"]) for row in rows), optim)


def reward(
    policy: Policy,
    examples: Sequence[tuple[Ids, Ids]],
    optim: Optim,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None,
    margins: Sequence[float] = (),
) -> Trained:
    """Train a one-output classifier (``policy.model``) in place on (chosen, rejected) rows of prompt and response;
    ``margins`` say, row by row, by how much the chosen one should win."""
    trl = _trl()
    rows: list[dict[str, Any]] = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in examples]
    for row, margin in zip(rows, margins, strict=bool(margins)):
        row["margin"] = margin
    config = trl.RewardConfig(**_settings(policy, optim, seed, folder), max_length=None)
    trainer = trl.RewardTrainer(
        policy.model,
        config,
        train_dataset=_dataset(rows),
        processing_class=policy.tokenizer,
        callbacks=_callbacks(progress),
    )
    return _run(trainer, sum(len(chosen) + len(rejected) for chosen, rejected in examples), optim)


def dpo(
    policy: Policy,
    frozen: Policy | None,
    examples: Sequence[tuple[Ids, Ids, Ids]],
    optim: Optim,
    *,
    beta: float,
    loss: str,
    flip: float,
    seed: int,
    folder: Path,
    progress: Progress | None,
) -> Trained:
    """Train ``policy`` in place on (prompt, chosen, rejected) rows; the reference is ``frozen`` or the bare base.

    ``loss`` is one of TRL's; ``flip`` is its label smoothing, which "robust" and a few others read.
    """
    trl = _trl()

    class Trainer(trl.DPOTrainer):  # type: ignore[name-defined,misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # it holds token rows already, which the trainer's own preparation does not expect

    rows = [{"prompt_ids": p, "chosen_ids": w, "rejected_ids": r} for p, w, r in examples]
    config = trl.DPOConfig(
        **_settings(policy, optim, seed, folder),
        beta=beta,
        loss_type=[loss],
        label_smoothing=flip,
        max_length=None,
    )
    reference = None if frozen is None else frozen.model
    with sharded.unharmed(reference):
        trainer = Trainer(
            policy.model,
            reference,
            config,
            train_dataset=_dataset(rows),
            processing_class=policy.tokenizer,
            callbacks=_callbacks(progress),
        )
        return _run(trainer, sum(2 * len(p) + len(w) + len(r) for p, w, r in examples), optim)


def _trl() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # its trainers report their use otherwise
    try:
        import trl
    except ImportError:
        raise MissingExtra("engine: trl needs 'trl', which is not installed: pip install 'rlhf-farm[train]'") from None
    return trl


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    if not rows:
        raise DataError("engine trl: no examples to train on")
    return Dataset.from_list(rows)


def _settings(policy: Policy, optim: Optim, seed: int, folder: Path) -> dict[str, Any]:
    share = -(-optim.batch // int(os.environ.get("WORLD_SIZE", "1")))  # of a batch, in each process
    part = min(optim.micro_batch or share, share)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": part,
        "gradient_accumulation_steps": max(1, share // part),
        "learning_rate": optim.lr,
        "num_train_epochs": optim.epochs,
        "lr_scheduler_type": optim.schedule,
        "warmup_steps": optim.warmup,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "seed": seed,
        "use_cpu": policy.device.type == "cpu",
        "bf16": optim.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _callbacks(progress: Progress | None) -> list[Any]:
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if progress is not None and logs and "loss" in logs:
                progress(state.global_step, state.max_steps, {"loss": float(logs["loss"])})

    return [Report()]


def _run(trainer: Any, tokens: int, optim: Optim) -> Trained:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # it prints every log entry
    with sharded.whole_again(trainer):
        trainer.train()
    trainer.model.eval()
    losses = tuple(float(row["loss"]) for row in trainer.state.log_history if "loss" in row)
    if not losses or any(not (-1e30 < value < 1e30) for value in losses):
        raise TrainError("engine trl: the loss is not finite; lower the learning rate, or look for broken examples")
    return Trained(trainer.state.global_step, round(tokens * optim.epochs), losses)
