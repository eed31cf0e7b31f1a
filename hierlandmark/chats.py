"""Reader of chat files and documents.

`.jsonl` and `.jsonl.xz` hold one conversation a line:
`{"id", "messages": [{"id", "role", "content", "time"?, "metadata"?}],
"questions"?: [{"type"?, "question", "evidence": [message ids]}], "links"?: [[message id, id it replies to]]}`.
Ids are strings or integers, kept as they came: 1 is not "1". Other keys are ignored, null stands for an absent `?` key.

`.txt` and `.md` are documents: one conversation whose id is the path as given, whose messages are runs of paragraphs of
at most `DOCUMENT_CHARS` characters with ids `path:0001`, `path:0002`, role `document` and their first line as metadata.

Plain text for training and evaluation is `.txt`, `.md`, or `.jsonl` and `.jsonl.xz` with one `{"text"}` a line.
"""

import json
import lzma
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hierlandmark.errors import InvalidChatFile
from hierlandmark.messages import Message, MessageId

SUFFIXES = (".jsonl", ".jsonl.xz", ".txt", ".md")
# about four blocks: small enough for a hit to point somewhere, large enough to read on its own
DOCUMENT_CHARS = 1_000


class Question(BaseModel):
    """A question about a conversation, and the ids of the messages that answer it (empty: none does)."""

    model_config = ConfigDict(frozen=True, strict=True)

    type: str | None = None
    question: str
    evidence: list[MessageId]


class Conversation(BaseModel):
    """One line of a chat file, or one document."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: MessageId
    messages: list[Message] = Field(min_length=1)
    questions: list[Question] = Field(default_factory=list)
    # a message, and one that it replies to; a message may reply to several
    links: list[Annotated[list[MessageId], Field(min_length=2, max_length=2)]] = Field(default_factory=list)


def read_chats(path: str | Path) -> Iterator[Conversation]:
    """Conversations of a file, in order, read a line at a time.

    Raises `InvalidChatFile`, which names file and line, where it meets a fault; what came before it was yielded.
    """
    path = _known(path)
    if path.suffix in (".txt", ".md"):
        yield _document(path)
        return
    seen: set[Hashable] = set()
    for number, line in _lines(path):
        if not line.strip():
            continue
        chat = _conversation(path, number, line)
        if chat.id in seen:
            _fail(path, number, f"conversation id {chat.id!r} stands twice in the file")
        seen.add(chat.id)
        yield chat
    if not seen:
        raise InvalidChatFile(f"{path}: expected one conversation a line, got an empty file")


def read_texts(path: str | Path) -> Iterator[str]:
    """Texts of a file, in order: the whole of a `.txt` or `.md`, or the `text` of each line of a `.jsonl`, `.jsonl.xz`.

    Raises `InvalidChatFile`, which names file and line.
    """
    path = _known(path)
    if path.suffix in (".txt", ".md"):
        yield "".join(line for _, line in _lines(path))
        return
    for number, line in _lines(path):
        if line.strip():
            record = _record(path, number, line)
            if not isinstance(record.get("text"), str):
                _fail(path, number, f"expected an object with a string text, got keys {sorted(record)!r:.80}")
            yield record["text"]


def _known(path: str | Path) -> Path:
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise InvalidChatFile(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, got {path.name!r}")
    return path


def _fail(path: Path, number: int, what: str) -> NoReturn:
    raise InvalidChatFile(f"{path}:{number}: {what}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and text; bytes are decoded here, so that a bad one is told with its line."""
    number = 0
    try:
        with lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                # editors on some systems write a byte order mark
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        _fail(path, number, f"expected UTF-8, got byte {error.object[error.start]:#04x} at byte {error.start}")
    except EOFError:
        raise InvalidChatFile(f"{path}: the xz stream breaks off after line {number}; fetch the file again") from None
    except lzma.LZMAError as error:
        raise InvalidChatFile(f"{path}: not a whole xz file after line {number}: {error}") from None
    except OSError as error:
        raise InvalidChatFile(f"{path}: cannot be read: {error.strerror or error}") from None


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _fail(path, number, f"not valid JSON: {error}")
    if not isinstance(record, dict):
        _fail(path, number, f"expected an object, got {type(record).__name__}")
    # an escape such as \ud800 is legal JSON and no text: it can neither be stored nor tokenized
    if "\\u" in line and (where := _surrogate(record)):
        _fail(path, number, f"{where} holds a lone surrogate, which is not text")
    return record


