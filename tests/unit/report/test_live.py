"""The live view: what a run folder says while somebody works in it, and nothing else touched."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from aiohttp.test_utils import TestClient, TestServer
from test_html import parsed

from farm import records, runs
from farm.annotate.ledger import Call, Ledger
from farm.cli import main
from farm.errors import RunError
from farm.progress import Progress
from farm.records import CurvePoint, Judgement, Outcome
from farm.report import live, live_server, live_view

PLANNED = ["0-data", "1-sft/seed-0", "1-sft/seed-1", "5-improve/ppo/seed-0", "5-improve/ppo/seed-1", "8-report"]
POINTS = [CurvePoint(x=float(x), proxy=x / 10, gold=0.5 - x / 20, kl=x / 5, n=4).model_dump() for x in range(4)]


@pytest.fixture
def run(tmp_path):
    """Two SFT policies are done, one PPO run is done, another under way in a process that is ours."""
    folder = tmp_path / "run"
    runs.write_json(folder / "manifest.json", {"wall_seconds": 1.0, "steps": {}, "planned": PLANNED})
    recipe = "name: watched\ncompute: {jobs: 2}\nannotate: {endpoint: {budget: 2.5}}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for name, seconds in (
        ("0-data", 1.0),
        ("1-sft/seed-0", 10.0),
        ("1-sft/seed-1", 12.0),
        ("5-improve/ppo/seed-0", 40.0),
    ):
        runs.write_json(folder / name / "step.json", {"fingerprint": "f", "seconds": seconds, "peak_memory_mb": 1})
    done = folder / "5-improve/ppo/seed-0"
    (done / "curve.jsonl").write_text("".join(json.dumps(p) + "\n" for p in POINTS), encoding="utf-8")
    runs.write_json(done / "result.json", {"curve": {"x_name": "step"}})
    going = folder / "5-improve/ppo/seed-1.partial"
    runs.write_json(going / runs.RESUME / runs.SO_FAR, {"x_name": "step", "points": POINTS[:2]})
    runs.note_progress(
        going, {"title": "ppo, seed 1", "done": 15, "total": 60, "elapsed": 10.0, "figures": {"score": 0.25}}
    )
    hold(folder)
    return folder


def hold(folder, **changes) -> None:
    holder = {"pid": os.getpid(), "born": runs.born(os.getpid()), "host": live.socket.gethostname(), "since": 0.0}
    runs.write_json(folder / runs.HOLDER, holder | changes)


def test_a_run_that_goes_on(run):
    seen = live.read(run)
    assert (seen.state, seen.recipe, seen.report) == ("running", "watched", None)
    assert [(s.stage, s.done, s.wanted) for s in seen.stages] == [
        ("0-data", 1, 1), ("1-sft", 2, 2), ("5-improve", 1, 2), ("8-report", 0, 1)
    ]  # fmt: skip
    (step,) = seen.working
    assert (step.step, step.done, step.total, step.figures) == ("5-improve/ppo/seed-1", 15, 60, {"score": 0.25})
    assert step.left == pytest.approx(30.0)
    assert [(c.step, c.x_name, len(c.points), c.whole) for c in seen.curves] == [
        ("5-improve/ppo/seed-0", "step", 4, True), ("5-improve/ppo/seed-1", "step", 2, False)
    ]  # fmt: skip
    assert seen.waiting == 1
    assert seen.left == pytest.approx(30.0)
    assert seen.left_at_least  # nothing like the report has been done


def test_time_left_is_the_longest_step_or_the_work_shared_by_the_jobs():
    done = {"1-sft/seed-0": 10.0, "5-improve/ppo/seed-0": 40.0, "5-improve/dpo/seed-0": 8.0}
    working = [live.Working(step="a", left=5.0)]
    waiting = ["5-improve/ppo/seed-1", "5-improve/ppo/seed-2", "5-improve/kto/seed-0"]
    assert live._left(working, waiting, done, 2) == (pytest.approx((5 + 40 + 40 + 24) / 2), False)
    assert live._left([live.Working(step="a", left=500.0)], waiting, done, 2) == (500.0, False)
    assert live._left([live.Working(step="a")], [], done, 2) == (None, False)
    assert live._left(working, ["8-report"], done, 2) == (5.0, True)


def test_a_process_that_is_gone_a_later_one_with_its_number_and_one_elsewhere(run):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    hold(run, pid=int(gone.stdout))
    assert live.read(run).state == "crashed"
    hold(run, born="1")
    assert live.read(run).state == "crashed"
    hold(run, host="elsewhere.invalid")
    assert live.read(run).state == "running"  # files have just changed
    for path in run.rglob("*"):
        os.utime(path, (1e9, 1e9))
    seen = live.read(run)
    assert seen.state == "silent"
    assert "elsewhere.invalid" in seen.message


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process began")
def test_a_process_that_ended_and_whose_parent_has_not_noticed(run):
    child = subprocess.Popen([sys.executable, "-c", ""])
    hold(run, pid=child.pid, born=runs.born(child.pid))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert live.read(run).state == "crashed"
    child.wait()


@pytest.mark.parametrize(
    ("how", "state", "said"),
    [
        ("interrupted", "stopped", "goes on from the finished steps"),
        ("DataError: bad \x1b[31mfile", "failed", "DataError"),
        ("done", "stopped", "the run is not"),
    ],
)
def test_a_command_that_ended_before_the_run_was_done(run, how, state, said):
    hold(run, ended=1.0, how=how)
    seen = live.read(run)
    assert seen.state == state
    assert said in seen.message
    assert seen.left is None
    assert seen.working == ()


def test_a_finished_run(run):
    for name in PLANNED:
        runs.write_json(run / name / "step.json", {"fingerprint": "f", "seconds": 1.0})
    (run / "5-improve/ppo/seed-1.partial").rename(run / "5-improve/ppo/seed-1.old")
    (run / "8-report/index.html").write_text("x")
    hold(run, ended=1.0, how="done")
    seen = live.read(run)
    assert (seen.state, seen.waiting) == ("done", 0)
    assert seen.report == str(run / "8-report/index.html")
    hold(run, born="1")  # killed after the last step
    assert live.read(run).state == "done"
    (run / runs.HOLDER).unlink()  # by an earlier version
    assert live.read(run).state == "done"


def test_half_written_files_are_left_out_until_they_are_whole(run):
    going = run / "5-improve/ppo/seed-1.partial"
    for text in (
        "",
        "{",
        '{"done": "many", "total": [], "figures": 3}',
        "[]",
        "null",
        "\ud83d".encode("utf-16", "surrogatepass").decode("latin1"),
    ):
        for path in (
            going / runs.NOW,
            going / runs.RESUME / runs.SO_FAR,
            run / "manifest.json",
            run / "recipe.yaml",
            run / "5-improve/ppo/seed-0/result.json",
        ):
            path.write_text(text, encoding="latin1")
            seen = live.read(run)
            assert live_view.terminal(seen)
            parsed(live_view.page(seen, 2))
    assert live.read(run).working[0].done is None
    (run / "1-sft/seed-0/step.json").write_text('{"finger')
    assert "1-sft" in [s.stage for s in live.read(run).stages]


def test_no_run_folder_is_refused(tmp_path, capsys):
    with pytest.raises(RunError, match="not a run folder"):
        live.read(tmp_path)
    with pytest.raises(SystemExit):
        main(["watch", str(tmp_path / "nothing"), "--once"])
    assert "not a run folder" in capsys.readouterr().err


def test_outcomes_and_spend_while_somebody_writes_the_ledger(run):
    acts = [
        Judgement(
            pair_id=f"p{k}", instruction_id="i", annotator="a", shown=("x", "y"),
            outcome=Outcome.DECIDED if k else Outcome.REFUSED, winner_id="x" if k else None,
            raw='{"a":1,"outcome":"tie"}',
        )
        for k in range(5)
    ]  # fmt: skip
    records.write(run / "1-sft/seed-0/judgements.jsonl", acts)
    records.write(run / "5-improve/ppo/seed-1.partial/judgements.jsonl", acts)  # not finished: not counted
    with Ledger(run / "ledger.sqlite", budget=2.5) as ledger:
        ledger.sent([Call("k1", "a", "e", "m", reserved=0.5), Call("k2", "a", "e", "m", reserved=0.25)])
        with ledger.transaction() as db:
            db.execute("UPDATE attempts SET status = 'answered' WHERE key = 'k1'")
            seen = live.read(run)  # in the middle of a write
            assert seen.spend.calls == {"under way": 2}
        seen = live.read(run)
    assert seen.outcomes == {"decided": 4, "refused": 1}
    assert seen.spend.calls == {"answered": 1, "under way": 1}
    assert (seen.spend.usd, seen.spend.budget) == (pytest.approx(0.75), 2.5)
    assert live.read(run).spend == seen.spend  # and after the writer is gone
    (run / "ledger.sqlite").write_bytes(b"no database")
    assert live.read(run).spend is None


def test_looking_changes_nothing(run):
    with Ledger(run / "ledger.sqlite"):
        pass
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}
    live_view.terminal(live.read(run))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")} == before


def test_the_terminal_gets_text_and_no_commands(run, capsys):
    (run / "recipe.yaml").write_text('name: "evil \\e[2J\\u202e"\n', encoding="utf-8")
    hold(run, ended=1.0, how="DataError: \x1b[31mred\nsecond line")
    main(["watch", str(run), "--once"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "evil" in out
    assert "[############............] 1 of 2" in out
    assert all(len(line) <= 30 for line in live_view.terminal(live.read(run), 30))
    main(["watch", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["state"] == "failed"


def test_the_page_is_text_only_and_loads_itself_while_the_run_goes_on(run):
    name = "<script>alert(1)</script>"
    (run / "recipe.yaml").write_text(f'name: "{name}"\n', encoding="utf-8")
    page = live_view.page(live.read(run), 2)
    assert '<meta http-equiv="refresh" content="2">' in page
    assert not {t for t, _ in parsed(page)} & {"script", "link", "img"}
    assert page.count("<polyline") == 4
    assert 'http-equiv="refresh"' not in live_view.page(live.read(run), None)


def test_the_server_checks_host_and_token(run):
    async def ask() -> None:
        async with TestClient(TestServer(live_server.application(run, "token", 2))) as client:
            good = await client.get("/token/")
            assert good.status == 200
            assert "frame-ancestors 'none'" in good.headers["Content-Security-Policy"]
            assert "watched" in await good.text()
            for path, host in (("/token/", "evil.test"), ("/token/", "evil.test:80"), ("/wrong/", None), ("/", None)):
                answer = await client.get(path, headers={"Host": host} if host else {})
                assert answer.status == 403
                assert "watched" not in await answer.text()
            assert (await client.post("/token/")).status == 405
            assert (await client.get("/token/manifest.json")).status == 404
            hold(run, ended=1.0, how="done")
            assert 'http-equiv="refresh"' not in await (await client.get("/token/")).text()

    asyncio.run(ask())


def test_a_step_says_how_far_it_is_and_takes_the_note_along(tmp_path, monkeypatch):
    seen = []

    def work(folder) -> None:
        assert runs.making() == folder
        progress = Progress("work")
        progress(1, 4, {"loss": 0.5})
        assert not (folder / runs.NOW).exists()  # not within the first second
        progress._noted -= 2
        progress(2, 4, {"loss": 0.5})
        seen.append(json.loads((folder / runs.NOW).read_text()))

    step = runs.perform(tmp_path / "1-sft" / "seed-0", {}, [], work)
    assert runs.making() is None
    assert (seen[0]["title"], seen[0]["done"], seen[0]["total"], seen[0]["figures"]) == ("work", 2, 4, {"loss": 0.5})
    assert sorted(p.name for p in step.folder.iterdir()) == ["step.json"]


def test_the_holder_of_a_run_folder_says_how_it_ended(tmp_path):
    with runs.locked(tmp_path):
        holder = json.loads((tmp_path / runs.HOLDER).read_text())
        assert holder["pid"] == os.getpid()
        assert "ended" not in holder
    assert json.loads((tmp_path / runs.HOLDER).read_text())["how"] == "done"
    for error, how in ((KeyboardInterrupt(), "interrupted"), (RunError("why"), "RunError: why")):
        with pytest.raises(type(error)), runs.locked(tmp_path):
            raise error
        assert json.loads((tmp_path / runs.HOLDER).read_text())["how"] == how
