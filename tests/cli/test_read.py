"""`search`, `info` and `ask`: their JSON is a contract that others script against."""

import json
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from hierlandmark.cli.output import show_hits
from hierlandmark.config import MemoryConfig, RecallConfig
from hierlandmark.messages import Message
from hierlandmark.results import Cost, Hit
from hierlandmark.store import SQLiteStore
from tests.fake_memory import SPEC, FakeMemory, FakeModel


def test_search_json(filled) -> None:
    done = filled("search", "the dog", "--db", "m.db", "--namespace", "default", "-k", 2, "--mode", "flat", "--json")
    found = json.loads(done.stdout)
    assert set(found) == {"hits", "cost"}
    assert len(found["hits"]) == 2
    assert set(found["hits"][0]) == {"message_ids", "text", "score", "block", "segment"}
    # strings stay strings
    assert [hit["message_ids"] for hit in found["hits"]] == [["2"], [2]]
    assert set(found["cost"]) == set(Cost.model_fields) == {
        "gate_keys", "landmark_keys", "blocks_read", "bytes_read", "ms"
    }  # fmt: skip
    assert found["cost"]["gate_keys"] == 0


def test_search_for_people(filled) -> None:
    said = filled("search", "the dog", "--db", "m.db", "--why").stdout
    assert "message 2  user 2024-05-01  (block 0, segment 0)" in said
    assert "the dog is Rex" in said
    assert said.count("     found by landmarks (0.25) and words (1.00 of the best match)\n") == 2
    assert said.count("     found by landmarks (0.25)\n") == 2
    assert "found by" not in filled("search", "the dog", "--db", "m.db").stdout
    assert "found by" not in filled("search", "the dog", "--db", "m.db", "--why", "--mode", "flat").stdout
    assert "gate of segment    0  mass 0.625  most in layer 3 head 1 (0.75)" in said
    assert "landmark keys scored" in said


def test_a_message_that_words_alone_found(capsys) -> None:
    show_hits([Hit(message_ids=[1], text="tea", score=0.1, block=0, segment=0, words=0.5)], "tea", why=True)
    assert capsys.readouterr().out.endswith("     tea\n     found by words (0.50 of the best match)\n")


def test_search_filters(filled) -> None:
    def found(*options: object) -> list:
        done = filled("search", "the dog", "--db", "m.db", "--json", *options)
        assert done.exit_code == 0, done.output
        return [hit["message_ids"][0] for hit in json.loads(done.stdout)["hits"]]

    path = Path("more.jsonl")
    messages = [
        {"id": 7, "role": "tool", "content": "a dog", "time": "2024-06-01T10:00:00Z", "metadata": {"n": 1, "k": "a=b"}},
        {"id": 8, "role": "user", "content": "no dog", "metadata": {"n": "1", "done": True}},
    ]
    path.write_text(json.dumps({"id": "more", "messages": messages}) + "\n")
    assert filled("add", path, "--db", "m.db").exit_code == 0
    assert found("--role", "tool") == [7]
    assert set(found("--role", "tool", "--role", "user")) == {1, 2, "2", "x", 7, 8}
    assert found("--since", "2024-06-01T12:00:00+02:00") == found("--since", "2024-06-01") == [7]
    assert set(found("--until", "2024-05-01")) == {1, 2, "2", "x"}
    assert found("--meta", "n=1", "--meta", "k=a=b") == [7]
    assert found("--meta", 'n="1"') == found("--meta", "done=true") == [8]
    assert found("--meta", "k=c") == []


def test_a_role_that_no_message_has_is_told(filled) -> None:
    done = filled("search", "word", "--db", "m.db", "--role", "boss", "--role", "chef")
    assert done.exit_code == 0 and "nothing found" in done.stdout
    assert "no message has the role 'boss' or 'chef'; there are 'user'" in done.stderr
    # one that is there, and nothing of it in that time
    done = filled("search", "word", "--db", "m.db", "--role", "user", "--since", "2999-01-01")
    assert "nothing found" in done.stdout and "no message has the role" not in done.stderr


def test_filters_that_are_none_are_one_line(filled) -> None:
    iso = "an ISO 8601 date or time, such as 2026-03-31 or 2026-03-31T09:30:00+02:00"
    for options, said in (
        (("--since", "last week"), f"expected since to be {iso}, got 'last week'"),
        (("--until", "31.3."), f"expected until to be {iso}, got '31.3.'"),
        (("--since", "2026-03-02", "--until", "2026-03-01"), "expected since to be before until: no time is at"),
        (("--meta", "n=1e999"), "expected metadata to be a mapping of keys to texts, finite numbers,"),
    ):
        done = filled("search", "tea", "--db", "m.db", *options)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"hierlandmark: InvalidArgument: {said}")
        assert "validation error" not in done.stderr and done.stderr.count("\n") == 1
    done = filled("search", "tea", "--db", "m.db", "--meta", "key")
    assert done.exit_code == 2 and "expected --meta to be KEY=VALUE, got 'key'" in done.stderr


