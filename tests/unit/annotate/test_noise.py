from __future__ import annotations

from collections.abc import Callable

import pytest
from judge_corpus import Corpus, bare_pairs

from farm.annotate.calibrated import ActNoise, PoolNoise
from farm.annotate.noise import Calibration, overwritten, settle
from farm.errors import DataError
from farm.records import Judgement, Outcome, Pair, Response

PAIRS = bare_pairs(4000)


def act(pair: Pair, winner: str | None, annotator: str = "a01", outcome: Outcome | None = None) -> Judgement:
    outcome = outcome or (Outcome.DECIDED if winner else Outcome.UNPARSEABLE)
    return Judgement(
        pair_id=pair.id,
        instruction_id=pair.instruction_id,
        annotator=annotator,
        shown=(pair.a, pair.b),
        outcome=outcome,
        winner_id=winner,
    )


def test_without_noise_a_label_is_the_vote() -> None:
    preferences = settle([act(p, p.b) for p in PAIRS[:9]], PAIRS[:9], seed=1)
    assert [p.winner_id for p in preferences] == [p.b for p in PAIRS[:9]]
    assert not any(p.flipped for p in preferences)


def test_a_quarter_of_labels_is_flipped_and_marked() -> None:
    preferences = settle([act(p, p.a) for p in PAIRS], PAIRS, flip=0.25, seed=1)
    wrong = [p.winner_id != pair.a for p, pair in zip(preferences, PAIRS, strict=True)]
    assert sum(wrong) / len(PAIRS) == pytest.approx(0.25, abs=0.025)
    assert [p.flipped for p in preferences] == wrong


def test_half_of_the_acts_are_overwritten() -> None:
    skip = overwritten(0.25, seed=1)
    assert sum(skip(p.id, "a01") for p in PAIRS) / len(PAIRS) == pytest.approx(0.5, abs=0.03)
    assert not any(overwritten(0.0, seed=1)(p.id, "a01") for p in PAIRS)


def test_noise_is_keyed_by_pair_annotator_and_seed() -> None:
    base = settle([act(p, p.a) for p in PAIRS[:300]], PAIRS[:300], flip=0.25, seed=1)
    shuffled = settle([act(p, p.a) for p in reversed(PAIRS[:300])], PAIRS[100:300] + PAIRS[:100], flip=0.25, seed=1)
    assert {p.pair_id: p.winner_id for p in base} == {p.pair_id: p.winner_id for p in shuffled}
    assert base != settle([act(p, p.a) for p in PAIRS[:300]], PAIRS[:300], flip=0.25, seed=2)
    other = settle([act(p, p.a, "a02") for p in PAIRS[:300]], PAIRS[:300], flip=0.25, seed=1)
    assert [p.winner_id for p in base] != [p.winner_id for p in other]


def test_skipped_acts_get_the_label_they_would_have_got() -> None:
    skip = overwritten(0.25, seed=3)
    asked = settle([act(p, p.a) for p in PAIRS], PAIRS, flip=0.25, seed=3)
    spared = settle(
        [act(p, None, outcome=Outcome.SKIPPED) if skip(p.id, "a01") else act(p, p.a) for p in PAIRS],
        PAIRS,
        flip=0.25,
        seed=3,
    )
    assert [(p.pair_id, p.winner_id) for p in asked] == [(p.pair_id, p.winner_id) for p in spared]


def test_failures_are_not_labels() -> None:
    a, b, c = PAIRS[:3]
    outcomes = [o for o in Outcome if o not in (Outcome.DECIDED, Outcome.TIE, Outcome.IDENTICAL)]
    acts = [act(a, None, f"a{i:02d}", o) for i, o in enumerate(outcomes)] + [
        act(b, b.b),
        act(c, None, outcome=Outcome.TIE),
    ]
    preferences = settle(acts, [a, b, c], seed=1)
    assert [(p.pair_id, p.winner_id, p.probability) for p in preferences] == [(b.id, b.b, 1.0), (c.id, None, 0.5)]


