"""`SQLiteStore`: blocks in one SQLite file. Numpy in, numpy out."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType

import numpy as np

from hierlandmark.errors import InvalidArgument, StoreCorrupt
from hierlandmark.filters import Filter
from hierlandmark.messages import Message, MessageId
from hierlandmark.store import filtered, rows
from hierlandmark.store.connection import Connections, named_errors
from hierlandmark.store.fulltext import match_any
from hierlandmark.store.header import Header, check_spec, read_header, spec_text, stored_spec, write_spec
from hierlandmark.store.opening import file_path, open_existing, open_pair
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
    check_k,
    check_namespace,
    check_slot,
    id_key,
    message_rows,
    messages_missing,
    to_message,
)
from hierlandmark.store.tensors import from_bytes

_MESSAGE = "SELECT message_id, role, content, time, metadata FROM messages"


class SQLiteStore:
    """A `BlockStore` in one file, safe to use from several threads and several processes.

    One connection writes and one reads, a lock each: readers go on, with the last committed state, while an append
    consumes its segments. Writers wait for each other up to `timeout` seconds.
    """

    def __init__(
        self, path: str | os.PathLike[str], spec: KVSpec, *, read_only: bool = False, timeout: float = 60.0
    ) -> None:
        """Open the file, or create it, and bring its schema up to date.

        Raises `ModelMismatch` when another model, adapter or layout wrote it; `StoreTooNew` when a later version did;
        `StoreCorrupt` when it cannot be read; `StoreNotWritable` when it cannot be written; `InvalidArgument` for a
        folder and, with `read_only`, for an empty file or none.
        """
        self.spec = spec
        self.path = file_path(path)
        self._connections = Connections(self.path, *open_pair(self.path, spec, read_only, timeout), timeout)
        self._spec_text = spec_text(spec)
        # state of the file in which its spec was looked at last, and versions of segments in it
        self._state = -1
        self._versions: dict[SegmentId, int] = {}

    @staticmethod
    def peek(path: str | os.PathLike[str]) -> Header:
        """`Header(spec, schema_version)` of a database, whoever wrote it; the file is not changed.

        Raises `StoreCorrupt`, `StoreTooNew`, and `InvalidArgument` for a folder, an empty file, or where there is none.
        """
        file = file_path(path)
        with named_errors(file):
            db = open_existing(file)
            try:
                return read_header(db, file)
            finally:
                db.close()

    @classmethod
    def reset_keys(cls, path: str | os.PathLike[str], spec: KVSpec) -> None:
        """Take an existing database to another model: drop every segment, keep namespaces and messages.

        All of it, or nothing. Append segments anew afterwards: text is the truth, keys are derived from it.
        Stores that are open on the old spec raise `ModelMismatch` from then on.
        """
        with cls(path, cls.peek(path).spec) as store:
            with store._writing() as conn:
                for table in ("kv", "gates", "landmarks", "runs", "segments"):
                    conn.execute(f"DELETE FROM {table}")
                write_spec(conn, spec)
            store._connections.vacuum()

    def append(
        self,
        namespace: str,
        messages: Sequence[Message],
        segments: Iterable[EncodedSegment],
        *,
        replaces: SegmentId | None = None,
        kv_budget: int | None = None,
    ) -> list[SegmentId]:
        """See `BlockStore.append`. Holds one segment in memory at a time."""
        check_namespace(namespace)
        new = message_rows(messages)
        with self._writing() as conn:
            known = rows.find_namespace(conn, namespace)
            if known is None:
                if not new:
                    rows.namespace_id(conn, namespace)
                known = int(conn.execute("INSERT INTO namespaces (name) VALUES (?)", (namespace,)).lastrowid or 0)
            tail = self._tail(conn, known)
            if replaces is not None and (tail is None or tail.id != replaces):
                open_tail = "has none" if tail is None else f"has {tail.id}"
                raise InvalidArgument(
                    f"replaces must be the open tail of {namespace!r}, which {open_tail}; came {replaces!r}"
                )
            rows.insert_messages(conn, known, new)
            if replaces is not None:
                rows.delete_segment(conn, self.spec, replaces)
            page_size, ids = self._connections.page_size, []
            for segment in segments:
                ids.append(rows.insert_segment(conn, self.spec, page_size, known, segment))
                rows.keep_kv_budget(conn, self.spec, known, kv_budget)
            rows.keep_kv_budget(conn, self.spec, known, kv_budget)
        return ids

    def rewrite(
        self,
        namespace: str,
        remove: Sequence[MessageId],
        segments: Iterable[tuple[SegmentId, EncodedSegment | None]],
        *,
        kv_budget: int | None = None,
    ) -> None:
        """See `BlockStore.rewrite`. A replaced segment keeps its id, and so do its blocks.

        Raises `InvalidArgument` when a segment that holds tokens of a removed message is not replaced; `KeyError` when
        a segment is not in the namespace; `StoreNotWritable`, with the messages removed, when the log could not be
        emptied because another process kept a read transaction open for all of `timeout`.
        Removing costs time in proportion to all text in the file: its index is built anew.
        """
        with self._writing() as conn:
            known = rows.namespace_id(conn, namespace)
            removed = {message_id: rows.find_message(conn, known, message_id) for message_id in remove}
            absent = [message_id for message_id, row in removed.items() if row is None]
            if absent:
                raise messages_missing(absent, namespace)
            conn.executemany("DELETE FROM messages WHERE id = ?", [(row,) for row in removed.values()])
            replaced = False
            for segment_id, segment in segments:
                replaced = True
                rows.require_segment(conn, segment_id, known)
                rows.delete_segment(conn, self.spec, segment_id)
                if segment is not None:
                    rows.insert_segment(conn, self.spec, self._connections.page_size, known, segment, segment_id)
                    rows.keep_kv_budget(conn, self.spec, known, kv_budget)
            for message_id, row in removed.items():
                if conn.execute("SELECT 1 FROM runs WHERE message = ?", (row,)).fetchone():
                    raise InvalidArgument(
                        f"a segment still holds tokens of message {message_id!r}: rewrite every segment whose runs "
                        "name it"
                    )
            rows.keep_kv_budget(conn, self.spec, known, kv_budget)
            if removed:
                self._drop_empty_namespace(conn, known)
                rows.rebuild_text(conn)
        if removed or not replaced:
            self._connections.empty_log()

    def _drop_empty_namespace(self, conn: rows.Conn, namespace: int) -> None:
        if conn.execute("SELECT 1 FROM messages WHERE namespace_id = ?", (namespace,)).fetchone():
            return
        for (segment_id,) in conn.execute("SELECT id FROM segments WHERE namespace_id = ?", (namespace,)).fetchall():
            rows.delete_segment(conn, self.spec, segment_id)
        conn.execute("DELETE FROM namespaces WHERE id = ?", (namespace,))

    def messages(self, namespace: str, ids: Sequence[MessageId] | None = None) -> list[Message]:
        """See `BlockStore.messages`."""
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            if ids is None:
                found = conn.execute(f"{_MESSAGE} WHERE namespace_id = ? ORDER BY id", (known,)).fetchall()
            else:
                one = f"{_MESSAGE} WHERE namespace_id = ? AND message_id = ?"
                found = [conn.execute(one, (known, id_key(i))).fetchone() for i in ids]
                if None in found:
                    absent = [i for i, row in zip(ids, found, strict=True) if row is None]
                    raise messages_missing(absent, namespace)
        return [to_message(*row) for row in found]

    def has_message(self, namespace: str, message_id: MessageId) -> bool:
        """See `BlockStore.has_message`."""
        with self._reading() as conn:
            known = rows.find_namespace(conn, namespace)
            return known is not None and rows.find_message(conn, known, message_id) is not None

    def unencoded(self, namespace: str) -> list[MessageId]:
        """See `BlockStore.unencoded`. Reads two indexes, no text."""
        query = (
            "SELECT message_id FROM messages WHERE namespace_id = ?"
            " AND NOT EXISTS (SELECT 1 FROM runs WHERE message = messages.id) ORDER BY id"
        )
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            return [json.loads(key) for (key,) in conn.execute(query, (known,))]

    def segments(self, namespace: str, ids: Sequence[SegmentId] | None = None) -> list[SegmentRecord]:
        """See `BlockStore.segments`. Raises `KeyError` for an id that is not in the namespace."""
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            if ids is None:
                return rows.segment_records(conn, known)
            records = []
            for segment_id in ids:
                rows.require_segment(conn, segment_id, known)
                records += rows.segment_records(conn, known, "AND segments.id = ?", (int(segment_id),))
            return records

    def tail(self, namespace: str) -> SegmentRecord | None:
        """See `BlockStore.tail`."""
        with self._reading() as conn:
            known = rows.find_namespace(conn, namespace)
            return None if known is None else self._tail(conn, known)

    def _tail(self, conn: rows.Conn, namespace: int) -> SegmentRecord | None:
        query = "SELECT id, closed FROM segments WHERE namespace_id = ? ORDER BY id DESC LIMIT 1"
        last = conn.execute(query, (namespace,)).fetchone()
        if last is None or last[1]:
            return None
        return rows.segment_records(conn, namespace, "AND segments.id = ?", (last[0],))[0]

    def gate_keys(self, namespace: str) -> tuple[np.ndarray, np.ndarray]:
        """See `BlockStore.gate_keys`."""
        with self._reading() as conn:
            return rows.gate_keys(conn, self.spec, rows.namespace_id(conn, namespace))

    def index(self, namespace: str, ids: Sequence[SegmentId] | None = None) -> tuple[list[SegmentRecord], np.ndarray]:
        """See `BlockStore.index`."""
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            if ids is None:
                return rows.segment_records(conn, known), rows.gate_keys(conn, self.spec, known)[1]
            records, gates = list[SegmentRecord](), [rows.gate_keys(conn, self.spec, known, "AND 0")[1]]
            for segment_id in ids:
                rows.require_segment(conn, segment_id, known)
                one = "AND segments.id = ?", (int(segment_id),)
                records += rows.segment_records(conn, known, *one)
                gates.append(rows.gate_keys(conn, self.spec, known, *one)[1])
            return records, np.concatenate(gates)

    def listing(self, namespace: str) -> Listing:
        """See `BlockStore.listing`."""
        query = "SELECT id, crc, n_blocks FROM segments WHERE namespace_id = ? ORDER BY id"
        with self._reading() as conn:
            found = conn.execute(query, (rows.namespace_id(conn, namespace),)).fetchall()
        return Listing(*np.array(found, np.int64).reshape(-1, 3).T)

    def holding(self, namespace: str, message_ids: Iterable[MessageId]) -> np.ndarray:
        """See `BlockStore.holding`. Looked up in indexes, message by message."""
        keys = json.dumps([id_key(message_id) for message_id in message_ids])
        query = (
            "SELECT DISTINCT segment_id FROM json_each(?) AS wanted CROSS JOIN messages ON namespace_id = ?"
            " AND message_id = wanted.value CROSS JOIN runs ON runs.message = messages.id ORDER BY segment_id"
        )
        with self._reading() as conn:
            found = conn.execute(query, (keys, rows.namespace_id(conn, namespace))).fetchall()
        return np.array(found, np.int64).reshape(-1)

    def changes(self) -> int:
        """See `BlockStore.changes`."""
        with self._reading():
            return self._state

    def landmark_keys(
        self, segment_ids: Sequence[SegmentId], versions: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """See `BlockStore.landmark_keys`. Raises also `StoreCorrupt`."""
        spec, found = self.spec, []
        wanted: Sequence[int | None] = [None] * len(segment_ids) if versions is None else versions
        with self._reading() as conn:
            for segment_id, version in zip(segment_ids, wanted, strict=True):
                n_blocks = rows.require_segment(conn, segment_id, version=version)
                shape = (n_blocks, spec.slots, spec.kv_heads, spec.head_dim)
                query = "SELECT crc, data FROM landmarks WHERE id = ?"
                crc, data = conn.execute(query, (int(segment_id),)).fetchone() or (0, b"")
                what = f"landmark keys of segment {segment_id}"
                found.append(from_bytes(data, crc, spec.numpy_dtype, shape, what).astype(spec.numpy_dtype))
        return found

    def read_blocks(
        self,
        slot: int,
        block_ids: Sequence[BlockId],
        versions: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
    ) -> np.ndarray:
        """See `BlockStore.read_blocks`."""
        check_slot(self.spec, slot)
        spec = self.spec
        shape = (spec.parts_of(slot), spec.kv_heads, spec.block_size, spec.head_dim)
        out = np.empty((len(block_ids), *(shape if groups is None else (shape[0], *shape[2:]))), spec.numpy_dtype)
        # row -> where it goes
        wanted: dict[int, list[int]] = {}
        for i, block_id in enumerate(block_ids):
            wanted.setdefault(int(block_id) * spec.slots + slot, []).append(i)
        of: dict[SegmentId, int] = {}
        if versions is not None:
            segments = [int(block_id) // spec.blocks_per_segment for block_id in block_ids]
            of = dict(zip(segments, versions, strict=True))

        def missing(conn: rows.Conn) -> set[int]:
            """Rows that are not there; all others are copied out."""
            absent = set(wanted)
            for row_id, crc, data in rows.kv_rows(conn, list(wanted)):
                what = f"slot {slot} of block {row_id // spec.slots}"
                row = from_bytes(data, crc, out.dtype, shape, what)
                for i in wanted[row_id]:
                    out[i] = row if groups is None else row[:, groups[i]]
                absent.remove(row_id)
            return absent

        with self._connections.looking() as conn:
            # an answer reads a few rows in every layer of every token: while nothing is written there is no need of a
            # transaction, nor to ask what is known
            if of.items() <= self._versions.items():
                # rows of two states may not fit together, nor those of another one to what is known: what is damaged
                # in one state is told below
                with suppress(StoreCorrupt):
                    if not missing(conn) and self._state_of(conn) == self._state:
                        return out
        with self._reading() as conn:
            self._require_versions(conn, of)
            absent = missing(conn)
        if absent:
            block = min(absent) // spec.slots
            raise KeyError(f"block {block} is unknown, or its keys and values were dropped: encode it again")
        return out

    def _require_versions(self, conn: rows.Conn, versions: dict[SegmentId, int]) -> None:
        """See `rows.require_versions`; asked once of each segment until something is written."""
        unknown = {i: version for i, version in versions.items() if self._versions.get(i) != version}
        if unknown:
            rows.require_versions(conn, unknown)
            self._versions |= unknown

    def drop_kv(self, namespace: str, segment_ids: Sequence[SegmentId]) -> None:
        """See `BlockStore.drop_kv`. Raises `KeyError`, and drops nothing, when one is not in the namespace."""
        with self._writing() as conn:
            known = rows.namespace_id(conn, namespace)
            for segment_id in segment_ids:
                rows.require_segment(conn, segment_id, known)
                rows.delete_kv(conn, self.spec, int(segment_id))

    def matching(self, namespace: str, where: Filter) -> list[MessageId]:
        """See `BlockStore.matching`. Roles and times are looked up in indexes, metadata in the rows that are left."""
        with self._reading() as conn:
            return filtered.matching(conn, rows.namespace_id(conn, namespace), where)

    def around(self, namespace: str, message_id: MessageId, n: int) -> tuple[list[Message], list[Message]]:
        """See `BlockStore.around`."""
        beside = f"{_MESSAGE} WHERE namespace_id = ? AND id {{}} ? ORDER BY id {{}} LIMIT ?"
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            row = rows.find_message(conn, known, message_id)
            if row is None:
                raise messages_missing([message_id], namespace)
            before, after = (
                [to_message(*found) for found in conn.execute(beside.format(*way), (known, row, min(n, rows.MAX_ID)))]
                for way in (("<", "DESC"), (">", "ASC"))
            )
        return before[::-1], after

    def search_text(
        self, namespace: str, query: str, k: int, where: Filter | None = None
    ) -> list[tuple[MessageId, float]]:
        """See `BlockStore.search_text`. How rare a word is counts over all namespaces of the file."""
        check_k(k)
        # what SQLite counts to
        k = min(k, rows.MAX_ID)
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            expression = match_any(known, query)
            if expression is None:
                return []
            if where is not None:
                return filtered.search_text(conn, expression, k, where)
            # the namespace column finds rows, and weighs nothing
            found = conn.execute(
                "SELECT messages.message_id, score FROM (SELECT rowid, bm25(messages_fts, 0.0, 1.0) AS score"
                " FROM messages_fts WHERE messages_fts MATCH ? ORDER BY score, rowid LIMIT ?) AS best"
                " JOIN messages ON messages.id = best.rowid ORDER BY score, best.rowid",
                (expression, k),
            )
            return [(json.loads(key), -score) for key, score in found]

    def namespaces(self) -> list[str]:
        """See `BlockStore.namespaces`."""
        with self._reading() as conn:
            return [name for (name,) in conn.execute("SELECT name FROM namespaces ORDER BY name")]

    def stats(self, namespace: str) -> StoreStats:
        """See `BlockStore.stats`. Reads one short row per message and segment."""
        with self._reading() as conn:
            known = rows.namespace_id(conn, namespace)
            texts = "SELECT count(*), total(text_bytes) FROM messages WHERE namespace_id = ?"
            messages, text_bytes = map(int, conn.execute(texts, (known,)).fetchone())
            sums = (
                "SELECT count(*), total(n_blocks), total(n_tokens), total(kv_bytes), total(key_bytes) FROM segments"
                " WHERE namespace_id = ?"
            )
            segments, blocks, tokens, kv_bytes, key_bytes = map(int, conn.execute(sums, (known,)).fetchone())
        return StoreStats(messages, segments, blocks, tokens, kv_bytes, key_bytes, text_bytes)

    def close(self) -> None:
        """See `BlockStore.close`."""
        with named_errors(self.path):
            self._connections.close()

    def __enter__(self) -> "SQLiteStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # another process may have called reset_keys since

    @contextmanager
    def _reading(self) -> Iterator[rows.Conn]:
        with self._connections.reading() as conn:
            state = self._state_of(conn)
            if state != self._state:
                self._check_unchanged(conn)
                self._state, self._versions = state, {}
            yield conn

    @staticmethod
    def _state_of(conn: rows.Conn) -> int:
        """Another number after every write: https://sqlite.org/pragma.html#pragma_data_version.

        No connection that reads ever writes.
        """
        (state,) = conn.execute("PRAGMA data_version").fetchone()
        return int(state)

    @contextmanager
    def _writing(self) -> Iterator[rows.Conn]:
        with self._connections.writing() as conn:
            self._check_unchanged(conn)
            yield conn

    def _check_unchanged(self, conn: rows.Conn) -> None:
        stored = stored_spec(conn)
        if stored != self._spec_text:
            check_spec(self.path, self.spec, KVSpec(**json.loads(stored or "{}")))
