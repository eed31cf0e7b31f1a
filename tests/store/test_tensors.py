"""Bytes of arrays, read back without the code that wrote them."""

import sqlite3
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hierlandmark.errors import StoreCorrupt
from hierlandmark.store import SQLiteStore
from hierlandmark.store.tensors import checksum, from_bytes, to_little_endian, wipeable
from tests.store.builders import SPEC, message, segment

DTYPES = st.sampled_from([np.uint16, np.float16, np.float32, np.int32, np.dtype(">f4"), np.dtype(">u2")])


@given(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)), st.booleans())
@settings(max_examples=100, deadline=None)
def test_round_trip(array, transposed):
    array = array.T if transposed else array
    data = bytes(to_little_endian(array))
    native = array.dtype.newbyteorder("=")
    assert data == array.astype(native.newbyteorder("<")).tobytes()
    back = from_bytes(data, zlib.crc32(data), native, array.shape, "array")
    assert back.astype(native).tobytes() == array.astype(native).tobytes()
    assert checksum(to_little_endian(array)) == zlib.crc32(data)


@given(st.integers(0, 63), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_a_flipped_bit_is_found(byte, bit):
    data = bytearray(range(64))
    crc = zlib.crc32(data)
    data[byte] ^= 1 << bit
    with pytest.raises(StoreCorrupt, match="array fails its checksum"):
        from_bytes(bytes(data), crc, np.dtype(np.uint16), (32,), "array")


def test_a_short_blob_is_found():
    with pytest.raises(StoreCorrupt, match="63 bytes where 64"):
        from_bytes(bytes(63), 0, np.dtype(np.uint16), (32,), "array")


@given(seed=st.integers(0, 2**32), blocks=st.integers(1, SPEC.blocks_per_segment))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_raw_little_endian_bytes(tmp_path_factory, seed, blocks):
    path = tmp_path_factory.mktemp("rows") / "memory.db"
    sent = segment("a", seed=seed, blocks=blocks)
    with SQLiteStore(path, SPEC) as store:
        (segment_id,) = store.append("n", [message("a")], [sent])
    conn = sqlite3.connect(path)
    rows = conn.execute("SELECT id, crc, data FROM kv ORDER BY id").fetchall()
    (gate,) = conn.execute("SELECT data FROM gates").fetchone()
    (landmarks,) = conn.execute("SELECT data FROM landmarks").fetchone()
    (tokens,) = conn.execute("SELECT tokens FROM segments").fetchone()
    conn.close()
    first = segment_id * SPEC.blocks_per_segment * SPEC.layers
    assert [row[0] for row in rows] == list(range(first, first + blocks * SPEC.layers))
    assert all(zlib.crc32(data) == crc for _, crc, data in rows)
    joined = np.frombuffer(b"".join(row[2] for row in rows), "<u2").reshape(sent.kv.shape)
    np.testing.assert_array_equal(joined, sent.kv)
    np.testing.assert_array_equal(np.frombuffer(gate, "<u2").reshape(sent.gate_key.shape), sent.gate_key)
    np.testing.assert_array_equal(np.frombuffer(landmarks, "<u2").reshape(sent.landmark_keys.shape), sent.landmark_keys)
    np.testing.assert_array_equal(np.frombuffer(tokens, "<i4"), sent.tokens)


@pytest.mark.parametrize("n_bytes", [1, 8, 600, 11_520, 16_380, 49_152, 92_160])
def test_padding_keeps_arrays_out_of_b_tree_pages(n_bytes):
    page = 16_384
    ahead, behind = wipeable(n_bytes, page)
    payload = ahead + n_bytes + behind
    # the rule of SQLite's file format, section 1.6
    least = (page - 12) * 32 // 255 - 23
    rest = least + (payload - least) % (page - 4)
    local = payload if payload <= page - 35 else rest if rest <= page - 35 else least
    assert local - ahead <= 32
    assert behind < page