def test_votes_of_several_annotators() -> None:
    a, b, c = PAIRS[:3]
    acts = [act(a, a.a, "x"), act(a, a.b, "y"), act(a, a.b, "z")]
    acts += [act(b, b.a, "x"), act(b, b.b, "y")]
    acts += [act(c, c.a, "x"), act(c, None, "y")]
    first, second, third = settle(acts, [a, b, c], seed=1)
    assert (first.winner_id, len(first.judgements)) == (a.b, 3)
    assert (second.winner_id, second.probability) == (None, 0.5)
    assert (third.winner_id, len(third.judgements)) == (c.a, 1)


def test_strengths_of_people_become_the_preferences() -> None:
    a, b, c, d = PAIRS[:4]

    def said(pair: Pair, winner: str | None, who: str, strength: float | None) -> Judgement:
        outcome = Outcome.DECIDED if winner else Outcome.TIE
        return act(pair, winner, who, outcome).model_copy(update={"strength": strength})

    acts = [said(a, a.a, "x", 3), said(a, a.a, "y", None), said(a, a.b, "z", 1)]  # nobody said: 2, clearly
    acts += [said(b, b.b, "x", 1), said(b, b.b, "y", 2), said(b, b.a, "z", 3)]
    acts += [said(c, c.a, "x", 3), said(c, c.b, "y", 1)]
    acts += [said(d, d.a, "x", None), said(d, None, "y", None)]
    found = settle(acts, [a, b, c, d], seed=1)
    assert [p.winner_id for p in found] == [a.a, b.b, None, d.a]
    assert [p.strength for p in found] == [pytest.approx(4 / 3), 0.0, None, None]


def test_identical_texts_stay_a_tie_under_noise() -> None:
    acts = [act(p, None, outcome=Outcome.IDENTICAL) for p in PAIRS[:200]]
    assert {p.winner_id for p in settle(acts, PAIRS[:200], flip=0.5, seed=1)} == {None}


def test_engine_and_noise_agree_on_what_is_skipped(small: Corpus, judge_all: Callable[..., list[Judgement]]) -> None:
    skip = overwritten(0.25, seed=1)
    asked = settle(judge_all(small), small.pairs, flip=0.25, seed=1)
    spared_acts = judge_all(small, skip=skip)
    spared = settle(spared_acts, small.pairs, flip=0.25, seed=1)
    assert sum(j.outcome is Outcome.SKIPPED for j in spared_acts) > 150
    # Prompts of several pairs are packed otherwise when pairs are left out, so a few asked labels may differ.
    noisy = {
        p.pair_id for p in asked if any(skip(p.pair_id, j.annotator) for j in spared_acts if j.pair_id == p.pair_id)
    }
    assert {p.pair_id: p.winner_id for p in asked if p.pair_id in noisy} == {
        p.pair_id: p.winner_id for p in spared if p.pair_id in noisy
    }


@pytest.mark.parametrize("flip", [-0.1, 0.51, float("nan")])
def test_bad_rates(flip: float) -> None:
    with pytest.raises(DataError, match="flip"):
        settle([], [], flip=flip, seed=1)


def test_a_judgement_of_another_pair_is_refused() -> None:
    with pytest.raises(DataError, match="not among the pairs"):
        settle([act(PAIRS[0], PAIRS[0].a)], PAIRS[1:2], seed=1)


def with_p(judgement: Judgement, p: float, mass: float | None = 0.9) -> Judgement:
    return judgement.model_copy(update={"probability": p, "mass": mass})


