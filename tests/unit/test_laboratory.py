"""The laboratory's settings, the models it trains for its rewards, and best-of-n picks that are judged."""

from __future__ import annotations

import numpy as np
import pytest

from farm import pipeline
from farm.errors import DataError, RecipeError
from farm.records import Preference, Response
from farm.stages.laboratory import labels, make, measure
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
    assert lab.pool.n >= 1024
    assert {"mean", "worst", "variance"} <= {r.combine for r in lab.rewards.values()}
    assert lab.crossing is not None


def test_the_second_shipped_recipe_shares_its_start_with_the_first_and_has_the_rest_of_the_rows():
    one, more = pipeline.load("overoptimize"), pipeline.load("overoptimize_more")
    for section in ("data", "seeds", "policy", "sft", "sample", "annotate", "reward"):
        assert getattr(one, section) == getattr(more, section), section
    assert (one.laboratory.pool, one.laboratory.curve_instructions) == (
        more.laboratory.pool,
        more.laboratory.curve_instructions,
    )
    shared = {m.key for m in make.all_models(one.laboratory)} & {m.key for m in make.all_models(more.laboratory)}
    assert {m.key for name in ("base", "other-half") for m in make.models_of(more.laboratory, name)} <= shared
    assert one.laboratory.policies["ppo"] == more.laboratory.policies["ppo"]
    rewards = more.laboratory.rewards.values()
    assert {r.transform for r in rewards} == {"none", "bounded", "clip", "quantile"}
    assert any(r.trunk for r in rewards)
    assert any(r.refresh for r in rewards)
    assert {method for method, _, _ in more.laboratory.policies.values()} >= {"ppo", "rloo", "dpo", "expert_iteration"}


def test_the_recipe_for_the_place_of_the_peak_pairs_sizes_and_ensembles_over_enough_seeds():
    sizes = pipeline.load("overoptimize_sizes")
    assert len(sizes.seeds) >= 8
    lab = sizes.laboratory
    counts = sorted({r.preferences for r in lab.rewards.values() if r.preferences})
    assert len(counts) >= 3
    assert counts[-1] == 16 * counts[0]
    assert {r.combine for r in lab.rewards.values()} == {"mean", "worst", "variance", "weights"}
    trained = {row: lab.rewards[more.reward or lab.base] for row, (_, _, more) in lab.policies.items()}
    assert [trained[row].preferences for row in ("ppo-600", "ppo-2400", "ppo")] == [600, 2400, 9600]
    labelled = {trained[row].labels for row in ("ppo-600", "ppo-2400", "ppo")}
    assert {lab.labels[name].pool for name in labelled} == {"gold"}
    assert {trained[row].epochs for row in ("ppo-600", "ppo-2400", "ppo")} == {None}  # equally many passes
    for name in ("mean-of-3", "worst-of-3", "variance-of-3", "mean-of-3-2400"):
        together, alone = lab.rewards[name], lab.rewards[str(lab.rewards[name].against)]
        assert (together.labels, together.preferences) == (alone.labels, alone.preferences)
        members = {m.key for m in make.models_of(lab, name)}
        assert members == {make.models_of(lab, str(lab.rewards[name].against), k)[0].key for k in range(3)}


def test_the_recipe_for_ensembles_sets_three_against_one_on_the_same_pairs_over_many_seeds():
    recipe = pipeline.load("overoptimize_ensembles")
    assert len(recipe.seeds) >= 16
    lab = recipe.laboratory
    ensembles = {name: r for name, r in lab.rewards.items() if r.members == 3}
    assert {r.combine for r in ensembles.values()} == {"mean", "worst", "variance", "weights"}
    for r in ensembles.values():
        alone = lab.rewards[r.against or lab.base]
        assert (r.labels, r.preferences, r.epochs, r.lr) == (alone.labels, alone.preferences, alone.epochs, alone.lr)
    heart = lab.rewards["learned-mean-of-3"]
    assert heart.starts == "other"
    firsts = {m.key for k in range(heart.replicates) for m in make.models_of(lab, "learned-mean-of-3", k)}
    assert len(firsts) == 9  # replicates share no member


