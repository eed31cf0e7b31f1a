"""Arguments of the wrong type or range: a named error before any work, and nothing changed."""

from datetime import date

import pytest

from hierlandmark import InvalidArgument, InvalidMessage, Memory, Message
from hierlandmark.testing import tiny_model


@pytest.fixture(scope="module")
def memory():
    with Memory.open(":memory:", model=tiny_model()) as one:
        one.add([Message(id=i, content=f"says {i}") for i in ("1", "7", "17", 1)])
        yield one


@pytest.mark.parametrize("ids", ["17", b"17", [b"x"], [object()], [None], [1.0], [True], [["1"]], 7], ids=repr)
def test_ids_are_a_list_of_integers_and_strings(memory, ids):
    for call in (memory.forget, memory.messages):
        with pytest.raises(InvalidArgument, match="message ids"):
            call(ids)
    assert [m.id for m in memory.messages()] == ["1", "7", "17", 1]


def test_none_names_no_message_to_forget(memory):
    with pytest.raises(InvalidArgument, match="None"):
        memory.forget(None)
    assert len(memory.messages(None)) == 4


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", None, True], ids=repr)
def test_counts_are_whole_numbers_of_at_least_one(memory, count):
    with pytest.raises(InvalidArgument, match="k of at least 1") as told:
        memory.search("x", count)
    assert ("whole number" in str(told.value)) == (not isinstance(count, int) or isinstance(count, bool))
    for call in (memory.ask, memory.complete):
        with pytest.raises(InvalidArgument, match="max_new_tokens of at least 1"):
            call("x", max_new_tokens=count)


@pytest.mark.parametrize("mode", ["bogus", "", 3, ["flat"]], ids=repr)
def test_an_unknown_mode_is_refused(memory, mode):
    for call in (memory.search, memory.ask, memory.complete):
        with pytest.raises(InvalidArgument, match="hierarchical"):
            call("x", mode=mode)


@pytest.mark.parametrize("namespace", ["", "\ud800", 5, b"x", None], ids=ascii)
def test_a_namespace_is_a_name(tmp_path, namespace):
    for path in (":memory:", tmp_path / "m.db"):
        with pytest.raises(InvalidArgument, match="namespace"):
            Memory.open(path, namespace)


@pytest.mark.parametrize("path", [None, 5, b"m.db", "m\0.db"], ids=ascii)
def test_a_path_is_a_path(path):
    with pytest.raises(InvalidArgument, match="path"):
        Memory.open(path)


@pytest.mark.parametrize(
    "messages", [None, 7, "text", Message(id=9, content="alone")], ids=["none", "int", "str", "one"]
)
def test_messages_are_a_list(memory, messages):
    with pytest.raises(InvalidMessage):
        memory.add(messages)
    assert len(memory.messages()) == 4


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"tiem": "2026-03-01"}, "got 'tiem' in message 9"),
        ({"name": "Ana", "tool_calls": [], "time": "2026-03-01"}, "got 'name', 'tool_calls' in message 9"),
        ({"Content": "twice"}, "got 'Content' in message 9"),
    ],
    ids=["typo", "two", "capital"],
)
def test_a_message_has_no_other_keys(memory, more, named):
    with pytest.raises(InvalidMessage, match=f"id, role, content, time, metadata, {named}"):
        memory.add([{"id": 8, "content": "fine"}, {"id": 9, "content": "x", **more}])
    assert len(memory.messages()) == 4
    # a field that is missing is told as before
    with pytest.raises(InvalidMessage, match="content"):
        memory.add([{"id": 9, **more}])
    memory.add([{"id": 9, "content": "x", "metadata": more}])
    assert memory.messages([9])[0].metadata == more
    memory.forget([9])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"id": 1.5}, "expected id of messages[1] to be an integer or a string, got 1.5"),
        ({"id": True}, "expected id of messages[1] to be an integer or a string, got True"),
        ({"content": 5}, "expected content of messages[1] to be a string, got 5"),
        ({"content": None}, "expected content of messages[1] to be a string, got None"),
        ({"role": 7}, "expected role of messages[1] to be a string, such as 'user', got 7"),
        (
            {"time": date(2026, 3, 1)},
            "expected time of messages[1] to be a string, such as '2026-03-31T09:30:00+02:00', or None, got "
            "datetime.date(2026, 3, 1)",
        ),
        ({"metadata": ["a"]}, "expected metadata of messages[1] to be a mapping of strings to values, got ['a']"),
        ({"metadata": {5: 1}}, "expected metadata of messages[1] to be a mapping of strings to values, got {5: 1}"),
    ],
    ids=repr,
)
def test_a_field_of_the_wrong_type_is_told_in_one_sentence(memory, wrong, said):
    with pytest.raises(InvalidMessage) as told:
        memory.add([{"id": 8, "content": "fine"}, {"id": 9, "content": "x", **wrong}])
    assert str(told.value) == said
    assert len(memory.messages()) == 4


def test_what_is_no_message_and_what_lacks_a_field_are_told_by_their_place(memory):
    for one, said in (
        ("text", "expected messages[1] to be a Message or a mapping of id, role, content, time, metadata, got 'text'"),
        (None, "expected messages[1] to be a Message or a mapping of id, role, content, time, metadata, got None"),
        ({"content": "x"}, "expected id of messages[1] to be an integer or a string, got none in {'content': 'x'}"),
        ({"id": 9, "text": "x"}, "expected content of messages[1] to be a string, got none in {'id': 9, 'text': 'x'}"),
    ):
        with pytest.raises(InvalidMessage) as told:
            memory.add([Message(id=8, content="fine"), one])
        assert str(told.value) == said
    assert len(memory.messages()) == 4


def test_a_name_is_no_model_and_a_mapping_no_config(tmp_path):
    with pytest.raises(InvalidArgument, match=r"LandmarkModel.from_pretrained\('gpt2'\)"):
        Memory.open(tmp_path / "m.db", model="gpt2")
    with pytest.raises(InvalidArgument, match=r"expected a MemoryConfig, got .*keep"):
        Memory.open(tmp_path / "m.db", config={"keep": "search"})
    assert not (tmp_path / "m.db").exists()
