"""Messages checked and turned into tokens, and the runs that remember whose they are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from hierlandmark.errors import DuplicateMessageId, InvalidMessage
from hierlandmark.memory.arguments import check_text, short
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.model.prompts import render
from hierlandmark.store.protocol import MessageRun

# what each field of a message is
_FIELDS = {
    "id": "an integer or a string",
    "role": "a string, such as 'user'",
    "content": "a string",
    "time": "a string, such as '2026-03-31T09:30:00+02:00', or None",
    "metadata": "a mapping of strings to values",
}


def checked(messages: Iterable[Message | Mapping[str, Any]], max_bytes: int) -> list[Message]:
    """Messages as models.

    Raises:
        InvalidMessage: a field is missing or of the wrong type, a mapping has a key that no message has, text is empty,
            not UTF-8, or over `max_bytes`.
        DuplicateMessageId: an id stands twice.
    """
    if not isinstance(messages, Iterable) or isinstance(messages, (str, bytes, Mapping, Message)):
        raise InvalidMessage(f"expected a list of messages, got {short(messages)}: put one message in a list, too")
    out: list[Message] = []
    seen: set[tuple[type, Any]] = set()
    for place, given in enumerate(messages):
        message = given if isinstance(given, Message) else _from_mapping(given, place)
        check_text(message.content, f"the text of message {message.id!r}", max_bytes)
        for name in ("role", "time"):
            value = getattr(message, name)
            if value is not None:
                check_text(value, f"the {name} of message {message.id!r}", max_bytes)
        key = (type(message.id), message.id)
        if key in seen:
            raise DuplicateMessageId(
                f"message id {message.id!r} stands twice in one add, again at place {place} counted from 0; give each "
                "message of a namespace its own, over all conversations"
            )
        seen.add(key)
        out.append(message)
    return out


def _from_mapping(given: Any, place: int) -> Message:
    try:
        fields = dict(given)
    except (TypeError, ValueError) as error:
        raise InvalidMessage(
            f"expected messages[{place}] to be a Message or a mapping of {', '.join(Message.model_fields)}, got "
            f"{short(given)}"
        ) from error
    try:
        message = Message.model_validate(fields)
    except ValidationError as error:
        name = str(error.errors(include_url=False)[0]["loc"][0])
        got = short(fields[name]) if name in fields else f"none in {short(fields)}"
        raise InvalidMessage(f"expected {name} of messages[{place}] to be {_FIELDS[name]}, got {got}") from error
    # a misspelt key would lose a time or metadata without a word
    if unknown := [key for key in fields if key not in Message.model_fields]:
        raise InvalidMessage(
            f"expected a message of {', '.join(Message.model_fields)}, got {', '.join(map(repr, unknown))} in message "
            f"{message.id!r}; put what else is to be kept under metadata"
        )
    return message


def to_tokens(model: LandmarkModel, messages: Sequence[Message]) -> tuple[np.ndarray, list[MessageRun]]:
    """Content tokens of messages in order (n,) int32, and one run a message; `InvalidMessage` for one without any."""
    parts = [np.asarray(model.tokenize(render(message)), dtype=np.int32) for message in messages]
    for message, part in zip(messages, parts, strict=True):
        if not len(part):
            raise InvalidMessage(f"expected some tokens, the tokenizer makes none of message {message.id!r}")
    runs = [MessageRun(message.id, len(part)) for message, part in zip(messages, parts, strict=True)]
    return (np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)), runs