def test_a_calibrated_pool_brings_its_own_noise_unless_flips_are_asked_for(tmp_path):
    from farm.stages.asking import flip_of, noise_of
    from farm.stages.common import Run

    path = tmp_path / "lab.yaml"
    path.write_text(
        HEAD + "annotate: {flip: 0.1}\nlaboratory:\n  rewards: {a: {}}\n  labels: {own: {pool: farm13_calibrated}, "
        "flips: {pool: farm13_calibrated, flip: 0.2}, single: {pool: single}}\n"
    )
    study = pipeline.load(path)
    runs = {n: labels._labelling(Run(tmp_path, study), study.laboratory, n) for n in ("", "own", "flips", "single")}
    assert {name: flip_of(run) for name, run in runs.items()} == {"": 0.1, "own": 0.0, "flips": 0.2, "single": 0.1}
    assert [name for name, run in runs.items() if noise_of(run)] == ["own"]


def test_transforms_are_left_to_policies(tmp_path):
    rewards = "  rewards: {a: {transform: clip}, b: {transform: quantile}, c: {length_penalty: 0.1}}\n"
    assert load(tmp_path, rewards).selecting == ["a", "c"]  # the base always has its curve


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("  rewards: {a: {preference: 100}}", "did you mean 'preferences'"),
        ("  rewards: {a: {against: b}}", "there is no 'b'"),
        ("  rewards: {a: {labels: loud}}", "there is no 'loud'"),
        ("  rewards: {a: {}}\n  ensemble: a", "disagreement needs two"),
        ("  rewards: {a: {}, b: {refresh: a}, c: {refresh: b}}", "cannot itself be refreshed"),
        ("  rewards: {a: {}}\n  labels: {x: {pool: humans, flip: 0.1}}", "bring their own noise"),
        ("  rewards: {a: {}}\n  labels: {x: {pool: gold, per_pair: 3}}", "gold says the same every time"),
        (
            "  rewards: {a: {}, b: {labels: x}}\n  labels: {x: {pool: gold}}\n  crossing: {population: a, single: b}",
            "gold labelled 'b'",
        ),
        ("  rewards: {a: {}}\n  policies: {p: {method: ppo, stepz: 3}}", "did you mean 'steps'"),
        ("  rewards: {a: {}}\n  policies: {p: {method: ppo, questions: x}}", "laboratory.policies.p"),
        ("  rewards: {a: {}}\n  gold: {pool: farm13, reward_model: x}", "one place"),
        ("  rewards: {a: {members: 2, combine: weights, starts: other}}", "cannot be averaged"),
        ("  rewards: {a: {members: 2, combine: weights, replicates: 2}}", "have no replicates"),
        ("  rewards: {a: {}, b: {refresh: a, replicates: 2}}", "have no replicates"),
    ],
)
def test_mistakes_are_named(tmp_path, section, words):
    with pytest.raises(RecipeError) as e:
        load(tmp_path, section)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("who", "words"),
    [("humans", r"labels\.p\.pool: simulated humans"), ("gold", r"labels\.p\.pool: nobody knows gold")],
)
def test_labels_of_people_and_of_gold_need_the_offline_world(tmp_path, who, words):
    from farm import laboratory

    path = tmp_path / "lab.yaml"
    data = "name: x\ndata: {path: x.json, eval_path: y.json, eval_set: mine}\n"
    path.write_text(data + f"laboratory:\n  labels: {{p: {{pool: {who}}}}}\n  rewards: {{a: {{labels: p}}}}\n")
    study = pipeline.load(path)
    with pytest.raises(RecipeError, match=words):
        laboratory.run(study, tmp_path / "run")


