"""Memories of the public tiny model: they prove mechanics in milliseconds, not quality."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hierlandmark import LandmarkModel, Memory
from hierlandmark.testing import tiny_model

FACTS = [
    ("m1", "user", "The spare key is under the blue flower pot."),
    ("m2", "assistant", "Noted."),
    (3, "user", "My sister visits in June. She is allergic to walnuts."),
    (
        "m4",
        "assistant",
        "No walnuts in June, then. Shall I look for recipes with hazelnuts, or with none?",
    ),
    ("m5", "user", "Hazelnuts are fine."),
    ("m6", "user", "Yes." * 200),
]


@pytest.fixture(scope="session")
def model() -> LandmarkModel:
    return tiny_model()


@pytest.fixture(autouse=True)
def _default_model(model: LandmarkModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LandmarkModel, "from_pretrained", lambda *_, **__: model)


@pytest.fixture
def memory(model: LandmarkModel) -> Iterator[Memory]:
    """An empty memory."""
    with Memory.open(":memory:", model=model) as opened:
        yield opened


@pytest.fixture
def filled(memory: Memory) -> Memory:
    """Six messages: ids of both types, and one message over many blocks."""
    memory.add(
        {"id": key, "role": role, "content": text, "time": "2026-03-01T09:00:00", "metadata": {"source": "chat"}}
        for key, role, text in FACTS
    )
    return memory


@pytest.fixture
def database(tmp_path: Path, filled: Memory, model: LandmarkModel) -> Path:
    """The same messages on disk, in namespace ada."""
    path = tmp_path / "memory.db"
    with Memory.open(path, "ada", model=model) as on_disk:
        on_disk.add(filled.messages())
    return path
