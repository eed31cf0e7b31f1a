"""Databases of earlier and of later versions."""

import pytest

from hierlandmark.errors import StoreNotWritable, StoreTooNew
from hierlandmark.filters import Filter
from hierlandmark.store import SQLiteStore, opening
from hierlandmark.store.connection import Migrations, open_database
from hierlandmark.store.header import write_spec
from hierlandmark.store.migrations import MIGRATIONS, STEPS
from hierlandmark.store.rows import insert_segment
from tests.store.builders import SPEC, message, segment


def write_earlier(path, stop_before):
    """A database as the code before that step left it."""
    db = open_database(path)
    db.conn.execute("PRAGMA journal_mode = WAL")
    MIGRATIONS.apply(db, stop_before=stop_before)
    write_spec(db.conn, SPEC)
    db.conn.execute("INSERT INTO namespaces VALUES (1, 'n')")
    db.conn.execute(
        "INSERT INTO messages (namespace_id, message_id, text_bytes, role, time, metadata, content)"
        " VALUES (1, '\"a\"', 19, 'user', '2024-03-01T09:30:00+01:00', '{}', 'the quick brown fox')"
    )
    if stop_before != "m002_index_text":
        db.conn.execute("INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')")
    insert_segment(db.conn, SPEC, 16_384, 1, segment("a"))
    db.close()


def with_another_step(run):
    migrations = Migrations("hierlandmark")
    for step in (*STEPS, run):
        migrations()(step)
    return migrations


def test_steps_are_numbered_in_order():
    assert [step.__name__[:5] for step in STEPS] == [f"m{n:03d}_" for n in range(1, len(STEPS) + 1)]


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_an_earlier_version_is_brought_up_to_date(path, version):
    write_earlier(path, STEPS[version].__name__)
    assert SQLiteStore.peek(path) == (SPEC, version)
    with pytest.raises(StoreNotWritable, match=r"earlier version.*without read_only"):
        SQLiteStore(path, SPEC, read_only=True)
    with SQLiteStore(path, SPEC) as store:
        assert store.messages("n") == [message("a", time="2024-03-01T09:30:00+01:00")]
        for since, found in (("2024-03-01T08:30:00", ["a"]), ("2024-03-01T08:30:01", [])):
            assert store.matching("n", Filter(since=since)) == found
        assert [found for found, _ in store.search_text("n", "foxes", 3)] == ["a"]
        (record,) = store.segments("n")
        assert (store.read_blocks(0, [record.id * 4])[0] == segment("a").kv[0, 0]).all()
        store.append("n", [message("b")], [segment("b")])
    assert SQLiteStore.peek(path) == (SPEC, len(STEPS))


def test_a_step_that_fails_changes_nothing(path, monkeypatch):
    def m999_break(db):
        db.execute("DROP TABLE messages")
        raise RuntimeError("no")

    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message("a")], [])
    with monkeypatch.context() as patch:
        patch.setattr(opening, "MIGRATIONS", with_another_step(m999_break))
        with pytest.raises(RuntimeError, match="no"):
            SQLiteStore(path, SPEC)
    assert SQLiteStore.peek(path) == (SPEC, len(STEPS))
    with SQLiteStore(path, SPEC) as store:
        assert store.messages("n") == [message("a")]


def test_a_later_version_is_refused_and_left_alone(path, monkeypatch):
    def m999_add_colour(db):
        db.execute("ALTER TABLE messages ADD COLUMN colour TEXT")

    SQLiteStore(path, SPEC).close()
    db = open_database(path)
    with_another_step(m999_add_colour).apply(db)
    db.close()
    before = path.read_bytes()
    for call in (
        lambda: SQLiteStore(path, SPEC),
        lambda: SQLiteStore(path, SPEC, read_only=True),
        lambda: SQLiteStore.peek(path),
        lambda: SQLiteStore.reset_keys(path, SPEC),
    ):
        with pytest.raises(StoreTooNew, match=r"m999_add_colour.*pip install -U"):
            call()
    assert path.read_bytes() == before


def test_opening_again_applies_nothing(path):
    SQLiteStore(path, SPEC).close()
    before = path.read_bytes()
    SQLiteStore(path, SPEC).close()
    assert path.read_bytes() == before