def test_search_neighbours(filled) -> None:
    words = ("search", "the cat", "--db", "m.db", "-k", 1, "--neighbours", 1)
    (hit,) = json.loads(filled(*words, "--json").stdout)["hits"]
    assert [one["content"] for one in hit["before"]] == ["we moved to Lyon"]
    assert hit["after"] == []
    lines = [line.strip() for line in filled(*words).stdout.splitlines()]
    assert lines[1:3] == ["before, user: we moved to Lyon", "the cat is Minou"]


def test_search_when(filled) -> None:
    words = ("search", "the cat in may", "--db", "m.db", "--when")
    found = json.loads(filled(*words, "--json").stdout)
    assert found["when"] == {"expressions": ["in May"], "since": "2024-05-01T00:00:00Z", "until": None}
    assert filled(*words).stdout.startswith("in May: from 2024-05-01T00:00:00+00:00\n")
    assert json.loads(filled("search", "cat", "--db", "m.db", "--when", "--json").stdout)["when"] is None


def test_search_why_json(filled) -> None:
    found = json.loads(filled("search", "tea", "--db", "m.db", "--json", "--why").stdout)
    assert (found["hits"][0]["landmarks"], found["hits"][0]["words"]) == (0.25, 1.0)
    assert found["trace"]["segments"][0]["mass"] == 0.625
    assert found["trace"]["blocks"][0]["text"] == "a text"


def test_json_is_ascii(filled) -> None:
    done = filled("search", "tea", "--db", "m.db", "-k", 1, "--json")
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["hits"][0]["text"] == "ünïcode tea"


def test_info_json(filled, chat_file) -> None:
    filled("add", chat_file, "--db", "m.db", "-n", "other")
    held = json.loads(filled("info", "--db", "m.db", "--json").stdout)
    assert held["path"] == "m.db"
    assert [one["namespace"] for one in held["namespaces"]] == ["default", "other"]
    assert set(held["namespaces"][0]) == {
        "namespace", "keep", "messages", "tokens", "segments", "blocks", "kv_bytes", "key_bytes", "text_bytes",
        "file_bytes", "index",
    }  # fmt: skip
    assert held["namespaces"][0]["index"] is None
    (one,) = json.loads(filled("info", "--db", "m.db", "-n", "other", "--json").stdout)["namespaces"]
    assert one["messages"] == 4


