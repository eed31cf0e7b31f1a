"""Filters as SQL: what an index can say first, and the rest of a row's metadata after it."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from hierlandmark.filters import Filter, Scalar, has_metadata, microseconds
from hierlandmark.messages import MessageId

# integers under it are doubles without loss
_EXACT = 2**53
_SCALAR = "({0}.type IN ({1}) AND {0}.atom IS ?)"
_TYPES = {str: "'text'", int: "'integer', 'real'", float: "'integer', 'real'"}


def matching(conn: sqlite3.Connection, namespace: int, where: Filter) -> list[MessageId]:
    """Ids of one namespace's messages that match, in the order they were appended."""
    condition, parameters = _conditions(where)
    query = f"SELECT message_id, metadata FROM messages WHERE namespace_id = ? {condition} ORDER BY id"
    found = conn.execute(query, (namespace, *parameters))
    return [json.loads(key) for key, _ in _checked(where, found)]


def search_text(conn: sqlite3.Connection, expression: str, k: int, where: Filter) -> list[tuple[MessageId, float]]:
    """The k best matches of an FTS5 expression among the messages that match, best first."""
    condition, parameters = _conditions(where)
    # the namespace column finds rows, and weighs nothing
    query = (
        "SELECT message_id, metadata, bm25(messages_fts, 0.0, 1.0) AS score FROM messages_fts"
        " JOIN messages ON messages.id = messages_fts.rowid"
        f" WHERE messages_fts MATCH ? {condition} ORDER BY score, messages.id"
    )
    found = conn.execute(query, (expression, *parameters))
    return [(json.loads(key), -score) for key, _, score in islice(_checked(where, found), k)]


def _checked(where: Filter, found: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows whose metadata, their second column, really matches: SQLite compares some values by less than JSON says."""
    if not where.metadata:
        yield from found
        return
    for row in found:
        if has_metadata(where, json.loads(row[1])):
            yield row


def _conditions(where: Filter) -> tuple[str, list[Any]]:
    """SQL on `messages` that no matching row fails, and its parameters."""
    sql, parameters = "", list[Any]()
    if where.roles is not None:
        # a lone surrogate is no character, and in no row
        roles = [role for role in where.roles if role.encode(errors="ignore").decode() == role]
        sql += f" AND role IN ({','.join('?' * len(roles))})"
        parameters += roles
    for sign, moment in ((">=", where.since), ("<", where.until)):
        if moment is not None:
            sql += f" AND at {sign} ?"
            parameters.append(microseconds(moment))
    for key, value in where.metadata.items():
        if _in_sql(key) and _in_sql(value):
            one, two = _test("m", value), _test("e", value)
            sql += (
                " AND EXISTS (SELECT 1 FROM json_each(messages.metadata) AS m WHERE m.key = ? AND"
                f" ({one} OR (m.type = 'array' AND EXISTS (SELECT 1 FROM json_each(m.value) AS e WHERE {two}))))"
            )
            parameters += [key, *_bound(value), *_bound(value)]
    return sql, parameters


def _test(row: str, value: Scalar) -> str:
    if value is None or isinstance(value, bool):
        return f"{row}.type = '{json.dumps(value)}'"
    return _SCALAR.format(row, _TYPES[type(value)])


def _bound(value: Scalar) -> list[Scalar]:
    return [] if value is None or isinstance(value, bool) else [value]


def _in_sql(value: Scalar) -> bool:
    """Whether every SQLite finds what equals it: escaped letters, large numbers and fractions some read otherwise."""
    if isinstance(value, str):
        return value.isprintable() and value.isascii() and not {'"', "\\"} & set(value)
    return not isinstance(value, int | float) or (abs(value) < _EXACT and value == int(value))
