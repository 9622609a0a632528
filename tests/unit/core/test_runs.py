"""Steps of a run folder: made once, remade when an input changes, never trusted half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farm import runs
from farm.errors import RunError


def make(folder: Path, settings: dict, inputs: list, log: list) -> runs.Step:
    def work(partial: Path) -> None:
        log.append(settings)
        (partial / "result").write_text(str(settings))

    return runs.perform(folder, settings, inputs, work)


def test_a_finished_step_is_not_run_again(tmp_path):
    log: list = []
    first = make(tmp_path / "s", {"a": 1, "b": 2}, [], log)
    again = make(tmp_path / "s", {"b": 2, "a": 1}, [], log)
    assert (first.fresh, again.fresh, len(log)) == (True, False, 1)
    assert again.fingerprint == first.fingerprint


def test_settings_and_inputs_decide(tmp_path):
    log: list = []
    one = make(tmp_path / "one", {"x": 1}, [], log)
    make(tmp_path / "two", {}, [one], log)
    changed = make(tmp_path / "one", {"x": 2}, [], log)
    two = make(tmp_path / "two", {}, [changed], log)
    assert two.fresh
    assert len(log) == 4
    assert (tmp_path / "one" / "result").read_text() == "{'x': 2}"


def test_a_failing_step_leaves_the_old_one(tmp_path):
    make(tmp_path / "s", {"x": 1}, [], [])

    def broken(partial: Path) -> None:
        (partial / "result").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        runs.perform(tmp_path / "s", {"x": 2}, [], broken)
    assert (tmp_path / "s" / "result").read_text() == "{'x': 1}"
    assert not make(tmp_path / "s", {"x": 1}, [], []).fresh


@pytest.mark.parametrize("damage", ["{", "{}", '{"fingerprint": 3}'])
def test_a_damaged_marker_means_redo(tmp_path, damage):
    log: list = []
    make(tmp_path / "s", {}, [], log)
    (tmp_path / "s" / "step.json").write_text(damage)
    assert make(tmp_path / "s", {}, [], log).fresh


def test_kill_leaves_no_finished_step(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom farm import runs\n"
        "def work(p):\n    (p / 'result').write_text('half')\n    print('working', flush=True)\n    time.sleep(60)\n"
        "runs.perform(Path(sys.argv[1]), {}, [], work)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert runs.finished(tmp_path / "s", runs.fingerprint({})) is None
    log: list = []
    assert make(tmp_path / "s", {}, [], log).fresh
    assert not (tmp_path / "s.partial").exists()


def test_one_process_per_run_folder(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom farm import runs\n"
        "with runs.locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another farm process"), runs.locked(tmp_path):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    time.sleep(0.05)
    with runs.locked(tmp_path):
        pass


def test_an_unwritable_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match=r"file.*--out"), runs.locked(blocked / "run"):
        pass
    with pytest.raises(RunError, match="cannot be written"):
        make(blocked / "s", {}, [], [])


def test_file_fingerprint_sees_one_byte(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    before = runs.file_fingerprint(path)
    path.write_bytes(b"abd")
    assert runs.file_fingerprint(path) != before


def test_checkpoints_survive_a_cut_off_for_the_same_work_only(tmp_path):
    def cut(folder):
        (folder / runs.RESUME).mkdir(exist_ok=True)
        (folder / runs.RESUME / "state").write_text("half way")
        (folder / "rubbish").write_text("x")
        raise KeyboardInterrupt

    seen = []

    def look(folder):
        seen.append(sorted(p.name for p in folder.rglob("*") if p.is_file()))

    for settings in ({"a": 1}, {"a": 2}):
        with pytest.raises(KeyboardInterrupt):
            runs.perform(tmp_path / "step", {"a": 1}, [], cut)
        step = runs.perform(tmp_path / "step", settings, [], look)
        assert sorted(p.name for p in step.folder.iterdir()) == ["step.json"]
        step.folder.rename(tmp_path / f"done-{settings['a']}")
    assert seen == [["meant.json", "state"], ["meant.json"]]
