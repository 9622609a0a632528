"""What the admin page says: agreement as counted by hand, disputes, and figures at every stage of a study."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from studies import POLICIES, POOL, label_all, opened

from farm.records import Judgement, Outcome
from farm.study import labelling


def act(pair: str, who: str, said: str) -> Judgement:
    winner = None if said == "tie" else f"{said}{pair}"
    outcome = Outcome.TIE if winner is None else Outcome.DECIDED
    shown = (f"a{pair}", f"b{pair}")
    return Judgement(
        pair_id=pair, instruction_id=f"i{pair}", annotator=who, shown=shown, outcome=outcome, winner_id=winner
    )


def test_raw_agreement_is_the_share_of_equal_pairs_of_labels():
    said = {"1": "aaa", "2": "aab", "3": "abt", "4": "a", "5": "bb"}
    names = {"a": "a", "b": "b", "t": "tie"}
    votes = [act(p, f"h{k}", names[c]) for p, row in said.items() for k, c in enumerate(row)]
    by_hand = [np.mean([x == y for x, y in itertools.combinations(row, 2)]) for row in said.values() if len(row) > 1]
    found = labelling.raw_agreement(votes, seed=0)
    assert found.value == pytest.approx(np.mean(by_hand))
    assert found.n == 4
    assert found.ci95_low < found.value < found.ci95_high


def test_no_labels_give_no_numbers(store):
    found = labelling.figures(store)
    assert (found["done"], found["total"], found["rows"], found["disputes"], found["rates"]) == (0, 87, [], [], [])
    assert found["raw"].value is None
    assert found["alpha"].value is None


@pytest.fixture
def store(tmp_path):
    made = opened(tmp_path / "s", known=2, repeats=3, seed=3)
    yield made
    made.close()


def test_figures_of_a_whole_study(store):
    likes = {"ann": POLICIES[0], "bob": POLICIES[0], "cat": POLICIES[1]}
    for name, policy in likes.items():
        label_all(
            store,
            name,
            lambda task, left, right, policy=policy: (
                "tie" if task.pair_id in store.answers() else "first" if left.policy == policy else "second"
            ),
        )
    found = labelling.figures(store)
    votes = [j for j in store.judgements() if j.draw == 0]
    order = sorted({j.pair_id for j in votes})
    table = np.full((3, len(order)), np.nan)
    for j in votes:
        table[sorted(likes).index(j.annotator), order.index(j.pair_id)] = float(j.winner_id == min(j.shown))
    assert found["raw"].n == 24
    assert {r.annotator for r in found["rows"]} >= {"human", "longest", "first", "random"}
    assert found["pool"] == next(r.agreement for r in found["rows"] if r.annotator == POOL)
    for d in found["disputes"]:
        assert d["a"] + d["b"] == 3
        assert {name for name, _ in d["said"]} == set(likes)
        assert not any(p in str({k: v for k, v in d.items() if k not in ("text_a", "text_b")}) for p in POLICIES)
    assert found["n_disputed"] == sum(np.ptp(column) > 0 for column in table.T)
    rates = {r.policy: r.people.value for r in found["rates"]}
    wins = {p: [] for p in POLICIES}
    responses = store.responses()
    for j in votes:
        (policy,) = {responses[i].policy for i in j.shown} - {"reference"}
        wins[policy].append(responses[j.winner_id].policy == policy)
    assert rates == pytest.approx({p: np.mean(w) for p, w in wins.items()})
    krippendorff = pytest.importorskip("krippendorff")
    assert found["alpha"].value == pytest.approx(krippendorff.alpha(table, level_of_measurement="interval"))
