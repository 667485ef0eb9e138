"""The ledger's tables, and its entries as rows of them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tomoscribe.engine.watch.entry import Entry, Identity, State

__all__ = [
    "APPLICATION",
    "LARGEST_INTEGER",
    "PROBLEM",
    "SCHEMA",
    "VERSION",
    "add",
    "change",
    "clean",
    "entries",
    "find_entry",
]

APPLICATION = int.from_bytes(b"tomo", "big")
VERSION = 1
LARGEST_INTEGER = 2**63 - 1

# Those that a watcher has not died of again and again. Queries have to have this and the next one word for word, to be
# served by their indexes.
HARMLESS = "attempts < 3"
# Quarantined ones before those with warnings.
PROBLEM = "CASE WHEN state = 'quarantined' THEN 2 WHEN warnings != '[]' THEN 1 ELSE 0 END"

# `path` is the bytes of the file's name, which need not be text, and `name` what it is sorted by. `identity` is
# "size modified inode", and `modified` the same once more as near as SQLite's integers come. `tender` takes care of a
# finished one until `tended`. The sums of the ledger count what was ever finished.
SCHEMA = (
    """CREATE TABLE entries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        path BLOB NOT NULL UNIQUE,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        identity TEXT NOT NULL,
        modified INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        reason TEXT,
        attempts INTEGER NOT NULL,
        noticed REAL NOT NULL,
        complete REAL,
        claimed REAL,
        previewed REAL,
        finished REAL,
        owner TEXT,
        lease REAL,
        shape TEXT,
        voxels INTEGER,
        voxel_size TEXT,
        slices INTEGER NOT NULL,
        seconds REAL,
        model TEXT,
        backend TEXT,
        counts TEXT,
        objects TEXT,
        outputs TEXT,
        warnings TEXT NOT NULL,
        hook TEXT,
        tender TEXT,
        tended REAL
    )""",
    "CREATE INDEX entries_by_name ON entries (name, number)",
    "CREATE INDEX entries_by_time ON entries (modified, number)",
    "CREATE INDEX entries_by_state ON entries (state, modified, number)",
    f"CREATE INDEX entries_by_problem ON entries ({PROBLEM}, modified, number)",
    f"CREATE INDEX entries_waiting ON entries ({HARMLESS}, modified, number) WHERE state = 'waiting'",
    "CREATE INDEX entries_by_revision ON entries (revision)",
    "CREATE INDEX entries_by_end ON entries (finished, voxels) WHERE state = 'done'",
    "CREATE INDEX entries_unhooked ON entries (finished) WHERE state = 'done' AND hook IS NULL",
    "CREATE INDEX entries_uncounted ON entries (finished) WHERE state = 'done' AND objects IS NULL",
    "CREATE TABLE fractions (number INTEGER, class TEXT, fraction REAL, PRIMARY KEY (number, class)) WITHOUT ROWID",
    "CREATE INDEX fractions_by_class ON fractions (class, fraction, number)",
    "CREATE TABLE watchers (owner TEXT PRIMARY KEY, beaten REAL NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE ledger (revision INTEGER, tomograms INTEGER, voxels INTEGER, seconds REAL)",
    "INSERT INTO ledger VALUES (0, 0, 0, 0)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)

_FIELDS = tuple(field.name for field in fields(Entry))
_JSON = frozenset({"shape", "voxel_size", "counts", "objects", "outputs", "warnings"})
_TUPLES = frozenset({"shape", "voxel_size", "warnings"})

_SELECT = f"SELECT {', '.join(f'entries.{name}' for name in _FIELDS)} FROM entries"  # noqa: S608 names of this module


def clean(text: str) -> str:
    """Return what SQLite can hold as text: bytes of a path in it that are none get a backslash and their number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def identity_of(text: str) -> Identity:
    """Return the identity that a row has as a text: its numbers may be larger than SQLite's integers."""
    size, modified, inode = map(int, text.split())
    return Identity(size, modified, inode)


def entries(connection: sqlite3.Connection, where: str, *values: object) -> list[Entry]:
    """Return the entries for which the rest of a query holds, in its order."""
    return [_entry_of(row) for row in connection.execute(f"{_SELECT} {where}", values)]


def find_entry(connection: sqlite3.Connection, path: str) -> Entry | None:
    """Return the entry of a path relative to the watched folder; None where there is none."""
    return next(iter(entries(connection, "WHERE path = ?", os.fsencode(path))), None)


def add(connection: sqlite3.Connection, entry: Entry) -> int:
    """Write a new entry, and return the number that it gets in place of the one that it has."""
    row = _row_of(entry)
    del row["number"]
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    cursor = connection.execute(f"INSERT INTO entries ({names}) VALUES ({marks})", [*row.values()])  # noqa: S608
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def change(connection: sqlite3.Connection, old: Entry, new: Entry) -> None:
    """Write what a new state of an entry has otherwise than the old one."""
    before = _row_of(old)
    row = {name: value for name, value in _row_of(new).items() if value != before[name]}
    names = ", ".join(f"{name} = ?" for name in row)
    connection.execute(f"UPDATE entries SET {names} WHERE number = ?", [*row.values(), old.number])  # noqa: S608
    if new.state is State.DONE and old.state is not State.DONE:
        sums = "tomograms = tomograms + 1, voxels = voxels + ?, seconds = seconds + ?"
        connection.execute(f"UPDATE ledger SET {sums}", [new.voxels or 0, new.seconds or 0])  # noqa: S608
    if new.counts != old.counts:
        connection.execute("DELETE FROM fractions WHERE number = ?", [old.number])
        connection.executemany("INSERT INTO fractions VALUES (?, ?, ?)", _fractions(new))


def _entry_of(row: tuple[Any, ...]) -> Entry:
    """Return the entry that a row stands for.

    Raises:
        sqlite3.DataError: the row is not as this module writes it.
    """
    values = dict(zip(_FIELDS, row, strict=True))
    try:
        for name in _JSON:
            if values[name] is not None:
                value = json.loads(values[name])
                values[name] = tuple(value) if name in _TUPLES else value
        values["path"] = os.fsdecode(values["path"])
        values["state"] = State(values["state"])
        values["identity"] = identity_of(values["identity"])
    except (TypeError, ValueError) as error:
        raise sqlite3.DataError(f"entry {values['number']} cannot be read: {error}") from error
    return Entry(**values)


def _fractions(entry: Entry) -> list[tuple[int, str, float]]:
    return [(entry.number, clean(name), count / (entry.voxels or 1)) for name, count in (entry.counts or {}).items()]


def _row_of(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(entry, name) for name in _FIELDS}
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = clean(value)
        elif isinstance(value, Mapping):
            row[name] = json.dumps(dict(value))
        elif isinstance(value, tuple):
            row[name] = json.dumps(value)
    identity = entry.identity
    row["path"] = os.fsencode(entry.path)
    row["name"] = re.sub("[0-9]+", _by_value, clean(entry.path).casefold())
    row["state"] = entry.state.value
    row["identity"] = f"{identity.size} {identity.modified} {identity.inode}"
    row["modified"] = max(-LARGEST_INTEGER, min(identity.modified, LARGEST_INTEGER))
    row["voxels"] = entry.voxels
    return row


def _by_value(digits: re.Match[str]) -> str:
    """Return a number so that the order of texts is that of the numbers: as many digits, then the digits."""
    number = digits[0].lstrip("0")
    return f"{len(number):03d}{number}"
