"""The laboratory's settings, the models it trains for its rewards, and best-of-n picks that are judged."""

from __future__ import annotations

import numpy as np
import pytest

from farm import pipeline
from farm.errors import DataError, RecipeError
from farm.records import Preference, Response
from farm.stages.laboratory import make, measure
from farm.stages.laboratory.settings import Laboratory, Reward
from farm.study.best_of_n import best_of_n_curve

HEAD = "name: x\ndata: {world: offline}\n"


def load(tmp_path, section: str):
    path = tmp_path / "lab.yaml"
    path.write_text(HEAD + "laboratory:\n" + section)
    return pipeline.load(path).laboratory


def test_the_shipped_recipe_is_whole():
    lab = pipeline.load("overoptimize").laboratory
    assert lab.base == "base"
    sizes = sorted({r.preferences for r in lab.rewards.values() if r.preferences})
    assert len(sizes) >= 3
    assert sizes[-1] == 16 * sizes[0]
    assert lab.pool.n >= 1024
    assert {"mean", "worst", "variance"} <= {r.combine for r in lab.rewards.values()}
    assert lab.crossing is not None


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("  rewards: {a: {preference: 100}}", "did you mean 'preferences'"),
        ("  rewards: {a: {against: b}}", "there is no 'b'"),
        ("  rewards: {a: {labels: loud}}", "there is no 'loud'"),
        ("  rewards: {a: {}}\n  ensemble: a", "disagreement needs two"),
        ("  rewards: {a: {}, b: {refresh: a}, c: {refresh: b}}", "cannot itself be refreshed"),
        ("  rewards: {a: {}}\n  policies: {p: {method: ppo, stepz: 3}}", "did you mean 'steps'"),
        ("  rewards: {a: {}}\n  policies: {p: {method: ppo, questions: x}}", "laboratory.policies.p"),
        ("  rewards: {a: {}}\n  gold: {pool: farm13, reward_model: x}", "one place"),
        ("  rewards: {a: {members: 2, combine: weights, starts: other}}", "cannot be averaged"),
    ],
)
def test_mistakes_are_named(tmp_path, section, words):
    with pytest.raises(RecipeError) as e:
        load(tmp_path, section)
    assert words in str(e.value)


def test_a_recipe_without_a_laboratory_is_refused(tmp_path):
    from farm import laboratory

    with pytest.raises(RecipeError, match="no section 'laboratory'"):
        laboratory.run(pipeline.load("quickstart"), tmp_path / "run")


def test_models_are_shared_between_rewards(tmp_path):
    lab = load(
        tmp_path,
        "  labels: {clean: {flip: 0}}\n  rewards:\n    base: {preferences: 100}\n"
        "    mean: {preferences: 100, members: 3}\n    worst: {preferences: 100, members: 3, combine: worst}\n"
        "    clean: {labels: clean, preferences: 100}\n    fresh: {preferences: 100, refresh: base}\n"
        "    small: {preferences: 100, trunk: {hidden: 16}}\n"
        "    apart: {preferences: 100, members: 2, starts: other}\n",
    )
    keys = [m.key for m in make.all_models(lab)]
    assert len(keys) == len(set(keys)) == 7  # three members, clean, fresh, small, one more from another start
    assert make.models_of(lab, "mean")[0].key == make.models_of(lab, "base")[0].key
    assert make.models_of(lab, "fresh")[0].refreshed == make.models_of(lab, "base")[0]


def preference(k: int) -> Preference:
    return Preference(pair_id=f"p{k}", instruction_id=f"i{k}", responses=("a", "b"), winner_id="a", origin="simulated")


def test_a_model_gets_its_share_of_the_pairs_or_says_that_there_are_too_few():
    rows = [preference(k) for k in range(100)]
    assert [p.pair_id for p in make._share(rows, make.Model("", 10, 3))] == ["p10", "p11", "p12"]
    assert len(make._share(rows, make.Model("", 60, None))) == 40
    assert len(make._share(rows, make.Model("", 0, 102))) == 100  # a few labels lost to failed judgements
    with pytest.raises(DataError, match="asks for 200 preferences"):
        make._share(rows, make.Model("", 0, 200))


def samples(prompts: int = 30, size: int = 64) -> measure.Samples:
    random = np.random.default_rng(0)
    rows = [
        Response.make(f"i{p}", f"t{p}-{k}", "sft", k, n_tokens=1 + k % 5) for p in range(prompts) for k in range(size)
    ]
    columns = {
        "log_prob": np.full((prompts, size), -30.0),
        "gold": random.normal(size=(prompts, size)),
        "tokens": np.array([float(r.n_tokens) for r in rows]).reshape(prompts, size),
    }
    return measure.Samples(0, tuple(f"i{p}" for p in range(prompts)), rows, columns)


def test_judged_selections_follow_the_law_of_best_of_n():
    pool = samples()
    reward = np.random.default_rng(1).normal(size=pool.shape)
    rows = measure.selections(pool, reward, [1, 8, 64], 200, 0, 30)
    curve = best_of_n_curve(reward, pool.columns["gold"], pool.prompts, [1, 8, 64], seed=0)
    for chosen, point in zip(rows, curve.curve.points, strict=True):
        assert reward.ravel()[chosen].mean() == pytest.approx(point.proxy, abs=0.04)
        assert pool.columns["gold"].ravel()[chosen].mean() == pytest.approx(point.gold, abs=0.06)
    assert set(np.array(rows[2]).reshape(30, 200)[3]) == {3 * 64 + int(reward[3].argmax())}


def test_n_goes_up_in_half_octaves_to_the_whole_pool():
    assert measure.grid(16) == [1, 2, 3, 4, 6, 8, 11, 16]
    assert measure.grid(1024)[-3:] == [512, 724, 1024]
    assert measure.octaves(1000) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_the_length_penalty_is_part_of_what_selects():
    pool = samples()
    value = np.zeros(pool.shape)
    combined = measure.combined(Reward(length_penalty=0.5), [value], pool.columns["tokens"])
    assert combined == pytest.approx(-0.5 * pool.columns["tokens"])


def test_repeated_words():
    assert make.repeated("a b c") == 0
    assert make.repeated("A a b a") == 0.5
    assert make.repeated("") == 0


def test_wins_count_ties_half_and_failures_not_at_all():
    from farm.records import Judgement, Outcome, Pair

    ours = [Response.make("i0", "x", "sft", k, n_tokens=1) for k in range(3)]
    other = Response.make("i0", "y", "reference", n_tokens=1)
    pairs = {r.id: Pair.of(r, other) for r in ours}

    def act(r, outcome, winner=None):
        return Judgement(
            pair_id=pairs[r.id].id, instruction_id="i0", annotator="j", shown=(r.id, other.id), outcome=outcome,
            winner_id=winner,
        )  # fmt: skip

    acts = [
        act(ours[0], Outcome.DECIDED, ours[0].id),
        act(ours[1], Outcome.TIE),
        act(ours[2], Outcome.FAILED),
    ]
    found = measure._wins([ours[:2], ours[2:]], pairs, acts, ["i0"])
    assert found["wins"] == [[0.75], [None]]
    assert found["outcomes"] == {"decided": 1, "tie": 1, "failed": 1}


def test_an_empty_laboratory_is_no_laboratory():
    with pytest.raises(ValueError, match="at least 1"):
        Laboratory(rewards={})
