"""`demo`: what is written in one process is read in another."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hierlandmark.cli.demo import estimate
from hierlandmark.results import Answer, Cost
from tests.fake_memory import FakeMemory, FakeModel


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
    # not of the three that are shown
    assert "why: of the attention that went to the segments of the 4 messages found best" in second.stdout
    assert "gate of segment    0  mass 0.625" in second.stdout
    # fewer tokens than may be read again: nothing is left to estimate
    assert "measured: 0.50 s from the store, which holds" in second.stdout
    assert second.stdout.count("3.0 s when reading") == 1
    assert "estimate" not in second.stdout


def test_reading_everything_again_is_an_estimate_and_called_so(
    cli, chat_file: Path, second_process: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: FakeModel, prompt: str, *, max_new_tokens: int) -> Answer:
        n = len(prompt)
        return Answer(text="", tokens=[], cost=Cost(), first_token_s=0.01 * n + 0.001 * n * n)

    monkeypatch.setattr(FakeModel, "complete_full", read)
    # what a memory says that it holds, not what its text comes to when tokenised again
    stats, total = FakeMemory.stats, 123
    monkeypatch.setattr(FakeMemory, "stats", lambda memory: stats(memory).model_copy(update={"tokens": total}))
    assert cli("demo", "--file", chat_file, "--question", "the dog", "--reread", 40).exit_code == 0
    ((_, second),) = second_process
    assert f"which holds {total} tokens" in second.stdout
    wanted = 0.01 * total + 0.001 * total * total
    assert second.stdout.count("tokens again\n") == 2
    said = f"an estimate from those two (seconds = a n + b n^2): {wanted:,.0f} s when reading all {total} tokens again"
    assert said in second.stdout
    assert f"{wanted / 0.5:,.0f} times as long" in second.stdout
    assert "not trained to read more than 100 tokens" in second.stdout


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        ({10: 1.0, 20: 3.0}, 0.05 * 100 + 0.005 * 100**2),
        # times that bend down or shoot up are a straight line, or nothing but the square
        ({10: 2.0, 20: 3.0}, 15.0),
        ({10: 0.5, 20: 4.0}, 100.0),
        ({20: 4.0}, 20.0),
    ],
)
def test_estimate(measured: dict[int, float], wanted: float) -> None:
    assert estimate(measured, 100) == pytest.approx(wanted)


def test_demo_makes_a_database_of_its_own(cli, chat_file: Path, second_process: list) -> None:
    assert cli("demo", "--file", chat_file, "--question", "the dog").exit_code == 0
    ((path, _),) = FakeMemory.files
    assert Path(path).name == "demo.db"
    assert second_process[0][0][-2:] == ["--question", "the dog"]


def test_a_failure_of_the_second_process_is_passed_on(cli, chat_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    assert cli("demo", "--file", chat_file).exit_code == 2
