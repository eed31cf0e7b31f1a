"""The command with a fake memory and model behind it: what is tested is the command."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import Result
from typer.testing import CliRunner

# modules below the fakes import the real ones
import hierlandmark.memory.memory  # noqa: F401
from hierlandmark.cli import app
from tests.fake_memory import FakeMemory, FakeModel

Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs a command in an empty folder."""
    memory, model = ModuleType("hierlandmark.memory"), ModuleType("hierlandmark.model")
    memory.Memory, model.LandmarkModel = FakeMemory, FakeModel
    monkeypatch.setitem(sys.modules, "hierlandmark.memory", memory)
    monkeypatch.setitem(sys.modules, "hierlandmark.model", model)
    monkeypatch.setattr(FakeMemory, "files", {})
    monkeypatch.setattr(FakeMemory, "indexed", set())
    monkeypatch.setattr(FakeModel, "loaded", [])
    monkeypatch.chdir(tmp_path)
    return lambda *words, **kwargs: CliRunner().invoke(app, [str(word) for word in words], **kwargs)


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """One conversation of four messages, ids integers and strings, and two questions."""
    contents = {1: "we moved to Lyon", 2: "the cat is Minou", "2": "the dog is Rex", "x": "ünïcode tea"}
    record = {
        "id": "c",
        "messages": [{"id": i, "role": "user", "content": text, "time": "2024-05-01"} for i, text in contents.items()],
        "questions": [
            {"type": "fact", "question": "moved where", "evidence": [1]},
            {"question": "the dog", "evidence": ["2"]},
        ],
    }
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(record) + "\n")
    return path


@pytest.fixture
def filled(cli: Cli, chat_file: Path) -> Cli:
    """The command in a folder whose `m.db` holds the chat."""
    assert cli("add", chat_file, "--db", "m.db").exit_code == 0
    return cli
