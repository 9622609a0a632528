"""Labels by people train a reward model: TRL's trainer on the exported rows, and the farm's own through a recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "label"))

from studies import label_all, opened, study  # noqa: E402

from farm import records  # noqa: E402
from farm.data.human import read  # noqa: E402
from farm.label import export  # noqa: E402
from farm.records import Preference  # noqa: E402


def people(folder: Path):
    store = opened(folder / "labels.sqlite", study(16))
    for name in ("ann", "bob", "cat"):
        label_all(store, name, lambda _, left, right: "first" if len(left.text) > len(right.text) else "second")
    return store


@pytest.mark.parametrize("margin", [False, True])
def test_trl_trains_a_step_on_the_exported_rows(tmp_path, margin):
    import datasets
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from farm.lm import tiny

    rows, ties = export.preferences(people(tmp_path), margin=margin)
    assert (len(rows), ties) == (32, 0)
    export.write(rows, tmp_path / "trl.jsonl", "trl")
    data = datasets.load_dataset("json", data_files=str(tmp_path / "trl.jsonl"), cache_dir=str(tmp_path / "c"))["train"]
    assert data.column_names == ["prompt", "chosen", "rejected", *(["margin"] if margin else [])]
    text = [t for r in rows for t in (r["prompt"], r["chosen"], r["rejected"])]
    folder = tiny.create(tmp_path / "m", tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=32), 0, texts=text)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    settings = RewardConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    trainer = RewardTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    assert trainer.train().global_step == 1
    back = read(tmp_path / "trl.jsonl", "trl")
    assert len(back.judgements) == 32
    assert not back.rejected


def test_the_long_table_loads_with_datasets_and_comes_back_the_same(tmp_path):
    import datasets

    store = people(tmp_path)
    rows = export.long_table(store)
    for form, name in (("farm", "x.jsonl"), ("csv", "x.csv"), ("parquet", "x.parquet")):
        export.write(rows, tmp_path / name, form)
        kind = {"farm": "json"}.get(form, form)
        data = datasets.load_dataset(kind, data_files=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))["train"]
        assert data.num_rows == 96
        data.to_json(str(tmp_path / f"{form}.jsonl"), date_format=None)
        back = read(tmp_path / f"{form}.jsonl", "farm")
        assert sorted(back.judgements, key=lambda j: j.id) == sorted(store.judgements(), key=lambda j: j.id)


def test_a_run_learns_its_reward_from_people(tmp_path):
    export.write(export.long_table(people(tmp_path)), tmp_path / "people.jsonl", "farm")
    command = [sys.executable, "-m", "farm", "reward", "tiny", "--out", str(tmp_path / "run")]
    command += ["--set", f"annotate.human={tmp_path / 'people.jsonl'}"]
    subprocess.run(command, check=True, timeout=600)
    labelled = records.read(tmp_path / "run/3-annotate/seed-0/preferences.jsonl", Preference)
    assert len(labelled) == 32
    assert {p.origin for p in labelled} == {"human"}
    assert (tmp_path / "run/4-reward/seed-0/model/report.jsonl").is_file()
