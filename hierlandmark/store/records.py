"""What both stores check and how they write messages down."""

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hierlandmark.errors import (
    DuplicateMessageId,
    InvalidArgument,
    InvalidMessage,
    MessageNotFound,
    NamespaceNotFound,
    StoreCorrupt,
    StoreNotWritable,
)
from hierlandmark.messages import Message, MessageId
from hierlandmark.store.protocol import EncodedSegment, KVSpec


class MessageRow(NamedTuple):
    """One message as it is stored."""

    # JSON text of the id, so that 1 and "1" differ and integers may have any size
    key: str
    role: str
    content: str
    time: str | None
    # JSON text
    metadata: str
    # UTF-8 bytes of the content
    text_bytes: int


def id_key(message_id: MessageId) -> str:
    """JSON text of an id; ASCII, so that any string can be looked up."""
    return json.dumps(message_id)


def message_rows(messages: Sequence[Message]) -> list[MessageRow]:
    """Rows of the messages, in order.

    Raises `InvalidMessage` for text that is not Unicode or metadata that is not JSON, `DuplicateMessageId` for an id
    that stands twice.
    """
    rows: dict[str, MessageRow] = {}
    for message in messages:
        row = _row(message)
        if row.key in rows:
            raise DuplicateMessageId(f"message id {message.id!r} stands twice in one append; give each its own id")
        rows[row.key] = row
    return list(rows.values())


def _row(message: Message) -> MessageRow:
    try:
        for text in (message.id, message.role, message.time):
            if isinstance(text, str):
                text.encode()
        content = message.content.encode()
        # escapes would hide a lone surrogate from the check
        json.dumps(message.metadata, ensure_ascii=False).encode()
        metadata = json.dumps(message.metadata, allow_nan=False)
        key = id_key(message.id)
    except UnicodeEncodeError as error:
        raise InvalidMessage(
            f"message {message.id!r} holds {error.object[error.start]!r}, a lone surrogate, which is no character; "
            "decode the text it came from with errors='replace'"
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(
            f"message id and metadata must be JSON (strings, finite numbers, lists, dicts): {error}"
        ) from error
    return MessageRow(key, message.role, message.content, message.time, metadata, len(content))


def to_message(key: str, role: str, content: str, time: str | None, metadata: str) -> Message:
    """The message of a row; `StoreCorrupt` when it is none."""
    try:
        return Message(id=json.loads(key), role=role, content=content, time=time, metadata=json.loads(metadata))
    except ValueError as error:
        raise StoreCorrupt(f"the row of message {key} is damaged ({error}); restore the file from a backup") from error


def check_namespace(namespace: str) -> None:
    """Raise `InvalidArgument` unless the name can be written down."""
    if not isinstance(namespace, str) or not namespace:
        raise InvalidArgument(f"namespace must be a string of at least one character, came {namespace!r}")
    try:
        namespace.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"namespace {namespace!r} holds a lone surrogate, which is no character") from error


def check_k(k: int) -> None:
    """Raise `InvalidArgument` unless k asks for at least one result."""
    if k < 1:
        raise InvalidArgument(f"k must be at least 1, came {k!r}")


def check_slot(spec: KVSpec, slot: int) -> None:
    """Raise `InvalidArgument` unless so many layers are kept."""
    if not 0 <= slot < spec.slots:
        raise InvalidArgument(f"slot of a layer must be in 0..{spec.slots - 1}, came {slot!r}")


def check_segment(spec: KVSpec, segment: EncodedSegment) -> None:
    """Raise `InvalidArgument` unless shapes, element types and sums agree with `spec` and with each other."""
    n, n_content = len(segment.block_content), len(segment.tokens)
    if not 1 <= n <= spec.blocks_per_segment:
        raise InvalidArgument(f"a segment has 1 to {spec.blocks_per_segment} blocks, came {n}")
    for what, total in (
        ("runs", sum(run.n_tokens for run in segment.runs)),
        ("block_content", sum(segment.block_content)),
    ):
        if total != n_content:
            raise InvalidArgument(f"{what} must sum to the {n_content} tokens of the segment, came {total}")
    heads = (spec.kv_heads, spec.head_dim)
    _check_array("tokens", segment.tokens, np.dtype(np.int32), (n_content,))
    _check_array("gate_key", segment.gate_key, spec.numpy_dtype, (spec.slots, *heads))
    _check_array("landmark_keys", segment.landmark_keys, spec.numpy_dtype, (n, spec.slots, *heads))
    if (segment.search_kv is not None) != (segment.kv is not None and bool(spec.search)):
        raise InvalidArgument(f"search_kv must come with kv, and for the layers of search {spec.search!r} only")
    block = (spec.kv_heads, spec.block_size, spec.head_dim)
    if segment.kv is not None:
        _check_array("kv", segment.kv, spec.numpy_dtype, (n, spec.layers, spec.parts, *block))
    if segment.search_kv is not None:
        _check_array("search_kv", segment.search_kv, spec.numpy_dtype, (n, len(spec.search), 1, *block))


def _check_array(what: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InvalidArgument(f"{what} must be {dtype} {shape}, came {array.dtype} {array.shape}")


def rewritten(segment_id: int) -> KeyError:
    """What a read raises for a segment whose text is not the one that was listed."""
    return KeyError(f"segment {segment_id} was rewritten since it was listed: list it again")


def messages_missing(ids: Iterable[object], namespace: str) -> MessageNotFound:
    """What to raise for ids that are not there."""
    shown = ", ".join(repr(i) for i in ids)
    return MessageNotFound(
        f"messages {shown} not in namespace {namespace!r}",
        python="`messages` lists those there",
        command="`hierlandmark search` shows ids of what it finds",
    )


def namespace_missing(namespace: str, path: Path | str | None = None) -> NamespaceNotFound:
    """What to raise for a namespace without a message; `path` is that of its database, where it has one."""
    return NamespaceNotFound(
        f"no message is remembered under namespace {namespace!r}",
        python="`namespaces` lists those there",
        command=f"`hierlandmark info --db {shlex.quote(str(path))}` lists those there" if path else "",
    )


def database_missing(path: Path | str, namespace: str) -> NamespaceNotFound:
    """What to raise for a namespace of a file that is not there: a mistyped path, or one to which nothing was added."""
    return NamespaceNotFound(
        f"no database at {str(path)!r}, where namespace {namespace!r} was looked for",
        python="give the path of one that is there; the first `add` makes it",
        command=f"`hierlandmark add FILE --db {shlex.quote(str(path))}` makes it",
    )


def opened_read_only(path: Path | str) -> StoreNotWritable:
    """What to raise for a write through what was opened to read."""
    return StoreNotWritable(
        f"{str(path)!r} was opened to be read only",
        python="open it without read_only=True, where it and its folder may be written",
        command="make it and its folder writable, or copy it to where it may be written",
    )


def reencode_command(path: Path | str, keep: str | None = None) -> str:
    """What encodes a database's text again, as it is typed in a shell."""
    return f"`hierlandmark reencode --db {shlex.quote(str(path))}{f' --keep {keep}' if keep else ''}`"
