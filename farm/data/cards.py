"""Cards of evaluation sets: what a set is, where it comes from, how many instructions, which column is what."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farm import resources
from farm.errors import DataError
from farm.records import problems


class Columns(BaseModel):
    """Column names in the file: the reference model's output, and the answers a scripted judge may compare with."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    instruction: str = "instruction"
    input: str = "input"
    source: str = "dataset"
    reference: str
    answers: str | None = None


class Card(BaseModel):
    """``eval_sets/<name>/card.yaml``. ``columns`` is absent for sets that the package makes itself; ``sha256`` is that
    of the unpacked file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    about: str
    source: str
    licence: str
    n: int = Field(gt=0)
    sha256: str | None = None
    reference: str | None = None
    columns: Columns | None = None
    how_to_get: str


def load_card(name: str) -> Card:
    """A card by set name or path. Raises DataError naming the file and every wrong field."""
    path = resources.find("eval_sets", name)
    path = path / "card.yaml" if path.is_dir() else path
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as e:
        raise DataError(f"{path}: {problems(e)}") from None
    except (OSError, yaml.YAMLError) as e:
        raise DataError(f"{path}: the card cannot be read ({e})") from e


def is_original(card: Card, path: str) -> bool | None:
    """Whether the file's unpacked bytes are those the card was written for; None when the card does not say."""
    if card.sha256 is None:
        return None
    file = Path(path).expanduser()
    h = hashlib.sha256()
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest() == card.sha256
