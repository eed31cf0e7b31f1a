"""Crashes, and several processes on one file."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hierlandmark.errors import StoreNotWritable
from hierlandmark.store import SQLiteStore, rows
from tests.store.builders import SPEC, message, segment

ROOT = Path(__file__).parents[2]
BEGIN = """
import sys, time, resource
from dataclasses import replace
from pathlib import Path
from hierlandmark.store import SQLiteStore
from hierlandmark.errors import StoreNotWritable
from tests.store.builders import SPEC, message, segment
path = Path(sys.argv[1])
"""


def start(code: str, path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_reopen_is_equal(path):
    with SQLiteStore(path, SPEC) as store:
        ids = store.append("n", [message("a"), message(1)], [segment("a"), segment(1, closed=False, seed=1)])
        before = (
            store.messages("n"),
            store.gate_keys("n")[1].tobytes(),
            store.stats("n"),
            store.search_text("n", "fox", 5),
        )
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with SQLiteStore(path, SPEC) as store:
        after = (
            store.messages("n"),
            store.gate_keys("n")[1].tobytes(),
            store.stats("n"),
            store.search_text("n", "fox", 5),
        )
        assert store.tail("n").id == ids[1]
    assert after == before


@pytest.mark.parametrize("spilled", [False, True])
def test_killed_in_mid_append(path, spilled):
    """Also when so much was written that the log holds pages of the unfinished transaction."""
    with SQLiteStore(path, SPEC) as store:
        (tail,) = store.append("n", [message("a")], [segment("a", closed=False)])
        before = store.read_blocks(1, [tail * SPEC.blocks_per_segment])
    child = start(
        f"""
def some():
    for i in range({600 if spilled else 3}):
        yield segment("b", seed=i)
    print("ready", flush=True)
    time.sleep(60)
SQLiteStore(path, SPEC).append("n", [message("b", "zebra")], some(), replaces={tail})
""",
        path,
    )
    assert child.stdout.readline() == "ready\n"
    if spilled:
        assert path.with_name(path.name + "-wal").stat().st_size > 2**20
    child.send_signal(signal.SIGKILL)
    child.wait()
    with SQLiteStore(path, SPEC) as store:
        assert [m.id for m in store.messages("n")] == ["a"]
        assert store.search_text("n", "zebra", 5) == []
        assert [record.id for record in store.segments("n")] == [tail]
        assert (store.read_blocks(1, [tail * SPEC.blocks_per_segment]) == before).all()
        assert store.append("n", [message("b")], [segment("b")], replaces=tail)


def test_two_processes_write_and_read(path):
    code = """
import os
with SQLiteStore(path, SPEC) as store:
    for i in range(10):
        id = f"{os.getpid()}-{i}"
        (segment_id,) = store.append("n", [message(id)], [segment(id, seed=i)])
        assert (store.read_blocks(0, [segment_id * 4])[0] == segment(id, seed=i).kv[0, 0]).all()
"""
    # none of them has seen the file: they also race to make it
    children = [start(code, path) for _ in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    with SQLiteStore(path, SPEC) as store:
        assert store.stats("n").messages == store.stats("n").segments == 30


def test_several_that_make_one_file_at_once_wait_for_each_other(path):
    """SQLite's busy timeout does not cover the change to a write-ahead log."""
    code = """
sys.stdin.readline()
for i in range(60):
    # the next one is made by all of them in the same moment
    time.sleep(0.02 - time.time() % 0.02)
    SQLiteStore(path.with_name(f"{i}.db"), SPEC).close()
"""
    children = [start(code, path) for _ in range(4)]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.wait(timeout=60) for child in children] == [0] * 4


def test_a_reader_sees_what_another_process_wrote(path):
    with SQLiteStore(path, SPEC) as store, SQLiteStore(path, SPEC, read_only=True) as reader:
        assert reader.namespaces() == []
        assert start('SQLiteStore(path, SPEC).append("n", [message("a")], [segment("a")])', path).wait(timeout=60) == 0
        assert store.messages("n") == reader.messages("n") == [message("a")]
        with pytest.raises(StoreNotWritable, match="read_only=True"):
            reader.append("n", [message("b")], [])


