"""Best-of-n: draw n responses and keep the one the reward likes best; nothing is trained.

    y = argmax over y_1..y_n ~ pi(. | x) of score(x, y_i)

KL(best-of-n || pi) <= log n - (n - 1)/n (Stiennon et al. 2020 as an equality; Beirami et al. 2024: a bound). ``pool``
draws a scored pool of samples per prompt, from which best-of-m is estimated without bias for every m up to the pool's
size. Left out: soft and regularised variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from farm.lm.load import Policy
from farm.lm.sample import sample
from farm.methods.task import Result, Score, Task, checked, source_from
from farm.records import Instruction, Response, Sampling

CHUNK = 8192  # responses held and scored at once


class Config(BaseModel):
    """Settings of best-of-n."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(16, ge=1, description="samples per response when the result is decoded")


def run(task: Task, config: Config) -> Result:
    """Declare the SFT policy decoded best-of-n; nothing is trained, and each response served costs n samples.

    Raises DataError without prompts or reward.
    """
    task.need("best_of_n", score=True)
    return Result(method="best_of_n", policy=source_from(task.folder, task.sft), best_of=config.n).save(task.folder)


def pool(task: Task, policy: Policy, prompts: Sequence[Instruction], size: int) -> Iterator[Response]:
    """``size`` scored samples of each prompt, prompt by prompt; draws of one prompt are exchangeable."""
    at_once = max(1, CHUNK // size)
    for start in range(0, len(prompts), at_once):
        chosen = list(prompts[start : start + at_once])
        yield from scored(task, policy, chosen, size, "pool")
        if task.progress is not None:
            task.progress(min(start + at_once, len(prompts)), len(prompts), {})


def scored(task: Task, policy: Policy, prompts: Sequence[Instruction], n: int, purpose: str) -> list[Response]:
    """``n`` samples of each prompt with their proxy (and gold) scores."""
    responses = sample(policy, prompts, n, task.sampling, name=policy.name, purpose=purpose)
    asked = [i for i in prompts for _ in range(n)]
    assert task.score is not None  # need() has seen to it
    scores = {"proxy": checked(purpose, task.score(asked, responses), responses)}
    if task.gold is not None:
        scores["gold"] = checked("gold", task.gold(asked, responses), responses)
    columns = zip(*scores.values(), strict=True)
    return [
        r.model_copy(update={"scores": dict(zip(scores, row, strict=True))})
        for r, row in zip(responses, columns, strict=True)
    ]


def best(responses: Sequence[Response], scores: Sequence[float], n: int) -> list[Response]:
    """The best of each run of ``n`` responses; of equal scores the earlier draw (draws are exchangeable)."""
    out = []
    for start in range(0, len(responses), n):
        out.append(responses[max(range(start, start + n), key=lambda i: (scores[i], -i))])
    return out


def respond(
    policy: Policy,
    instructions: Sequence[Instruction],
    best_of: int,
    sampling: Sampling,
    score: Score | None,
    *,
    name: str,
    purpose: str,
) -> list[Response]:
    """One response per instruction, as a result says: plain for ``best_of`` 0 or 1, else best-of-n by ``score``."""
    if best_of <= 1 or score is None:
        return sample(policy, instructions, 1, sampling, name=name, purpose=purpose)
    out: list[Response] = []
    at_once = max(1, CHUNK // best_of)
    for start in range(0, len(instructions), at_once):
        chosen = instructions[start : start + at_once]
        responses = sample(policy, chosen, best_of, sampling, name=name, purpose=purpose)
        values = checked(name, score([i for i in chosen for _ in range(best_of)], responses), responses)
        out += best(responses, values, best_of)
    return out
