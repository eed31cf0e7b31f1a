"""SQLite connections: one to write and one to read, a lock each, and named errors. sqlite-utils is imported here only.

The reader sees the last committed state and never waits for a writer, however long an append runs.
"""

import contextlib
import os
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from sqlite_utils import Database, Migrations

from hierlandmark.errors import InvalidArgument, StoreCorrupt, StoreNotWritable
from hierlandmark.store.records import opened_read_only

__all__ = ["Connections", "Database", "Migrations", "named_errors", "open_database"]

# measured over 4 to 64 KiB: fastest to write and 1.05 times the bytes of the blobs; 32 KiB and up waste a third
PAGE_SIZE = 16_384
# of a database made for search, whose arrays are smaller
SEARCH_PAGE_SIZE = 4_096
# KiB; pages past it spill to the log, so that a long append stays small in memory
CACHE_KIB = 4_096
# bytes of log above which it is cut after a write, as SQLite alone would keep its greatest length for ever; a cut costs
# a third of the speed of the append it follows (measured), so that only the longest pay it
LOG_BYTES = 256 * 2**20
# bytes of the smallest database
MIN_PAGE = 512

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT}
_CORRUPT_IO = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}
# why a file is not written, and what to do about it in Python and on the command line, where that is something else
_NOT_WRITABLE = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space and try again", ""),
    sqlite3.SQLITE_READONLY: (
        "the file or its folder is read-only", "open it with read_only=True, or change the mode", "change the mode"
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the folder is missing or read-only", "make it, or read a file with read_only=True", "make it"
    ),
    sqlite3.SQLITE_PERM: (
        "the file may not be written", "change its mode, or open it with read_only=True", "change its mode"
    ),
    sqlite3.SQLITE_BUSY: ("another process is writing", "wait for it, or give a longer timeout", "wait for it"),
    sqlite3.SQLITE_LOCKED: ("another connection is writing", "wait for it, or give a longer timeout", "wait for it"),
    sqlite3.SQLITE_IOERR: ("the disk cannot be written", "check its free space and its health", ""),
}  # fmt: skip


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `StoreCorrupt`, `StoreNotWritable` or `InvalidArgument`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code & 0xFF == sqlite3.SQLITE_NOTADB:
            raise StoreCorrupt(
                f"{path} is no SQLite database; name another path, or if it was one, restore it from a backup, or "
                "delete it and add the text again"
            ) from error
        if code & 0xFF in _CORRUPT or code in _CORRUPT_IO:
            raise StoreCorrupt(
                f"{path} is truncated or damaged ({error}); restore it from a backup, or delete it and add the text "
                "again"
            ) from error
        if code & 0xFF in _NOT_WRITABLE:
            why, python, command = _NOT_WRITABLE[code & 0xFF]
            message = f"cannot write {path} ({error}): {why}"
            raise StoreNotWritable(message, python=python, command=command) from error
        if code == sqlite3.SQLITE_TOOBIG:
            raise InvalidArgument(f"a text or blob exceeds SQLite's limit of a billion bytes: {error}") from error
        raise StoreCorrupt(
            f"{path} lacks what this version expects ({error}); restore it from a backup, or delete it and add the "
            "text again"
        ) from error


def open_database(
    path: Path, *, read_only: bool = False, timeout: float = 60.0, page_size: int = PAGE_SIZE
) -> Database:
    """Open, and where not `read_only` create, the file. Raises sqlite3's errors, and `StoreCorrupt` for another format.

    `page_size` in bytes is that of a new file. A read-only folder without a log is read as immutable: SQLite could not
    make its lock file there.
    """
    # SQLite takes a short file for an empty one, and would write over it. the file itself is never opened here: closing
    # it would drop the locks of every connection of this process, and another process would delete their log
    if path.is_file() and 0 < path.stat().st_size < MIN_PAGE:
        raise StoreCorrupt(
            f"{path} is no SQLite database: it has {path.stat().st_size} bytes, too few for one; name another path"
        )
    if not read_only:
        return _connect(path, "rwc", timeout, page_size)
    log = path.with_name(path.name + "-wal")
    try:
        return _connect(path, "ro", timeout)
    except sqlite3.OperationalError:
        if not path.is_file() or (log.exists() and log.stat().st_size):
            raise
        return _connect(path, "ro&immutable=1", timeout)


