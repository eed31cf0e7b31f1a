"""Named errors are one line and exit code 2, ours one line and exit code 1; help comes at once for every command."""

import pickle
import re
import subprocess
import sys
from unittest.mock import Mock

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from hierlandmark import config
from hierlandmark.cli import app
from hierlandmark.cli.guard import Guard
from hierlandmark.errors import StoreCorrupt
from tests.fake_memory import FakeMemory

COMMANDS = [
    ["add"], ["search"], ["ask"], ["chat"], ["forget"], ["info"], ["index"], ["demo"], ["train"], ["reencode"],
    ["eval", "retrieval"], ["eval", "passkey"], ["eval", "needles"], ["eval", "perplexity"],
    ["eval", "work"],
]  # fmt: skip
SHARE = "from 0 to under 1"
EXPECTED = "InvalidArgument: expected"
NOBODY = "NamespaceNotFound: no message is remembered under namespace 'nobody'; `hierlandmark info --db /"


@pytest.mark.parametrize("command", [[], ["eval"], *COMMANDS], ids="-".join)
def test_help(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output
    # a line about what it does
    assert len(done.output.split("\n\n")[1].strip()) > 10


def test_every_command_is_in_the_list() -> None:
    root = typer.main.get_command(app)
    names = [[name] for name in root.commands if name != "eval"]
    names += [["eval", name] for name in root.commands["eval"].commands]
    assert sorted(names) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "q", "--db", "none.db"], "InvalidArgument: no database at 'none.db'"),
        (["info", "--db", "none.db"], "InvalidArgument: no database at 'none.db'"),
        (["reencode", "--db", "none.db"], "InvalidArgument: no database at 'none.db'"),
        (["index", "--db", "none.db"], "InvalidArgument: no database at 'none.db'"),
        (["index", "--db", "m.db", "-n", "nobody"], NOBODY),
        (["search", "q", "--db", "m.db", "-n", "nobody"], NOBODY),
        (["search", "q", "--db", "m.db", "-k", "0"], "InvalidArgument: expected k of at least 1, got 0"),
        (["add", "chat.jsonl", "--db", "m.db"], "DuplicateMessageId: message id 1 is in namespace 'default' already"),
        (["eval", "retrieval", "chat.jsonl", "-k", "0"], "InvalidArgument: expected k of at least 1, got 0"),
        (["eval", "passkey", "--trials", "0"], "InvalidArgument: expected at least one length and one trial"),
        (["eval", "passkey", "--lengths", "9", "--trials", "1"], f"{EXPECTED} lengths that hold the 47 words around"),
        (["eval", "passkey", "--lengths", "99999999999"], f"{EXPECTED} lengths of at most "),
        (["eval", "passkey", "--filler", "none.txt"], "InvalidChatFile: none.txt: cannot be read"),
        (
            ["eval", "needles", "--filler", "none.txt"],
            "InvalidArgument: expected --filler to name a file, got 'none.txt'",
        ),
        (["eval", "needles", "--segments", "0"], "InvalidArgument: expected --segments to be 1 or more, got 0"),
        (["eval", "needles", "--blocks", "-2"], "InvalidArgument: expected --blocks to be 1 or more, got -2"),
        (["eval", "needles", "--threshold", "nan"], f"InvalidArgument: expected --threshold to be {SHARE}, got nan"),
        (["eval", "needles", "--threshold", "-1"], f"InvalidArgument: expected --threshold to be {SHARE}, got -1.0"),
        (
            ["eval", "perplexity", "chat.jsonl", "--blocks", "4,0"],
            "InvalidArgument: expected --blocks to be 1 or more, got 0",
        ),
        (
            ["eval", "perplexity", "chat.jsonl", "--blocks", "4", "--segments", "0"],
            "InvalidArgument: expected --segments to be 1 or more, got 0",
        ),
        (
            ["eval", "perplexity", "chat.jsonl", "--blocks", "4", "--threshold", "0,1"],
            f"InvalidArgument: expected --threshold to be {SHARE}, got 1.0",
        ),
        (
            ["eval", "perplexity", "chat.jsonl", "--window", "-8"],
            "InvalidArgument: expected a --window of 1 token or more, got -8",
        ),
        (["ask", "q", "--db", "m.db", "--stride", "x"], f"{EXPECTED} --stride to be a valid integer, got 'x'"),
        (["ask", "q", "--db", "m.db", "--stride", "0"], f"{EXPECTED} --stride to be 1 or more, got 0"),
        (["search", "q", "--db", "m.db", "-k", "1.5"], f"{EXPECTED} -k to be a valid integer, got '1.5'"),
        (
            ["search", "q", "--db", "m.db", "--mode", "deep"],
            f"{EXPECTED} --mode to be 'hierarchical', 'flat', 'hybrid' or 'index', got 'deep'",
        ),
        (["search", "q", "--db", "m.db", "--meta", "x"], f"{EXPECTED} --meta to be KEY=VALUE, got 'x'"),
        (
            ["eval", "needles", "--weigh-by", "bogus"],
            f"{EXPECTED} --weigh-by to be 'gates' or 'landmarks', got 'bogus'",
        ),
        (["eval", "needles", "--threshold", "x"], f"{EXPECTED} --threshold to be a valid number, got 'x'"),
        (
            ["eval", "needles", "--lengths", "4k"],
            f"{EXPECTED} --lengths to be integers separated by commas, got '4k'",
        ),
        (
            ["eval", "perplexity", "chat.jsonl", "--threshold", "x"],
            f"{EXPECTED} --threshold to be numbers separated by commas, got 'x'",
        ),
        (["train", "--out", "o", "--text", "t", "--rank", "0"], f"{EXPECTED} --rank to be at least 1, got 0"),
        (
            ["train", "--out", "o", "--text", "t", "--block-size", "2"],
            f"{EXPECTED} --block-size to be 4 or more, got 2",
        ),
        (
            ["train", "--out", "o", "--text", "t", "--retrieval-depth", "0.9,0.1"],
            f"{EXPECTED} --retrieval-depth to be two shares",
        ),
        (
            ["train", "--out", "o", "--text", "t", "--taught", "1"],
            f"{EXPECTED} --taught with a --search-share only, got",
        ),
        (
            ["train", "--out", "o", "--text", "t", "--window", "8"],
            f"{EXPECTED} a --window with --attention 'window' only, got 8 with 'landmark'",
        ),
        (
            ["train", "--out", "o", "--text", "t", "--gates", "1", "--attention", "full"],
            f"{EXPECTED} no --gates with --attention 'full', which has no landmarks",
        ),
        (
            ["train", "--out", "o", "--text", "t", "--gate-queue", "8"],
            f"{EXPECTED} a --gate-queue with --gates, a --stream-share under 1 and no --jump, got 8 with 0.0, 0.12",
        ),
        (
            ["train", "--out", "o", "--text", "t", "--freeze-below", "1"],
            f"{EXPECTED} neither a --search-share nor --votes with --freeze-below, got 0.0 and 0.3",
        ),
        (["train", "--out", "o", "--text", "t", "--length", "0"], f"{EXPECTED} --length to be integers of at least 1"),
        # told by the run, not by its configuration
        (["train", "--out", "o", "--text", "t", "--length", "1000"], f"{EXPECTED} --length of two or more whole"),
        (["train", "--out", "o", "--text", "t", "--workers", "-1"], f"{EXPECTED} --workers to be 0 or more, got -1"),
        (
            ["train", "--out", "o", "--text", "chat.jsonl", "--recency", "1", "--stream-share", "0"],
            f"{EXPECTED} a --stream-share with --recency: ",
        ),
        (
            ["train", "--out", "o", "--text", "chat.jsonl", "--freeze-below", "1", "--votes", "0"],
            f"{EXPECTED} an adapter to start from with --freeze-below; give --init",
        ),
        (
            ["train", "--out", "my_block_size/stream_share", "--text", "t", "--resume"],
            "InvalidArgument: nothing to resume in 'my_block_size/stream_share'",
        ),
        (["eval", "work", "--blocks", "0"], "InvalidArgument: expected --blocks to be 1 or more, got 0"),
        (["eval", "work", "--lengths", "9,0"], "InvalidArgument: expected lengths of at least 1, got 0"),
        (["eval", "needles", "--workers", "0"], "InvalidArgument: expected at least one worker, got 0"),
        (["demo", "--file", "none.jsonl"], "InvalidArgument: no chat file at 'none.jsonl'"),
        (
            ["train", "--out", "o"],
            "InvalidArgument: expected at least one file to train on; give it by --text or --chats",
        ),
    ],
)
def test_named_error(filled, words: list[str], said: str) -> None:
    done = filled(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"hierlandmark: {said}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_bounds_of_what_a_query_reads_are_those_of_the_configuration(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(config.RecallConfig):
        blocks: int = Field(default=4, le=4)

    monkeypatch.setattr(config, "RecallConfig", Narrow)
    for command in (["needles"], ["work"], ["perplexity", "chat.jsonl"]):
        done = filled("eval", *command, "--blocks", "5")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == "hierlandmark: InvalidArgument: expected --blocks to be 4 or less, got 5\n"


def test_a_reading_command_makes_no_file(cli, tmp_path) -> None:
    cli("search", "q", "--db", "none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_store_is_one_line(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise StoreCorrupt("bad\npage \ud800")

    monkeypatch.setattr(FakeMemory, "search", broken)
    done = filled("search", "q", "--db", "m.db")
    assert (done.exit_code, done.stderr) == (2, "hierlandmark: StoreCorrupt: bad page \\ud800\n")


def test_what_to_do_is_said_in_commands(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    error = StoreCorrupt("bad page", python="call `Memory.mend`", command="run `hierlandmark mend`")
    assert str(error) == "bad page; call `Memory.mend`"
    # as an error travels from one process to another
    for one in (error, pickle.loads(pickle.dumps(error))):
        monkeypatch.setattr(FakeMemory, "search", Mock(side_effect=one))
        done = filled("search", "q", "--db", "m.db")
        assert (done.exit_code, done.stderr) == (2, "hierlandmark: StoreCorrupt: bad page; run `hierlandmark mend`\n")


def test_our_own_fault(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeMemory, "search", None)
    done = filled("search", "q", "--db", "m.db")
    assert done.exit_code == 1
    assert done.stderr.startswith("hierlandmark: internal error, TypeError: 'NoneType' object is not callable")
    monkeypatch.setenv("HIERLANDMARK_DEBUG", "1")
    assert isinstance(filled("search", "q", "--db", "m.db").exception, TypeError)


@pytest.mark.parametrize("words", [["search"], ["search", "q"], ["ask", "q", "--db", "m.db", "--deep"], ["unheard"]])
def test_usage(cli, words: list[str]) -> None:
    done = cli(*words)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("words", "close"),
    [
        (["ask", "q", "--stide", "2"], {"--stride"}),
        # no option of this command is near: what is alike in --since and --mode are two letters and the dashes
        (["search", "q", "--stide", "2"], set()),
        (["search", "q", "--neighbors", "2"], {"--neighbours"}),
        (["eval", "needles", "--weigh", "landmarks"], {"--weigh-by"}),
    ],
)
def test_an_unknown_option_is_answered_with_those_that_are_close(cli, words: list[str], close: set[str]) -> None:
    said = cli(*words).stderr.splitlines()[-1]
    assert "No such option" in said
    assert set(re.findall(r"--[a-z-]+", said)) == {next(word for word in words if word.startswith("--")), *close}


class NoSuchCommand(Exception):
    """As newer versions of click have it: no name of an option."""

    __module__ = "click.exceptions"

    def __init__(self) -> None:
        super().__init__("No such command 'serch'.")
        self.command_name, self.possibilities = "serch", ["search"]


def invoked(error: Exception) -> typer.core.TyperGroup:
    """A command that ends in an error."""
    inner = typer.core.TyperCommand("fail", callback=Mock(side_effect=error))
    return Guard(name="hierlandmark", commands={"fail": inner})


def test_an_unknown_command_keeps_what_is_proposed_for_it() -> None:
    with pytest.raises(NoSuchCommand) as told:
        invoked(NoSuchCommand()).main(["fail"], standalone_mode=False)
    assert told.value.possibilities == ["search"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("'x' is not a valid integer.", "expected a value to be a valid integer, got 'x'"),
        ("\"it's not\" is not one of 'a', 'b'.", "expected a value to be 'a' or 'b', got \"it's not\""),
        ("'a' is not b' is not a valid integer.", "expected a value to be a valid integer, got 'a' is not b'"),
        (f"'{'x' * 500}' is not a valid integer.", f"expected a value to be a valid integer, got '{'x' * 79}"),
        ("the file is not readable.", "a value: the file is not readable."),
        ("Directory 'd' is not writable.", "a value: Directory 'd' is not writable."),
    ],
    ids=["integer", "choice", "quotes", "long", "no-value", "path"],
)
def test_a_wrong_value_is_told_from_other_messages(capsys, message: str, said: str) -> None:
    with pytest.raises(SystemExit):
        invoked(typer.BadParameter(message)).main(["fail"])
    assert capsys.readouterr().err == f"hierlandmark: InvalidArgument: {said}\n"


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hierlandmark", "--version"], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "0.1.0"
    done = subprocess.run(
        [sys.executable, "-m", "hierlandmark", "info", "--db", "none.db"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_message_without_text_is_named_with_its_file_and_nothing_is_made(cli, tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "c", "messages": [{"id": 1, "role": "user", "content": " "}]}\n')
    done = cli("add", "bad.jsonl", "--db", "m.db")
    assert done.exit_code == 2
    assert "bad.jsonl: message 1 of conversation 'c' has no text" in done.stderr
    assert not (tmp_path / "m.db").exists()


# words of each command, and what a path that is none comes to without torch
CHECKED = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from hierlandmark.cli import app

existing = [["search", "q"], ["ask", "q"], ["forget", "1"], ["info"], ["index"], ["reencode"]]
making = [["add", "chat.jsonl"], ["chat"], ["demo"], ["eval", "retrieval", "chat.jsonl"]]
said = {"none.db": "InvalidArgument: no database at 'none.db'", "folder": "InvalidArgument: path must name a file"}
said |= {"note.db": "StoreCorrupt: note.db is no SQLite database; ", "none/m.db": "InvalidArgument: no"}
said["empty.db"] = "InvalidArgument: no database at 'empty.db', which is an empty file; make one with"
for command in existing + making:
    for db, wanted in said.items():
        if command in making and db in ("none.db", "empty.db"):
            continue
        for more in ([], ["--model", "some"]) if command != ["info"] else ([],):
            done = CliRunner().invoke(app, [*command, "--db", db, *more])
            assert done.exit_code == 2 and done.stderr.startswith(f"hierlandmark: {wanted}"), (command, db, done.stderr)
assert sorted(map(str, Path().iterdir())) == ["chat.jsonl", "empty.db", "folder", "note.db"]
assert Path("empty.db").stat().st_size == 0
print(sorted({"torch", "transformers", "hierlandmark.memory.memory"} & set(sys.modules)))
"""


def test_a_path_is_checked_before_torch_is_imported(chat_file, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "note.db").write_text("no database " * 99)
    (tmp_path / "empty.db").touch()
    done = subprocess.run([sys.executable, "-c", CHECKED], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# what search, ask and others do not take, and what is said of it without torch
ASKED = """
import sys
from typer.testing import CliRunner
from hierlandmark.cli import app
from hierlandmark.messages import Message
from hierlandmark.store import KVSpec, SQLiteStore

with SQLiteStore("m.db", KVSpec(1, 1, 2, 4, 1, "float32", "f" * 64)) as store:
    store.append("default", [Message(id=1, role="user", content="tea")], [])
nobody = "NamespaceNotFound: no message is remembered under namespace 'nobody'; `hierlandmark info --db /"
for words, said in (
    (["search", " "], "InvalidMessage: expected some text, the query is ' '"),
    (["search", "q", "-k", "0"], "InvalidArgument: expected k of at least 1, got 0"),
    (["search", "q", "--neighbours", "-1"], "InvalidArgument: expected neighbours of at least 0, got -1"),
    (["search", "q", "--since", "then"], "InvalidArgument: expected since to be an ISO 8601 date or time"),
    (["search", "q", "-n", "nobody"], nobody),
    (["ask", ""], "InvalidMessage: expected some text, the question is ''"),
    (["ask", "q", "--max-new-tokens", "0"], "InvalidArgument: expected max_new_tokens of at least 1, got 0"),
    (["chat", "--max-new-tokens", "0"], "InvalidArgument: expected max_new_tokens of at least 1, got 0"),
    (["ask", "q", "--among", "-1"], "InvalidArgument: expected among of at least 0, got -1"),
    (["ask", "q", "-n", "nobody"], nobody),
    (["forget", "1", "-n", "nobody"], nobody),
    (["index", "-n", "nobody"], nobody),
):
    for more in ([], ["--model", "some"]):
        done = CliRunner().invoke(app, [*words, "--db", "m.db", *more])
        assert done.exit_code == 2 and done.stderr.startswith(f"hierlandmark: {said}"), (words, done.stderr)
        assert done.stderr.count("\\n") == 1
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_what_is_asked_is_checked_before_torch_is_imported(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
