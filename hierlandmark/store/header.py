"""Whose keys a database holds: what stands in its header, and whether it fits."""

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from hierlandmark.errors import KeepMismatch, ModelMismatch, StoreCorrupt
from hierlandmark.store.connection import Database
from hierlandmark.store.migrations import APPLICATION_ID, schema_version
from hierlandmark.store.protocol import KVSpec
from hierlandmark.store.records import reencode_command


class Header(NamedTuple):
    """What a database says about itself."""

    spec: KVSpec
    schema_version: int


def is_new(db: Database) -> bool:
    """Whether nothing was ever written."""
    return not db.conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def read_header(db: Database, path: Path) -> Header:
    """Spec and schema version. Raises `StoreCorrupt` for another application's file, `StoreTooNew`."""
    if db.conn.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreCorrupt(f"{path} is an SQLite database, but not of hierlandmark; name another path")
    version = schema_version(db)
    stored = stored_spec(db.conn)
    try:
        spec = KVSpec(**json.loads(stored or ""))
    except (TypeError, ValueError) as error:
        raise StoreCorrupt(f"{path} says {stored!r} where its spec should be; restore it from a backup") from error
    return Header(spec, version)


def spec_text(spec: KVSpec) -> str:
    """The spec as it is stored; equal specs have equal texts."""
    fields = asdict(spec)
    if spec.keep == "all":
        # as databases were written before there was a choice
        del fields["keep"]
    if not spec.kept:
        del fields["kept"]
    if not spec.search:
        del fields["search"]
    return json.dumps(fields, sort_keys=True)


def stored_spec(conn: sqlite3.Connection) -> str | None:
    """The text of the spec in the database."""
    found = conn.execute("SELECT value FROM meta WHERE key = 'spec'").fetchone()
    return found[0] if found else None


def write_spec(conn: sqlite3.Connection, spec: KVSpec) -> None:
    """Put the spec in the database, in place of another."""
    conn.execute("INSERT OR REPLACE INTO meta VALUES ('spec', ?)", (spec_text(spec),))


def check_spec(path: Path, expected: KVSpec, stored: KVSpec) -> None:
    """Raise unless the database was written by this model, adapter and layout, and for the same purpose.

    Raises `KeepMismatch` when it keeps less or more, else `ModelMismatch`.
    """
    if expected.keep != stored.keep:
        raise KeepMismatch(
            f"{path} was made with keep={stored.keep!r}, {expected.keep!r} came",
            python="leave keep out to use it as it is, or encode its text again with `Memory.reencode` and "
            f"`MemoryConfig(keep={expected.keep!r})`",
            command="leave --keep out to use it as it is, or encode its text again with "
            + reencode_command(path, expected.keep),
        )
    if expected != stored:
        ours, theirs = asdict(expected), asdict(stored)
        differing = [
            f"{name} {theirs[name]!r} is stored, {ours[name]!r} came" for name in ours if ours[name] != theirs[name]
        ]
        raise ModelMismatch(
            f"{path} was written by another model, adapter or layout: {'; '.join(differing)}",
            python="open it with the one that wrote it, or encode its text again with this one: `Memory.reencode`",
            command="name the one that wrote it by --model and --adapter, or encode its text again with this one: "
            + f"{reencode_command(path)}, with --model and --adapter as here",
        )
