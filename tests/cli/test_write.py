"""`add`, `forget`, `reencode` and `chat`."""

import json
from pathlib import Path

import pytest

from tests.fake_memory import FakeMemory, FakeModel


def held(namespace: str = "default") -> dict:
    return {one.id: one.content for one in FakeMemory.files[("m.db", namespace)].values()}


def test_add_keeps_ids_as_they_came(filled) -> None:
    assert list(held()) == [1, 2, "2", "x"]


def test_add_several_files(cli, chat_file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n\nBuy tea.\n")
    done = cli("add", chat_file, "notes.md", "--db", "m.db", "-n", "u1")
    assert "added 5 messages" in done.stdout
    assert held("u1")["notes.md:0001"] == "# Notes\n\nBuy tea."


def test_add_says_which_messages_no_filter_of_times_finds(cli, tmp_path: Path) -> None:
    times = [None, "2026-03-01", "2026-03-01T09:30:00Z", "yesterday"]
    dated = [{"id": i, "role": "user", "content": "some words", "time": time} for i, time in enumerate(times)]
    for name, messages in (("all", dated), ("good", dated[:3])):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "messages": messages}))
    told = cli("add", tmp_path / "all.jsonl", "--db", "m.db").stderr
    assert "--since and --until will not find 1 message, whose time is no ISO 8601 date or time\n" in told
    assert "--since" not in cli("add", tmp_path / "good.jsonl", "--db", "n.db").stderr


def test_add_makes_a_database_of_an_empty_file(cli, chat_file: Path, tmp_path: Path) -> None:
    (tmp_path / "m.db").touch()
    assert cli("add", chat_file, "--db", "m.db").exit_code == 0
    assert len(held()) == 4


def test_a_faulty_file_adds_nothing(cli, chat_file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    done = cli("add", chat_file, "bad.jsonl", "--db", "m.db")
    assert done.exit_code == 2
    assert done.stderr == "hierlandmark: InvalidChatFile: bad.jsonl:1: messages: missing\n"
    assert FakeMemory.files == {}
    assert not Path("m.db").exists()
    assert FakeModel.loaded == []


def test_model_and_adapter(cli, chat_file: Path) -> None:
    cli("add", chat_file, "--db", "m.db", "--model", "base", "--adapter", "none")
    assert FakeModel.loaded == [("base", None)]


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["1"], {1}),
        (["x", "1"], {"x", 1}),
        (["2", "--ids", "integer"], {2}),
        (["2", "--ids", "string"], {"2"}),
        (["1", "x", "1"], {1, "x"}),
    ],
)
def test_forget(filled, words: list[str], gone: set) -> None:
    done = filled("forget", *words, "--db", "m.db")
    assert done.stdout == f"forgot {len(gone)} of 'default' in m.db\n"
    assert set(held()) == {1, 2, "2", "x"} - gone


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["2"], "InvalidArgument: 2 and '2' are both ids here; say --ids integer or --ids string"),
        (["1", "9"], "MessageNotFound: no message with id '9'"),
        (["1", "--ids", "string"], "MessageNotFound: no message with id '1'"),
        (["1", "-n", "none"], "NamespaceNotFound"),
        # not the integer 1, written otherwise
        (["01"], "MessageNotFound: no message with id '01'"),
        (["01", "--ids", "integer"], "MessageNotFound: no message with id '01'"),
        (["--", "-0"], "MessageNotFound"),
        (["١"], "MessageNotFound"),
    ],
)
def test_forget_refuses_what_it_cannot_be_sure_of(filled, words: list[str], said: str) -> None:
    done = filled("forget", "--db", "m.db", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(held()) == 4


def test_reencode(filled) -> None:
    done = filled("reencode", "--db", "m.db", "--model", "other")
    assert "encoded 4 messages, 7 tokens, again" in done.stdout
    assert FakeModel.loaded[-1] == ("other", "default")


def test_chat_answers_and_remembers(filled) -> None:
    done = filled("chat", "--db", "m.db", input="moved where\n\n/exit\nnot read\n")
    assert done.exit_code == 0
    assert done.stdout == "we moved to Lyon\n"
    turns = list(FakeMemory.files[("m.db", "default")].values())[-2:]
    assert [(one.role, one.content) for one in turns] == [("user", "moved where"), ("assistant", "we moved to Lyon")]
    assert turns[0].time
    assert turns[0].time.endswith("+00:00")


def test_chat_starts_with_nothing(cli) -> None:
    done = cli("chat", "--db", "m.db", input="hello\n")
    assert "I remember nothing yet" in done.stdout
    # what was said, and not that nothing is remembered
    assert list(held().values()) == ["hello"]


def test_chat_has_no_other_commands(cli) -> None:
    done = cli("chat", "--db", "m.db", input="hello\n/help\n")
    assert "no such command: /help; /exit ends the chat" in done.stderr
    assert list(held().values()) == ["hello"]


def test_ids_survive_json(filled) -> None:
    found = json.loads(filled("search", "moved", "--db", "m.db", "--json").stdout)
    assert sorted((hit["message_ids"][0] for hit in found["hits"]), key=repr) == ["2", "x", 1, 2]


def test_index(filled) -> None:
    done = filled("index", "--db", "m.db")
    assert done.stdout.startswith("indexed 7 segments, 7 blocks, of 'default' in m.db in 0.1 s; 900 bytes")
    assert FakeMemory.indexed == {("m.db", "default")}
    assert filled("search", "the dog", "--db", "m.db", "--mode", "index").exit_code == 0
    assert "no index of 'default'" in filled("index", "--db", "m.db", "--drop").stdout
    assert FakeMemory.indexed == set()
