"""What can be read of a ledger."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger_file import LedgerFile
from tomoscribe.engine.watch.ledger_rows import LARGEST_INTEGER, entries, identity_of

__all__ = ["LedgerView"]


class LedgerView:
    """The half of `tomoscribe.engine.watch.ledger.Ledger` that changes nothing."""

    def __init__(self, path: Path) -> None:
        self._file = LedgerFile(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what other threads have begun with it comes to its end."""
        self._file.close()

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Give a connection for a query of one's own, which sees one state of the ledger throughout."""
        return self._file.reading()

    def unhooked(self, limit: int = 100) -> list[Entry]:
        """Return finished entries whose command has not ended, those that were finished first."""
        return self._read(
            "INDEXED BY entries_unhooked WHERE state = 'done' AND hook IS NULL ORDER BY finished LIMIT ?", limit
        )

    def uncounted(self, limit: int = 100) -> list[Entry]:
        """Return finished entries whose objects have not been counted, those that were finished first."""
        return self._read(
            "INDEXED BY entries_uncounted WHERE state = 'done' AND objects IS NULL ORDER BY finished LIMIT ?", limit
        )

    def get(self, number: int) -> Entry | None:
        """Return the entry of a number; None where there is none."""
        known = abs(number) <= LARGEST_INTEGER and self._read("WHERE number = ?", number)
        return known[0] if known else None

    def find(self, path: str) -> Entry | None:
        """Return the entry of a path relative to the watched folder; None where there is none."""
        return next(iter(self._read("WHERE path = ?", os.fsencode(path))), None)

    def known(self) -> dict[str, tuple[Identity, State]]:
        """Return which content of every path the ledger has, and its state."""
        with self.reading() as connection:
            rows = connection.execute("SELECT path, identity, state FROM entries").fetchall()
        return {os.fsdecode(path): (identity_of(identity), State(state)) for path, identity, state in rows}

    def revision(self) -> int:
        """Return how many changes have been made; it grows with every write."""
        with self.reading() as connection:
            (revision,) = connection.execute("SELECT revision FROM ledger").fetchone()
        return int(revision)

    def changed_since(self, revision: int, limit: int) -> list[Entry]:
        """Return the entries that have changed after a revision, those that changed first; at most `limit` of them."""
        return self._read("WHERE revision > ? ORDER BY revision LIMIT ?", revision, limit)

    def states(self) -> dict[State, int]:
        """Return how many entries there are in each state."""
        with self.reading() as connection:
            found = dict(connection.execute("SELECT state, count(*) FROM entries GROUP BY state").fetchall())
        return {state: found.get(state.value, 0) for state in State}

    def watchers(self, now: float, within: float = 15.0) -> list[dict[str, Any]]:
        """Return the facts of each watcher that was heard of, with its ``owner`` and the time when it was, ``beaten``.

        Args:
            now: seconds since the epoch.
            within: in how many seconds before that it was heard of.
        """
        query = "SELECT owner, beaten, facts FROM watchers WHERE beaten >= ? ORDER BY owner"
        with self.reading() as connection:
            rows = connection.execute(query, [now - within]).fetchall()
        return [{**json.loads(facts), "owner": owner, "beaten": beaten} for owner, beaten, facts in rows]

    def _read(self, where: str, *values: object) -> list[Entry]:
        with self.reading() as connection:
            return entries(connection, where, *values)
