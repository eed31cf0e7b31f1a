"""A chat history in, the same chat history out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_hierlandmark import HierLandmarkChatMessageHistory, HierLandmarkRetriever
from langchain_hierlandmark.messages import from_stored, to_stored

from hierlandmark import DuplicateMessageId, InvalidArgument, InvalidMessage, Memory, Message

CALL = {"name": "look_up", "args": {"where": "Köln"}, "id": "call-1", "type": "tool_call"}
MESSAGES: list[BaseMessage] = [
    SystemMessage("Be kind.", id="s1"),
    HumanMessage("Where is it? 🗝️\r\n\t ", id="h1", name="ada", additional_kwargs={"n": 1, "list": [None, 1.5, {}]}),
    HumanMessage("an id of its own is not needed"),
    AIMessage("", tool_calls=[CALL], id="a1", response_metadata={"model": "m"}),
    AIMessage("   "),
    ToolMessage("Found.", tool_call_id="call-1", artifact={"rows": [1, 2]}, status="error", id="t1"),
    ToolMessage("", tool_call_id="call-2"),
    AIMessage(
        [{"type": "text", "text": "Under the "}, "pot."],
        usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    ),
    HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]),
    HumanMessage([]),
    AIMessageChunk("part", tool_call_chunks=[{"name": "f", "args": '{"a"', "id": "c", "index": 0}]),
    ChatMessage("ahoy", role="captain"),
    FunctionMessage("42", name="answer"),
]


def same(one: BaseMessage, other: BaseMessage) -> bool:
    return type(one) is type(other) and one.model_dump() == other.model_dump()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: f"{one.type}-{str(one.text)[:8]!r}")
def test_a_message_comes_back_exactly(message: BaseMessage, memory: Memory) -> None:
    memory.add([to_stored(message)])
    (stored,) = memory.messages()
    assert stored.content.strip()
    assert same(from_stored(stored), message)


def test_values_that_json_cannot_say_return_in_their_json_form(memory: Memory) -> None:
    said = {"pair": (1, 2), "at": datetime(2026, 3, 1, tzinfo=UTC), "logprob": float("-inf")}
    memory.add([to_stored(AIMessage("x", response_metadata=said))])
    kept = from_stored(memory.messages()[0]).response_metadata
    assert kept == {"pair": [1, 2], "at": "2026-03-01T00:00:00Z", "logprob": None}


async def test_a_history_comes_back_in_order(memory: Memory) -> None:
    history = HierLandmarkChatMessageHistory(memory)
    history.add_messages(MESSAGES[:4])
    await history.aadd_messages(MESSAGES[4:])
    for found in (history.messages, await history.aget_messages()):
        assert len(found) == len(MESSAGES)
        assert all(map(same, found, MESSAGES))


def test_roles_and_ids_are_the_memory_s_own(memory: Memory) -> None:
    HierLandmarkChatMessageHistory(memory).add_messages(MESSAGES)
    held = memory.messages()
    assert [one.role for one in held[:4]] == ["system", "user", "user", "assistant"]
    assert [one.role for one in held[-3:]] == ["assistant", "captain", "tool"]
    assert [held[0].id, held[1].id, held[3].id] == ["s1", "h1", "a1"]
    assert held[0].content == "Be kind."
    assert 'look_up({"where": "Köln"})' in held[3].content


@pytest.mark.parametrize(("given", "kept"), [("2026-03-01T09:00:00", "2026-03-01T09:00:00"), ("", None), (5, None)])
def test_a_time_that_is_told_is_the_memory_s_time(memory: Memory, given: object, kept: str | None) -> None:
    message = HumanMessage("hello", additional_kwargs={"time": given})
    HierLandmarkChatMessageHistory(memory).add_messages([message, HumanMessage("no time")])
    assert [one.time for one in memory.messages()] == [kept, None]
    assert same(HierLandmarkChatMessageHistory(memory).messages[0], message)


def test_a_history_survives_a_reopening(tmp_path: Path) -> None:
    history = HierLandmarkChatMessageHistory(path=tmp_path / "chat.db", namespace="ada")
    history.add_messages(MESSAGES)
    history.memory.close()
    again = HierLandmarkChatMessageHistory(path=tmp_path / "chat.db", namespace="ada")
    assert all(map(same, again.messages, MESSAGES))
    again.memory.close()


def test_what_is_said_can_be_found(memory: Memory) -> None:
    HierLandmarkChatMessageHistory(memory).add_user_message("The key is under the pot.")
    (document,) = HierLandmarkRetriever(memory=memory).invoke("key")
    assert document.page_content == "The key is under the pot."
    assert document.metadata["role"] == "user"


@pytest.mark.parametrize(
    ("role", "kind"),
    [("user", HumanMessage), ("assistant", AIMessage), ("system", SystemMessage), ("tool", ToolMessage)],
)
def test_messages_added_by_other_means(memory: Memory, role: str, kind: type[BaseMessage]) -> None:
    memory.add([Message(id=7, role=role, content="hello", time="2026-03-01", metadata={"tool_calls": "mine"})])
    (message,) = HierLandmarkChatMessageHistory(memory).messages
    assert type(message) is kind
    assert (message.content, message.id) == ("hello", "7")
    kept = {"time": "2026-03-01", "metadata": {"tool_calls": "mine"}}
    assert message.additional_kwargs == {"hierlandmark": kept}


@pytest.mark.parametrize(
    "mine",
    [
        "x",
        7,
        ["a"],
        {},
        {"type": "human"},
        {"type": "human", "data": "x"},
        {"type": ["human"], "data": {}},
        {"type": "no such", "data": {}},
        {"type": "tool", "data": {}},
    ],
    ids=str,
)
def test_metadata_of_others_under_the_same_key_is_no_message(memory: Memory, mine: object) -> None:
    memory.add([Message(id=7, content="hello", metadata={"langchain_message": mine})])
    (message,) = HierLandmarkChatMessageHistory(memory).messages
    assert (type(message), message.content, message.id) == (HumanMessage, "hello", "7")
    assert message.additional_kwargs["hierlandmark"]["metadata"] == {"langchain_message": mine}


async def test_clear(filled: Memory) -> None:
    history = HierLandmarkChatMessageHistory(filled)
    history.clear()
    assert history.messages == []
    history.add_messages(MESSAGES[:2])
    await history.aclear()
    assert await history.aget_messages() == []


async def test_an_empty_history(memory: Memory) -> None:
    history = HierLandmarkChatMessageHistory(memory)
    history.add_messages([])
    await history.aadd_messages([])
    history.clear()
    await history.aclear()
    assert history.messages == await history.aget_messages() == []
    assert str(history) == ""


def test_clear_leaves_other_namespaces_alone(database: Path) -> None:
    ada = HierLandmarkChatMessageHistory(path=database, namespace="ada")
    bob = HierLandmarkChatMessageHistory(path=database, namespace="bob")
    bob.add_user_message("hello")
    ada.clear()
    assert (ada.messages, [one.content for one in bob.messages]) == ([], ["hello"])
    ada.memory.close()
    bob.memory.close()


def test_a_repeated_id_adds_nothing(memory: Memory) -> None:
    history = HierLandmarkChatMessageHistory(memory)
    history.add_messages(MESSAGES[:1])
    with pytest.raises(DuplicateMessageId):
        history.add_messages([HumanMessage("new"), MESSAGES[0]])
    assert len(history.messages) == 1


@pytest.mark.parametrize(
    "message",
    [
        ToolMessage("x", tool_call_id="1", artifact=object()),
        HumanMessage("lone \ud800 surrogate"),
    ],
    ids=["artifact", "surrogate"],
)
def test_what_cannot_be_kept_is_refused(memory: Memory, message: BaseMessage) -> None:
    history = HierLandmarkChatMessageHistory(memory)
    with pytest.raises(InvalidMessage):
        history.add_messages([HumanMessage("fine"), message])
    assert history.messages == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["x"], r"expected messages\[0\] to be a LangChain message such as HumanMessage\('hello'\), got 'x'"),
        ([HumanMessage("fine"), {"role": "user", "content": "x"}], r"expected messages\[1\] to be .*, got \{'role'"),
        ("x", "expected a list of LangChain messages, got 'x': put one in a list, too"),
        (HumanMessage("x"), r"expected a list of LangChain messages, got HumanMessage\("),
        (None, "expected a list of LangChain messages, got None"),
    ],
    ids=["text", "mapping", "bare-text", "bare-message", "none"],
)
async def test_what_is_no_message_is_refused(memory: Memory, given: Any, said: str) -> None:
    history = HierLandmarkChatMessageHistory(memory)
    with pytest.raises(InvalidMessage, match=said):
        history.add_messages(given)
    with pytest.raises(InvalidMessage, match=said):
        await history.aadd_messages(given)
    assert history.messages == []


def test_neither_memory_nor_path(memory: Memory) -> None:
    with pytest.raises(InvalidArgument, match="either memory or path"):
        HierLandmarkChatMessageHistory()
    with pytest.raises(InvalidArgument, match="either memory or path"):
        HierLandmarkChatMessageHistory(memory, path="a.db")
    with pytest.raises(InvalidArgument, match="namespace"):
        HierLandmarkChatMessageHistory(memory, namespace="ada")
