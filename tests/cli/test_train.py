"""`train`: options become the configuration of one run."""

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from hierlandmark.cli import app
from hierlandmark.config import LayoutConfig
from hierlandmark.train import run
from hierlandmark.train.config import OPTIONS, TrainConfig


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.jsonl"):
        (tmp_path / name).touch()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the run was given; it takes one step."""
    seen: dict[str, Any] = {}

    def train_adapter(base: str | None, **given: Any) -> Path:
        seen.update(given, base=base)
        given["on_step"]({"step": 0, "loss": 1.0, "norm": 0.5, "tokens_per_s": 10.0})
        return given["folder"] / "adapter"

    monkeypatch.setattr(run, "train_adapter", train_adapter)
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
    ]
    done = cli("train", *words, "--learning-rate", "0.001", "--model", "base")
    assert done.exit_code == 0
    assert done.stdout == "adapter in o/adapter; use it with --adapter o/adapter\n"
    assert called["texts"] == [Path("a.txt"), Path("b.txt")]
    assert called["chats"] == [Path("c.jsonl")]
    assert called["config"] == TrainConfig(steps=7, seed=3, learning_rate=0.001)
    assert (called["base"], called["folder"], called["resume"]) == ("base", Path("o"), False)


def test_options_not_given_keep_their_defaults(cli, called: dict[str, Any]) -> None:
    cli("train", "--out", "o", "--text", "a.txt")
    assert called["config"] == TrainConfig()


def test_help_shows_the_defaults_of_a_run(cli) -> None:
    entries = [" ".join(one.split()) for one in cli("train", "--help").output.split("\n  --")]
    known = {**asdict(TrainConfig()), **LayoutConfig().model_dump(), "local_window": LayoutConfig().local_window}
    options = {one.name: one for one in typer.main.get_command(app).commands["train"].params}
    shared = known.keys() & options.keys()
    assert {"steps", "votes", "block_size", "search_share"} <= shared
    for name in shared:
        (entry,) = [one for one in entries if f"--{one.split()[0]}" in options[name].opts]
        if not isinstance(known[name], bool | tuple | None):
            assert entry.endswith(f"[default: {known[name]}]")
        # said once, by the configuration
        assert "default: " not in options[name].help
    assert any(one.startswith("retrieval-depth") and one.endswith("[default: 0.35,0.8]") for one in entries)


def test_errors_name_options_that_there_are() -> None:
    options = {word for one in typer.main.get_command(app).commands["train"].params for word in one.opts}
    for field in fields(TrainConfig):
        called = OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
        assert called in options or (called == field.name and f"--{called.replace('_', '-')}" not in options)


def test_defaults_are_shown_without_torch() -> None:
    code = """
import sys
from typer.testing import CliRunner
from hierlandmark.cli import app
assert "[default: 2000]" in CliRunner().invoke(app, ["train", "--help"]).output
print(*{"torch", "transformers"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_a_resumed_run_keeps_its_own_options(cli, called: dict[str, Any]) -> None:
    own = TrainConfig(steps=70, tokens=512, learning_rate=1e-3, seed=9, longest=7, votes=1.0, warmup=3, seconds=50.0)
    state = {"checkpoint": "step-000004", "step": 4, "updates": 4, "config": asdict(own)}
    Path("o").mkdir()
    Path("o/state.json").write_text(json.dumps(state))
    assert cli("train", "--out", "o", "--text", "a.txt", "--resume").exit_code == 0
    assert called["config"] == own
    assert cli("train", "--out", "o", "--text", "a.txt", "--resume", "--steps", 90, "--votes", 0).exit_code == 0
    assert called["config"] == replace(own, steps=90, votes=0.0)
    Path("o/state.json").write_text(json.dumps({**state, "config": {"later_option": 1}}))
    done = cli("train", "--out", "o", "--text", "a.txt", "--resume")
    assert (done.exit_code, "of another version" in done.stderr) == (2, True)


def test_a_run_whose_checkpoint_names_no_files_asks_for_them(cli) -> None:
    state = {"checkpoint": "step-000004", "step": 4, "updates": 4, "config": asdict(TrainConfig())}
    Path("o").mkdir()
    Path("o/state.json").write_text(json.dumps(state))
    done = cli("train", "--out", "o", "--resume")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "the run in 'o' needs the files" in done.stderr and done.stderr.endswith("them by --text and --chats\n")


def test_nothing_to_resume(cli, called: dict[str, Any]) -> None:
    for files in ([], ["--text", "a.txt"]):
        done = cli("train", "--out", "o", *files, "--resume")
        assert (done.exit_code, "nothing to resume" in done.stderr) == (2, True)
    assert called == {}


@pytest.mark.parametrize(
    "words",
    [
        "--steps 0",
        "--steps -3",
        "--seconds 0",
        "--seconds nan",
        "--tokens 0",
        "--longest 0",
        "--learning-rate -1",
        "--learning-rate inf",
        "--rank 0",
        "--votes -0.5",
        "--seed -1",
    ],
)
def test_a_value_outside_its_range_is_named(cli, called: dict[str, Any], words: str) -> None:
    done = cli("train", "--out", "o", "--text", "a.txt", *words.split())
    assert done.exit_code == 2
    assert done.stderr.startswith("hierlandmark: InvalidArgument: expected ")
    assert called == {}


@pytest.mark.parametrize("words", ["--device nope", "--device cuda:99", "--workers -1"])
def test_a_device_that_is_not_there_is_named(cli, words: str) -> None:
    done = cli("train", "--out", "o", "--text", "a.txt", "--model", "none", *words.split())
    assert done.exit_code == 2
    assert done.stderr.startswith("hierlandmark: InvalidArgument: expected ")


# what the options do not take, and what is said of it without torch
WRONG = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from hierlandmark.cli import app

Path("file").touch()
for words, said in (
    ("--rank 0", "InvalidArgument: expected --rank to be at least 1, got 0"),
    ("--steps 1.5", "InvalidArgument: expected --steps to be a valid integer, got '1.5'"),
    ("--learning-rate -1", "InvalidArgument: expected --learning-rate to be 0 or more, got -1.0"),
    ("--block-size 2", "InvalidArgument: expected --block-size to be 4 or more, got 2"),
    ("--length 9,x", "InvalidArgument: expected --length to be integers separated by commas, got '9,x'"),
    ("--length 1000", "InvalidArgument: expected --length of two or more whole segments of 512 positions, got 1000"),
    ("--gates 1 --attention full", "InvalidArgument: expected no --gates with --attention 'full'"),
    ("--workers -1", "InvalidArgument: expected --workers to be 0 or more, got -1"),
    ("--out file", "InvalidArgument: expected a folder to train in, 'file' is a file"),
    ("--resume", "InvalidArgument: nothing to resume in 'o'"),
    ("--text none.txt", "InvalidArgument: no file to train on at 'none.txt'"),
    ("--chats none.jsonl", "InvalidArgument: no file to train on at 'none.jsonl'"),
    ("--chats c.jsonl --chats notes.md", "InvalidChatFile: notes.md is no chat file (.jsonl, .jsonl.xz) but a text; "),
):
    done = CliRunner().invoke(app, ["train", "--out", "o", "--text", "a.txt", *words.split()])
    assert done.exit_code == 2 and done.stderr.startswith(f"hierlandmark: {said}"), (words, done.stderr)
    assert done.stderr.count("\\n") == 1
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_options_are_checked_before_torch_is_imported(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", WRONG], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
