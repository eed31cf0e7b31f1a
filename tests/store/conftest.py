from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hierlandmark.store import BlockStore, InMemoryStore, KVSpec, SQLiteStore
from tests.store.builders import SPEC


@pytest.fixture(params=["sqlite", "in_memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[KVSpec], BlockStore]:
    if request.param == "in_memory":
        return InMemoryStore
    return lambda spec: SQLiteStore(tmp_path / "memory.db", spec)


@pytest.fixture
def store(make_store: Callable[[KVSpec], BlockStore]) -> Iterator[BlockStore]:
    with make_store(SPEC) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"
