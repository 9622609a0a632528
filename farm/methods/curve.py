"""A method's curve: proxy, gold and KL of the policy on fixed validation prompts, as it moves away from SFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farm.lm import parallel
from farm.lm.load import Policy, reference_of, save_policy
from farm.lm.logprobs import logprobs, sequence_sums
from farm.lm.prompts import encode_prompts
from farm.lm.sample import draw
from farm.methods.task import Task, checked, to_responses
from farm.records import CurvePoint, Response, RewardCurve, read, write
from farm.runs import RESUME, SO_FAR, write_json

VALUES = "curve_values.json"
RESPONSES = "curve_responses.jsonl"  # those behind the points, one per prompt, point by point
CHECKPOINTS = "checkpoints"  # in it, where the task keeps them, one policy per point between the first and the last


class Track:
    """Measures a policy again and again: one response per prompt of ``task.val``, drawn as ``task.sampling`` says.

    The uniforms are the same at every x, so differences along the curve are less noisy than its points. KL is k1 to
    the SFT policy (``frozen``, or the adapted policy without its adapters), nats per sequence. Without validation
    prompts nothing is measured.
    """

    def __init__(self, task: Task, x_name: str, policy: Policy, frozen: Policy | None) -> None:
        self.task, self.x_name, self.policy, self.frozen = task, x_name, policy, frozen
        self.points: list[CurvePoint] = []
        self.proxy: list[list[float]] = []
        self.gold: list[list[float]] = []

    def measure(self, x: float, sequences: int = 0) -> None:
        """Add the point at ``x``, reached with ``sequences`` drawn responses, unless it is there already."""
        task, policy = self.task, self.policy
        if not task.val or (self.points and self.points[-1].x == x):
            return
        prompts = encode_prompts(task.val, policy.tokenizer)
        draws = draw(policy, prompts, [i.id for i in task.val], 1, task.sampling, purpose="curve")
        responses = to_responses(policy, task.val, draws, policy.name, task.sampling)
        proxy = checked("curve", task.score(task.val, responses), responses) if task.score else [0.0] * len(responses)
        gold = checked("gold", task.gold(task.val, responses), responses) if task.gold else None
        plain = encode_prompts(task.val, policy.tokenizer, cue=False)  # the SFT policy knows no cue
        with reference_of(policy, self.frozen) as reference:
            theirs = logprobs(reference, plain, [d.ids for d in draws], task.sampling.temperature or 1.0)
        under_reference = sequence_sums(theirs).tolist()
        kl = [sum(d.logprobs) - other for d, other in zip(draws, under_reference, strict=True)]
        self.proxy.append(proxy)
        if gold is not None:
            self.gold.append(gold)
        write(self._drawn(x), responses)
        self.points.append(
            CurvePoint(
                x=x,
                n=len(responses),
                proxy=_mean(proxy),
                proxy_se=standard_error(proxy),
                gold=_mean(gold) if gold else None,
                gold_se=standard_error(gold) if gold else None,
                kl=_mean(kl),
                kl_se=standard_error(kl),
                mean_tokens=_mean([r.n_tokens for r in responses]),
                finished=_mean([r.finished for r in responses]),
                sequences=sequences,
            )
        )
        if task.keep and len(self.points) > 1:
            save_policy(policy, self._kept(x))
        if parallel.place()[0] == 0:  # for whoever watches the run
            shown = {"x_name": self.x_name, "points": [p.model_dump() for p in self.points]}
            write_json(task.folder / RESUME / SO_FAR, shown)

    def _kept(self, x: float) -> Path:
        # As deep as its last place, because an adapter names its base by a relative path.
        return self.task.folder / RESUME / f"kept-{x:g}"

    def _drawn(self, x: float) -> Path:
        return self.task.folder / RESUME / f"curve-{x:g}.jsonl"  # with the checkpoints, so that a cut-off keeps it

    def state(self) -> dict[str, object]:
        """What was measured so far, as JSON."""
        points = [p.model_dump() for p in self.points]
        return {"points": points, "proxy": self.proxy, "gold": self.gold}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.points = [CurvePoint.model_validate(p) for p in state["points"]]
        self.proxy, self.gold = list(state["proxy"]), list(state["gold"])

    def finish(self, method: str) -> RewardCurve | None:
        """The curve, or None without points. The values behind it, by prompt, go into ``curve_values.json``, the
        responses into ``curve_responses.jsonl``, kept policies into ``checkpoints/X/`` (the last is ``policy/``)."""
        if not self.points:
            return None
        prompts = [i.id for i in self.task.val]
        values = {"prompts": prompts, "proxy": self.proxy, "gold": self.gold or None}
        write_json(self.task.folder / VALUES, values)
        if self.task.keep and parallel.place()[0] == 0:
            (self.task.folder / CHECKPOINTS).mkdir(exist_ok=True)
            for p in self.points[1:-1]:
                self._kept(p.x).replace(self.task.folder / CHECKPOINTS / f"{p.x:g}")
        write(self.task.folder / RESPONSES, [r for p in self.points for r in read(self._drawn(p.x), Response)])
        return RewardCurve(method=method, seed=self.task.seed, x_name=self.x_name, points=tuple(self.points))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    mean = _mean(values)
    return float((sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5)
