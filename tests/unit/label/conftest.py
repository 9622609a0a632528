"""A labelling study with its site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import Site, opened, served

from farm.label.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = opened(tmp_path / "labels.sqlite")
    yield made
    made.close()


@pytest.fixture
def site(store: Store) -> Iterator[Site]:
    with served(store) as made:
        yield made
