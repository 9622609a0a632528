"""Steps taken from another run's folder: the very same only, whole, and said so."""

from __future__ import annotations

from farm import runs


def make(root, settings, log, value="x"):
    def work(folder):
        log.append(root.name)
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(value)

    return runs.perform(root / "1-sft" / "seed-0", settings, [], work)


def test_the_same_step_is_taken_and_another_is_made(tmp_path):
    log: list[str] = []
    one, two = tmp_path / "one", tmp_path / "two"
    first = make(one, {"seed": 0}, log)
    with runs.borrowing(two, [one]):
        taken = make(two, {"seed": 0}, log)
        again = make(two, {"seed": 0}, log)
    assert log == ["one"]
    assert (taken.fresh, taken.lender, again.lender) == (False, one, None)
    assert taken.fingerprint == first.fingerprint
    assert (two / "1-sft/seed-0/deep/a.txt").read_text() == "x"
    with runs.borrowing(two, [one]):
        other = make(two, {"seed": 1}, log, "y")
    assert (other.fresh, other.lender, log) == (True, None, ["one", "two"])
    assert (one / "1-sft/seed-0/deep/a.txt").read_text() == "x"  # redoing a step never reaches into the lender


def test_nothing_is_lent_unasked_or_unfinished(tmp_path):
    log: list[str] = []
    make(tmp_path / "one", {"seed": 0}, log)
    make(tmp_path / "two", {"seed": 0}, log)
    assert log == ["one", "two"]
    (tmp_path / "one/1-sft/seed-0/step.json").unlink()
    with runs.borrowing(tmp_path / "three", [tmp_path / "one"]):
        make(tmp_path / "three", {"seed": 0}, log)
    assert log == ["one", "two", "three"]


def test_half_taken_leftovers_are_cleared(tmp_path):
    log: list[str] = []
    make(tmp_path / "one", {"seed": 0}, log)
    left = tmp_path / "two/1-sft/seed-0.partial"
    left.mkdir(parents=True)
    (left / "junk").write_text("half")
    with runs.borrowing(tmp_path / "two", [tmp_path / "one"]):
        make(tmp_path / "two", {"seed": 0}, log)
    assert sorted(p.name for p in (tmp_path / "two/1-sft/seed-0").iterdir()) == ["deep", "step.json"]
    assert not left.exists()