def test_a_write_while_rows_are_read_is_noticed(path, monkeypatch):
    """Rows of segments whose versions are known are read outside of a transaction."""
    with SQLiteStore(path, SPEC) as store, SQLiteStore(path, SPEC) as other:
        (changed,) = store.append("n", [message("a")], [segment("a", seed=1)])
        wanted = 0, [changed * SPEC.blocks_per_segment], [store.segments("n")[0].version]
        first = store.read_blocks(*wanted)
        assert (store.read_blocks(*wanted) == first).all()
        plain = rows.kv_rows

        def late(conn, row_ids):
            yield from plain(conn, row_ids)
            monkeypatch.undo()
            other.rewrite("n", [], [(changed, segment("a", seed=2, blocks=3))])

        monkeypatch.setattr(rows, "kv_rows", late)
        with pytest.raises(KeyError, match="rewritten"):
            store.read_blocks(*wanted)


def test_a_second_writer_waits(path):
    child = start(
        """
def some():
    print("ready", flush=True)
    sys.stdin.readline()
    yield segment("a")
SQLiteStore(path, SPEC).append("n", [message("a")], some())
""",
        path,
    )
    assert child.stdout.readline() == "ready\n"
    with (
        SQLiteStore(path, SPEC, timeout=0.1) as hasty,
        pytest.raises(StoreNotWritable, match="another process is writing"),
    ):
        hasty.append("n", [message("b")], [])

    def release():
        time.sleep(0.3)
        child.communicate("\n")

    thread = threading.Thread(target=release)
    thread.start()
    with SQLiteStore(path, SPEC) as patient:
        patient.append("n", [message("b")], [])
        assert [m.id for m in patient.messages("n")] == ["a", "b"]
    thread.join()


def test_another_store_on_the_same_file_does_not_loosen_locks(path):
    """POSIX drops all locks of a process on a file when any of its descriptors closes."""
    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message("a")], [segment("a")])
        SQLiteStore.peek(path)
        SQLiteStore(path, SPEC, read_only=True).close()
        SQLiteStore(path, SPEC).close()
        # as the last to close it would delete the log under the feet of this one
        assert start('SQLiteStore(path, SPEC).append("n", [message("b")], [])', path).wait(timeout=60) == 0
        assert path.with_name(path.name + "-wal").exists()
        store.append("n", [message("c")], [])
    with SQLiteStore(path, SPEC) as store:
        assert [m.id for m in store.messages("n")] == ["a", "b", "c"]


def test_a_second_thread_waits_no_longer_than_its_timeout(path):
    ready, done = threading.Event(), threading.Event()

    def some():
        ready.set()
        done.wait(20)
        yield segment("a")

    with SQLiteStore(path, SPEC, timeout=0.1) as store:
        thread = threading.Thread(target=lambda: store.append("n", [message("a")], some()))
        thread.start()
        ready.wait(20)
        with pytest.raises(StoreNotWritable, match="another thread"):
            store.append("n", [message("b")], [])
        done.set()
        thread.join()
        assert store.append("n", [message("b")], []) == []


def test_a_long_append_stays_small_in_memory_and_its_log_is_cut(path):
    child = start(
        """
import hierlandmark.store.connection
hierlandmark.store.connection.LOG_BYTES = 32 * 2**20
big = replace(SPEC, layers=8, kv_heads=4, head_dim=64, block_size=64)
one = segment("a", spec=big)
with SQLiteStore(path, big) as store:
    store.append("n", [message("a")], [one])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.append("n", [], (one for _ in range(64)))
    print(store.stats("n").kv_bytes >> 20, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
    print(path.with_name(path.name + "-wal").stat().st_size)
""",
        path,
    )
    out, _ = child.communicate(timeout=120)
    written, grown, log = map(int, out.split())
    assert written > 60
    assert grown < 24
    assert log < 32 * 2**20


def test_the_disk_refuses(path):
    """The system's own limit on file size: what a full disk looks like to SQLite."""
    child = start(
        """
with SQLiteStore(path, SPEC) as store:
    store.append("n", [message("a")], [segment("a")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, resource.RLIM_INFINITY))
    try:
        store.append("n", [message("b")], (segment("b") for _ in range(2_000)))
    except StoreNotWritable as error:
        print("refused")
    assert [m.id for m in store.messages("n")] == ["a"]
    assert len(store.segments("n")) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.append("n", [message("b")], [segment("b")])
""",
        path,
    )
    out, _ = child.communicate(timeout=120)
    assert (child.returncode, out) == (0, "refused\n")
    with SQLiteStore(path, SPEC) as store:
        assert [m.id for m in store.messages("n")] == ["a", "b"]
