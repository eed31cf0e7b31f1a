"""SQL on one connection inside one transaction: namespaces, messages, segments and their arrays."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from hierlandmark.errors import DuplicateMessageId, InvalidArgument, StoreCorrupt
from hierlandmark.filters import instant
from hierlandmark.messages import MessageId
from hierlandmark.store.protocol import EncodedSegment, KVSpec, MessageRun, SegmentId, SegmentRecord
from hierlandmark.store.records import MessageRow, check_segment, id_key, namespace_missing, rewritten
from hierlandmark.store.tensors import RECOVER, checksum, from_bytes, to_little_endian, wipeable

Conn = sqlite3.Connection

# largest key SQLite holds
MAX_ID = 2**63 - 1
# parameters of one statement that every build of SQLite takes
_PARAMETERS = 500


def find_namespace(conn: Conn, name: str) -> int | None:
    """Row of the namespace, None when there is none."""
    if not _encodable(name):
        return None
    found = conn.execute("SELECT id FROM namespaces WHERE name = ?", (name,)).fetchone()
    return found[0] if found else None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def namespace_id(conn: Conn, name: str) -> int:
    """Row of the namespace, or `NamespaceNotFound`."""
    found = find_namespace(conn, name)
    if found is None:
        (_, _, path), *_ = conn.execute("PRAGMA database_list")
        raise namespace_missing(name, path)
    return found


def find_message(conn: Conn, namespace: int, message_id: MessageId) -> int | None:
    """Row of the message, None when there is none."""
    key = (namespace, id_key(message_id))
    found = conn.execute("SELECT id FROM messages WHERE namespace_id = ? AND message_id = ?", key).fetchone()
    return found[0] if found else None


def insert_messages(conn: Conn, namespace: int, rows: Sequence[MessageRow]) -> None:
    """Append and index; `DuplicateMessageId` when one is there already."""
    for row in rows:
        key = (namespace, row.key)
        if conn.execute("SELECT 1 FROM messages WHERE namespace_id = ? AND message_id = ?", key).fetchone():
            raise DuplicateMessageId(
                f"message id {json.loads(row.key)!r} is in the namespace already; forget it first, or use another id"
            )
        inserted = conn.execute(
            "INSERT INTO messages (namespace_id, message_id, text_bytes, role, time, metadata, content, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (namespace, row.key, row.text_bytes, row.role, row.time, row.metadata, row.content, instant(row.time)),
        )
        conn.execute(
            "INSERT INTO messages_fts (rowid, namespace_id, content) VALUES (?, ?, ?)",
            (inserted.lastrowid, namespace, row.content),
        )


def rebuild_text(conn: Conn) -> None:
    """Write all text anew: what `secure_delete` misses, copies that page splits left behind, goes with the old pages.

    A DELETE of all rows frees whole pages, which are cleared; single rows leave their pages in use.
    """
    for table in ("namespaces", "messages", "segments"):
        conn.execute(f"CREATE TABLE kept AS SELECT * FROM {table} ORDER BY id")
        conn.execute(f"DELETE FROM {table}")
        conn.execute(f"INSERT INTO {table} SELECT * FROM kept ORDER BY id")
        conn.execute("DROP TABLE kept")
    conn.execute("INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')")


def insert_segment(
    conn: Conn, spec: KVSpec, page_size: int, namespace: int, segment: EncodedSegment, at: SegmentId | None = None
) -> SegmentId:
    """Write one segment, under the id `at` or the next one; `InvalidArgument` when it does not fit."""
    check_segment(spec, segment)
    tokens = to_little_endian(segment.tokens)
    kv_bytes = segment.kv_bytes
    key_bytes = segment.gate_key.nbytes + segment.landmark_keys.nbytes
    inserted = conn.execute(
        "INSERT INTO segments (id, namespace_id, closed, n_tokens, n_blocks, kv_bytes, key_bytes, block_content, crc,"
        " tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            at,
            namespace,
            segment.closed,
            len(tokens),
            len(segment.block_content),
            kv_bytes,
            key_bytes,
            json.dumps([int(n) for n in segment.block_content]),
            checksum(tokens),
            tokens,
        ),
    )
    segment_id = inserted.lastrowid
    assert segment_id is not None
    for position, run in enumerate(segment.runs):
        message = find_message(conn, namespace, run.message_id)
        if message is None:
            raise InvalidArgument(
                f"a run names message {run.message_id!r}, which is not in the namespace; append it too"
            )
        conn.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (segment_id, position, message, run.n_tokens))
    write_arrays(conn, "gates", page_size, [(segment_id, segment.gate_key)])
    write_arrays(conn, "landmarks", page_size, [(segment_id, segment.landmark_keys)])
    if segment.kv is not None:
        first = segment_id * spec.blocks_per_segment * spec.slots
        # one row per block and layer
        rows = (
            (first + n * spec.slots + slot, segment.row(n, slot))
            for n in range(len(segment.block_content))
            for slot in range(spec.slots)
        )
        write_arrays(conn, "kv", page_size, rows)
    return segment_id


def write_arrays(conn: Conn, table: str, page_size: int, arrays: Iterable[tuple[int, np.ndarray]]) -> None:
    """Insert rows of (id, array), a checksum with each."""

    def rows() -> Iterator[tuple[int, int, int, np.ndarray, int]]:
        for row_id, array in arrays:
            data = to_little_endian(array)
            ahead, behind = wipeable(data.nbytes, page_size)
            yield row_id, checksum(data), ahead, data, behind

    conn.executemany(f"INSERT INTO {table} VALUES (?, ?, zeroblob(?), ?, zeroblob(?))", rows())


def delete_kv(conn: Conn, spec: KVSpec, segment_id: SegmentId) -> None:
    """Remove keys and values of all blocks of one segment."""
    rows = spec.blocks_per_segment * spec.slots
    conn.execute("DELETE FROM kv WHERE id >= ? AND id < ?", (segment_id * rows, (segment_id + 1) * rows))
    conn.execute("UPDATE segments SET kv_bytes = 0 WHERE id = ?", (segment_id,))


def keep_kv_budget(conn: Conn, spec: KVSpec, namespace: int, budget: int | None) -> None:
    """Remove keys and values of the oldest segments until the rest of the namespace holds no more than `budget` bytes.

    None keeps all.
    """
    if budget is None:
        return
    query = "SELECT id, kv_bytes FROM segments WHERE namespace_id = ? AND kv_bytes > 0 ORDER BY id"
    held = conn.execute(query, (namespace,)).fetchall()
    over = sum(kv_bytes for _, kv_bytes in held) - budget
    for segment_id, kv_bytes in held:
        if over <= 0:
            return
        delete_kv(conn, spec, segment_id)
        over -= kv_bytes


def delete_segment(conn: Conn, spec: KVSpec, segment_id: SegmentId) -> None:
    """Remove one segment with its runs and arrays."""
    delete_kv(conn, spec, segment_id)
    conn.execute("DELETE FROM runs WHERE segment_id = ?", (segment_id,))
    for table in ("gates", "landmarks", "segments"):
        conn.execute(f"DELETE FROM {table} WHERE id = ?", (segment_id,))


def require_segment(conn: Conn, segment_id: SegmentId, namespace: int | None = None, version: int | None = None) -> int:
    """Number of blocks of the segment; `KeyError` when it is not there, not in the namespace, or of another version."""
    found = None
    if 0 <= segment_id <= MAX_ID:
        query = "SELECT n_blocks, namespace_id, crc FROM segments WHERE id = ?"
        found = conn.execute(query, (int(segment_id),)).fetchone()
    if found is None or (namespace is not None and found[1] != namespace):
        raise KeyError(f"segment {segment_id} is not in the store, or not in this namespace")
    if version not in (None, found[2]):
        raise rewritten(segment_id)
    return int(found[0])


def require_versions(conn: Conn, versions: Mapping[SegmentId, int]) -> None:
    """`KeyError` where one of these segments is not there or has another version; one statement for many of them."""
    found: dict[int, int] = {}
    ids = [int(segment_id) for segment_id in versions if 0 <= segment_id <= MAX_ID]
    for start in range(0, len(ids), _PARAMETERS):
        part = ids[start : start + _PARAMETERS]
        found |= dict(conn.execute(f"SELECT id, crc FROM segments WHERE id IN ({','.join('?' * len(part))})", part))
    for segment_id, version in versions.items():
        if segment_id not in found:
            raise KeyError(f"segment {segment_id} is not in the store, or not in this namespace")
        if version != found[segment_id]:
            raise rewritten(segment_id)


def kv_rows(conn: Conn, row_ids: Sequence[int]) -> Iterator[tuple[int, int, bytes]]:
    """Id, checksum and bytes of those rows of `kv` that are there, in any order, one in memory at a time."""
    known = [row_id for row_id in row_ids if 0 <= row_id <= MAX_ID]
    for start in range(0, len(known), _PARAMETERS):
        part = known[start : start + _PARAMETERS]
        yield from conn.execute(f"SELECT id, crc, data FROM kv WHERE id IN ({','.join('?' * len(part))})", part)


def segment_records(
    conn: Conn, namespace: int, where: str = "", parameters: tuple[int, ...] = ()
) -> list[SegmentRecord]:
    """Records in text order; `where` narrows by columns of `segments`."""
    runs: dict[int, list[MessageRun]] = {}
    query = (
        "SELECT runs.segment_id, messages.message_id, runs.n_tokens FROM segments JOIN runs ON segment_id = segments.id"
        f" JOIN messages ON messages.id = runs.message WHERE segments.namespace_id = ? {where} ORDER BY 1, position"
    )
    for segment_id, key, n_tokens in conn.execute(query, (namespace, *parameters)):
        runs.setdefault(segment_id, []).append(MessageRun(json.loads(key), n_tokens))
    query = (
        "SELECT id, closed, n_tokens, n_blocks, kv_bytes, block_content, crc, tokens FROM segments"
        f" WHERE segments.namespace_id = ? {where} ORDER BY id"
    )
    out = []
    found = conn.execute(query, (namespace, *parameters))
    for segment_id, closed, n, n_blocks, kv_bytes, content, crc, tokens in found:
        tokens_of = f"tokens of segment {segment_id}"
        record = SegmentRecord(
            id=segment_id,
            tokens=from_bytes(tokens, crc, np.dtype(np.int32), (n,), tokens_of).astype(np.int32),
            runs=tuple(runs.get(segment_id, ())),
            block_content=_integers(content, segment_id),
            closed=bool(closed),
            has_kv=kv_bytes > 0,
            version=crc,
        )
        # these have no checksum of their own
        parts = (record.block_content, [run.n_tokens for run in record.runs])
        whole = all(all(type(count) is int and count > 0 for count in counts) and sum(counts) == n for counts in parts)
        if not whole or len(record.block_content) != n_blocks:
            raise StoreCorrupt(f"segment {segment_id} has {n} tokens, its messages or blocks others", **RECOVER)
        out.append(record)
    return out


def gate_keys(
    conn: Conn, spec: KVSpec, namespace: int, where: str = "", parameters: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids (G,) int64 in text order, and gate keys (G, L + S, H_kv, D); `where` as in `segment_records`."""
    shape = (spec.slots, spec.kv_heads, spec.head_dim)
    query = f"SELECT count(*) FROM segments WHERE namespace_id = ? {where}"
    count = conn.execute(query, (namespace, *parameters)).fetchone()[0]
    ids = np.empty(count, np.int64)
    gates = np.empty((count, *shape), spec.numpy_dtype)
    query = (
        "SELECT segments.id, gates.crc, gates.data FROM segments LEFT JOIN gates ON gates.id = segments.id"
        f" WHERE namespace_id = ? {where} ORDER BY segments.id"
    )
    for i, (segment_id, crc, data) in enumerate(conn.execute(query, (namespace, *parameters))):
        ids[i] = segment_id
        gates[i] = from_bytes(data or b"", crc, gates.dtype, shape, f"gate key of segment {segment_id}")
    return ids, gates


def _integers(text: str, segment_id: SegmentId) -> tuple[int, ...]:
    try:
        return tuple(json.loads(text))
    except (TypeError, ValueError) as error:
        raise StoreCorrupt(f"the row of segment {segment_id} is damaged ({error})", **RECOVER) from error
