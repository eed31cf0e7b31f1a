"""Public test sets as conversations with questions: which format a path holds, and its reader."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from hierlandmark.chats import Conversation, read_chats
from hierlandmark.errors import InvalidArgument, InvalidChatFile
from hierlandmark.eval.loaders.beir import read_beir
from hierlandmark.eval.loaders.locomo import read_locomo
from hierlandmark.eval.loaders.longmemeval import read_longmemeval

Format = Literal["chat", "locomo", "longmemeval", "beir"]


def load(path: str | Path, format: Format | None = None) -> Iterator[Conversation]:
    """Conversations of a file or folder, in order.

    Args:
        path: this project's chat file, LoCoMo's or LongMemEval's published JSON, or a folder in BEIR's form.
        format: told by the content when None.

    Raises:
        InvalidArgument: no such format or path.
        InvalidChatFile: it does not hold what its format says; the message names the place.
    """
    path = Path(path)
    if format is not None and format not in get_args(Format):
        raise InvalidArgument(f"expected the format to be one of {', '.join(get_args(Format))}, got {format!r}")
    if not path.exists():
        raise InvalidArgument(f"no file or folder at {str(path)!r}")
    format = format or detect(path)
    if format == "beir":
        return read_beir(path)
    if format == "chat":
        return read_chats(path)
    records = _json(path)
    readers: dict[str, Callable[[Path, Any], Iterator[Conversation]]] = {
        "locomo": read_locomo,
        "longmemeval": read_longmemeval,
    }
    return readers[format](path, records if isinstance(records, list) else [records])


def detect(path: Path) -> Format:
    """The format that a path's content has; what is no JSON file or folder is taken for a chat file."""
    if path.is_dir():
        if (path / "corpus.jsonl").exists() and (path / "queries.jsonl").exists():
            return "beir"
        raise InvalidArgument(f"expected a folder with corpus.jsonl and queries.jsonl (BEIR's form), got {str(path)!r}")
    if path.suffix != ".json":
        return "chat"
    records = _json(path)
    first = (records[0] if records else None) if isinstance(records, list) else records
    if isinstance(first, dict) and "haystack_sessions" in first:
        return "longmemeval"
    if isinstance(first, dict) and "conversation" in first and "qa" in first:
        return "locomo"
    raise InvalidChatFile(
        f"{path}: neither LoCoMo's JSON (conversation, qa) nor LongMemEval's (haystack_sessions); a chat file is .jsonl"
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidChatFile(f"{path}: not valid JSON: {error}") from error
