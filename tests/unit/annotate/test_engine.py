from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_corpus import MODELS, Corpus, bare_pairs, corpus

from farm.annotate.calls import Patience
from farm.annotate.engine import assign, shown_order
from farm.annotate.ledger import Ledger
from farm.annotate.pool import Pool
from farm.errors import AnnotatorError, DataError
from farm.lm.endpoints import CallError, InProcess, Reply, Request
from farm.progress import Judging
from farm.records import Judgement, Outcome
from farm.world.judge import ScriptedJudge

Judge = Callable[..., list[Judgement]]
WORKERS = 24  # of a run with the default concurrency: 16 calls at a time and 8 that write down answers
QUICK = Patience(timeout=5, attempts=4, backoff=0.001, longest=0.01, outage=0.1, grace=0.2)


class Remote:
    """The scripted judge as an endpoint with an event loop, random-looking delays and scripted trouble."""

    def __init__(self, trouble: Callable[[int, Request], CallError | Reply | None] = lambda n, r: None) -> None:
        self.name, self.trouble = "remote", trouble
        self.judge, self.calls, self.running, self.most = InProcess(ScriptedJudge()), 0, 0, 0

    async def complete(self, request: Request, tag: str = "") -> Reply:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            number = self.calls
            await asyncio.sleep(zlib.crc32(repr(request).encode()) % 5 / 5000)
            result = self.trouble(number, request) or self.judge.answer(request)
            if isinstance(result, CallError):
                raise result
            return result
        finally:
            self.running -= 1

    async def close(self) -> None:
        self.running = -1


def free(judgements: list[Judgement]) -> list[Judgement]:
    """Without measured times."""
    return [j.model_copy(update={"cost": j.cost.model_copy(update={"seconds": 0.0})}) for j in judgements]


def test_every_act_has_one_outcome_in_order(small: Corpus, judge_all: Judge) -> None:
    judged = judge_all(small, per_pair=2)
    assert [j.pair_id for j in judged] == [p.id for p in small.pairs for _ in range(2)]
    assert all(a.annotator < b.annotator for a, b in zip(judged[::2], judged[1::2], strict=True))
    outcomes = Counter(j.outcome for j in judged)
    assert outcomes.total() == 800
    assert outcomes[Outcome.IDENTICAL] == 16
    assert outcomes[Outcome.DECIDED] > 720


def test_labels_follow_the_texts_and_not_the_order(small: Corpus, judge_all: Judge) -> None:
    wins = {True: Counter[str](), False: Counter[str]()}
    for j in judge_all(corpus(120), per_pair=13):
        if j.winner_id is not None:
            good_first = small.responses[j.shown[0]].policy == "good"
            wins[good_first][small.responses[j.winner_id].policy] += 1
    assert all(w["good"] > 1.5 * w["bad"] for w in wins.values())


def test_order_is_balanced_and_differs_between_annotators_and_purposes(pool: Pool) -> None:
    pairs = bare_pairs(3000)
    swapped = [shown_order(p, "a01", 1, "train") == (p.b, p.a) for p in pairs]
    assert sum(swapped) / len(pairs) == pytest.approx(0.5, abs=0.03)
    for other in (("a02", 1, "train"), ("a01", 2, "train"), ("a01", 1, "evaluate")):
        same = [s == (shown_order(p, *other) == (p.b, p.a)) for p, s in zip(pairs, swapped, strict=True)]
        assert sum(same) / len(pairs) == pytest.approx(0.5, abs=0.03)


def test_assignment_is_even_and_survives_a_change_of_the_pool(pool: Pool) -> None:
    pairs = bare_pairs(3000)
    drawn = {p.id: assign(pool, p.id, 1, 1, "train")[0].id for p in pairs}
    assert all(3000 / 13 * 0.75 < n < 3000 / 13 * 1.25 for n in Counter(drawn.values()).values())
    fewer = pool.model_copy(update={"annotators": pool.annotators[:-1]})
    moved = {p.id for p in pairs if assign(fewer, p.id, 1, 1, "train")[0].id != drawn[p.id]}
    assert moved == {id for id, a in drawn.items() if a == "a13"}
    assert len({a.id for a in assign(pool, pairs[0].id, 4, 1, "train")}) == 4


@pytest.mark.parametrize("concurrency", [1, 16, 128])
def test_same_judgements_at_any_concurrency(concurrency: int, judge_all: Judge, tmp_path: Path) -> None:
    made = corpus(150)
    endpoint = Remote()
    judged = judge_all(made, endpoint=endpoint, concurrency=concurrency, path=tmp_path / "remote.sqlite")
    assert free(judged) == free(judge_all(made))
    assert min(concurrency, 16) <= endpoint.most <= concurrency


