"""A paid run, rehearsed from the command line: dry run, budget, resume, reparse, explain, the bill, the key."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from farm.world import serve

pytestmark = pytest.mark.slow
PRICE = (2.0, 8.0)  # USD per million prompt and completion tokens
SETTINGS = [
    "annotate.endpoint.kind=openai",
    "annotate.models={strong: my-judge, medium: my-judge, completion: my-judge}",
    "annotate.endpoint.prices={my-judge: [2.0, 8.0]}",
    "annotate.flip=0",
]


def farm(*arguments: str, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "farm", *arguments, "--out", str(out)]
    command += [part for s in SETTINGS for part in ("--set", s)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600)


def account(url: str, token: str) -> dict[str, float]:
    asked = urllib.request.Request(f"{url}/farm/ledger", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked) as answer:
        found: dict[str, float] = json.load(answer)
    return found


def forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    inner = base64.b64encode(raw).rstrip(b"=")[:-2]
    return [raw, urllib.parse.quote(secret, safe="").encode(), inner, base64.urlsafe_b64encode(raw).rstrip(b"=")[:-2]]


def test_from_the_dry_run_to_the_bill(tmp_path):
    out, log = tmp_path / "run", []
    with serve.background(models=("my-judge",), prices={"my-judge": PRICE}) as (url, token):
        keys = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": token}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            done = farm(*arguments, out=out, **keys)
            log.append(done.stdout + done.stderr)
            return done

        assert run("sample", "tiny").returncode == 0
        dry = run("annotate", "tiny", "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert account(url, token)["accepted"] == 0
        assert "USD" in dry.stdout
        short = run("annotate", "tiny", "--budget", "0.02")
        assert short.returncode == 3, short.stderr
        assert "budget" in short.stderr
        spent = account(url, token)
        assert spent["accepted"] > 0
        assert spent["usd"] <= 0.02
        assert not (out / "3-annotate" / "seed-0" / "step.json").exists()
        whole = run("annotate", "tiny", "--budget", "20")
        assert whole.returncode == 0, whole.stderr
        bill = account(url, token)
        assert bill["repeated"] == 0
        judged = [json.loads(line) for line in (out / "3-annotate/seed-0/judgements.jsonl").read_text().splitlines()]
        assert sum(j["cost"]["usd"] for j in judged) == pytest.approx(bill["usd"], abs=1e-6)
        tokens = sum(j["cost"]["prompt_tokens"] + j["cost"]["completion_tokens"] for j in judged)
        assert tokens == bill["prompt_tokens"] + bill["completion_tokens"]
        again = run("annotate", "tiny", "--reparse")
        assert again.returncode == 0, again.stderr
        assert account(url, token)["accepted"] == bill["accepted"]
        command = [sys.executable, "-m", "farm", "explain", judged[0]["pair_id"], "--run", str(out)]
        told = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **keys}, timeout=120)
        assert told.returncode == 0, told.stderr
        assert judged[0]["annotator"] in told.stdout
        assert "attempt" in told.stdout
        log.append(told.stdout + told.stderr)
    written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file()) + "".join(log).encode()
    assert not [form for form in forms(token) if form in written]


def test_an_unknown_price_refuses_to_start_under_a_budget(tmp_path):
    """A server on this machine is free unless a price says otherwise; one elsewhere is not."""
    settings = [part for s in (*SETTINGS[:2], SETTINGS[3]) for part in ("--set", s)]
    done = subprocess.run(
        [sys.executable, "-m", "farm", "annotate", "tiny", "--out", str(tmp_path / "run"), "--budget", "1", *settings],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_BASE_URL": "https://judge.invalid/v1", "OPENAI_API_KEY": "none-that-opens"},
        timeout=600,
    )
    assert done.returncode == 3  # as every refusal of a budget
    assert "my-judge" in done.stderr
    assert "price" in done.stderr
    assert "none-that-opens" not in done.stderr
