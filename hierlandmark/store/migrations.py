"""The schema, as numbered steps. A released step never changes: write the next one."""

from hierlandmark.errors import StoreTooNew
from hierlandmark.filters import instant
from hierlandmark.store.connection import Database, Migrations

# "hLmk": tells our files from any other SQLite database
APPLICATION_ID = 0x684C6D6B


def m001_create_tables(db: Database) -> None:
    """Messages, segments, and three tables of arrays."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    db.execute("CREATE TABLE namespaces (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)")
    db.execute(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, namespace_id INTEGER NOT NULL,"
        " message_id TEXT NOT NULL, text_bytes INTEGER NOT NULL, role TEXT NOT NULL, time TEXT,"
        " metadata TEXT NOT NULL, content TEXT NOT NULL)"
    )
    db.execute("CREATE UNIQUE INDEX messages_by_id ON messages (namespace_id, message_id)")
    # ids are never used twice: a block that another process has cached must not become a different one
    db.execute(
        "CREATE TABLE segments (id INTEGER PRIMARY KEY AUTOINCREMENT, namespace_id INTEGER NOT NULL,"
        " closed INTEGER NOT NULL, n_tokens INTEGER NOT NULL, n_blocks INTEGER NOT NULL, kv_bytes INTEGER NOT NULL,"
        " key_bytes INTEGER NOT NULL, block_content TEXT NOT NULL, crc INTEGER NOT NULL, tokens BLOB NOT NULL)"
    )
    db.execute("CREATE INDEX segments_by_namespace ON segments (namespace_id)")
    db.execute(
        "CREATE TABLE runs (segment_id INTEGER NOT NULL, position INTEGER NOT NULL, message INTEGER NOT NULL,"
        " n_tokens INTEGER NOT NULL, PRIMARY KEY (segment_id, position)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX runs_by_message ON runs (message)")
    # gates and landmarks by segment id, kv by block id * layers + layer; ahead and behind: see tensors.wipeable
    for table in ("gates", "landmarks", "kv"):
        db.execute(
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL,"
            " ahead BLOB NOT NULL, data BLOB NOT NULL, behind BLOB NOT NULL)"
        )


def m002_index_text(db: Database) -> None:
    """Full text over the messages; the namespace is indexed too, so that one tenant's search skips the others'."""
    db.execute(
        "CREATE VIRTUAL TABLE messages_fts USING fts5(namespace_id, content, content='messages', content_rowid='id',"
        " tokenize='porter unicode61 remove_diacritics 2')"
    )
    db.execute("INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')")


def m003_index_times(db: Database) -> None:
    """Times as numbers, and what finds messages by role and time, and the ones beside a message."""
    db.execute("ALTER TABLE messages ADD COLUMN at INTEGER")
    times = db.conn.execute("SELECT id, time FROM messages WHERE time IS NOT NULL").fetchall()
    db.conn.executemany("UPDATE messages SET at = ? WHERE id = ?", [(instant(time), row) for row, time in times])
    db.execute("CREATE INDEX messages_in_order ON messages (namespace_id)")
    db.execute("CREATE INDEX messages_by_time ON messages (namespace_id, at)")
    db.execute("CREATE INDEX messages_by_role ON messages (namespace_id, role, at)")


STEPS = (m001_create_tables, m002_index_text, m003_index_times)

MIGRATIONS = Migrations("hierlandmark")
for step in STEPS:
    MIGRATIONS()(step)


def schema_version(db: Database) -> int:
    """Number of steps applied; `StoreTooNew` when one of them is unknown here."""
    applied = [migration.name for migration in MIGRATIONS.applied(db)]
    unknown = [name for name in applied if name not in {step.__name__ for step in STEPS}]
    if unknown:
        raise StoreTooNew(
            f"a later hierlandmark wrote this database: it has step {unknown[-1]!r}, this version knows {len(STEPS)}. "
            "Upgrade: pip install -U hierlandmark"
        )
    return len(applied)
