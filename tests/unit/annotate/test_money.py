"""Prices, budgets and estimates: against a judge that keeps its own bill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_corpus import MODELS, Corpus, corpus

from farm.annotate.engine import compare
from farm.annotate.estimate import estimate
from farm.annotate.ledger import Ledger
from farm.annotate.money import FREE, Price, Prices, prompt_bytes
from farm.annotate.plan import Planner
from farm.annotate.pool import Pool
from farm.errors import BudgetError, DataError
from farm.lm.endpoints import CallError, InProcess, Reply, Request
from farm.records import Judgement, Outcome
from farm.world.judge import ScriptedJudge

Judge = Callable[..., list[Judgement]]
PRICE = Price(40.0, 80.0)
PRICES = Prices({"scripted*": (40.0, 80.0)})


class Biller:
    """The scripted judge that writes bills; ``trouble`` may have it lose an answer after the work."""

    def __init__(self, lose: int = 0) -> None:
        self.name, self.billed, self.calls, self.lose, self.lost = "biller", 0.0, 0, lose, 0
        self.judge = InProcess(ScriptedJudge())

    async def complete(self, request: Request, tag: str = "") -> Reply:
        self.calls += 1
        reply = self.judge.answer(request)
        self.billed += PRICE.usd(reply.prompt_tokens, reply.completion_tokens)
        lose = self.lose and self.calls % self.lose == 0
        await asyncio.sleep(0)
        if lose:
            self.lost += 1
            raise CallError("lost", "cut off")
        return reply

    async def close(self) -> None:
        return None


def test_rows_of_the_recipe_go_before_the_table() -> None:
    assert Prices().find("gpt-4o") == Price(2.5, 10.0)
    assert Prices({"gpt-4*": [1.0, 2.0]}).find("gpt-4o") == Price(1.0, 2.0)
    assert Prices().find("scripted/a01") == FREE
    assert Prices().find("somebody/else") is None
    assert Prices(local=True).find("somebody/else") == FREE


@pytest.mark.parametrize("usd", [[1.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_price_is_two_numbers(usd: list[float]) -> None:
    with pytest.raises(DataError, match="usd is two numbers"):
        Prices({"m": usd})


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    for text in ("prices: 3", "[", "prices: [{model: m}]"):
        path.write_text(text)
        other = path.rename(tmp_path / f"{len(text)}.yaml")
        with pytest.raises(DataError, match=other.name):
            Prices(table=other)


def test_the_worst_case_is_never_below_the_bill(pool: Pool) -> None:
    made, judge = corpus(60), InProcess(ScriptedJudge())
    planner = Planner(pool, MODELS, "x", per_pair=3, seed=1, purpose="train", prices=PRICES)
    for job in planner.jobs(compare(made.pairs, made.instructions, made.responses), lambda a, o: None):
        reply = judge.answer(job.request)
        assert reply.prompt_tokens <= prompt_bytes(job.request)
        assert PRICE.usd(reply.prompt_tokens, reply.completion_tokens) <= job.call.reserved


@pytest.mark.parametrize(("concurrency", "lose"), [(1, 0), (16, 0), (64, 0), (16, 7)])
def test_a_budget_is_never_exceeded_and_raising_it_goes_on(
    small: Corpus, judge_all: Judge, tmp_path: Path, concurrency: int, lose: int
) -> None:
    whole = Biller()
    judge_all(small, endpoint=whole, prices=PRICES, path=tmp_path / "whole.sqlite")
    biller = Biller(lose)
    said: list[str] = []
    path = tmp_path / "l.sqlite"
    budget = whole.billed / 3
    while True:
        with Ledger(path, budget) as ledger:
            try:
                judged = judge_all(
                    small, endpoint=biller, prices=PRICES, path=path, budget=budget, concurrency=concurrency
                )
                break
            except BudgetError as e:
                said.append(str(e))
            finally:
                assert biller.billed <= budget + 1e-9
                assert biller.billed <= ledger.spent() + 1e-9 <= budget + 2e-9
        budget += whole.billed / 3
        assert budget < 20 * whole.billed
    assert len(said) >= 2
    assert all("left to do" in text and "--budget" in text for text in said)
    assert not [j for j in judged if j.outcome is Outcome.FAILED]
    if not lose:
        assert biller.calls == whole.calls  # nothing twice
        assert biller.billed == pytest.approx(whole.billed)
        assert sum(j.cost.usd for j in judged) == pytest.approx(whole.billed)
    else:
        with Ledger(path) as ledger:
            assert len(ledger.unknown()) == biller.lost > 10
    assert whole.billed * 0.9 < biller.billed


def test_an_unknown_price_with_a_budget_refuses_before_any_call(small: Corpus, judge_all: Judge) -> None:
    biller = Biller()
    models = dict.fromkeys(MODELS, "nobody-knows")
    with pytest.raises(BudgetError, match="nobody-knows is unknown"):
        judge_all(small, endpoint=biller, models=models, budget=5.0)
    assert biller.calls == 0


def test_an_estimate_holds_the_bill_and_sends_nothing(
    small: Corpus, judge_all: Judge, pool: Pool, tmp_path: Path
) -> None:
    def plan() -> Any:
        planner = Planner(
            pool, MODELS, "biller", per_pair=1, seed=1, purpose="train", prices=PRICES, skip=lambda p, a: a == "a02"
        )
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            return estimate(planner, compare(small.pairs, small.instructions, small.responses), ledger)

    before = plan()
    assert before.acts == 400
    assert before.identical == 8
    assert before.skipped > 15
    assert before.cached_calls == 0
    biller = Biller()
    judge_all(small, endpoint=biller, prices=PRICES, skip=lambda p, a: a == "a02")
    assert before.calls == biller.calls
    assert before.usd[0] < biller.billed < before.usd[2]
    after = plan()
    assert (after.calls, after.cached_calls) == (0, biller.calls)
    assert after.usd == (0.0, 0.0, 0.0)
    assert "100.0%" in "\n".join(after.lines())


def test_skipped_calls_are_saved(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    from farm.annotate.noise import overwritten, settle

    skip = overwritten(0.25, 1)
    asked, spared = Biller(), Biller()
    all_acts = judge_all(small, endpoint=asked, path=tmp_path / "a.sqlite")
    some = judge_all(small, endpoint=spared, path=tmp_path / "b.sqlite", skip=skip)
    skipped = sum(j.outcome is Outcome.SKIPPED for j in some)
    assert 0.4 < skipped / 392 < 0.6
    assert spared.calls < 0.65 * asked.calls
    labels = [[(p.pair_id, p.winner_id) for p in settle(j, small.pairs, flip=0.25, seed=1)] for j in (all_acts, some)]
    noisy = {p.id for p, j in zip(small.pairs, some, strict=True) if j.outcome is Outcome.SKIPPED}
    assert [x for x in labels[0] if x[0] in noisy] == [x for x in labels[1] if x[0] in noisy]