def _connect(path: Path, mode: str, timeout: float, page_size: int = PAGE_SIZE) -> Database:
    uri = f"file:{urllib.parse.quote(str(path.absolute()))}?mode={mode}"
    # locks here keep each connection to one thread at a time; isolation_level None: no transaction but ours
    conn = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        conn.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if mode == "rwc":
            conn.execute(f"PRAGMA page_size = {page_size}")
            # cleared on every delete: an evicted block holds traces of text that may be forgotten later
            conn.execute("PRAGMA secure_delete = ON")
            conn.execute("PRAGMA synchronous = NORMAL")
        conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        conn.close()
        raise
    return Database(conn, recursive_triggers=False, execute_plugins=False)


class Connections:
    """The two connections of one open store, usable from any thread."""

    def __init__(self, path: Path, writer: Database | None, reader: Database, timeout: float) -> None:
        """`writer` is None for a read-only store; `timeout` is in seconds."""
        self.path = path
        self.page_size: int = reader.conn.execute("PRAGMA page_size").fetchone()[0]
        self._timeout = timeout
        self._writer = writer.conn if writer else None
        self._reader: sqlite3.Connection | None = reader.conn
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the last committed state."""
        with self.looking() as conn:
            conn.execute("BEGIN")
            try:
                yield conn
            finally:
                conn.execute("ROLLBACK")

    @contextlib.contextmanager
    def looking(self) -> Iterator[sqlite3.Connection]:
        """The reader without a transaction: each statement has a view of its own."""
        with self._read_lock, named_errors(self.path):
            if self._reader is None:
                raise _closed(self.path)
            yield self._reader

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, begun at once: committed at the end of the block, rolled back by whatever it raises."""
        with self._locked_for_write() as conn:
            conn.execute("BEGIN IMMEDIATE")
            try:
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise
            finally:
                self._cut_long_log(conn)

    @contextlib.contextmanager
    def _locked_for_write(self) -> Iterator[sqlite3.Connection]:
        if self._reader is None:
            raise _closed(self.path)
        if self._writer is None:
            raise opened_read_only(self.path)
        if not self._write_lock.acquire(timeout=self._timeout):
            raise StoreNotWritable(
                f"another thread has been writing {self.path} for {self._timeout:g} s; wait for it, or give a longer "
                "timeout"
            )
        try:
            with named_errors(self.path):
                conn = self._writer
                if conn is None:
                    raise _closed(self.path)
                if conn.in_transaction:
                    raise InvalidArgument("segments may read the store that consumes them, not write it or close it")
                yield conn
        finally:
            self._write_lock.release()

    def empty_log(self) -> None:
        """Move the log into the database and cut it to nothing; `StoreNotWritable` when a reader holds old pages."""
        with self._locked_for_write() as conn:
            busy, *_ = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreNotWritable(
                f"messages are removed from {self.path}, but another process holds a read transaction open, so that "
                "its log still has their bytes; end it, then close this one: the last to close clears the log"
            )

    def vacuum(self) -> None:
        """Give freed pages back to the disk; nothing when there is no room to do it or somebody else reads."""
        with self._locked_for_write() as conn, contextlib.suppress(sqlite3.OperationalError):
            conn.execute("VACUUM")
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _cut_long_log(self, conn: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            if os.path.getsize(f"{self.path}-wal") < LOG_BYTES:
                return
            # not worth waiting for a reader: the next write tries again
            conn.execute("PRAGMA busy_timeout = 0")
            try:
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                conn.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")

    def close(self) -> None:
        """Close both, after writes and reads under way; safe to call twice."""
        with self._write_lock:
            if self._writer is not None:
                if self._writer.in_transaction:
                    raise InvalidArgument("segments may read the store that consumes them, not write it or close it")
                # the writer goes last, so that it can fold the log into the database
                with self._read_lock:
                    self._close_reader()
                self._writer.close()
                self._writer = None
            with self._read_lock:
                self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _closed(path: Path) -> InvalidArgument:
    return InvalidArgument(f"the store {path} is closed; open it again")