def test_soft_labels_are_the_judges_probabilities() -> None:
    a, b, c, d = PAIRS[:4]
    acts = [
        with_p(act(a, a.b), 0.2),  # probability is that of the smaller id, a.a
        with_p(act(b, b.a, "x"), 0.9), act(b, b.b, "y"),  # 0.9 and 0 for b.a
        with_p(act(c, c.a), 0.7, mass=0.3),  # too little mass to believe the ratio
        act(d, None, outcome=Outcome.TIE),
    ]  # fmt: skip
    first, second, third, fourth = settle(acts, [a, b, c, d], seed=1, soft=True)
    assert (first.winner_id, first.probability) == (a.b, pytest.approx(0.8))
    assert (second.winner_id, second.probability) == (b.b, pytest.approx(0.55))
    assert (third.winner_id, third.probability) == (c.a, 1.0)
    assert (fourth.winner_id, fourth.probability) == (None, 0.5)
    assert [p.probability for p in settle(acts, [a, b, c, d], seed=1)] == [1.0, 0.5, 1.0, 0.5]


def test_noise_overwrites_soft_labels_like_hard_ones() -> None:
    acts = [with_p(act(p, p.a), 0.9) for p in PAIRS[:500]]
    hard = settle(acts, PAIRS[:500], flip=0.25, seed=1)
    soft = settle(acts, PAIRS[:500], flip=0.25, seed=1, soft=True)
    assert [p.winner_id for p in hard] == [p.winner_id for p in soft]
    assert sorted({round(p.probability, 6) for p in soft}) == [0.9, 1.0]


CALIBRATION = Calibration({"a01": ActNoise(verdict=0.5, length=4.0)}, PoolNoise())
BOTH = {
    r: Response(id=r, instruction_id=p.instruction_id, text="long " * 9 if k % 2 else "x", policy="p", n_tokens=1)
    for p in PAIRS[:300]
    for k, r in enumerate((p.a, p.b))
}


def test_a_calibrated_pool_draws_labels_by_what_it_knows_of_the_pair() -> None:
    acts = [act(p, p.a) for p in PAIRS[:300]]
    found = settle(acts, PAIRS[:300], seed=1, calibration=CALIBRATION, responses=BOTH)
    longer = sum(p.winner_id == pair.b for p, pair in zip(found, PAIRS[:300], strict=True))
    assert longer > 250  # the fitted taste for length beats the verdicts
    assert sum(p.flipped for p in found) == longer
    expected = settle(acts, PAIRS[:300], seed=1, calibration=CALIBRATION, responses=BOTH, soft=True)
    assert {p.winner_id for p in expected} == {p.b for p in PAIRS[:300]}
    assert longer / 300 == pytest.approx(expected[0].probability, abs=0.05)


def test_calibrated_labels_depend_on_their_own_pair_only() -> None:
    acts = [act(p, p.a) for p in PAIRS[:40]]
    everything = settle(acts, PAIRS[:40], seed=1, calibration=CALIBRATION, responses=BOTH)
    some = settle(acts[10:20], PAIRS[10:20], seed=1, calibration=CALIBRATION, responses=BOTH)
    assert everything[10:20] == some


def test_calibrated_noise_excludes_flips_and_needs_the_texts() -> None:
    for wrong in ({"flip": 0.25, "responses": BOTH}, {"responses": None}):
        with pytest.raises(DataError, match="brings its own noise"):
            settle([], [], seed=1, calibration=CALIBRATION, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="which is not given"):
        settle([act(PAIRS[400], PAIRS[400].a)], PAIRS[400:401], seed=1, calibration=CALIBRATION, responses=BOTH)
    stranger = [act(PAIRS[0], PAIRS[0].a, "a02")]
    with pytest.raises(DataError, match="no calibrated noise"):
        settle(stranger, PAIRS[:1], seed=1, calibration=CALIBRATION, responses=BOTH)


def test_both_orders_are_asked_once_each(small: Corpus, judge_all: Callable[..., list[Judgement]]) -> None:
    there = judge_all(small)
    back = judge_all(small, draw=1, reverse=True)
    assert [j.shown for j in back] == [j.shown[::-1] for j in there]
    assert [(j.pair_id, j.annotator) for j in back] == [(j.pair_id, j.annotator) for j in there]
    assert len({j.id for j in [*there, *back]}) == len(there) + len(back)
    same = sum(a.winner_id == b.winner_id for a, b in zip(there, back, strict=True) if a.winner_id and b.winner_id)
    assert same > 0.6 * len(there)
