"""SFT, best-of-n, expert iteration, DPO: what each must learn, count, save and refuse."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from farm import records
from farm.errors import DataError, TrainError
from farm.lm.load import Lora, load_policy
from farm.lm.logprobs import logprobs
from farm.lm.prompts import encode_prompts, encode_texts
from farm.lm.sample import sample
from farm.lm.train import Optim
from farm.methods import best_of_n, dpo, expert_iteration, sft
from farm.methods.task import Result, Task
from farm.records import Instruction, Pair, Preference, Response, Sampling

SAMPLING = Sampling(max_tokens=6)
ALL = {"best_of_n": best_of_n, "dpo": dpo, "expert_iteration": expert_iteration, "sft": sft}


def shorter(instructions, responses):
    return [-float(r.n_tokens) for r in responses]


def task(toy, asks, folder, **more):
    return Task(
        **{"seed": 0, "folder": folder, "sft": toy, "instructions": asks, "sampling": SAMPLING, "score": shorter} | more
    )


def test_sft_learns_the_demonstrations(spoken, asks):
    policy = load_policy(spoken)
    greedy = sample(policy, asks, 1, Sampling(max_tokens=6, temperature=0), name="x", purpose="x")
    assert [r.text.lower() for r in greedy] == [i.output for i in asks]
    assert all(r.finished for r in greedy)


def test_sft_trains_only_on_the_response_and_not_on_a_cut_end(toy, asks, tmp_path):
    result = sft.run(task(toy, asks, tmp_path), sft.Config(optim=Optim(lr=2e-2, epochs=20, batch=8), max_tokens=2))
    policy = load_policy(tmp_path / result.policy)
    prompts = encode_prompts(asks, policy.tokenizer)
    ends = encode_texts([i.output for i in asks], [True] * 8, policy.tokenizer)
    last = [float(p[-1]) for p in logprobs(policy, prompts, ends)]
    assert max(last) < math.log(0.3)  # the end token lies beyond the limit, so it was never shown
    assert result.budget.updates == 20


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_sft_same_seed_same_bytes(toy, asks, tmp_path, lora):
    config = sft.Config(optim=Optim(lr=1e-2, epochs=2, batch=4), lora=lora)
    for name in ("one", "two"):
        sft.run(task(toy, asks, tmp_path / name), config)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    one, two = ((tmp_path / n / "policy" / name).read_bytes() for n in ("one", "two"))
    assert one == two
    assert one != (toy / "model.safetensors").read_bytes()


def test_best_keeps_the_argmax_of_each_group_and_the_earlier_of_equals():
    rows = [Response.make("i", str(k), "p", k, n_tokens=1) for k in range(6)]
    assert [r.draw for r in best_of_n.best(rows, [1, 3, 3, 5, 0, 2], 3)] == [1, 3]


def test_best_of_n_declares_the_policy_and_serves_the_best(spoken, asks, tmp_path):
    result = best_of_n.run(task(spoken, asks, tmp_path), best_of_n.Config(n=4))
    assert (result.best_of, load_policy(result.policy_source(tmp_path)).source) == (4, str(spoken.resolve()))
    policy = load_policy(spoken)
    served = best_of_n.respond(policy, asks, 4, SAMPLING, shorter, name="bon", purpose="e")
    plain = sample(policy, asks, 4, SAMPLING, name="bon", purpose="e")
    assert [r.n_tokens for r in served] == [min(r.n_tokens for r in plain[k : k + 4]) for k in range(0, 32, 4)]


def test_a_pool_is_scored_prompt_by_prompt(spoken, asks, tmp_path):
    given = task(spoken, asks, tmp_path, gold=lambda i, r: [1.0] * len(r))
    pool = list(best_of_n.pool(given, load_policy(spoken), asks[:3], 10))
    assert [r.instruction_id for r in pool] == [i.id for i in asks[:3] for _ in range(10)]
    assert all(r.scores == {"proxy": -float(r.n_tokens), "gold": 1.0} for r in pool)


def test_expert_iteration_moves_towards_the_winners(toy, asks, tmp_path):
    reward = lambda i, r: [float(x.text.lower().count("a")) for x in r]  # noqa: E731
    more = [Instruction.make(f"please say {w} {v}") for w in "abcdefgh" for v in "abcdefgh"]
    config = expert_iteration.Config(n=16, prompts=60, optim=Optim(lr=1e-2, epochs=10, batch=8))
    result = expert_iteration.run(task(toy, more, tmp_path, score=reward, val=more), config)
    assert result.curve is not None
    before, after = result.curve.points
    assert after.proxy > before.proxy + 0.5
    assert before.kl == pytest.approx(0, abs=1e-4)
    assert (after.kl or 0) > 0.1
    assert result.budget.generated_sequences == result.budget.reward_scorings == 960
    assert 0 < result.notes["winners"] <= 60  # unfinished winners are left out
    assert Result.load(tmp_path) == result


@pytest.fixture(scope="module")
def labelled(spoken, asks):
    """Pairs in which the shorter response wins."""
    sampling = Sampling(max_tokens=6, temperature=2.0)
    responses = sample(load_policy(spoken), asks, 20, sampling, name="sft", purpose="pairs")
    preferences = []
    for a, b in zip(responses[::2], responses[1::2], strict=True):
        if a.n_tokens != b.n_tokens:
            pair, winner = Pair.of(a, b), min(a, b, key=lambda r: r.n_tokens)
            preferences.append(
                Preference(
                    pair_id=pair.id,
                    instruction_id=a.instruction_id,
                    responses=(pair.a, pair.b),
                    winner_id=winner.id,
                    origin="gold",
                )
            )
    return preferences, records.by_id(responses)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_dpo_starts_at_ln_2_and_learns_the_preference(spoken, asks, tmp_path, labelled, lora):
    preferences, responses = labelled
    config = dpo.Config(optim=Optim(lr=3e-3, epochs=6, batch=16), lora=lora, curve_points=3)
    result = dpo.run(
        task(spoken, asks, tmp_path, val=asks, preferences=preferences, responses=responses, score=shorter), config
    )
    assert result.notes["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.notes["last_loss"] < 0.6
    assert result.curve is not None
    assert len(result.curve.points) >= 4
    assert result.curve.points[-1].x == result.budget.updates
    assert result.budget.comparisons == len(preferences)
    adapter = (tmp_path / "policy" / "adapter_model.safetensors").exists()
    assert adapter == (lora is not None)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_method_refuses_an_empty_set(toy, tmp_path, name):
    with pytest.raises(DataError, match="empty"):
        ALL[name].run(task(toy, [], tmp_path), ALL[name].Config())


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_setting_is_documented_and_unknown_ones_are_refused(name):
    fields = ALL[name].Config.model_fields
    assert len(fields) <= 15
    assert all(f.description for f in fields.values())
    with pytest.raises(ValidationError):
        ALL[name].Config(no_such_setting=1)


def test_bad_input_is_named(toy, asks, tmp_path, labelled):
    silent = asks[0].model_copy(update={"output": " "})
    with pytest.raises(DataError, match=silent.id):
        sft.run(task(toy, [silent], tmp_path), sft.Config())
    with pytest.raises(DataError, match="no reward"):
        expert_iteration.run(task(toy, asks, tmp_path, score=None), expert_iteration.Config())
    with pytest.raises(DataError, match="not among"):
        dpo.run(task(toy, asks, tmp_path, preferences=labelled[0]), dpo.Config())
    nan = lambda i, r: [float("nan")] * len(r)  # noqa: E731
    with pytest.raises(TrainError, match="finite"):
        list(best_of_n.pool(task(toy, asks, tmp_path, score=nan), load_policy(toy), asks, 2))
    with pytest.raises(DataError, match="has not been run"):
        Result.load(tmp_path / "nothing")
    (tmp_path / "result.json").write_text('{"method": 1}')
    with pytest.raises(DataError, match="method"):
        Result.load(tmp_path)
