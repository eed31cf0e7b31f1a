"""Chat files: what is written comes back, and every fault is named with its line."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierlandmark.chats import DOCUMENT_CHARS, Conversation, read_chats, read_texts
from hierlandmark.errors import InvalidChatFile

CHAT = {
    "id": "c1",
    "messages": [
        {"id": 1, "role": "user", "content": "I moved to Lyon.", "time": "2024-03-01T10:00:00", "metadata": {"a": [1]}},
        {"id": "1", "role": "assistant", "content": "Noted."},
    ],
    "questions": [{"type": "fact", "question": "Where do I live?", "evidence": [1], "answer": "Lyon", "extra": {}}],
}


def write(folder: Path, *records: Any, name: str = "c.jsonl") -> Path:
    path = folder / name
    data = "".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records).encode("utf-8", "surrogatepass")
    path.write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    return path


def message(**changes: Any) -> dict[str, Any]:
    return {"id": "c", "messages": [{"id": 1, "role": "user", "content": "x"} | changes]}


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.xz"])
def test_reads_what_was_written(tmp_path: Path, name: str) -> None:
    chat, second = read_chats(write(tmp_path, CHAT, "", {**CHAT, "id": 2, "questions": None}, name=name))
    assert [m.id for m in chat.messages] == [1, "1"]
    assert chat.messages[0].time == "2024-03-01T10:00:00"
    assert chat.messages[0].metadata == {"a": [1]}
    assert chat.questions[0].evidence == [1]
    assert second.id == 2
    assert second.questions == []


def test_other_keys_are_ignored(tmp_path: Path) -> None:
    more = {"tiem": "2024", "name": None, "\U0001f600": [{}]}
    plain, other = message(), message(**more) | more | {"questions": [{"question": "?", "evidence": [1], **more}]}
    (chat,) = read_chats(write(tmp_path, other))
    assert chat == Conversation.model_validate({**plain, "questions": [{"question": "?", "evidence": [1]}]})
    assert chat.messages[0].time is None and chat.messages[0].metadata == {}


def test_reads_a_line_at_a_time(tmp_path: Path) -> None:
    chats = read_chats(write(tmp_path, CHAT, "{"))
    assert next(chats).id == "c1"
    with pytest.raises(InvalidChatFile, match=r"c\.jsonl:2: not valid JSON"):
        next(chats)


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CHAT).encode() + b"\r\n\r\n")
    assert [chat.id for chat in read_chats(path)] == ["c1"]


FAULTS = {
    "json": ("{", "not valid JSON"),
    "nan": ('{"id": 1, "messages": NaN}', "not valid JSON: NaN is not a JSON number"),
    "huge-int": (f'{{"id": {"9" * 5000}}}', "not valid JSON"),
    "deep": ("[" * 200_000, "not valid JSON"),
    "array": ([CHAT], "expected an object, got list"),
    "no-id": ({"messages": CHAT["messages"]}, "id: missing"),
    "no-messages": ({"id": 1}, "messages: missing"),
    "null-messages": ({"id": 1, "messages": None}, "messages: input should be a valid list"),
    "messages-empty": ({"id": 1, "messages": []}, "messages: list should have at least 1 item"),
    "message-not-object": ({"id": 1, "messages": ["hi"]}, r"messages\.0: "),
    "no-role": ({"id": 1, "messages": [{"id": 1, "content": "x"}]}, r"messages\.0\.role: missing"),
    "no-content": ({"id": 1, "messages": [{"id": 1, "role": "user"}]}, r"messages\.0\.content: missing"),
    "content-int": (message(content=5), r"messages\.0\.content: input should be a valid string, got 5"),
    "content-null": (message(content=None), r"messages\.0\.content: .*got None"),
    "id-float": (message(id=1.0), r"messages\.0\.id: expected a string or an integer, got 1\.0"),
    "id-bool": (message(id=True), r"messages\.0\.id: expected a string or an integer, got True"),
    "metadata-list": (message(metadata=[]), r"messages\.0\.metadata: "),
    "time-int": (message(time=5), r"messages\.0\.time: "),
    "duplicate-message": ({"id": 1, "messages": CHAT["messages"][:1] * 2}, "message id 1 stands twice"),
    "surrogate": (message(content="a\ud800"), r"messages\.0\.content holds a lone surrogate"),
    "surrogate-key": (message(metadata={"\udfff": 1}), r"a key of messages\.0\.metadata holds a lone surrogate"),
    "no-evidence": ({**CHAT, "id": 3, "questions": [{"question": "?"}]}, r"questions\.0\.evidence: missing"),
    "evidence": ({**CHAT, "questions": [{"question": "?", "evidence": [[1]]}]}, r"questions\.0\.evidence\.0: expected"),
    "link": ({**CHAT, "links": [[1, 1], [1]]}, r"links\.1: expected a message and the one it replies to, got \[1\]"),
    "link-id": ({**CHAT, "links": [[1, 1.5]]}, r"links\.0\.1: expected a string or an integer, got 1\.5"),
    "links": ({**CHAT, "links": "none"}, r"links: "),
    "questions-object": ({**CHAT, "questions": {}}, "questions: "),
    "duplicate-conversation": (CHAT, "conversation id 'c1' stands twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    line, expected = FAULTS[fault]
    with pytest.raises(InvalidChatFile, match=rf"c\.jsonl:3: {expected}"):
        list(read_chats(write(tmp_path, CHAT, "", line)))


def test_a_surrogate_pair_is_text(tmp_path: Path) -> None:
    (chat,) = read_chats(write(tmp_path, message(content="\U0001f600")))
    assert chat.messages[0].content == "\U0001f600"


def test_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(json.dumps(CHAT).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(InvalidChatFile, match=r"c\.jsonl:2: expected UTF-8, got byte 0xff at byte 8"):
        list(read_chats(path))


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.xz", "c.txt", "c.md"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidChatFile, match="got an empty file"):
        list(read_chats(write(tmp_path, "", " ", name=name)))


def test_truncated_xz(tmp_path: Path) -> None:
    path = write(tmp_path, *({**CHAT, "id": i} for i in range(50)), name="c.jsonl.xz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidChatFile, match=r"breaks off after line \d+"):
        list(read_chats(path))


def test_not_xz(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.xz"
    path.write_bytes(b"plain text")
    with pytest.raises(InvalidChatFile, match="not a whole xz file"):
        list(read_chats(path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("none.jsonl", "none.jsonl.xz", "none.txt", "folder.jsonl"):
        with pytest.raises(InvalidChatFile, match="cannot be read"):
            list(read_chats(tmp_path / name))


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(InvalidChatFile, match=r"expected a file that ends in \.jsonl, .*got 'c\.csv'"):
        list(read_chats(tmp_path / "c.csv"))


def test_document_ids_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "a b.md"
    path.write_text("# Title\n\nOne.\nTwo.\n\n" + "word " * 300 + "\n\nLast.\n")
    (chat,) = read_chats(path)
    assert chat.id == path.as_posix()
    assert [m.id for m in chat.messages] == [f"{path.as_posix()}:{i:04d}" for i in (1, 2, 3)]
    assert chat.messages[0].content == "# Title\n\nOne.\nTwo."
    assert [m.metadata["line"] for m in chat.messages] == [1, 6, 6]
    assert {m.role for m in chat.messages} == {"document"}


def test_texts(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("One.\n\nTwo.\n")
    assert list(read_texts(plain)) == ["One.\n\nTwo.\n"]
    books = write(tmp_path, {"id": 1, "text": "One."}, "", {"text": "Two."}, name="b.jsonl.xz")
    assert list(read_texts(books)) == ["One.", "Two."]
    with pytest.raises(InvalidChatFile, match=r"b\.jsonl:1: expected an object with a string text, got keys \['id', "):
        list(read_texts(write(tmp_path, CHAT, name="b.jsonl")))


TEXT = st.text(st.characters(exclude_categories=("Cs",)))
ID = st.integers() | TEXT
MESSAGE = st.fixed_dictionaries(
    {"id": ID, "role": TEXT, "content": TEXT},
    optional={"time": TEXT | st.none(), "metadata": st.dictionaries(TEXT, st.integers() | TEXT)},
)
CONVERSATION = st.fixed_dictionaries(
    {"id": ID, "messages": st.lists(MESSAGE, min_size=1, max_size=4, unique_by=lambda m: (type(m["id"]), m["id"]))},
    optional={
        "questions": st.lists(
            st.fixed_dictionaries({"question": TEXT, "evidence": st.lists(ID, max_size=3)}, optional={"type": TEXT}),
            max_size=2,
        )
    },
)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@SAME_FOLDER
@given(records=st.lists(CONVERSATION, min_size=1, max_size=3, unique_by=lambda c: (type(c["id"]), c["id"])))
@pytest.mark.parametrize("ascii_only", [True, False])
def test_round_trip(tmp_path: Path, ascii_only: bool, records: list[dict[str, Any]]) -> None:
    path = write(tmp_path, *(json.dumps(record, ensure_ascii=ascii_only) for record in records))
    assert list(read_chats(path)) == [Conversation.model_validate(record) for record in records]


@SAME_FOLDER
@given(data=st.binary(max_size=200), name=st.sampled_from(["c.jsonl", "c.jsonl.xz", "c.txt"]))
def test_any_bytes_are_read_or_named(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    try:
        chats = list(read_chats(path))
    except InvalidChatFile as error:
        chats = [error]
    # the one thing that must not come is an error without a name, or nothing
    assert chats


@SAME_FOLDER
@given(text=st.text(st.sampled_from("ab \n\u00e9\r\t"), max_size=40), repeat=st.integers(1, 120))
def test_a_document_loses_no_character(tmp_path: Path, text: str, repeat: int) -> None:
    path = tmp_path / "d.txt"
    path.write_text(text * repeat, encoding="utf-8", newline="")
    if not text.strip():
        with pytest.raises(InvalidChatFile):
            list(read_chats(path))
        return
    (chat,) = read_chats(path)
    assert "".join("".join(m.content for m in chat.messages).split()) == "".join((text * repeat).split())
    assert all(0 < len(m.content) <= DOCUMENT_CHARS for m in chat.messages)


def test_reads_reply_links(tmp_path: Path) -> None:
    first, second = read_chats(write(tmp_path, {**CHAT, "links": [["1", 1]]}, {**CHAT, "id": 2, "links": None}))
    assert first.links == [["1", 1]] and second.links == []
