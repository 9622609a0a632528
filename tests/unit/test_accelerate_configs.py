"""The configurations for ``accelerate launch``: its own loader reads them, and they ask for what their names say."""

from __future__ import annotations

import pytest

from farm import resources
from farm.cli import main
from farm.errors import DataError
from farm.lm import sharded

NAMES = sorted(p.name for p in (resources.folder("recipes") / "accelerate").glob("*.yaml"))


def config(name):
    loader = pytest.importorskip("accelerate.commands.config.config_args")
    return loader.load_config_from_file(str(resources.find("recipes", f"accelerate/{name}")))


def test_there_are_three_and_they_are_no_recipes(capsys):
    assert NAMES == ["fsdp2.yaml", "zero2.yaml", "zero3.yaml"]
    main(["recipes", "list"])
    listed = capsys.readouterr().out
    assert "tiny" in listed
    assert "fsdp" not in listed
    assert "accelerate" not in listed
    with pytest.raises(DataError, match="accelerate: no such file, and no such name in recipes/") as e:
        resources.find("recipes", "accelerate")
    assert "accelerate," not in str(e.value)


@pytest.mark.parametrize("name", NAMES)
def test_each_asks_for_the_right_kind_on_accelerators(name):
    read = config(name)
    assert read.distributed_type.value == ("FSDP" if name.startswith("fsdp") else "DEEPSPEED")
    assert read.distributed_type.value in sharded.KINDS
    assert not read.use_cpu
    assert read.num_processes == 2
    assert str(read.mixed_precision).endswith("bf16")
    if name.startswith("fsdp"):
        assert read.fsdp_config["fsdp_version"] == 2
        assert read.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False  # farm checks the weights it loads
        assert read.deepspeed_config == {}
    else:
        assert read.deepspeed_config["zero_stage"] == int(name.removeprefix("zero")[0])
        assert read.deepspeed_config["zero3_init_flag"] is False
        assert read.deepspeed_config.get("zero3_save_16bit_model", False) == name.startswith("zero3")
        assert read.fsdp_config == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_knows_every_setting(name):
    """One that it does not know it would pass over in silence."""
    launch = pytest.importorskip("accelerate.commands.launch")
    known = launch.launch_command_parser().parse_args(["train.py"])
    read = config(name)
    settings = read.fsdp_config | read.deepspeed_config
    assert settings
    assert [key for key in settings if not hasattr(known, key)] == []
