"""Labels of a calibrated pool: draws with the chances of the formula, and the folder they are kept in."""

from __future__ import annotations

import pytest

from farm import resources
from farm.annotate import noise
from farm.annotate.calibrated import ActNoise, PoolNoise, chances, labels, write_pool
from farm.annotate.pool import load_pool
from farm.errors import AnnotatorError, DataError
from farm.records import Judgement, Outcome, Pair, Response

TEXTS = ("a rather long answer to the question", "short")


def pair(k: int) -> tuple[Pair, tuple[str, str]]:
    two = [Response.make("i", f"{t} {k}", "x", n_tokens=1) for t in TEXTS]
    p = Pair.of(*two)
    by_id = {r.id: r.text for r in two}
    return p, (by_id[p.a], by_id[p.b])


def act(p: Pair, who: str, winner: str | None, *, first: str | None = None, **more: object) -> Judgement:
    first = first or p.a
    return Judgement(
        pair_id=p.id, instruction_id="i", annotator=who, shown=(first, p.b if first == p.a else p.a),
        outcome=more.pop("outcome", Outcome.DECIDED if winner else Outcome.TIE), winner_id=winner, **more,
    )  # fmt: skip


NOISE = {"j": ActNoise(verdict=1.0, first=0.2), "k": ActNoise(verdict=1.0, position=-0.3, confidence=0.5)}


def test_chances_by_hand():
    p, texts = pair(0)
    acts = [act(p, "j", p.a), act(p, "k", p.b, first=p.b, probability=0.1), act(p, "j", None, outcome=Outcome.REFUSED)]
    pool = PoolNoise(dependence=0.5)
    k = -1.0 + 0.5 * -2.1972 + 0.3  # verdict b, log-odds of 0.1, shown b first
    evidence = (1.0 + k) / 1.5
    got = chances(acts, p, texts, NOISE, pool)
    assert got[0] == pytest.approx(1 / (1 + 2.71828 ** -(evidence + 0.2)), abs=1e-4)
    assert got[1] == pytest.approx(1 / (1 + 2.71828**-evidence), abs=1e-4)
    assert got[2] is None
    assert chances(acts[:1], p, texts, NOISE, pool)[0] == pytest.approx(1 / (1 + 2.71828**-1.2), abs=1e-4)


def test_looks_count_once_however_many_acts():
    p, texts = pair(0)
    looks = {"j": ActNoise(length=2.0)}
    one, two = (chances([act(p, "j", p.a)] * m, p, texts, looks, PoolNoise())[0] for m in (1, 2))
    assert one == two
    faded = chances([act(p, "j", p.a)] * 2, p, texts, looks, PoolNoise(fading=1.0))[0]
    assert abs(faded - 0.5) < abs(one - 0.5)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_labels_have_the_chances_of_the_formula_and_share_their_luck(shared):
    acts_noise = {w: ActNoise(verdict=1.0) for w in ("j", "k")}
    pool, n = PoolNoise(dependence=1.0, shared=shared), 3000
    won, same = 0, 0
    for k in range(n):
        p, texts = pair(k)
        first, second = labels([act(p, "j", p.a), act(p, "k", p.a)], p, texts, acts_noise, pool, seed=1)
        won += (first == 1) + (second == 1)
        same += first == second
    chance = 1 / (1 + 2.71828**-1)
    assert won / (2 * n) == pytest.approx(chance, abs=0.02)  # whatever is shared
    independent = chance**2 + (1 - chance) ** 2
    assert (same / n - independent > 0.15) is (shared > 0)


def test_labels_do_not_depend_on_other_pairs_or_order_of_acts():
    p, texts = pair(0)
    acts = [act(p, "j", p.a), act(p, "k", p.b)]
    forward = labels(acts, p, texts, NOISE, PoolNoise(shared=0.5), seed=3)
    assert labels(acts[::-1], p, texts, NOISE, PoolNoise(shared=0.5), seed=3)[::-1] == forward
    assert any(labels(acts, p, texts, NOISE, PoolNoise(shared=0.5), seed=s) != forward for s in range(20))


def test_no_verdict_no_label():
    p, _ = pair(0)
    acts = [act(p, "j", None, outcome=Outcome.IDENTICAL), act(p, "j", None, outcome=Outcome.FAILED)]
    assert labels(acts, p, ("same", "same"), NOISE, PoolNoise(), seed=0) == [0, None]


def test_an_annotator_without_noise_is_named():
    p, texts = pair(0)
    with pytest.raises(DataError, match="annotator z has no calibrated noise"):
        chances([act(p, "z", p.a)], p, texts, NOISE, PoolNoise())


def test_a_written_pool_is_loaded_and_used(tmp_path):
    base = load_pool("farm13")
    fitted = {a.id: ActNoise(verdict=0.5 + k, longer=-0.25) for k, a in enumerate(base.annotators)}
    pool = PoolNoise(dependence=0.25, fading=0.125, shared=0.5)
    write_pool(resources.find("annotators", "farm13"), tmp_path / "mine", fitted, pool, "mine", "from a test")
    got = load_pool(tmp_path / "mine")
    assert got.noise == pool
    assert {a.id: a.noise for a in got.annotators} == fitted
    models = {"strong": "m", "medium": "m", "completion": "m"}
    before, after = ([a.fingerprint(models[a.role]) for a in p.annotators] for p in (base, got))
    assert before == after  # calibration changes no answer, so none is asked again
    with pytest.raises(AnnotatorError, match="exists already"):
        write_pool(base.folder, tmp_path / "mine", fitted, pool, "mine", "")


def test_settling_with_a_calibrated_pool_draws_these_labels():
    pairs = [pair(k)[0] for k in range(50)]
    responses = {r.id: r for k in range(50) for r in (Response.make("i", f"{t} {k}", "x", n_tokens=1) for t in TEXTS)}
    acts = [act(p, "j", p.a) for p in pairs]
    fitted = noise.Calibration({"j": ActNoise(verdict=0.5)}, PoolNoise())
    got = noise.settle(acts, pairs, seed=2, calibration=fitted, responses=responses)
    for p, preference in zip(pairs, got, strict=True):
        texts = responses[p.a].text, responses[p.b].text
        (label,) = labels([j for j in acts if j.pair_id == p.id], p, texts, fitted.annotators, fitted.pool, 2)
        assert preference.winner_id == (p.a if label == 1 else p.b)
    assert {p.flipped for p in got} == {True, False}
