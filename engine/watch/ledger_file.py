"""The ledger's file: a SQLite database that threads and processes read and write at the same time.

Write-ahead logging lets readers go on while one writes; a write is a transaction that takes the lock at its beginning,
so that it sees what it changes as it is, and is on the disk when it returns. A process may be killed at any instant:
the next one to open the file finds the last whole transaction.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.watch.ledger_rows import APPLICATION, SCHEMA, VERSION

__all__ = ["LedgerError", "LedgerFile"]

_PATIENCE = 30.0
_DISK = "check the disk; on a network file system, choose an output folder on a local disk"
_ADVICE = {
    "SQLITE_BUSY": (errno.EBUSY, "look for a program that has it open, and start the watcher again"),
    "SQLITE_FULL": (errno.ENOSPC, "make space on that disk"),
    "SQLITE_READONLY": (errno.EACCES, "check its permissions and those of its folder"),
    "SQLITE_CANTOPEN": (errno.EACCES, "check its permissions and those of its folder"),
    "SQLITE_IOERR": (errno.EIO, _DISK),
    "SQLITE_PROTOCOL": (errno.EIO, _DISK),
}


class LedgerError(OutputError):
    """A ledger that cannot be read or written; `errno` says why, and is None where the file itself is wrong."""


class LedgerFile:
    """Connections to the database, as many as threads are at it at the same moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error.errno, f"{error.strerror}; check the permissions of its folder") from error
        with self._explained():
            connection = self._connect()
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._idle.append(connection)
        self._inode = self._look()

    def close(self) -> None:
        """Close the connections; one that is being used is closed at the end of its transaction."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees one state of the ledger throughout.

        Raises:
            LedgerError: it cannot be read.
        """
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Give a connection that alone may write, and the revision that its changes make; without changes, none.

        Raises:
            LedgerError: it cannot be written.
        """
        # SQLite has those that wait for its lock look again now and then, so that a thread that writes one row after
        # another would keep the others waiting for seconds.
        with self._turn, self._transaction("BEGIN IMMEDIATE") as connection:
            (revision,) = connection.execute("SELECT revision FROM ledger").fetchone()
            before = connection.total_changes
            yield connection, revision + 1
            if connection.total_changes != before:
                connection.execute("UPDATE ledger SET revision = ?", [revision + 1])
                connection.execute("COMMIT")

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._explained():
            connection = self._take()
            try:
                connection.execute(begin)
                yield connection
            finally:
                self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise LedgerError(f"{self._path}: the ledger was closed; open it again to use it")
            connection = self._idle.pop() if self._idle else None
        # SQLite would go on with the file that has no name any more, and with none of what others write.
        if self._look() != self._inode:
            if connection is not None:
                connection.close()
            raise LedgerError(f"{self._path}: the ledger was removed or replaced while in use; start the watcher again")
        return connection or self._connect()

    def _look(self) -> int | None:
        try:
            return self._path.stat().st_ino
        except OSError:
            return None

    def _give_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        # A connection goes from thread to thread, and only one has it at a time.
        connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables in a new file, and see that the tables of an old one are those that are known here."""
        self._log_ahead(connection)
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            for statement in SCHEMA:
                connection.execute(statement)
        elif application != APPLICATION:
            raise LedgerError(
                f"{self._path}: expected a ledger of tomoscribe, found another program's database; "
                "choose another output folder"
            )
        elif version != VERSION:
            raise LedgerError(
                f"{self._path}: expected a ledger of version {VERSION}, found version {version}; "
                "use the tomoscribe that wrote it or a newer one, or choose another output folder"
            )
        connection.execute("COMMIT")

    @staticmethod
    def _log_ahead(connection: sqlite3.Connection) -> None:
        # SQLite does not wait for the lock here, where it waits everywhere else.
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # a mistake of ours, which nobody can mend otherwise
            raise
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.DatabaseError) -> LedgerError:
        name = str(getattr(error, "sqlite_errorname", ""))
        for start, (number, advice) in _ADVICE.items():
            if name.startswith(start):
                return self._error(number, f"{error}; {advice}")
        return LedgerError(
            f"{self._path}: expected a SQLite ledger, found a damaged one ({error}); stop the watchers of this "
            "folder, move away this file and those beside it whose names begin with its own, and start again: "
            "tomograms that have their labels are not labelled again"
        )

    def _error(self, number: int | None, what: str) -> LedgerError:
        error = LedgerError(f"{self._path}: the ledger cannot be used ({what})")
        error.errno = number or 0
        return error
