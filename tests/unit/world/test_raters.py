"""Humans and annotators: calibration against the published figures, and what they can and cannot see."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean

import pytest

from farm.errors import AnnotatorError, DataError
from farm.records import Instruction, Outcome, Pair, Response, by_id
from farm.world import grammar, instructions, raters, writers
from farm.world.features import features
from farm.world.gold import gold
from farm.world.raters import ANNOTATOR_IDS, Rater, Taste, annotator, human_judgements, humans
from farm.world.writers import DEMONSTRATION_SKILL


class World:
    """Pairs of demonstrations at random skill, a stand-in for samples of an SFT policy; four human votes each."""

    def __init__(self, n: int) -> None:
        rows = instructions.training()["preference"][:n]
        self.instructions = by_id(rows)
        self.responses: dict[str, Response] = {}
        self.pairs: list[Pair] = []
        for i in rows:
            two = [self._draw(i, k) for k in range(2)]
            if two[0].text != two[1].text:
                self.pairs.append(Pair.of(*two))
                self.responses |= {r.id: r for r in two}
        self.votes: dict[str, list[bool]] = defaultdict(list)
        self.first: list[bool] = []
        self.judgements = human_judgements(self.pairs, self.instructions, self.responses, 4, 0)
        a = {p.id: p.a for p in self.pairs}
        for j in self.judgements:
            self.votes[j.pair_id].append(j.winner_id == a[j.pair_id])
            self.first.append(j.winner_id == j.shown[0])

    @staticmethod
    def _draw(i: Instruction, k: int) -> Response:
        skill = DEMONSTRATION_SKILL * raters.uniform(0, "test-skill", i.id, k)
        text = writers.write(i, skill, k, "test-pairs")
        return Response.make(i.id, text, "mixture", k, n_tokens=len(grammar.words(text)))


@pytest.fixture(scope="module")
def world() -> World:
    return World(3000)


def _features(world: World, pair: Pair) -> list:
    text = world.instructions[pair.instruction_id].full_text
    return [features(text, world.responses[r].text) for r in (pair.a, pair.b)]


def _majority(votes: list[bool]) -> float:
    """1 or 0, or 0.5 at a tie."""
    share = mean(votes)
    return 0.5 if share == 0.5 else float(share > 0.5)


def test_humans_match_the_published_figures(world: World) -> None:
    agree, longer, lists = [], [], []
    for pair in world.pairs:
        votes = world.votes[pair.id]
        agree += [1 - abs(v - _majority(votes[:k] + votes[k + 1 :])) for k, v in enumerate(votes)]
        a, b = _features(world, pair)
        len_a, len_b = (len(world.responses[r].text) for r in (pair.a, pair.b))
        if len_a != len_b:
            longer += [v == (len_a > len_b) for v in votes]
        if (a.bullets >= 2) != (b.bullets >= 2):
            lists += [v == (a.bullets >= 2) for v in votes]
    # The population is calibrated on samples of a trained policy. Demonstrations differ more from each other, so that
    # people agree more often here: published 0.66 (error 0.35), 0.64, 0.60 and 0.52.
    for share, published, here in ((agree, 0.66, 0.69), (longer, 0.64, 0.675), (lists, 0.60, 0.62)):
        assert mean(share) == pytest.approx(published, abs=0.04)
        assert mean(share) == pytest.approx(here, abs=0.01)
    assert 1 - mean(agree) == pytest.approx(0.35, abs=0.05)
    assert mean(world.first) == pytest.approx(0.52, abs=0.01)


def test_the_pool_agrees_with_people_about_as_published(world: World) -> None:
    agree, right = [], []
    for n, pair in enumerate(world.pairs):
        a, b = _features(world, pair)
        rater = annotator(ANNOTATOR_IDS[n % 13])
        p = (rater.prefers_first(a, b) + 1 - rater.prefers_first(b, a)) / 2
        majority = _majority(world.votes[pair.id])
        agree.append(p * majority + (1 - p) * (1 - majority))
        i = world.instructions[pair.instruction_id]
        gap = gold(i, world.responses[pair.a].text) - gold(i, world.responses[pair.b].text)
        if abs(gap) > 0.3:
            right.append(p if gap > 0 else 1 - p)
    # around 0.63 on samples of a trained policy (published 0.58 to 0.65), more on demonstrations
    assert mean(agree) == pytest.approx(0.63, abs=0.05)
    assert mean(agree) == pytest.approx(0.674, abs=0.01)
    assert mean(right) > 0.72, "on ordinary texts the pool must prefer what is clearly better"


def test_the_pool_overlooks_what_the_policy_will_exploit_but_not_degenerate_text() -> None:
    text = "Name three fruits for a child."
    good = features(text, "Sure! Apple, pear and plum are good for a child.")
    mannered = features(
        text,
        "Certainly! Apple, pear and plum are truly fruits. "
        "This is definitely right. Thanks for asking! I hope this helps!",
    )
    broken = features(text, "Certainly! " + "apple pear plum " * 12)
    empty = features(text, "")
    for name in ANNOTATOR_IDS:
        assert annotator(name).prefers_first(mannered, good) > 0.5
        assert annotator(name).prefers_first(broken, good) < 0.3
        assert annotator(name).prefers_first(empty, good) < 0.3
    assert mean(p.prefers_first(mannered, good) for p in humans()) < 0.35


def test_without_bias_a_rater_is_gold() -> None:
    impartial = Rater("gold", Taste(), 1.0)
    for i in instructions.training()["val"][:300]:
        assert impartial.utility(features(i.full_text, i.output)) == pytest.approx(gold(i, i.output))


def test_thirteen_entities_three_tiers_two_personas() -> None:
    pool = [annotator(name) for name in ANNOTATOR_IDS]
    assert [r.tier for r in pool] == ["strong"] * 5 + ["medium"] * 4 + ["completion"] * 4
    assert sum(r.note.startswith("persona") for r in pool) == 2
    assert len({r.taste for r in pool}) == 13
    assert annotator("a05").position_bias == max(r.position_bias for r in pool)
    with pytest.raises(AnnotatorError, match="a13"):
        annotator("a14")


def test_human_votes_are_keyed_per_pair(world: World) -> None:
    some = world.pairs[:50]
    again = human_judgements(some[::-1], world.instructions, world.responses, 4, 0)
    assert {j.id: j for j in again} == {j.id: j for j in world.judgements[:200]}
    other = human_judgements(some, world.instructions, world.responses, 4, 1)
    assert [j.winner_id for j in other] != [j.winner_id for j in world.judgements[:200]]
    assert all(len({j.annotator for j in world.judgements[4 * k : 4 * k + 4]}) == 4 for k in range(50))


def test_identical_texts_and_bad_input() -> None:
    i = instructions.training()["val"][0]
    two = [Response.make(i.id, "Apple.", policy, n_tokens=2) for policy in ("x", "y")]
    pair, responses = Pair.of(*two), by_id(two)
    (judgement,) = human_judgements([pair], {i.id: i}, responses, 1, 0)
    assert judgement.outcome is Outcome.IDENTICAL
    assert judgement.winner_id is None
    with pytest.raises(DataError, match="votes"):
        human_judgements([pair], {i.id: i}, responses, 61, 0)
    with pytest.raises(DataError, match=pair.id):
        human_judgements([pair], {}, responses, 1, 0)


def test_real_text_is_judged_by_answer_relevance_and_sanity() -> None:
    question = "Explain why the sky looks blue during the day."
    answer = "The sky looks blue because air molecules scatter short blue wavelengths of sunlight more than red ones."
    candidates = {
        "good": "Sunlight is scattered by air molecules, blue wavelengths more than red, so the sky looks blue.",
        "vague": "The sky is a nice thing to look at during the day.",
        "wrong": "To bake bread, mix flour with water and wait an hour.",
        "loop": "blue sky blue sky " * 40,
        "empty": "",
    }
    for known in (answer, None):
        utility = {k: annotator("a01").utility(features(question, t, known)) for k, t in candidates.items()}
        assert utility["good"] > utility["wrong"] > utility["loop"]
        assert utility["vague"] > utility["empty"]
    assert features(question, answer, answer).coverage == 1.0
