"""Files that are damaged, foreign, too new, of another model, or not writable."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from hierlandmark.errors import InvalidArgument, ModelMismatch, StoreCorrupt, StoreNotWritable
from hierlandmark.store import SQLiteStore
from hierlandmark.store.migrations import STEPS
from tests.store.builders import OTHER, SPEC, message, segment


@pytest.fixture
def written(path):
    with SQLiteStore(path, SPEC) as store:
        texts = [message(i, f"text {i} " * 50) for i in range(200)]
        store.append("n", texts, [segment(i, seed=i) for i in range(20)])
    return path


@contextlib.contextmanager
def unprivileged():
    """As a user to whom file modes apply: they do not apply to root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder():
    """A folder of its own, which others may enter."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


def use(path):
    with SQLiteStore(path, SPEC) as store:
        store.messages("n")
        for record in store.segments("n"):
            store.read_blocks(0, [record.id * SPEC.blocks_per_segment])


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1, 16_384, 200, 20, 3])
def test_truncated(written, keep):
    size = written.stat().st_size
    os.truncate(written, int(size * keep) if keep < 1 else keep)
    for call in (use, SQLiteStore.peek, lambda path: SQLiteStore.reset_keys(path, OTHER)):
        with pytest.raises(StoreCorrupt, match=r"backup|another path"):
            call(written)


@pytest.mark.parametrize("data", [b"x", b"no database at all " * 50, b"no database at all " * 5_000, bytes(100_000)])
def test_garbage_is_refused_and_left_alone(path, data):
    path.write_bytes(data)
    for call in (use, SQLiteStore.peek):
        with pytest.raises(StoreCorrupt, match=r"memory\.db is no SQLite database.*; name another path"):
            call(path)
    assert path.read_bytes() == data


def test_garbage_behind_the_header(written):
    with written.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(written.stat().st_size - 100))
    with pytest.raises(StoreCorrupt, match="backup"):
        use(written)


def test_an_overwritten_header_is_told_with_what_to_do(written):
    with written.open("r+b") as file:
        file.write(bytes(4096))
    with pytest.raises(
        StoreCorrupt, match=r"no SQLite database; .* if it was one, restore it .*, or delete it and add"
    ):
        use(written)


def test_another_application_s_database_is_refused_and_left_alone(path):
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    before = path.read_bytes()
    for call in (use, SQLiteStore.peek):
        with pytest.raises(StoreCorrupt, match="not of hierlandmark"):
            call(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_new_database(path):
    path.touch()
    for call in (SQLiteStore.peek, lambda path: SQLiteStore(path, SPEC, read_only=True)):
        with pytest.raises(InvalidArgument, match="empty file"):
            call(path)
    with SQLiteStore(path, SPEC) as store:
        assert store.namespaces() == []


@pytest.mark.parametrize(
    ("array", "call"),
    [
        ("kv", lambda store, record: store.read_blocks(0, [record.id * SPEC.blocks_per_segment])),
        ("gate_key", lambda store, record: store.gate_keys("n")),
        ("landmark_keys", lambda store, record: store.landmark_keys([record.id])),
        ("tokens", lambda store, record: store.segments("n")),
    ],
)
def test_a_flipped_byte(path, array, call):
    sent = segment("a", "b", "c", "d", "e")
    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message(i) for i in "abcde"], [sent])
        (record,) = store.segments("n")
    data = bytearray(path.read_bytes())
    held = getattr(sent, array)
    at = data.index((held[0, 0] if array == "kv" else held).tobytes())
    data[at + 5] ^= 0x10
    path.write_bytes(data)
    with SQLiteStore(path, SPEC) as store, pytest.raises(StoreCorrupt, match=r"fails its checksum.*reencode"):
        call(store, record)


@pytest.mark.parametrize("update", ["UPDATE meta SET value = '{'", "UPDATE meta SET value = '{}'", "DELETE FROM meta"])
def test_a_damaged_spec(written, update):
    with contextlib.closing(sqlite3.connect(written)) as conn:
        conn.execute(update)
        conn.commit()
    for call in (use, SQLiteStore.peek):
        with pytest.raises(StoreCorrupt, match="spec"):
            call(written)


@pytest.mark.parametrize(
    "update",
    [
        "UPDATE messages SET metadata = '{'",
        "UPDATE messages SET content = CAST(x'ff' AS TEXT)",
        "UPDATE messages SET message_id = '1.5'",
        "UPDATE segments SET block_content = '['",
        "UPDATE segments SET block_content = '5'",
        "UPDATE segments SET block_content = '[0]'",
        "UPDATE segments SET block_content = '[2]'",
        "UPDATE segments SET block_content = '[]'",
        "UPDATE runs SET n_tokens = n_tokens + 1000",
        "UPDATE runs SET n_tokens = -1",
        "DELETE FROM runs",
        "DROP TABLE runs",
        "DROP TABLE messages",
    ],
)
def test_damaged_rows(written, update):
    with contextlib.closing(sqlite3.connect(written)) as conn:
        conn.execute(update + (" WHERE id = 7" if update.startswith("UPDATE") and "runs" not in update else ""))
        conn.commit()
    with pytest.raises(StoreCorrupt):
        use(written)


def test_another_model(written):
    for other in (OTHER, replace(SPEC, fingerprint="other")):
        for read_only in (False, True):
            with pytest.raises(ModelMismatch, match=r"fingerprint 'f+' is stored.*Memory\.reencode") as told:
                SQLiteStore(written, other, read_only=read_only)
            hint = f"`hierlandmark reencode --db {written}`, with --model and --adapter as here"
            assert hint in told.value.on_command_line
    assert SQLiteStore.peek(written) == (SPEC, len(STEPS))
    use(written)


def test_reset_keys_keeps_the_text(written):
    size = written.stat().st_size
    with SQLiteStore(written, SPEC) as stale:
        before = stale.messages("n")
        last = stale.segments("n")[-1].id
        SQLiteStore.reset_keys(written, OTHER)
        for call in (
            lambda: stale.messages("n"),
            lambda: stale.append("n", [message("late")], [segment("late")]),
            lambda: stale.read_blocks(0, [4]),
        ):
            with pytest.raises(ModelMismatch, match="reencode"):
                call()
    assert SQLiteStore.peek(written).spec == OTHER
    with SQLiteStore(written, OTHER) as store:
        assert store.messages("n") == before
        assert store.segments("n") == []
        assert store.stats("n").key_bytes == 0
        assert len(store.search_text("n", "text", 300)) == 200
        (new,) = store.append("n", [], [segment(3, spec=OTHER)])
        assert new > last
        store.rewrite("n", [5], [])
    assert written.stat().st_size < size


@pytest.mark.parametrize("name", ["", ":memory:", "a\0b"])
def test_paths_that_are_no_files(name):
    with pytest.raises(InvalidArgument, match="InMemoryStore"):
        SQLiteStore(name, SPEC)


def test_paths_with_marks_of_a_uri(tmp_path):
    path = tmp_path / "a?b=c#d %20é.db"
    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message("a")], [])
    assert path.exists()
    assert SQLiteStore.peek(path).spec == SPEC


def test_missing(path):
    for call in (lambda: SQLiteStore(path, SPEC, read_only=True), lambda: SQLiteStore.peek(path)):
        with pytest.raises(InvalidArgument, match="no database"):
            call()
    with pytest.raises(StoreNotWritable, match="folder"):
        SQLiteStore(path.parent / "missing" / "memory.db", SPEC)
    with pytest.raises(InvalidArgument, match="came the folder"):
        SQLiteStore(path.parent, SPEC)
    assert list(path.parent.iterdir()) == []


def test_read_only_folder(folder):
    path = folder / "memory.db"
    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message("a")], [segment("a")])
    path.chmod(0o444)
    folder.chmod(0o555)
    with unprivileged():
        with pytest.raises(StoreNotWritable, match="read_only=True"), SQLiteStore(path, SPEC) as store:
            store.append("n", [message("b")], [])
        with pytest.raises(StoreNotWritable, match="folder"):
            SQLiteStore(folder / "new.db", SPEC)
        assert SQLiteStore.peek(path).spec == SPEC
        with SQLiteStore(path, SPEC, read_only=True) as store:
            assert [m.id for m in store.messages("n")] == ["a"]
            assert store.search_text("n", "fox", 3)
            with pytest.raises(StoreNotWritable, match="read_only"):
                store.append("n", [message("b")], [])
    use(path)


def test_read_only_file(folder):
    path = folder / "memory.db"
    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message("a")], [segment("a")])
    path.chmod(0o444)
    folder.chmod(0o777)
    with unprivileged():
        with pytest.raises(StoreNotWritable, match="read-only"), SQLiteStore(path, SPEC) as store:
            store.append("n", [message("b")], [])
        with SQLiteStore(path, SPEC, read_only=True) as store:
            assert [m.id for m in store.messages("n")] == ["a"]


def test_a_full_disk_loses_nothing(path):
    with SQLiteStore(path, SPEC) as store:
        (tail,) = store.append("n", [message("a")], [segment("a", closed=False)])
        writer = store._connections._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages + 20}")
        with pytest.raises(StoreNotWritable, match="disk is full"):
            store.append("n", [message("b")], (segment("b") for _ in range(50)), replaces=tail)
        with pytest.raises(StoreNotWritable, match="disk is full"):
            store.append("n", [message("b", "long " * 2**18)], [])
        assert [m.id for m in store.messages("n")] == ["a"]
        assert store.tail("n").id == tail
        use(path)
        writer.execute("PRAGMA max_page_count = 1000000")
        store.append("n", [message("b")], [segment("b")], replaces=tail)
        assert len(store.messages("n")) == 2