def sampled(tmp_path, texts, how, more=""):
    """Forty instructions with two responses each (``texts`` of an instruction), and a recipe that labels as ``how``."""
    from farm import records, runs
    from farm.records import Instruction, Pair
    from farm.stages.common import Run
    from farm.world.instructions import training

    asked: list[Instruction] = training()["preference"][:40]
    drawn = [[Response.make(i.id, t, "sft", k, n_tokens=9) for k, t in enumerate(texts(i))] for i in asked]
    folder = tmp_path / "2-sample"
    folder.mkdir()
    records.write(folder / "pairs.jsonl", [Pair.of(*two) for two in drawn])
    records.write(folder / "responses.jsonl", [r for two in drawn for r in two])
    (tmp_path / "data").mkdir()
    records.write(tmp_path / "data" / "preference.jsonl", asked)
    path = tmp_path / "lab.yaml"
    path.write_text(HEAD + f"laboratory:\n  labels: {{p: {how}}}\n  rewards: {{a: {{labels: p}}}}\n{more}")
    study = pipeline.load(path)
    made = {"sample": runs.Step(folder, "s", 0, 0, True), "data": runs.Step(tmp_path / "data", "d", 0, 0, True)}
    return asked, drawn, lambda: labels.labels(Run(tmp_path, study), 5, made, study.laboratory, "p")


def test_labels_by_simulated_people_are_their_votes_and_are_cached(tmp_path):
    from farm import records
    from farm.records import Pair
    from farm.world.raters import human_judgements

    asked, drawn, label = sampled(tmp_path, lambda i: (i.output, "no"), "{pool: humans, per_pair: 3}")
    step = label()
    votes = human_judgements(
        [Pair.of(*two) for two in drawn], records.by_id(asked), records.by_id([r for two in drawn for r in two]), 3, 5
    )
    rows = records.read(step.file("preferences.jsonl"), Preference)
    assert [p.pair_id for p in rows] == [Pair.of(*two).id for two in drawn]
    for row in rows:
        mine = [v.winner_id for v in votes if v.pair_id == row.pair_id]
        assert row.winner_id == max(set(mine), key=mine.count)
    wins = sum(p.winner_id == two[0].id for p, two in zip(rows, drawn, strict=True))
    assert wins > 30  # people prefer an answer to none
    assert not label().fresh


def test_labels_by_gold_are_its_order_with_ties_and_the_flips_asked_for(tmp_path):
    from farm import records
    from farm.world.gold import gold

    def texts(i):
        return i.output, ("No." if int(i.id[-1], 16) % 4 else i.output + " ")  # a quarter: the same words again

    asked, drawn, label = sampled(tmp_path, texts, "{pool: gold}")
    rows = records.read(label().file("preferences.jsonl"), Preference)
    assert all(p.origin == "gold" and not p.flipped for p in rows)
    for row, i, two in zip(rows, asked, drawn, strict=True):
        values = {r.id: gold(i, r.text) for r in two}
        if len(set(values.values())) == 1:
            assert row.winner_id is None
            assert row.probability == 0.5
        else:
            assert row.winner_id == max(values, key=lambda r: values[r])
    assert 5 < sum(p.winner_id is None for p in rows) < 20
    assert not label().fresh
    (tmp_path / "again").mkdir()
    *_, flipping = sampled(tmp_path / "again", texts, "{pool: gold, flip: 0.25}")
    turned = records.read(flipping().file("preferences.jsonl"), Preference)
    assert 2 < sum(p.flipped for p in turned) < 15  # of about 30 that have a winner
    for now, before in zip(turned, rows, strict=True):
        assert now.winner_id == (before.loser_id if now.flipped else before.winner_id)


