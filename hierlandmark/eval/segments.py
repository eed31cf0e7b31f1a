"""Documents that share segments: each distinct one is encoded once, each document reads those that it is made of.

A segment is encoded on its own, so its keys and values are a function of its tokens (docs/design.md, section 4): a
document put together of shared segments is, key by key, what `LandmarkModel.encode` makes of it with these sizes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore, SQLiteStore
from hierlandmark.store.protocol import BlockStore, MessageRun, SegmentRecord

NAMESPACE = "needles"
# segments written in one transaction: the file's log grows as large as these, not as large as the file
AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class _Held:
    store: BlockStore
    record: SegmentRecord
    gate: np.ndarray  # (L, H_kv, D)


def cut(tokens: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Content tokens of each segment of a text."""
    return np.split(tokens, np.cumsum(sizes)[:-1])


def distinct(pieces: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Each once, in the order they come."""
    return list({piece.tobytes(): piece for piece in pieces}.values())


def write_segments(path: Path, model: LandmarkModel, pieces: Sequence[np.ndarray]) -> None:
    """Encode segments into a file of their own."""
    with SQLiteStore(path, model.kv_spec) as store:
        for start in range(0, len(pieces), AT_ONCE):
            _append(store, model, pieces[start : start + AT_ONCE], start)


def _append(store: BlockStore, model: LandmarkModel, pieces: Sequence[np.ndarray], name: int = 0) -> None:
    tokens = np.concatenate(pieces)
    document = Message(id=name, role="document", content=model.decode(tokens.tolist()) or " ")
    sizes = [len(piece) for piece in pieces]
    segments = model.encode(tokens, [MessageRun(name, len(tokens))], sizes=sizes)
    store.append(NAMESPACE, [document], (replace(segment, closed=True) for segment in segments))


class SharedSegments:
    """Segments that lie in some files, and documents made of them.

    Args:
        paths: files of `write_segments`; they are opened for reading.
    """

    def __init__(self, model: LandmarkModel, paths: Iterable[Path]) -> None:
        self._model = model
        self._stores = [SQLiteStore(path, model.kv_spec, read_only=True) for path in paths]
        self._held: dict[bytes, _Held] = {}
        for store in self._stores:
            self._list(store, self._held)

    @staticmethod
    def _list(store: BlockStore, into: dict[bytes, _Held]) -> None:
        for record, gate in zip(*store.index(NAMESPACE), strict=True):
            into[record.tokens.tobytes()] = _Held(store, record, gate)

    def document(self, tokens: np.ndarray, sizes: Sequence[int]) -> tuple[list[Source], int]:
        """A text's segments in order, ready for `LandmarkModel.recall`, and how many of them had to be encoded.

        These are kept by the sources alone, and go with them.
        """
        pieces = cut(tokens, sizes)
        new = distinct(piece for piece in pieces if piece.tobytes() not in self._held)
        held = dict(self._held)
        if new:
            store = InMemoryStore(self._model.kv_spec)
            _append(store, self._model, new)
            self._list(store, held)
        here = [held[piece.tobytes()] for piece in pieces]
        sources = []
        for _, group in groupby(here, key=lambda one: id(one.store)):
            run = list(group)
            sources.append(Source(run[0].store, [one.record for one in run], np.stack([one.gate for one in run])))
        return sources, len(new)

    def close(self) -> None:
        """Release the files."""
        for store in self._stores:
            store.close()
