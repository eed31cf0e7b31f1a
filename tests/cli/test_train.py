"""`train`: options become the configuration of one run."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hierlandmark.train.loop import TrainConfig


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the run was given; it takes one step."""
    seen: dict[str, Any] = {}

    def train_adapter(base: str | None, **given: Any) -> Path:
        seen.update(given, base=base)
        given["on_step"]({"step": 0, "loss": 1.0, "norm": 0.5, "tokens_per_s": 10.0})
        return given["folder"] / "adapter"

    module = ModuleType("hierlandmark.train.run")
    module.train_adapter = train_adapter
    monkeypatch.setitem(sys.modules, "hierlandmark.train.run", module)
    return seen


def test_train(cli, called: dict[str, Any]) -> None:
    words = [
        "--out",
        "o",
        "--text",
        "a.txt",
        "--text",
        "b.txt",
        "--chats",
        "c.jsonl",
        "--steps",
        7,
        "--seed",
        3,
        "--resume",
    ]
    done = cli("train", *words, "--learning-rate", "0.001", "--model", "base")
    assert done.exit_code == 0
    assert done.stdout == "adapter in o/adapter; use it with --adapter o/adapter\n"
    assert called["texts"] == [Path("a.txt"), Path("b.txt")]
    assert called["chats"] == [Path("c.jsonl")]
    assert called["config"] == TrainConfig(steps=7, seed=3, learning_rate=0.001)
    assert (called["base"], called["folder"], called["resume"]) == ("base", Path("o"), True)


def test_defaults_are_those_of_the_shipped_adapter(cli, called: dict[str, Any]) -> None:
    cli("train", "--out", "o", "--text", "a.txt")
    assert called["config"] == TrainConfig()