def _conversation(path: Path, number: int, line: str) -> Conversation:
    record = _record(path, number, line)
    messages = record.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict) and "role" not in message:
            _fail(path, number, f"messages.{index}.role: missing")
    try:
        chat = Conversation.model_validate(_without_null(record))
    except ValidationError as error:
        _fail(path, number, _first(error))
    seen: set[Hashable] = set()
    for one in chat.messages:
        if one.id in seen:
            _fail(path, number, f"message id {one.id!r} stands twice in conversation {chat.id!r}")
        seen.add(one.id)
    return chat


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _surrogate(value: Any, where: str = "") -> str:
    """Dotted place of the first string that UTF-8 cannot hold, or an empty string."""
    if isinstance(value, str):
        return (where or "it") if any("\ud800" <= char <= "\udfff" for char in value) else ""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        if any(_surrogate(key) for key in value):
            return f"a key of {where or 'the line'}"
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return next((found for key, item in items if (found := _surrogate(item, f"{where}.{key}".lstrip(".")))), "")


def _without_null(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the optional keys that are null; a null elsewhere is a fault for validation to name."""

    def drop(item: Any, keys: tuple[str, ...]) -> Any:
        return {k: v for k, v in item.items() if v is not None or k not in keys} if isinstance(item, dict) else item

    record = drop(record, ("questions", "links"))
    for name, keys in (("messages", ("time", "metadata")), ("questions", ("type",))):
        if isinstance(record.get(name), list):
            record[name] = [drop(item, keys) for item in record[name]]
    return record


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    # an id is int or str, and validation names the branch it tried
    place = ".".join(str(part) for part in fault["loc"] if part not in ("int", "str"))
    if fault["type"] == "missing":
        return f"{place}: missing"
    if place.startswith("links") and fault["type"] in ("too_short", "too_long"):
        return f"{place}: expected a message and the one it replies to, got {fault['input']!r:.80}"
    if place.split(".")[-1] == "id" or "evidence" in place or (place.count(".") == 2 and place.startswith("links.")):
        return f"{place}: expected a string or an integer, got {fault['input']!r:.80}"
    return f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r:.80}"


def _document(path: Path) -> Conversation:
    name = path.as_posix()
    messages = [
        Message(id=f"{name}:{index:04d}", role="document", content=text, metadata={"line": number})
        for index, (number, text) in enumerate(_runs(_lines(path)), start=1)
    ]
    if not messages:
        raise InvalidChatFile(f"{path}: expected text, got an empty file")
    return Conversation(id=name, messages=messages)


def _runs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Runs of whole paragraphs within `DOCUMENT_CHARS`, each with the line its first paragraph starts at."""
    run, run_line = "", 1
    for number, text in _paragraphs(lines):
        for piece in _pieces(text):
            if run and len(run) + 2 + len(piece) > DOCUMENT_CHARS:
                yield run_line, run
                run = ""
            run, run_line = (f"{run}\n\n{piece}", run_line) if run else (piece, number)
    if run:
        yield run_line, run


def _paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    paragraph: list[str] = []
    first = 1
    for number, line in lines:
        if line.strip():
            first = first if paragraph else number
            paragraph.append(line.replace("\r\n", "\n"))
        elif paragraph:
            yield first, "".join(paragraph).strip()
            paragraph = []
    if paragraph:
        yield first, "".join(paragraph).strip()


def _pieces(text: str) -> Iterator[str]:
    """The text, cut at the last space that keeps each piece within `DOCUMENT_CHARS`, or in a word that is longer."""
    start = 0
    while len(text) - start > DOCUMENT_CHARS:
        limit = start + DOCUMENT_CHARS
        cut = max(text.rfind(" ", start, limit), text.rfind("\n", start, limit)) + 1
        cut = cut if cut > start else limit
        if piece := text[start:cut].strip():
            yield piece
        start = cut
    if piece := text[start:].strip():
        yield piece
