"""The wheel: one import package, all data inside, and it runs outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_what_is_inside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")} == {"farm"}
    for kind in ("annotators", "recipes", "eval_sets"):
        tracked = subprocess.run(
            ["git", "ls-files", kind], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert tracked
        assert {f"farm/_data/{t}" for t in tracked} <= set(names)
    assert any(n.endswith("report.html.j2") for n in names)
    assert wheel.stat().st_size < 1_000_000


def test_it_runs_outside_the_checkout(wheel, tmp_path):
    env = tmp_path / "env"
    venv.create(env, with_pip=False)
    site = next((env / "lib").glob("python3*/site-packages"))
    # The dependencies of this environment, without this checkout: only the wheel provides farm.
    mine = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(mine + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    python = env / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import farm; print(farm.__file__)"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert str(env) in where
    done = subprocess.run(
        [python, "-m", "farm", "run", "tiny", "--out", "out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()
