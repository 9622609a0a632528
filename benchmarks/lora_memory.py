"""Memory of one PPO step on a random Llama of more than 100M parameters: with adapters, and with all weights.

With LoRA one set of base weights serves policy, reference (adapters off) and value head. The other sides are adapters
with a value network of its own, and full fine-tuning with a frozen reference and a value network. Each side runs in a
process of its own; the reward is a function, so no reward model is in memory. Bytes are counted from the tensors that
are alive after the step, each storage once; ``base_copies`` is how many sets of the base's weights they amount to.
Peak memory is the process's resident maximum; ``above_imports_mb`` leaves out what imports alone take.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import turns

SIDES = ("lora", "lora-network", "full-network")
ROLLOUTS, PROMPT, RESPONSE, WORDS = 4, 16, 16, 8000


def make(folder: Path, dtype: str) -> int:
    """A random Llama of about 106M parameters, saved in ``dtype``; returns the number of its parameters."""
    import torch

    from farm.lm import tiny
    from farm.lm.load import load_policy, save_policy

    settings = tiny.TinySettings(hidden=768, layers=12, heads=12, mlp=2560, positions=128)
    tiny.create(folder, settings, 0, vocabulary=[f"w{i}" for i in range(WORDS)])
    policy = load_policy(folder)
    policy.model.to(getattr(torch, dtype))
    save_policy(policy, folder)
    return sum(p.numel() for p in policy.model.parameters())


def tensors_mb() -> dict[str, float]:
    """Megabytes of all tensors alive, by type, each storage once."""
    import torch

    sizes: dict[int, tuple[int, str]] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes(), str(thing.dtype).removeprefix("torch.")
    out: dict[str, float] = {}
    for size, dtype in sizes.values():
        out[dtype] = out.get(dtype, 0.0) + size / 2**20
    return {k: round(v, 1) for k, v in out.items() if v >= 0.1}


def run(folder: Path, side: str, precision: str) -> dict[str, Any]:
    """One PPO step; what its models, adapters and optimizer hold."""
    import torch

    from farm.lm.load import Lora, Policy
    from farm.methods import ppo
    from farm.methods.task import Task
    from farm.records import Instruction, Sampling

    lora = Lora(rank=16) if side.startswith("lora") else None
    value = "network" if side.endswith("network") else "head"
    config = ppo.Config(
        steps=1, rollouts=ROLLOUTS, epochs=1, minibatches=1, lr=1e-5, lora=lora, value=value, value_from="policy",
        curve_every=99, dtype=precision,
    )  # fmt: skip
    asks = [Instruction.make(" ".join(f"w{i * 31 + k}" for k in range(PROMPT))) for i in range(ROLLOUTS)]
    seen: dict[str, Any] = {}
    improve = ppo.improve

    def watched(policy: Policy, critic: Any, optimizer: Any, parameters: list[Any], *rest: Any) -> Any:
        log = improve(policy, critic, optimizer, parameters, *rest)
        trained = {id(p) for p in parameters}
        nets = [policy.model, *([critic.own.model] if critic.own else [])]
        held = {id(p): p for net in nets for p in net.parameters()}
        state = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]

        def mb(tensors: Any) -> float:
            return round(sum(t.numel() * t.element_size() for t in tensors) / 2**20, 1)

        adapters = [p for n, p in policy.model.named_parameters() if "lora_" in n]
        seen.update(
            adapters_mb=mb(adapters),
            value_head_mb=mb(critic.head.parameters()),
            trained_mb=mb(p for p in held.values() if id(p) in trained),
            optimizer_mb=mb(state),
            all_tensors_mb=tensors_mb(),
        )
        return log

    ppo.improve = watched  # type: ignore[assignment]
    sampling = Sampling(max_tokens=RESPONSE)
    ppo.run(Task(0, folder / f"out-{side}", folder, asks, sampling, score=lambda i, r: [1.0] * len(r)), config)
    return seen


def child(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    import peft  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    import farm.methods.ppo  # noqa: F401

    imports = turns.resident_mb()
    seen = run(args.folder, args.side, args.precision)
    print(json.dumps(seen | {"peak_mb": round(turns.peak_mb()), "imports_mb": round(imports)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", default="float32,bfloat16", help="of matrix products (both)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        child(args)
        return
    result: dict[str, Any] = {"benchmark": "lora_memory"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        parameters = make(folder, "float32")
        base = parameters * 4 / 2**20
        result |= {"parameters": parameters, "base_weights_mb": round(base, 1)}
        for precision in args.precisions.split(","):
            for side in SIDES:
                options = ["--side", side, "--folder", str(folder), "--precision", precision]
                got = turns.run_child(__file__, options, 1)
                weights = sum(got["all_tensors_mb"].values()) - got["optimizer_mb"] - got["adapters_mb"]
                got["base_copies"] = round(weights / base, 2)
                got["above_imports_mb"] = got["peak_mb"] - got["imports_mb"]
                got["above_imports_per_base"] = round(got["above_imports_mb"] / base, 2)
                result[f"{side} {precision}"] = got
    result["settings"] = turns.conditions(rollouts=ROLLOUTS, prompt=PROMPT, response=RESPONSE, threads=1)
    print(json.dumps(result, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
