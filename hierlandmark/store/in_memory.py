"""`InMemoryStore`: the same contract without a file, and the reference that `SQLiteStore` is tested against."""

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np

from hierlandmark.errors import DuplicateMessageId, InvalidArgument
from hierlandmark.filters import Filter, matches
from hierlandmark.messages import Message, MessageId
from hierlandmark.store.fulltext import terms
from hierlandmark.store.protocol import (
    BlockId,
    EncodedSegment,
    KVSpec,
    Listing,
    SegmentId,
    SegmentRecord,
    StoreStats,
)
from hierlandmark.store.records import (
    MessageRow,
    check_k,
    check_namespace,
    check_segment,
    check_slot,
    id_key,
    message_rows,
    messages_missing,
    namespace_missing,
    rewritten,
    to_message,
)
from hierlandmark.store.tensors import checksum

# BM25 as SQLite's FTS5 computes it
K1, B = 1.2, 0.75


@dataclass
class _Namespace:
    """One owner's messages by id key and segments by id, both in order."""

    messages: dict[str, MessageRow] = field(default_factory=dict)
    segments: dict[SegmentId, EncodedSegment] = field(default_factory=dict)

    def copy(self) -> "_Namespace":
        return _Namespace(dict(self.messages), dict(self.segments))

    def tail(self) -> SegmentId | None:
        """Id of the open tail."""
        last = next(reversed(self.segments), None)
        return None if last is None or self.segments[last].closed else last

    def keep_kv_budget(self, budget: int | None) -> None:
        """Drop keys and values of the oldest segments until the rest holds no more than that; None keeps all."""
        if budget is None:
            return
        held = [(i, segment.kv_bytes) for i, segment in self.segments.items() if segment.kv is not None]
        over = sum(size for _, size in held) - budget
        for segment_id, size in held:
            if over <= 0:
                return
            self.segments[segment_id] = replace(self.segments[segment_id], kv=None, search_kv=None)
            over -= size


