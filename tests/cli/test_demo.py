"""`demo`: what is written in one process is read in another."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fake_memory import FakeMemory


@pytest.fixture
def second_process(cli, monkeypatch: pytest.MonkeyPatch) -> list:
    """Runs the second process's words through the same command, as the fake's databases live in this process."""
    ran: list = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        ran.append((command, cli(*command[3:])))
        return SimpleNamespace(returncode=ran[-1][1].exit_code)

    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_demo(cli, chat_file: Path, second_process: list) -> None:
    done = cli("demo", "--file", chat_file, "--db", "m.db", "--model", "base")
    assert done.exit_code == 0
    assert "read 4 messages once" in done.stdout
    ((command, second),) = second_process
    assert command[:3] == [sys.executable, "-m", "hierlandmark"]
    assert "? moved where" in second.stdout
    assert "= we moved to Lyon" in second.stdout
    assert "gate of segment    0  mass 0.625" in second.stdout
    assert "0.50 s from the store; 3.0 s when reading" in second.stdout
    assert "6 times as long" in second.stdout


def test_demo_makes_a_database_of_its_own(cli, chat_file: Path, second_process: list) -> None:
    assert cli("demo", "--file", chat_file, "--question", "the dog").exit_code == 0
    ((path, _),) = FakeMemory.files
    assert Path(path).name == "demo.db"
    assert second_process[0][0][-2:] == ["--question", "the dog"]


def test_a_failure_of_the_second_process_is_passed_on(cli, chat_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    assert cli("demo", "--file", chat_file).exit_code == 2
