"""``farm reward score`` and ``farm reward report``: any text, any reward model, and bad input that loses nothing."""

from __future__ import annotations

import io
import json
import sys

import pytest

from farm.cli import main

ROWS = [
    {"instruction": "say a", "output": "a a.", "note": 1},
    {"instruction": "say b", "input": "c d", "output": "b"},
    {"instruction": "say the word e", "output": "e f g h " * 6},
]


@pytest.fixture(scope="module")
def models(toy, asks, tmp_path_factory):
    """A run folder whose stage 4 holds a single model (seed 0) and an ensemble (seed 1)."""
    from farm.lm.load import load_policy
    from farm.lm.sample import sample
    from farm.lm.train import Optim
    from farm.records import Pair, Preference, Sampling, by_id
    from farm.reward.members import train_rewards
    from farm.reward.train import Config

    responses = sample(load_policy(toy), asks, 6, Sampling(max_tokens=8), name="sft", purpose="pairs")
    preferences = [
        Preference(
            pair_id=Pair.of(a, b).id,
            instruction_id=a.instruction_id,
            responses=(a.id, b.id),
            winner_id=max(a, b, key=lambda r: (r.n_tokens, r.id)).id,
            origin="gold",
        )
        for a, b in zip(responses[::2], responses[1::2], strict=True)
        if a.text != b.text
    ]
    run = tmp_path_factory.mktemp("runs") / "one"
    for seed, members in ((0, 1), (1, 2)):
        step = run / "4-reward" / f"seed-{seed}"
        config = Config(optim=Optim(lr=5e-3, epochs=2, batch=8), held_out=0.3, max_tokens=12, members=members)
        train_rewards(toy, preferences, by_id(asks), by_id(responses), config, seed=seed, folder=step / "model")
        (step / "step.json").write_text("{}")
    (run / "manifest.json").write_text("{}")
    return run


def lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def refused(capsys, *arguments):
    """What is said on standard error by a command that exits with 1 and prints nothing."""
    with pytest.raises(SystemExit) as e:
        main(["reward", *map(str, arguments)])
    assert e.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("farm: ")
    return err


def test_scores_any_text_and_keeps_what_came_with_it(models, tmp_path, capsys):
    given = lines(tmp_path / "in.jsonl", ROWS)
    main(["reward", "score", "--model", str(models), "--seed", "0", given])
    out, err = capsys.readouterr()
    rows = [json.loads(x) for x in out.splitlines()]
    assert [{k: v for k, v in r.items() if k != "reward"} for r in rows] == ROWS
    assert "n 3, mean " in err
    assert "longer than the model's limits: 1" in err  # 24 words, training read 12

    # every company and the folder itself give the same rewards
    for k, row in enumerate(ROWS):
        alone = lines(tmp_path / "alone.jsonl", [row])
        model = models / "4-reward" / "seed-0" / "model"
        main(["reward", "score", "--model", str(model), alone, "--out", str(tmp_path / "out.jsonl")])
        assert json.loads((tmp_path / "out.jsonl").read_text())["reward"] == pytest.approx(rows[k]["reward"], abs=1e-4)
    main(["reward", "score", "--model", str(models), "--seed", "1", given, "--field", "r"])
    ensemble = [json.loads(x)["r"] for x in capsys.readouterr().out.splitlines()]
    assert ensemble != [r["reward"] for r in rows]


def test_standard_input_and_a_list(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(ROWS).encode())))
    main(["reward", "score", "--model", str(models), "--seed", "0", "-"])
    assert [r["instruction"] for r in json.loads(capsys.readouterr().out)] == [r["instruction"] for r in ROWS]


def test_several_models_are_combined(models, tmp_path, capsys):
    given = lines(tmp_path / "in.jsonl", ROWS)
    members = [str(models / "4-reward" / "seed-1" / "model" / f"member-{k}") for k in range(2)]

    def rewards(*more):
        main(["reward", "score", given, *more])
        return [json.loads(x)["reward"] for x in capsys.readouterr().out.splitlines()]

    one, two = (rewards("--model", m) for m in members)
    both = ["--model", members[0], "--model", members[1]]
    assert rewards(*both) == pytest.approx([(a + b) / 2 for a, b in zip(one, two, strict=True)], abs=1e-5)
    assert rewards(*both, "--ensemble", "worst") == pytest.approx(list(map(min, one, two)), abs=1e-5)
    spread = [(a + b) / 2 - 2 * ((a - b) / 2) ** 2 for a, b in zip(one, two, strict=True)]
    assert rewards(*both, "--ensemble", "variance", "--strength", "2") == pytest.approx(spread, abs=1e-4)
    assert "several models" in refused(capsys, "score", given, "--model", members[0], "--ensemble", "mean")
    assert "positive" in refused(capsys, "score", given, *both, "--ensemble", "soft", "--strength", "0")


def test_bad_input_is_named_and_loses_nothing(models, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    out.write_text("what was there\n")
    bad = lines(tmp_path / "in.jsonl", [ROWS[0], {"instruction": "say a"}])
    to = ["--model", models, "--seed", 0, "--out", out]
    error = refused(capsys, "score", bad, *to)
    for word in ("in.jsonl", "line 2", "output: missing"):
        assert word in error
    assert "no such file" in refused(capsys, "score", tmp_path / "none.jsonl", *to)
    good = lines(tmp_path / "good.jsonl", ROWS)
    assert "2 reward models" in refused(capsys, "score", good, "--model", models)
    assert "of seed 7" in refused(capsys, "score", good, "--model", models, "--seed", 7)
    assert "no model can be loaded" in refused(capsys, "score", good, "--model", tmp_path / "nothing", "--out", out)
    assert "--device abacus" in refused(capsys, "score", good, *to, "--device", "abacus")
    assert out.read_text() == "what was there\n"
    assert list(tmp_path.glob("*.partial")) == []


def test_a_reward_that_is_not_a_number_names_the_row(models, tmp_path, capsys):
    import torch

    from farm.reward.model import RewardModel

    broken = RewardModel.load(models / "4-reward" / "seed-0" / "model")
    broken.model.score.weight.data = torch.full_like(broken.model.score.weight, 3e38)  # finite, but sums overflow
    broken.model.score.weight.data[:, ::2] = -3e38
    broken.save(tmp_path / "broken")
    out = tmp_path / "out.jsonl"
    error = refused(
        capsys, "score", lines(tmp_path / "in.jsonl", ROWS), "--model", tmp_path / "broken", "--out", out
    )  # fmt: skip
    for word in ("in.jsonl, line ", "nothing was written"):
        assert word in error
    assert not out.exists()


def test_the_report_is_a_table(models, tmp_path, capsys):
    main(["reward", "report", str(models), "--json", str(tmp_path / "r.json")])
    out = capsys.readouterr().out
    for word in ("seed-0", "seed-1", "2 members, combined by mean", "the longer one wins", "calibration error",
                 "log loss", "stated chance", "member 1: accuracy"):  # fmt: skip
        assert word in out
    assert len(json.loads((tmp_path / "r.json").read_text())) == 2
    main(["reward", "report", str(models / "4-reward" / "seed-0" / "model")])
    assert "seed-1" not in capsys.readouterr().out
    assert "no report.jsonl" in refused(capsys, "report", tmp_path)


def test_the_stage_keeps_its_command(capsys):
    with pytest.raises(SystemExit):
        main(["reward", "--help"])
    out = capsys.readouterr().out
    assert "recipe" in out
    assert "farm reward score" in out
    assert "no such name in recipes" in refused(capsys, "no-such-recipe")