class InMemoryStore:
    """A `BlockStore` in dictionaries, safe to use from several threads. A write builds a new state, then puts it in."""

    def __init__(self, spec: KVSpec) -> None:
        self.spec = spec
        self._namespaces: dict[str, _Namespace] = {}
        self._next_id = 1
        self._closed = False
        self._write_lock = threading.RLock()
        self._writing = False
        self._changes = 0

    def append(
        self,
        namespace: str,
        messages: Sequence[Message],
        segments: Iterable[EncodedSegment],
        *,
        replaces: SegmentId | None = None,
        kv_budget: int | None = None,
    ) -> list[SegmentId]:
        """See `BlockStore.append`."""
        check_namespace(namespace)
        new = message_rows(messages)
        with self._transaction():
            state = self._namespaces[namespace].copy() if namespace in self._namespaces else _Namespace()
            if not new:
                self._named(namespace)
            if replaces is not None and state.tail() != replaces:
                raise InvalidArgument(
                    f"replaces must be the open tail of {namespace!r}, {state.tail()}; came {replaces!r}"
                )
            for row in new:
                if row.key in state.messages:
                    raise DuplicateMessageId(
                        f"message id {row.key} is in the namespace already; forget it, or use another"
                    )
                state.messages[row.key] = row
            if replaces is not None:
                del state.segments[replaces]
            ids: list[SegmentId] = []
            for segment in segments:
                ids.append(self._next_id + len(ids))
                state.segments[ids[-1]] = self._checked(state, segment)
                state.keep_kv_budget(kv_budget)
            state.keep_kv_budget(kv_budget)
            self._next_id += len(ids)
            self._namespaces = {**self._namespaces, namespace: state}
        return ids

    def rewrite(
        self,
        namespace: str,
        remove: Sequence[MessageId],
        segments: Iterable[tuple[SegmentId, EncodedSegment | None]],
        *,
        kv_budget: int | None = None,
    ) -> None:
        """See `BlockStore.rewrite`. Raises what `SQLiteStore.rewrite` raises."""
        with self._transaction():
            state = self._named(namespace).copy()
            absent = [i for i in remove if id_key(i) not in state.messages]
            if absent:
                raise messages_missing(absent, namespace)
            removed = {id_key(i) for i in remove}
            for key in removed:
                del state.messages[key]
            for segment_id, segment in segments:
                _require(state, segment_id)
                if segment is None:
                    del state.segments[segment_id]
                else:
                    state.segments[segment_id] = self._checked(state, segment)
                    state.keep_kv_budget(kv_budget)
            state.keep_kv_budget(kv_budget)
            for kept in state.segments.values():
                for run in kept.runs:
                    if id_key(run.message_id) in removed:
                        raise InvalidArgument(
                            f"a segment still holds tokens of message {run.message_id!r}: rewrite every segment whose "
                            "runs name it"
                        )
            others = {name: held for name, held in self._namespaces.items() if name != namespace}
            self._namespaces = {**others, namespace: state} if state.messages else others

    def messages(self, namespace: str, ids: Sequence[MessageId] | None = None) -> list[Message]:
        """See `BlockStore.messages`."""
        held = self._named(namespace).messages
        keys = list(held) if ids is None else [id_key(i) for i in ids]
        absent = [i for i in ids or () if id_key(i) not in held]
        if absent:
            raise messages_missing(absent, namespace)
        return [to_message(*held[key][:5]) for key in keys]

    def has_message(self, namespace: str, message_id: MessageId) -> bool:
        """See `BlockStore.has_message`."""
        held = self._state().get(namespace)
        return held is not None and id_key(message_id) in held.messages

    def unencoded(self, namespace: str) -> list[MessageId]:
        """See `BlockStore.unencoded`."""
        held = self._named(namespace)
        encoded = {id_key(run.message_id) for segment in held.segments.values() for run in segment.runs}
        return [to_message(*row[:5]).id for key, row in held.messages.items() if key not in encoded]

    def segments(self, namespace: str, ids: Sequence[SegmentId] | None = None) -> list[SegmentRecord]:
        """See `BlockStore.segments`. Raises `KeyError` for an id that is not in the namespace."""
        held = self._named(namespace)
        return [_record(i, _require(held, i)) for i in (held.segments if ids is None else ids)]

    def tail(self, namespace: str) -> SegmentRecord | None:
        """See `BlockStore.tail`."""
        held = self._state().get(namespace)
        last = held.tail() if held else None
        return None if held is None or last is None else _record(last, held.segments[last])

    def gate_keys(self, namespace: str) -> tuple[np.ndarray, np.ndarray]:
        """See `BlockStore.gate_keys`."""
        held = self._named(namespace)
        return np.array(list(held.segments), np.int64), self._gates(held)

    def _gates(self, held: _Namespace, ids: Sequence[SegmentId] | None = None) -> np.ndarray:
        shape = (self.spec.slots, self.spec.kv_heads, self.spec.head_dim)
        wanted = list(held.segments) if ids is None else ids
        gates = np.empty((len(wanted), *shape), self.spec.numpy_dtype)
        for i, segment_id in enumerate(wanted):
            gates[i] = held.segments[segment_id].gate_key
        return gates

    def index(self, namespace: str, ids: Sequence[SegmentId] | None = None) -> tuple[list[SegmentRecord], np.ndarray]:
        """See `BlockStore.index`."""
        held = self._named(namespace)
        records = [_record(i, _require(held, i)) for i in (held.segments if ids is None else ids)]
        return records, self._gates(held, ids)

    def listing(self, namespace: str) -> Listing:
        """See `BlockStore.listing`."""
        found = [
            (i, checksum(one.tokens), len(one.block_content)) for i, one in self._named(namespace).segments.items()
        ]
        return Listing(*np.array(found, np.int64).reshape(-1, 3).T)

    def holding(self, namespace: str, message_ids: Iterable[MessageId]) -> np.ndarray:
        """See `BlockStore.holding`."""
        wanted = {id_key(message_id) for message_id in message_ids}
        segments = self._named(namespace).segments.items()
        found = [i for i, one in segments if any(id_key(run.message_id) in wanted for run in one.runs)]
        return np.array(found, np.int64)

    def changes(self) -> int:
        """See `BlockStore.changes`."""
        self._state()
        return self._changes

    def landmark_keys(
        self, segment_ids: Sequence[SegmentId], versions: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """See `BlockStore.landmark_keys`."""
        wanted: Sequence[int | None] = [None] * len(segment_ids) if versions is None else versions
        return [self._anywhere(*pair).landmark_keys.copy() for pair in zip(segment_ids, wanted, strict=True)]

    def read_blocks(
        self,
        slot: int,
        block_ids: Sequence[BlockId],
        versions: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
    ) -> np.ndarray:
        """See `BlockStore.read_blocks`."""
        check_slot(self.spec, slot)
        shape: tuple[int, ...] = (self.spec.kv_heads, self.spec.block_size, self.spec.head_dim)
        shape = (self.spec.parts_of(slot), *(shape if groups is None else shape[1:]))
        out = np.empty((len(block_ids), *shape), self.spec.numpy_dtype)
        for i, block_id in enumerate(block_ids):
            segment_id, n = divmod(int(block_id), self.spec.blocks_per_segment)
            segment = self._anywhere(segment_id, None if versions is None else versions[i])
            if segment.kv is None or n >= len(segment.kv):
                raise KeyError(f"block {block_id} is unknown, or its keys and values were dropped: encode it again")
            row = segment.row(n, slot)
            out[i] = row if groups is None else row[:, groups[i]]
        return out

    def drop_kv(self, namespace: str, segment_ids: Sequence[SegmentId]) -> None:
        """See `BlockStore.drop_kv`. Raises `KeyError`, and drops nothing, when one is not in the namespace."""
        with self._transaction():
            state = self._named(namespace).copy()
            for segment_id in segment_ids:
                state.segments[segment_id] = replace(_require(state, segment_id), kv=None, search_kv=None)
            self._namespaces = {**self._namespaces, namespace: state}

    def matching(self, namespace: str, where: Filter) -> list[MessageId]:
        """See `BlockStore.matching`."""
        held = (to_message(*row[:5]) for row in self._named(namespace).messages.values())
        return [message.id for message in held if matches(where, message)]

    def around(self, namespace: str, message_id: MessageId, n: int) -> tuple[list[Message], list[Message]]:
        """See `BlockStore.around`."""
        held = self._named(namespace).messages
        if id_key(message_id) not in held:
            raise messages_missing([message_id], namespace)
        rows, at = list(held.values()), list(held).index(id_key(message_id))
        before, after = rows[max(at - n, 0) : at], rows[at + 1 : at + 1 + n]
        return [to_message(*row[:5]) for row in before], [to_message(*row[:5]) for row in after]

    def search_text(
        self, namespace: str, query: str, k: int, where: Filter | None = None
    ) -> list[tuple[MessageId, float]]:
        """See `BlockStore.search_text`. Words are matched whole, without the stemming that SQLite does."""
        check_k(k)
        held = self._named(namespace).messages
        # in order: sums of fractions depend on it
        words = dict.fromkeys(terms(query))
        counts = {key: Counter(terms(row.content)) for key, row in held.items()}
        mean = sum(map(Counter.total, counts.values())) / len(counts) or 1.0
        scores: dict[str, float] = {}
        for word in words:
            found = [key for key, count in counts.items() if count[word]]
            idf = max(math.log((len(counts) - len(found) + 0.5) / (len(found) + 0.5)), 1e-6)
            for key in found:
                frequency, length = counts[key][word], counts[key].total() / mean
                weight = frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length))
                scores[key] = scores.get(key, 0.0) + idf * weight
        rows = [(to_message(*row[:5]), scores[key]) for key, row in held.items() if key in scores]
        kept = [(one.id, score) for one, score in rows if where is None or matches(where, one)]
        return sorted(kept, key=lambda pair: -pair[1])[:k]

    def namespaces(self) -> list[str]:
        """See `BlockStore.namespaces`."""
        return sorted(self._state())

    def stats(self, namespace: str) -> StoreStats:
        """See `BlockStore.stats`."""
        held = self._named(namespace)
        segments = held.segments.values()
        return StoreStats(
            messages=len(held.messages),
            segments=len(held.segments),
            blocks=sum(len(s.block_content) for s in segments),
            tokens=sum(len(s.tokens) for s in segments),
            kv_bytes=sum(s.kv_bytes for s in segments),
            key_bytes=sum(s.gate_key.nbytes + s.landmark_keys.nbytes for s in segments),
            text_bytes=sum(row.text_bytes for row in held.messages.values()),
        )

    def close(self) -> None:
        """See `BlockStore.close`."""
        if self._closed:
            return
        with self._transaction():
            self._closed = True
            self._namespaces = {}

    def __enter__(self) -> "InMemoryStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._write_lock:
            if self._writing:
                raise InvalidArgument("segments may read the store that consumes them, not write it or close it")
            self._state()
            self._writing = True
            try:
                yield
            finally:
                self._writing = False
                self._changes += 1

    def _state(self) -> dict[str, _Namespace]:
        if self._closed:
            raise InvalidArgument("the store is closed; make another")
        return self._namespaces

    def _named(self, namespace: str) -> _Namespace:
        held = self._state().get(namespace)
        if held is None:
            raise namespace_missing(namespace)
        return held

    def _anywhere(self, segment_id: SegmentId, version: int | None = None) -> EncodedSegment:
        for held in self._state().values():
            if segment_id in held.segments:
                found = held.segments[segment_id]
                if version not in (None, checksum(found.tokens)):
                    raise rewritten(segment_id)
                return found
        raise KeyError(f"segment {segment_id} is not in the store")

    def _checked(self, state: _Namespace, segment: EncodedSegment) -> EncodedSegment:
        """A copy of its own, once it is known to fit."""
        check_segment(self.spec, segment)
        for run in segment.runs:
            if id_key(run.message_id) not in state.messages:
                raise InvalidArgument(
                    f"a run names message {run.message_id!r}, which is not in the namespace; append it too"
                )
        return replace(
            segment,
            tokens=segment.tokens.copy(),
            gate_key=segment.gate_key.copy(),
            landmark_keys=segment.landmark_keys.copy(),
            kv=None if segment.kv is None else segment.kv.copy(),
            search_kv=None if segment.search_kv is None else segment.search_kv.copy(),
        )


def _require(state: _Namespace, segment_id: SegmentId) -> EncodedSegment:
    if segment_id not in state.segments:
        raise KeyError(f"segment {segment_id} is not in the store, or not in this namespace")
    return state.segments[segment_id]


def _record(segment_id: SegmentId, segment: EncodedSegment) -> SegmentRecord:
    return SegmentRecord(
        id=segment_id,
        tokens=segment.tokens.copy(),
        runs=segment.runs,
        block_content=tuple(segment.block_content),
        closed=segment.closed,
        has_kv=segment.kv is not None,
        version=checksum(segment.tokens),
    )
