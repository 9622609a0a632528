"""The fit of a population: parts against other implementations and known truths, the whole in the offline world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from crowds import crowd

from farm.annotate.calibrated import ActNoise, PoolNoise, chances
from farm.errors import DataError
from farm.records import Judgement, Outcome
from farm.study import calibration, held_out
from farm.study.calibration import Calibration, evidence_of, fit, logistic, sigmoid
from farm.study.calibration_data import assemble, halves

RNG = np.random.default_rng(11)


def data(n: int = 120, seed: int = 0, **more):
    judges, people = crowd(n, seed, **more)
    return assemble(judges.judgements, people.judgements, judges.responses)


# -- parts ------------------------------------------------------------------------------------------------------------


def test_logistic_matches_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y, w = RNG.normal(size=(300, 4)), RNG.random(300) < 0.6, RNG.random(300) + 0.5
    theirs = linear_model.LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-10, max_iter=1000)
    theirs.fit(x, y, sample_weight=w)
    ours = logistic(x, y.astype(float), w, np.zeros(4), np.full(4, 0.7))
    assert ours == pytest.approx(theirs.coef_[0], abs=1e-5)


def test_half_votes_and_prior_mean():
    x = np.ones((50, 1))
    assert logistic(x, np.full(50, 0.5), np.ones(50), np.zeros(1), np.full(1, 1.0)) == pytest.approx([0.0])
    # without data the prior is all there is; offsets are subtracted from what the data say
    assert logistic(x, np.full(50, 0.5), np.zeros(50), np.array([2.0]), np.ones(1)) == pytest.approx([2.0])
    strong = logistic(x, np.full(50, 0.5), np.full(50, 1e6), np.zeros(1), np.ones(1), np.full(50, 1.5))
    assert strong == pytest.approx([-1.5], abs=1e-4)


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.7])
def test_shared_luck_is_recovered(truth):
    from scipy.special import ndtr

    n, votes = 2000, 4
    item = np.repeat(np.arange(n), votes)
    p = sigmoid(RNG.normal(size=n))[item]
    luck = ndtr(np.sqrt(truth) * RNG.normal(size=n)[item] + np.sqrt(1 - truth) * RNG.normal(size=n * votes))
    some = replace(data(), pairs=tuple(map(str, range(n))), vote_item=item, vote=(luck < p).astype(float))
    assert calibration.shared_luck(some, p) == pytest.approx(truth, abs=0.06)


def test_spread_between_people_is_recovered():
    people, each = 200, 40
    person = np.repeat(np.arange(people), each)
    x, odds = RNG.choice([-1.0, 1.0], people * each), RNG.normal(size=people * each)
    for truth in (0.0, 0.8):
        slope = truth * RNG.normal(size=people)
        y = (RNG.random(len(x)) < sigmoid(odds + slope[person] * x)).astype(float)
        assert calibration.spread_between(person, x, y, odds) == pytest.approx(truth, abs=0.12)
    assert calibration.spread_between(person[:3], x[:3], y[:3], odds[:3]) == 0  # too few people to differ


def test_arrays_and_records_give_the_same_chances():
    """The fit's arrays and the labelling stage's plain code are two implementations of one formula."""
    judges, people = crowd(60, 3, reveal=True)
    d = assemble(judges.judgements, people.judgements, judges.responses)
    weights = RNG.normal(size=(len(d.names), 5))
    noise = {
        name: ActNoise(**dict(zip(calibration.READING, w, strict=True)), first=0.3, longer=-0.4)
        for name, w in zip(d.names, weights, strict=True)
    }
    pool = PoolNoise(dependence=0.3, fading=0.1)
    evidence = dict(zip(d.pairs, evidence_of(d, weights, pool.dependence, pool.fading), strict=True))
    number = {p: k for k, p in enumerate(d.pairs)}
    checked = 0
    for pair in (p for p in judges.pairs if p.id in evidence):
        acts = [j for j in judges.judgements if j.pair_id == pair.id]
        texts = judges.responses[pair.a].text, judges.responses[pair.b].text
        for act, p in zip(acts, chances(acts, pair, texts, noise, pool), strict=True):
            order = 1 if act.shown[0] == pair.a else -1
            odds = evidence[pair.id] + 0.3 * order - 0.4 * d.length[number[pair.id]]
            assert p == pytest.approx(float(sigmoid(np.array(odds))))
            checked += 1
    assert checked > 500


def test_halves_split_instructions():
    d = data()
    one, other = halves(d, 0)
    assert not (one & other).any()
    assert (one | other).all()
    assert not set(d.cluster[one]) & set(d.cluster[other])
    assert abs(int(one.sum()) - int(other.sum())) <= 1
    assert (halves(d, 0)[0] == one).all()
    assert (halves(d, 1)[0] != one).any()


# -- the whole --------------------------------------------------------------------------------------------------------


def test_fit_is_a_function_of_the_data():
    judges, people = crowd(120, 0)
    forward = fit(assemble(judges.judgements, people.judgements, judges.responses))
    backward = fit(assemble(judges.judgements[::-1], people.judgements[::-1], judges.responses))
    assert forward.pool.dependence == pytest.approx(backward.pool.dependence, abs=0.002)
    for name, noise in forward.annotators.items():
        assert noise.model_dump() == pytest.approx(backward.annotators[name].model_dump(), abs=0.01)


def test_the_calibrated_population_beats_uniform_flips_in_the_offline_world():
    study = held_out.study(data(500, 0), seed=0)
    for name in ("log loss, one act", "log loss, all acts", "calibration error", "distance of vote splits"):
        gain = study.held_out.score(name).gain
        assert gain.ci95_low > 0, (name, gain)
    variance = study.held_out.score("variance")
    assert abs(variance.calibrated.value - variance.people.value) < abs(variance.uniform.value - variance.people.value)
    assert study.held_out.n_votes == 4 * study.held_out.n_pairs
    table = study.held_out.splits
    assert sum(s.people for s in table) == pytest.approx(sum(s.calibrated for s in table), abs=0.01)


def test_soft_preferences_say_more_than_verdicts():
    hard, soft = (held_out.study(data(300, 1, reveal=r), seed=0).held_out for r in (False, True))
    name = "log loss, one act"
    assert soft.score(name).calibrated.value < hard.score(name).calibrated.value - 0.02


def test_a_judge_that_knows_nothing_gets_a_small_weight():
    judges, people = crowd(200, 2)
    coin = [
        j.model_copy(update={"annotator": "coin", "winner_id": j.shown[k % 2]})
        for k, j in enumerate(judges.judgements)
        if j.annotator == "a01" and j.outcome is Outcome.DECIDED
    ]
    good = [j for j in judges.judgements if j.annotator in ("a01", "a03")]
    fitted = fit(assemble(good + coin, people.judgements, judges.responses))
    assert fitted.annotators["coin"].verdict < 0.5 * fitted.annotators["a01"].verdict


def test_pool_annotators_without_a_fit_get_the_common_weights():
    fitted = fit(data())
    got = calibration.for_pool(fitted, ["a01", "new", "newer"])
    assert got["a01"].verdict == fitted.annotators["a01"].verdict
    assert got["new"].verdict == got["newer"].verdict == fitted.common.verdict
    assert sum(n.longer for n in got.values()) == pytest.approx(0, abs=1e-3)


# -- what cannot be estimated -----------------------------------------------------------------------------------------


def some(judgements: list[Judgement], n: int) -> list[Judgement]:
    keep = sorted({j.pair_id for j in judgements})[:n]
    return [j for j in judgements if j.pair_id in keep]


def test_too_little_data_is_refused():
    judges, people = crowd(120, 0)
    with pytest.raises(DataError, match="no pair with verdicts in common"):
        assemble(judges.judgements, [], judges.responses)
    with pytest.raises(DataError, match="at least 10"):
        held_out.study(assemble(some(judges.judgements, 12), people.judgements, judges.responses), seed=0)
    with pytest.raises(DataError, match="no half to report on"):
        held_out.study(assemble(some(judges.judgements, 1), people.judgements, judges.responses), seed=0)
    with pytest.raises(DataError, match="not among those given"):
        assemble(judges.judgements, people.judgements, {})


def test_one_vote_per_pair_and_one_sided_votes_stay_finite():
    judges, people = crowd(120, 0, votes=1)
    got = held_out.study(assemble(judges.judgements, people.judgements, judges.responses), seed=0)
    assert got.held_out.score("variance").gain.value is None
    assert got.held_out.score("distance of vote splits").gain.value is None
    assert got.calibration.pool.shared == 0
    first = [j.model_copy(update={"winner_id": j.shown[0]}) for j in people.judgements if j.winner_id]
    one_class = held_out.study(assemble(judges.judgements, first, judges.responses), seed=0)
    assert isinstance(one_class.calibration, Calibration)
    assert 1 < one_class.calibration.common.first < 10
