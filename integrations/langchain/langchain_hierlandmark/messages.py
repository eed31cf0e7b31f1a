"""LangChain messages to stored ones and back, without loss."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
)

from hierlandmark.errors import InvalidMessage
from hierlandmark.messages import Message

# the key of a stored message's metadata that holds what LangChain knew and plain text does not say
KEY = "langchain_message"

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}


def all_stored(messages: Iterable[BaseMessage]) -> list[Message]:
    """What a memory keeps of each message; see `to_stored`.

    Raises:
        hierlandmark.InvalidMessage: it is no list, one in it is no LangChain message, or `to_stored` refuses one.
    """
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | Mapping | BaseMessage):
        raise InvalidMessage(f"expected a list of LangChain messages, got {messages!r:.80}: put one in a list, too")
    out = []
    for place, message in enumerate(messages):
        if not isinstance(message, BaseMessage):
            raise InvalidMessage(
                f"expected messages[{place}] to be a LangChain message such as HumanMessage('hello'), got "
                f"{message!r:.80}"
            )
        out.append(to_stored(message))
    return out


def to_stored(message: BaseMessage) -> Message:
    """What a memory keeps of a LangChain message: its text, role and id, and everything else under `metadata`.

    A message without an id gets one in the memory only. LangChain knows no time of a message: one that is given as
    `additional_kwargs["time"]`, ISO 8601, is the time in the memory. Values are kept as pydantic writes JSON: a tuple
    returns as a list, a date as its ISO form, a NaN or infinite logprob as None.

    Raises:
        hierlandmark.InvalidMessage: a field holds what JSON cannot say, such as an artifact that is an open file.
    """
    try:
        data = message.model_dump(mode="json")
    except ValueError as error:
        raise InvalidMessage(f"expected JSON values in message {message.id!r}, got {message!r}: {error}") from error
    text, time = _text(message), message.additional_kwargs.get("time")
    if data["content"] == text:
        # said once
        del data["content"]
    return Message(
        id=uuid4().hex if message.id is None else message.id,
        role=_role(message),
        content=text,
        # no clock: a history taken over from elsewhere would get false dates
        time=time if isinstance(time, str) and time.strip() else None,
        metadata={KEY: {"type": message.type, "data": data}},
    )


def from_stored(message: Message) -> BaseMessage:
    """The LangChain message that was stored, or the nearest one to a message that did not come from LangChain."""
    if (kept := _kept(message)) is not None:
        data = {"content": message.content, **kept["data"]}
        # a type or field that this LangChain does not know; what was kept is still in the metadata below
        with suppress(KeyError, TypeError, ValueError):
            return messages_from_dict([{"type": kept["type"], "data": data}])[0]
    extra = {"time": message.time, "metadata": message.metadata}
    fields: dict[str, Any] = {
        "content": message.content,
        "id": str(message.id),
        "additional_kwargs": {"hierlandmark": extra},
    }
    match message.role:
        case "user" | "human":
            return HumanMessage(**fields)
        case "assistant" | "ai":
            return AIMessage(**fields)
        case "system":
            return SystemMessage(**fields)
        case "tool":
            # the call it answers was never told
            return ToolMessage(tool_call_id=str(message.id), **fields)
        case other:
            return ChatMessage(role=other, **fields)


def own_metadata(message: Message) -> dict[str, Any]:
    """A message's metadata without what `to_stored` put there."""
    return {key: value for key, value in message.metadata.items() if key != KEY or _kept(message) is None}


def _kept(message: Message) -> dict[str, Any] | None:
    """What `to_stored` put into the metadata; None where whatever has its key came by other means."""
    kept = message.metadata.get(KEY)
    ours = isinstance(kept, dict) and isinstance(kept.get("type"), str) and isinstance(kept.get("data"), dict)
    return kept if ours else None


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    return next((role for kind, role in _ROLES.items() if isinstance(message, kind)), message.type)


def _text(message: BaseMessage) -> str:
    """Text to index. A memory holds no empty message, so calls of tools are written out, and images named."""
    text = str(message.text)
    if text.strip():
        return text
    if isinstance(message, AIMessage) and message.tool_calls:
        calls = (f"{call['name']}({json.dumps(call['args'], ensure_ascii=False)})" for call in message.tool_calls)
        return "\n".join(calls)
    kinds = [str(part.get("type")) for part in message.content if isinstance(part, dict)]
    return f"[{', '.join(kinds) or 'no text'}]"