def test_what_a_database_holds_is_read_once(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Mock(wraps=SQLiteStore.peek)
    monkeypatch.setattr(SQLiteStore, "peek", looked)
    for words in (["info"], ["search", "tea"]):
        assert filled(*words, "--db", "m.db").exit_code == 0
        # the memory's own look is a fake's here
        assert looked.call_count == 1
        looked.reset_mock()


def test_what_a_database_lacks_is_told_before_a_model_is_loaded(filled) -> None:
    with SQLiteStore("s.db", replace(SPEC, keep="search", kept=(0,))) as store:
        store.append("default", [Message(id=1, role="user", content="tea")], [])
    FakeModel.loaded.clear()
    for words, said in (
        (["ask", "tea?", "--db", "s.db"], "KeepMismatch: the database at 's.db' was made with keep='search'"),
        (
            ["search", "tea", "--mode", "index", "--db", "m.db"],
            "IndexNotFound: no index of namespace 'default' at 'm.db'",
        ),
    ):
        for more in ([], ["--model", "some"]):
            done = filled(*words, *more)
            assert done.exit_code == 2 and done.stderr.startswith(f"hierlandmark: {said}")
    assert FakeModel.loaded == []


def test_info_for_people(filled) -> None:
    assert "default: 4 messages, 7 tokens" in filled("info", "--db", "m.db").stdout


def test_info_says_how_much_an_index_holds(filled) -> None:
    assert "index" not in filled("info", "--db", "m.db").stdout
    filled("index", "--db", "m.db")
    assert "index: 5 of 7 segments, 2 beside it; 900 bytes" in filled("info", "--db", "m.db").stdout
    (one,) = json.loads(filled("info", "--db", "m.db", "--json").stdout)["namespaces"]
    assert one["index"] == {"segments": 6, "current": 5, "behind": 2, "bytes": 900, "problem": None}


def test_info_loads_no_model(filled) -> None:
    FakeModel.loaded.clear()
    filled("info", "--db", "m.db")
    assert FakeModel.loaded == []


def test_ask_json(filled) -> None:
    answer = json.loads(filled("ask", "where moved", "--db", "m.db", "--json").stdout)
    assert set(answer) == {
        "text", "tokens", "cost", "finish_reason", "first_token_s", "per_token_s", "among", "found",
    }  # fmt: skip
    assert [hit["message_ids"][0] for hit in answer["found"]] == answer["among"]
    assert all(set(hit) == {"message_ids", "text", "score"} for hit in answer["found"])
    everything = json.loads(filled("ask", "where moved", "--db", "m.db", "--among", "0", "--json").stdout)
    assert set(everything) == set(answer) - {"among", "found"}
    assert answer["text"] == "we moved to Lyon"
    assert "trace" in json.loads(filled("ask", "where moved", "--db", "m.db", "--json", "--why").stdout)


def test_ask_says_that_an_answer_was_cut(filled, monkeypatch) -> None:
    assert "cut" not in filled("ask", "where moved", "--db", "m.db").stderr
    whole = FakeMemory.ask
    monkeypatch.setattr(
        FakeMemory,
        "ask",
        lambda *args, **options: whole(*args, **options).model_copy(update={"finish_reason": "length"}),
    )
    told = filled("ask", "where moved", "--db", "m.db").stderr
    assert "cut after 2 tokens; --max-new-tokens N for more" in told


def test_ask_among_the_best_messages(filled) -> None:
    answer = json.loads(filled("ask", "where moved", "--db", "m.db", "--among", "2", "--json").stdout)
    assert answer["text"] == "we moved to Lyon" and len(answer["among"]) == 2
    done = filled("ask", "where moved", "--db", "m.db", "--among", "2", "--why")
    assert f"answered from the segments of messages {answer['among'][0]!r}, {answer['among'][1]!r}\n" in done.stdout
    one = filled("ask", "where moved", "--db", "m.db", "--among", "1", "--why")
    assert f"answered from the segments of message {answer['among'][0]!r}\n" in one.stdout


def test_ask_prints_the_answer_alone_and_help_says_so(filled) -> None:
    done = filled("ask", "where moved", "--db", "m.db")
    assert done.stdout == "we moved to Lyon\n"
    (best,) = json.loads(filled("search", "where moved", "--db", "m.db", "-k", "1", "--json").stdout)["hits"]
    (found,) = [line for line in done.stderr.splitlines() if line.startswith("found best")]
    assert f"message {best['message_ids'][0]!r}, {best['text']}" in found
    assert "found best" not in filled("ask", "where moved", "--db", "m.db", "--among", "0").stderr
    told = " ".join(filled("ask", "--help").stdout.split())
    assert "Only the answer is printed, and on standard error the message found best for it." in told
    told = " ".join((Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8").split())
    assert "`ask` prints the answer alone, and on standard error the message found best for it" in told


def test_the_stride_of_an_answer_reaches_the_memory(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    configs, plain = [], FakeMemory.open

    def noting(*args: object, config: MemoryConfig, **kwargs: object) -> FakeMemory:
        configs.append(config)
        return plain(*args, config=config, **kwargs)

    monkeypatch.setattr(FakeMemory, "open", noting)
    for words in (("ask", "tea?"), ("chat",)):
        for stride, wanted in (((), 1), (("--stride", 3), 3)):
            assert filled(*words, "--db", "m.db", *stride, input="tea?\n").exit_code == 0
            assert configs.pop().recall == RecallConfig(stride=wanted)
        done = filled(*words, "--db", "m.db", "--stride", 0)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == "hierlandmark: InvalidArgument: expected --stride to be 1 or more, got 0\n"
    assert not configs


def test_ask_for_people(filled) -> None:
    done = filled("ask", "where moved", "--db", "m.db", "--why")
    assert done.stdout.startswith("we moved to Lyon\n")
    assert "mass 0.500" in done.stdout and "stride" not in done.stdout
    assert "first token after 0.50 s" in done.stderr
    strided = filled("ask", "where moved", "--db", "m.db", "--why", "--stride", "3")
    assert "\nblocks are chosen anew every 3 tokens (stride)\n" in strided.stdout


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each memory opened, whether it was to be read only."""
    opened: list[bool] = []
    plain = FakeMemory.open

    def noting(*args: object, read_only: bool = False, **kwargs: object) -> FakeMemory:
        opened.append(read_only)
        return plain(*args, **kwargs)

    monkeypatch.setattr(FakeMemory, "open", noting)
    return opened


def test_a_file_that_may_not_be_written_is_opened_to_read(filled, opened, monkeypatch) -> None:
    assert filled("search", "tea", "--db", "m.db", "--json").exit_code == 0
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.W_OK)
    for words in (("search", "tea"), ("ask", "tea?"), ("info",)):
        done = filled(*words, "--db", "m.db", "--json")
        assert done.exit_code == 0, done.output
    assert opened[0] is False and all(opened[1:]) and len(opened) >= 4


def test_who_a_process_acts_for_says_whether_a_file_may_be_written(filled, opened, monkeypatch) -> None:
    """As the store asks it: not who started the process."""

    def access(path: Path, mode: int, *, effective_ids: bool = False) -> bool:
        return mode != os.W_OK or not effective_ids

    monkeypatch.setattr("os.access", access)
    monkeypatch.setattr("os.supports_effective_ids", {access})
    assert filled("search", "tea", "--db", "m.db", "--json").exit_code == 0
    assert opened == [True]
