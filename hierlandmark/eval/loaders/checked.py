"""What the readers of public sets share: faults with a place, and conversations that hold together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from hierlandmark.chats import Conversation, Question
from hierlandmark.errors import InvalidChatFile
from hierlandmark.messages import Message, MessageId


def fail(path: Path, place: str, reason: str) -> NoReturn:
    """Raises `InvalidChatFile` for one place of a file."""
    raise InvalidChatFile(f"{path}: {place}: {reason}")


def need(path: Path, place: str, record: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    """A field of a record that has to be there, of a type."""
    if not isinstance(record, dict):
        fail(path, place, f"expected an object, got {type(record).__name__}")
    if not isinstance(record.get(key), kind):
        fail(path, place, f"expected {key} as the published file has it, got {record.get(key)!r:.80}")
    return record[key]


def may(path: Path, place: str, record: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """A field that may be absent or null, of a type."""
    return None if record.get(key) is None else need(path, place, record, key, kind)


def conversation(
    path: Path, place: str, name: MessageId, messages: Sequence[Message], questions: Sequence[Question]
) -> Conversation:
    """A conversation whose ids are unique. Evidence may name what is not there: `evaluate_retrieval` drops it."""
    ids = [one.id for one in messages]
    if len(set(ids)) < len(ids):
        fail(path, place, f"message id {next(i for i in ids if ids.count(i) > 1)!r} stands twice")
    try:
        return Conversation(id=name, messages=list(messages), questions=list(questions))
    except ValidationError as error:
        fail(path, place, str(error.errors(include_url=False)[0]["msg"]))
