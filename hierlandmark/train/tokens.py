"""Token ids of training files: read once, kept on disk beside converted models, because tokenising takes minutes."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hierlandmark.chats import Conversation, read_chats, read_texts
from hierlandmark.errors import InvalidArgument
from hierlandmark.model.base import cache_folder
from hierlandmark.model.prompts import tokenize
from hierlandmark.train.corpus import Talk, Turn

# what a part of a text may have, so that a tokenizer is never given a whole library at once
_CHARS = 1_000_000
# of the form of these files
_VERSION = 2


def read_tokens(
    tokenizer: Any, texts: Sequence[Path], chats: Sequence[Path], *, keep: Path | None = None
) -> tuple[dict[str, np.ndarray], list[Talk]]:
    """Token ids of all texts as one array (n,) uint32 named "texts", if there are any; and of each chat's messages.

    Messages without text are left out, and with them the links and the evidence that name them.

    Args:
        keep: folder for token ids of whole files, by default `tokens` in the cache of models. A tokenizer that cannot
            be told from others by what it says of itself keeps nothing.

    Raises:
        InvalidArgument: neither has a token.
    """
    keep = cache_folder() / "tokens" if keep is None else keep
    name = _tokenizer_name(tokenizer)

    def ids(text: str) -> np.ndarray:
        return np.asarray(tokenize(tokenizer, text), dtype=np.uint32)

    def kept(path: Path, kind: str, make: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        # a file that is not there is told by what reads it
        if name is None or not path.is_file():
            return make(path)
        return _kept(keep / f"{kind}-{name}-{_digest(path)}.npz", lambda: make(path))

    def of_text(path: Path) -> dict[str, np.ndarray]:
        parts = [ids(text[i : i + _CHARS]) for text in read_texts(path) for i in range(0, len(text), _CHARS)]
        return {"ids": np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)}

    def of_chats(path: Path) -> dict[str, np.ndarray]:
        talks = [
            Talk([Turn(m.role, ids(f" {m.content}")) for m in chat.messages if m.content], *_known(chat))
            for chat in read_chats(path)
        ]
        turns = [turn for talk in talks for turn in talk]
        known = [[talk.questions, talk.links] for talk in talks]
        return {
            "ids": np.concatenate([turn.tokens for turn in turns] or [np.zeros(0, dtype=np.uint32)]),
            "lengths": np.array([len(turn.tokens) for turn in turns], dtype=np.int64),
            "turns": np.array([len(talk) for talk in talks], dtype=np.int64),
            # text, not objects, which would have to be pickled
            "roles": np.frombuffer(json.dumps([turn.role for turn in turns]).encode(), dtype=np.uint8),
            "known": np.frombuffer(json.dumps(known, separators=(",", ":")).encode(), dtype=np.uint8),
        }

    found = [kept(path, "texts", of_text)["ids"] for path in texts]
    talks = [talk for path in chats for talk in _talks(kept(path, "chats", of_chats)) if talk]
    read = {"texts": np.concatenate(found)} if sum(map(len, found)) else {}
    if not read and not talks:
        raise InvalidArgument("expected some text to train on, the files hold none")
    return read, talks


def _known(chat: Conversation) -> tuple[list[tuple[str, tuple[int, ...]]], list[tuple[int, int]]]:
    """Questions with their evidence and links, messages named by their places among those with text."""
    at = {message.id: i for i, message in enumerate(m for m in chat.messages if m.content)}
    questions = [(q.question, tuple(sorted({at[e] for e in q.evidence if e in at}))) for q in chat.questions]
    links = [(at[a], at[b]) for a, b in chat.links if a in at and b in at and a != b]
    return [(question, evidence) for question, evidence in questions if evidence and question.strip()], links


def _talks(arrays: dict[str, np.ndarray]) -> Iterator[Talk]:
    roles, known = (json.loads(arrays[name].tobytes()) for name in ("roles", "known"))
    parts = np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
    at = 0
    for count, (questions, links) in zip(arrays["turns"].tolist(), known, strict=True):
        asked = [(question, tuple(evidence)) for question, evidence in questions]
        yield Talk([Turn(roles[i], parts[i]) for i in range(at, at + count)], asked, [(a, b) for a, b in links])
        at += count


def _kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What the file holds, or what `make` makes, which is written there, whole or not at all."""
    # a damaged file is made again
    with suppress(OSError, EOFError, ValueError, BadZipFile, KeyError), np.load(path, allow_pickle=False) as arrays:
        return {**arrays, "ids": arrays["ids"].astype(np.uint32)}
    made = make()
    small = made["ids"].astype(np.uint16) if made["ids"].max(initial=0) < 1 << 16 else made["ids"]
    # a folder that may not be written: next time it takes as long
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as scratch:
            part = Path(scratch) / path.name
            np.savez_compressed(part, allow_pickle=False, **{**made, "ids": small})
            part.replace(path)
    return made


def _digest(path: Path) -> str:
    """Name of a file's contents; the ending tells how it is read."""
    digest = hashlib.sha256(path.suffix.encode())
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:24]


def _tokenizer_name(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return hashlib.sha256(f"{_VERSION} {_CHARS} {backend.to_str()}".encode()).hexdigest()[:12]