def test_a_reward_is_trained_with_its_own_passes_and_rate_or_those_of_the_recipe(tmp_path, monkeypatch):
    from farm import runs
    from farm.reward import train
    from farm.stages.common import Run

    folder = tmp_path / "step"
    folder.mkdir()
    for name in ("preferences.jsonl", "responses.jsonl", "preference.jsonl"):
        (folder / name).write_text("")
    path = tmp_path / "lab.yaml"
    rewards = "{a: {}, b: {epochs: 4, lr: 0.5}}"
    path.write_text(HEAD + f"reward: {{optim: {{lr: 0.25, epochs: 2}}}}\nlaboratory: {{rewards: {rewards}}}\n")
    study = pipeline.load(path)
    step = runs.Step(folder, "s", 0, 0, True)
    monkeypatch.setattr(make, "_share", lambda preferences, model: preferences)
    seen = []
    monkeypatch.setattr(train, "train_reward", lambda *args, **named: seen.append(args[4].optim))
    a, b = make.all_models(study.laboratory)
    for model in (a, b):
        make.reward_model(Run(tmp_path, study), 0, {"sample": step, "data": step}, model, step, step)
    assert [(o.lr, o.epochs) for o in seen] == [(0.25, 2), (0.5, 4)]
    assert (a.key, b.key) == ("recipe-0+all-m0", "recipe-0+all-epochs=4-lr=0.5-m0")


def test_labels_by_a_gold_reward_model_follow_its_scores(tmp_path, monkeypatch):
    """Where a held-out reward model stands for gold, gold's labels are in the order of its scores."""
    from types import SimpleNamespace

    from farm import records
    from farm.reward import ensemble

    def shortest(instructions, responses):
        return [-float(len(r.text)) for r in responses]

    monkeypatch.setattr(ensemble, "load_reward", lambda model: SimpleNamespace(score=shortest))
    more = "  gold: {reward_model: somewhere/else}\n"
    _, drawn, label = sampled(tmp_path, lambda i: (i.output, "no"), "{pool: gold}", more)
    rows = records.read(label().file("preferences.jsonl"), Preference)
    assert [p.winner_id for p in rows] == [two[1].id for two in drawn]


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


def test_replicates_are_models_of_their_own_and_the_members_of_an_ensemble_of_the_same_kind(tmp_path):
    lab = load(
        tmp_path,
        "  rewards:\n    one: {preferences: 100, epochs: 4, replicates: 4}\n"
        "    two: {preferences: 100, epochs: 4, members: 2, replicates: 2}\n",
    )
    keys = [m.key for m in make.all_models(lab)]
    assert keys == [f"recipe-0+100-epochs=4-m{k}" for k in range(4)]
    assert [[m.key for m in make.models_of(lab, "two", k)] for k in (0, 1)] == [keys[:2], keys[2:]]


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


def test_a_policy_is_held_against_best_of_n_on_its_own_reward_model_not_on_the_mean_over_replicates(tmp_path):
    from farm.stages.common import Run
    from farm.stages.laboratory.bench import Bench, best_of_n, one_best_of_n
    from farm.stages.laboratory.conclude import _spending
    from farm.study.curves import kl_at_gain

    path = tmp_path / "lab.yaml"
    path.write_text(
        HEAD + "seeds: [0]\nlaboratory:\n  gains: [0.8]\n  rewards: {a: {preferences: 100}, "
        "b: {preferences: 60, replicates: 3}}\n  policies: {p: {method: ppo, reward: b}}\n"
    )
    study = pipeline.load(path)
    lab, pool, random = study.laboratory, samples(), np.random.default_rng(3)
    widths = {m.key: w for k, w in enumerate((2.0, 0.5, 0.5)) for m in make.models_of(lab, "b", k)}
    pool.scores.update({key: random.normal(0, w, pool.shape) for key, w in widths.items()})
    pool.scores[make.models_of(lab, "a")[0].key] = random.normal(0, 0.2, pool.shape)
    bench, pools = Bench(Run(tmp_path, study), lab, {0: {}}), {0: pool}
    mine, mean = [one_best_of_n(bench, 0, pool, "b")], best_of_n(bench, pools, "b")
    own, averaged = (kl_at_gain(c, 0.8, seed=0).together().value[0] for c in (mine, mean))
    assert own < averaged / 2  # the first replicate spreads more, so best-of-n on it gains sooner
    found = _spending(bench, pools, {"p": mine})
    assert [s.first_kl.value for s in found] == [pytest.approx(own)]
    assert [s.difference.value for s in found] == [pytest.approx(0)]


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
