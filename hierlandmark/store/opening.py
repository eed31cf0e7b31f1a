"""From a path to a writer and a reader on a database that is ours, up to date, and of the right model."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from hierlandmark.errors import InvalidArgument, StoreNotWritable
from hierlandmark.store.connection import PAGE_SIZE, SEARCH_PAGE_SIZE, Database, named_errors, open_database
from hierlandmark.store.header import check_spec, is_new, read_header, stored_spec, write_spec
from hierlandmark.store.migrations import MIGRATIONS
from hierlandmark.store.protocol import KVSpec

# what opening to write comes to in a read-only folder, of a read-only file, and on a read-only mount
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
# seconds between two tries
_PAUSE = 0.01


def file_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file; `InvalidArgument` for what SQLite would not take for one, and for a folder."""
    text = os.fspath(path)
    if text in ("", ":memory:") or "\0" in text:
        raise InvalidArgument(f"path must name a file, came {text!r}; for a store in memory use InMemoryStore")
    file = Path(text)
    if file.is_dir():
        raise InvalidArgument(
            f"path must name a file, came the folder {text!r}; name a file in it, such as {str(file / 'memory.db')!r}"
        )
    return file


def open_existing(path: Path, timeout: float = 60.0) -> Database:
    """Open for reading; `InvalidArgument` when there is nothing there, or nothing in it."""
    if not path.is_file():
        raise InvalidArgument(
            f"there is no database {str(path)!r} to read",
            python="`Memory.add` makes one, in a folder that is there",
            command="`hierlandmark add` makes one, in a folder that is there",
        )
    if path.stat().st_size == 0:
        raise InvalidArgument(f"there is no database to read in {str(path)!r}, an empty file; name another path")
    return open_database(path, read_only=True, timeout=timeout)


def open_pair(path: Path, spec: KVSpec, read_only: bool, timeout: float) -> tuple[Database | None, Database]:
    """Writer (None with `read_only`) and reader. Raises what `SQLiteStore` says."""
    with contextlib.ExitStack() as undo, named_errors(path):
        writer = None
        if not read_only:
            page_size = SEARCH_PAGE_SIZE if spec.keep == "search" else PAGE_SIZE
            with _read_only_named(path):
                writer = open_database(path, timeout=timeout, page_size=page_size)
                undo.callback(writer.close)
                _bring_up_to_date(writer, path, spec, timeout)
        reader = open_existing(path, timeout) if read_only else open_database(path, timeout=timeout)
        undo.callback(reader.close)
        check_spec(path, spec, read_header(reader, path).spec)
        if MIGRATIONS.pending(reader):
            raise StoreNotWritable(
                f"an earlier version wrote {path}",
                python="open it once without read_only to bring it up to date",
                command="make it and its folder writable once, so that it is brought up to date",
            )
        reader.conn.execute("PRAGMA query_only = ON")
        undo.pop_all()
    return writer, reader


def may_be_written(path: Path) -> bool:
    """Whether this process may write the file and, for the log that stands beside it, its folder."""
    return _may(path, os.W_OK) and _may(path.parent, os.W_OK)


def _may(path: Path, mode: int) -> bool:
    """Whether this process may, as the user that it acts for."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


@contextlib.contextmanager
def _read_only_named(path: Path) -> Iterator[None]:
    """`StoreNotWritable` that says how to read a file that is there; SQLite says only that it cannot open it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _READ_ONLY or not _may(path, os.R_OK):
            raise
        if may_be_written(path):
            # it cannot be opened for another reason
            raise
        raise StoreNotWritable(
            f"{path} may be read and not be written, as it or its folder is read-only",
            python="open it with read_only=True to search it and to answer from it, or copy it to where it may be "
            "written to add to it",
            command="search, ask and info only read it; copy it to where it may be written to add to it",
        ) from error


def _bring_up_to_date(db: Database, path: Path, spec: KVSpec, timeout: float) -> None:
    if not is_new(db):
        check_spec(path, spec, read_header(db, path).spec)
    _write_ahead(db, timeout)
    if not MIGRATIONS.pending(db):
        return
    # under the write lock: two processes may open a new file at once
    db.conn.execute("BEGIN IMMEDIATE")
    try:
        MIGRATIONS.apply(db)
        if stored_spec(db.conn) is None:
            write_spec(db.conn, spec)
        db.conn.execute("COMMIT")
    except BaseException:
        if db.conn.in_transaction:
            db.conn.execute("ROLLBACK")
        raise


def _write_ahead(db: Database, timeout: float) -> None:
    """Turn the write-ahead log on, and wait for others that do so to the same new file: here SQLite itself does not."""
    until = time.monotonic() + timeout
    while True:
        try:
            db.conn.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(_PAUSE)