def test_a_second_run_asks_nothing_and_says_the_same(small: Corpus, judge_all: Judge) -> None:
    first = judge_all(small)
    told: list[Judging] = []
    endpoint = Remote(lambda n, r: CallError("fatal", "must not be asked"))
    endpoint.name = "in-process"
    again = judge_all(small, endpoint=endpoint, progress=told.append)
    assert again == first
    assert endpoint.calls == 0
    now = told[-1]
    assert (now.done, now.total, now.cached) == (400, 400, 392)
    assert now.outcomes == dict(Counter(j.outcome.value for j in first))


def test_skipped_acts_are_counted_and_not_asked(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    judged = judge_all(small, skip=lambda pair, annotator: annotator > "a02")
    assert all((j.outcome is Outcome.SKIPPED) == (j.annotator > "a02") for j in judged if j.outcome != "identical")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert {a for (a,) in ledger._db.execute("SELECT DISTINCT annotator FROM attempts")} <= {"a01", "a02"}


def test_costs_add_up_to_what_was_sent(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    judged = judge_all(small)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        sent = ledger._db.execute(
            "SELECT count(*), sum(prompt_tokens), sum(completion_tokens) FROM attempts"
        ).fetchone()
    costs = [j.cost for j in judged]
    assert sent == (
        sum(c.calls for c in costs),
        sum(c.prompt_tokens for c in costs),
        sum(c.completion_tokens for c in costs),
    )
    assert sent[0] < 392  # several pairs share a prompt


def test_every_call_is_on_disk_before_it_is_sent(judge_all: Judge, tmp_path: Path) -> None:
    path = tmp_path / "remote.sqlite"

    def look(n: int, r: Request) -> None:
        with Ledger(path) as other:
            assert sum(other.counts().values()) >= n

    endpoint = Remote(look)
    judge_all(corpus(60), endpoint=endpoint, path=path, concurrency=3)
    assert endpoint.calls > 20

    class Watched(ScriptedJudge):
        def complete(self, model: str, prompt: str, **settings: Any) -> Any:
            with Ledger(tmp_path / "direct.sqlite") as other:
                assert other.counts()["unknown"] > 0
            return super().complete(model, prompt, **settings)

    judge_all(corpus(20), endpoint=InProcess(Watched()), path=tmp_path / "direct.sqlite")


def test_passing_trouble_changes_nothing(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    """A seventh of the questions fail twice before they are answered, within the four attempts of QUICK."""
    asked = Counter[str]()

    def trouble(n: int, r: Request) -> CallError | None:
        question = repr(r)
        asked[question] += 1
        if zlib.crc32(question.encode()) % 7 or asked[question] > 2:
            return None
        return CallError("retry" if asked[question] == 1 else "connection", f"trouble {n}")

    endpoint = Remote(trouble)
    path = tmp_path / "remote.sqlite"
    judged = judge_all(small, endpoint=endpoint, patience=QUICK, path=path)
    assert free(judged) == free(judge_all(small))
    with Ledger(path) as ledger:
        counts = ledger.counts()
    assert sum(counts.values()) == endpoint.calls
    assert counts["retry"] > 0
    assert counts["connection"] > 0


def test_lasting_trouble_is_a_failure_that_is_asked_again(small: Corpus, judge_all: Judge) -> None:
    def trouble(n: int, r: Request) -> CallError | None:
        return CallError("retry", "HTTP 500") if r.model == "scripted/a04" else None

    broken = judge_all(small, endpoint=Remote(trouble), patience=QUICK)
    failed = {j.id for j in broken if j.outcome is Outcome.FAILED}
    assert failed == {j.id for j in broken if j.annotator == "a04" and j.outcome is not Outcome.IDENTICAL}
    healed = Remote()
    again = judge_all(small, endpoint=healed)
    assert healed.calls == len(failed)
    assert not any(j.outcome is Outcome.FAILED for j in again)


def test_a_rejected_prompt_is_not_repeated(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    endpoint = Remote(lambda n, r: CallError("rejected", "too long") if r.model == "scripted/a11" else None)
    judged = judge_all(small, endpoint=endpoint, patience=QUICK)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.counts()["rejected"] == sum(j.outcome is Outcome.FAILED for j in judged) > 0


@pytest.mark.parametrize(
    ("error", "most_calls"),
    [
        (CallError("fatal", "http://x/v1 answered HTTP 401: wrong key"), 16),
        (CallError("connection", "http://x/v1 cannot be reached"), 3 * WORKERS),
        (CallError("rejected", "http://x/v1 answered HTTP 400: no such setting"), 4 + WORKERS),
        (CallError("retry", "http://x/v1 answered HTTP 500"), 4 * (4 + WORKERS)),
    ],
)
def test_a_judge_that_never_answers_ends_the_run_with_its_address(
    error: CallError, most_calls: int, small: Corpus, judge_all: Judge
) -> None:
    """Bounds that hold whatever the order of the workers: the run ends at the first fatal error, at the third try of
    any prompt, or at the fifth prompt that fails (after one or after QUICK's four attempts)."""
    endpoint = Remote(lambda n, r: error)
    with pytest.raises(AnnotatorError, match="http://x/v1"):
        judge_all(small, endpoint=endpoint, patience=QUICK)
    assert endpoint.calls <= most_calls
    assert endpoint.running == -1  # closed


def test_an_outage_keeps_what_was_answered(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    endpoint = Remote(lambda n, r: CallError("connection", "gone") if n > 100 else None)
    with pytest.raises(AnnotatorError, match="continues from there"):
        judge_all(small, endpoint=endpoint, patience=QUICK)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        safe = ledger.counts()["answered"]
    assert safe >= 85
    rest = Remote()
    judge_all(small, endpoint=rest)
    whole = Remote()
    judge_all(small, endpoint=whole, path=tmp_path / "whole.sqlite")
    assert rest.calls + safe == whole.calls


def test_a_requested_pause_holds_for_all_workers(judge_all: Judge) -> None:
    stamps: list[float] = []

    def trouble(n: int, r: Request) -> CallError | None:
        stamps.append(time.monotonic())
        return CallError("limited", "HTTP 429", retry_after=0.3) if n == 20 else None

    judge_all(corpus(80), endpoint=Remote(trouble), patience=QUICK, concurrency=4)
    pause = stamps[19]
    assert not [s for s in stamps if pause + 0.05 < s < pause + 0.25]
    assert stamps[-1] > pause + 0.3


def test_a_call_that_hangs_is_given_up(judge_all: Judge) -> None:
    class Hanging(Remote):
        async def complete(self, request: Request, tag: str = "") -> Reply:
            if request.model == "scripted/a06":
                await asyncio.sleep(60)
            return await super().complete(request, tag)

    judged = judge_all(corpus(60), endpoint=Hanging(), patience=replace(QUICK, timeout=0.5, attempts=2))
    assert {j.annotator for j in judged if j.outcome is Outcome.FAILED} == {"a06"}


def test_equal_questions_are_asked_once(judge_all: Judge, pool: Pool, tmp_path: Path) -> None:
    """Two policies that wrote the same texts; only pairs shown in the same order ask the same question."""
    made = corpus(20)
    for pair in list(made.pairs):
        copies = [r.model_copy(update={"id": r.id + "x"}) for r in (made.responses[pair.a], made.responses[pair.b])]
        made.responses |= {r.id: r for r in copies}
        made.pairs.append(pair.model_copy(update={"id": pair.id + "x", "a": copies[0].id, "b": copies[1].id}))
    single = pool.model_copy(update={"annotators": (pool.annotator("a06"),)})
    unswapped = [shown_order(p, "a06", 1, "train")[0] == p.a for p in made.pairs]
    distinct = sum(1 if a == b else 2 for a, b in zip(unswapped[:20], unswapped[20:], strict=True))
    remote = Remote()
    judged = judge_all(made, pool=single, endpoint=remote)
    assert remote.calls == distinct < 40
    direct = judge_all(made, pool=single, path=tmp_path / "direct.sqlite")
    assert free(judged) == free(direct)
    with Ledger(tmp_path / "direct.sqlite") as ledger:
        assert ledger.counts() == {"answered": distinct}


def test_soft_verdicts_name_the_smaller_id(judge_all: Judge, small: Corpus, pool: Pool) -> None:
    a04 = pool.annotator("a04").model_copy(update={"logprobs": 5})
    judged = judge_all(small, pool=pool.model_copy(update={"annotators": (a04,)}))
    soft = [j for j in judged if j.probability is not None]
    assert len(soft) > 350
    agrees = [(j.probability > 0.5) == (j.winner_id == min(j.shown)) for j in soft if j.probability is not None]
    assert sum(agrees) / len(agrees) > 0.6
    good = [
        j.probability if small.responses[min(j.shown)].policy == "good" else 1 - j.probability
        for j in soft
        if j.probability is not None
    ]
    assert sum(good) / len(good) > 0.55


def test_it_runs_inside_a_running_loop(small: Corpus, judge_all: Judge) -> None:
    async def notebook() -> list[Judgement]:
        return judge_all(small, endpoint=Remote())

    assert len(asyncio.run(notebook())) == 400


def test_bad_calls_are_refused_before_anything_is_sent(small: Corpus, judge_all: Judge) -> None:
    with pytest.raises(AnnotatorError, match="13 annotators"):
        judge_all(small, per_pair=14)
    with pytest.raises(AnnotatorError, match="no model for role"):
        judge_all(small, models={})
    with pytest.raises(DataError, match="occurs twice"):
        judge_all(replace(small, pairs=[*small.pairs, small.pairs[0]]))
    with pytest.raises(DataError, match="which is not given"):
        judge_all(replace(small, responses={}))


def test_nothing_to_judge(judge_all: Judge) -> None:
    assert judge_all(corpus(0)) == []
    assert judge_all(corpus(0), endpoint=Remote()) == []


def test_answers_are_parsed_anew_without_a_call(judge_all: Judge, pool: Pool, small: Corpus) -> None:
    first = judge_all(small)
    edited = pool.annotator("a08").model_copy(update={"also_first": ("Alpha",)})
    edited._parser = replace(pool.annotator("a08").reader, also_first=("Alpha",))
    others = tuple(edited if a.id == "a08" else a for a in pool.annotators)
    again = judge_all(small, pool=pool.model_copy(update={"annotators": others}), ask=False)
    assert [(j.id, j.outcome, j.winner_id) for j in again] == [(j.id, j.outcome, j.winner_id) for j in first]
    assert {j.annotator for a, j in zip(first, again, strict=True) if a.fingerprint != j.fingerprint} == {"a08"}


def test_parsing_anew_says_what_the_ledger_lacks_and_keeps_what_failed(judge_all: Judge, small: Corpus) -> None:
    broken = Remote(lambda n, r: CallError("rejected", "no") if r.model == "scripted/a11" else None)
    broken.name = "in-process"
    first = judge_all(small, endpoint=broken, patience=QUICK)
    assert free(judge_all(small, ask=False)) == free(first)
    with pytest.raises(AnnotatorError, match=r"lacks the answers for \d+ judgements \(a01: \d+, a02: "):
        judge_all(small, ask=False, seed=2)


def test_judgements_leave_in_order_and_are_not_kept(pool: Pool, small: Corpus, tmp_path: Path) -> None:
    from farm.annotate import engine

    got: list[Judgement] = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        engine.stream(
            engine.compare(small.pairs, small.instructions, small.responses), pool, got.append, models=MODELS,
            endpoint=Remote(), seed=1, purpose="train", ledger=ledger, concurrency=32,
        )  # fmt: skip
    assert [j.pair_id for j in got] == [p.id for p in small.pairs]


INTERRUPTED = """
import asyncio, sys
sys.path.insert(0, {here!r})
from judge_corpus import MODELS, corpus
from test_engine import Remote
from farm.annotate.engine import annotate
from farm.annotate.ledger import Ledger
from farm.annotate.pool import load_pool

class Held(Remote):
    async def complete(self, request, tag=""):
        if self.calls == 40:
            print("now", flush=True)
        reply = await super().complete(request, tag)
        if self.calls >= 40:
            await asyncio.sleep(0.3)
        return reply

made = corpus(400)
with Ledger({path!r}) as ledger:
    annotate(made.pairs, made.instructions, made.responses, load_pool("farm13"), models=MODELS, endpoint=Held(),
             seed=1, purpose="train", ledger=ledger, concurrency=8)
"""


def test_ctrl_c_lets_answers_under_way_arrive(tmp_path: Path) -> None:
    path = tmp_path / "interrupted.sqlite"
    code = INTERRUPTED.format(here=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert "KeyboardInterrupt" in said
    assert "answers under way" in said
    with Ledger(path) as ledger:
        counts = ledger.counts()
    assert "unknown" not in counts  # everything sent came home; what was not sent says so
    assert counts["answered"] >= 40


SLOW_RUN = """
import asyncio, sys
sys.path.insert(0, {here!r})
from judge_corpus import MODELS, corpus
from test_engine import Remote
from farm.annotate.engine import annotate
from farm.annotate.ledger import Ledger
from farm.annotate.pool import load_pool
made = corpus(400)
told = lambda now: print(now.done, flush=True)
with Ledger({path!r}) as ledger:
    annotate(made.pairs, made.instructions, made.responses, load_pool("farm13"), models=MODELS, endpoint=Remote(),
             seed=1, purpose="train", ledger=ledger, concurrency=2, progress=told)
"""


def test_kill_9_loses_no_answer(small: Corpus, judge_all: Judge, tmp_path: Path) -> None:
    path = tmp_path / "killed.sqlite"
    whole = Remote()
    judged = judge_all(small, endpoint=whole, path=tmp_path / "whole.sqlite")
    code = SLOW_RUN.format(here=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    while int(child.stdout.readline() or -1) < 60:
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with Ledger(path) as ledger:
        counts = ledger.counts()
    assert 0 < counts["answered"] < whole.calls
    assert counts.get("unknown", 0) <= 2  # what was under way when it died
    rest = Remote()
    assert free(judge_all(small, endpoint=rest, path=path)) == free(judged)
    assert rest.calls == whole.calls - counts["answered"]
