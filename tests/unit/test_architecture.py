"""The rules a linter does not know: who may import whom, how long a file may be, what is forbidden."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "farm").rglob("*.py"))

# Each group may import the groups above it and, where marked True, its own members.
LAYERS: list[tuple[set[str], bool]] = [
    ({"errors", "seeds", "records"}, True),
    ({"recipe", "runs", "resources", "workers", "progress"}, True),
    ({"lm", "data", "world"}, False),
    ({"annotate", "reward", "methods", "evaluate", "label"}, False),
    ({"study"}, False),
    ({"report"}, False),
    ({"pipeline", "laboratory", "stages"}, True),
    ({"commands"}, True),
    ({"cli", "__main__"}, True),
]


def part(path: Path) -> str:
    return path.relative_to(ROOT / "farm").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Parts of farm that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "farm" else [node.module]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("farm.")}
    return found


def level(name: str) -> int:
    return next(i for i, (group, _) in enumerate(LAYERS) if name in group)


def test_every_part_has_a_layer():
    assert {part(f) for f in FILES} - {"__init__"} <= set().union(*(group for group, _ in LAYERS))
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_lower_layers(path):
    me = part(path)
    if me == "__init__":
        return
    for other in imported(path) - {me}:
        mine, theirs = level(me), level(other)
        inside = mine == theirs and LAYERS[mine][1]
        assert theirs < mine or inside, f"{path.relative_to(ROOT)} imports farm.{other}: a higher or sibling layer"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_over_500_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


FORBIDDEN = re.compile(
    r"\bpickle\b|torch\.load\(|yaml\.load\(|trust_remote_code\s*=\s*True|(?<![_.\w])eval\(|shell=True|verify=False"
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_forbidden(path):
    code = "\n".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    assert not FORBIDDEN.findall(code)


def test_importing_farm_and_asking_for_help_stay_light():
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "pandas", "openai", "scipy", "altair"}
    probe = (
        "import sys, json, contextlib, io\n"
        "import farm\nfrom farm.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main(['--help'])\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert heavy & set(json.loads(out)) == set()


def test_judging_and_reporting_need_no_torch():
    probe = (
        "import sys\nsys.modules['torch'] = None\n"
        "import farm.annotate.engine, farm.evaluate.win_rate, farm.study.correlation, farm.report.html\n"
        "import farm.world.judge, farm.world.instructions, farm.lm.endpoints, farm.recipe\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
