"""A ledger's file: made, opened again, damaged, removed, locked, without space."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import sqlite3
import threading
import warnings
from pathlib import Path

import pytest

from tomoscribe.engine.errors import OutputError, TomoscribeError
from tomoscribe.engine.watch import ledger_file
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_file import LedgerError
from tomoscribe.engine.watch.ledger_rows import add

CONTENT = Identity(100, 1000, 7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / ".tomoscribe" / "ledger.sqlite"


@pytest.fixture
def filled(path):
    with Ledger(path) as ledger, ledger._file.writing() as (connection, revision):
        for number in range(300):
            add(connection, Entry(0, f"{number}.mrc", State.WAITING, CONTENT, revision))
    return path


def sqlite(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchone() for statement in statements]


def check_line(error, path, *words):
    message = str(error.value)
    assert isinstance(error.value, TomoscribeError)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_was_written_is_there_when_it_is_opened_again(path):
    with Ledger(path) as ledger:
        entry = ledger.notice("a.mrc", CONTENT, State.WAITING, 1.0)
    with Ledger(path) as ledger:
        assert (ledger.get(1), ledger.revision()) == (entry, 1)
    assert list(path.parent.iterdir()) == [path], "the log is taken in when the last one closes it"


def test_it_logs_ahead_and_waits_for_the_disk(path):
    with Ledger(path) as ledger:
        for context in (ledger.reading(), contextlib.nullcontext(ledger._file._idle[0])):
            with context as connection:
                assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
                assert connection.execute("PRAGMA busy_timeout").fetchone() == (30000,)


def test_a_name_of_the_folder_that_is_no_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/ledger.sqlite"))
    with Ledger(path) as ledger:
        ledger.notice("a.mrc", CONTENT, State.WAITING, 1.0)
    assert path.stat().st_size


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_ledger_of_another_version_is_an_error(filled, version):
    sqlite(filled, f"PRAGMA user_version = {version}")
    with pytest.raises(LedgerError) as error:
        Ledger(filled)
    check_line(error, filled, "version 1", f"version {version}", "tomoscribe")
    assert sqlite(filled, "SELECT count(*) FROM entries") == [(300,)]


def test_another_programs_database_is_left_alone(path):
    path.parent.mkdir(parents=True)
    sqlite(path, "CREATE TABLE entries (a)")
    with pytest.raises(LedgerError) as error:
        Ledger(path)
    check_line(error, path, "another program's database")
    assert sqlite(path, "SELECT count(*) FROM sqlite_master") == [(1,)]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 100, b"x" * 200])
def test_a_file_that_is_no_ledger_is_an_error_with_what_to_do(path, content, monkeypatch):
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(connect(*a, **k)) or opened[-1])
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(LedgerError) as error:
        Ledger(path)
    check_line(error, path, "expected a SQLite ledger", "move away this file")
    assert path.read_bytes() == content
    check_closed(opened)


def test_a_ledger_that_is_not_taken_is_closed(filled, monkeypatch):
    sqlite(filled, "PRAGMA user_version = 99")
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(connect(*a, **k)) or opened[-1])
    with pytest.raises(LedgerError):
        Ledger(filled)
    check_closed(opened)


def test_an_empty_file_is_a_new_ledger(path):
    path.parent.mkdir(parents=True)
    path.touch()
    with Ledger(path) as ledger:
        assert ledger.revision() == 0


def test_a_damaged_ledger_is_an_error_with_what_to_do(filled):
    content = filled.read_bytes()
    filled.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    with pytest.raises(LedgerError) as error, Ledger(filled) as ledger:
        ledger.known()
    check_line(error, filled, "a damaged one", "move away this file")


def test_a_ledger_that_was_cut_short_is_an_error(filled):
    with filled.open("r+b") as file:
        file.truncate(8192)
    with pytest.raises(LedgerError) as error, Ledger(filled) as ledger:
        ledger.known()
    check_line(error, filled, "a damaged one", "move away this file")


@pytest.mark.parametrize("column", ["state", "identity", "shape", "warnings", "counts"])
def test_a_row_that_cannot_be_understood_is_a_damage(filled, column):
    sqlite(filled, f"UPDATE entries SET {column} = '[1,' WHERE number = 5")
    with Ledger(filled) as ledger:
        assert ledger.get(4)
        with pytest.raises(LedgerError) as error:
            ledger.get(5)
    check_line(error, filled, "entry 5 cannot be read", "move away this file")


def test_a_ledger_that_is_removed_or_replaced_is_noticed(filled):
    with Ledger(filled) as ledger:
        idle = [*ledger._file._idle]
        filled.rename(filled.with_name("moved"))
        with pytest.raises(LedgerError) as error:
            ledger.get(1)
        check_line(error, filled, "removed or replaced", "start the watcher again")
        check_closed(idle)
        filled.write_bytes(b"")
        with pytest.raises(LedgerError):
            ledger.notice("a.mrc", CONTENT, State.WAITING, 1.0)
    assert filled.read_bytes() == b""


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as error:
        Ledger(tmp_path / "file" / "own" / "ledger.sqlite")
    check_line(error, tmp_path / "file" / "own" / "ledger.sqlite", "Not a directory", "permissions")
    assert error.value.errno == errno.ENOTDIR


def test_a_folder_in_the_place_of_the_file_is_an_error(path):
    path.mkdir(parents=True)
    with pytest.raises(LedgerError) as error:
        Ledger(path)
    check_line(error, path, "unable to open", "permissions")
    assert error.value.errno == errno.EACCES


def test_another_program_that_keeps_the_lock_is_an_error_in_the_end(filled, monkeypatch):
    monkeypatch.setattr(ledger_file, "_PATIENCE", 0.05)
    with Ledger(filled) as ledger, contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ledger.get(1), "reading goes on"
        with pytest.raises(LedgerError) as error:
            ledger.notice("a.mrc", CONTENT, State.WAITING, 1.0)
        check_line(error, filled, "locked", "look for a program")
        assert error.value.errno == errno.EBUSY
        other.execute("ROLLBACK")
        assert ledger.notice("a.mrc", CONTENT, State.WAITING, 1.0).number == 301


def test_without_space_nothing_is_half_written_and_it_goes_on_after(filled):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Ledger(filled) as ledger:
        before, revision = ledger.known(), ledger.revision()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            with pytest.raises(LedgerError) as error:
                ledger.notice("new.mrc", CONTENT, State.WAITING, 1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        check_line(error, filled, "cannot be used")
        assert error.value.errno in (errno.ENOSPC, errno.EIO)
        assert (ledger.known(), ledger.revision()) == (before, revision)
        ledger.notice("new.mrc", CONTENT, State.WAITING, 1.0)
        assert ledger.revision() == revision + 1


def test_no_space_says_so(filled):
    with Ledger(filled) as ledger:
        with ledger.reading() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError) as error:
            ledger.notice("a" * 40000, CONTENT, State.WAITING, 1.0)
    check_line(error, filled, "full", "make space")
    assert error.value.errno == errno.ENOSPC


def test_what_goes_wrong_within_a_write_leaves_no_trace(filled):
    with Ledger(filled) as ledger:
        revision = ledger.revision()
        with pytest.raises(FileNotFoundError), ledger._file.writing() as (connection, _):  # noqa: PT012
            connection.execute("DELETE FROM entries")
            raise FileNotFoundError("of the caller")
        assert (len(ledger.known()), ledger.revision()) == (300, revision)


def test_a_closed_ledger_says_so(filled):
    ledger = Ledger(filled)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="was closed"):
        ledger.get(1)


def test_closing_waits_for_nobody_and_leaves_nothing_open(filled):
    begun, closed = threading.Event(), threading.Event()
    ended, used = [], []

    def read(ledger):
        with ledger.reading() as connection:
            begun.set()
            assert closed.wait(20)
            ended.append(connection.execute("SELECT count(*) FROM entries").fetchone())
        used.append(connection)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger = Ledger(filled)
        thread = threading.Thread(target=read, args=[ledger])
        thread.start()
        assert begun.wait(20)
        ledger.close()
        closed.set()
        thread.join(20)
        del ledger
        gc.collect()
    assert ended == [(300,)]
    check_closed(used)
    assert str(filled) not in open_files()


def test_threads_that_come_and_go_leave_no_file_open(filled):
    with Ledger(filled) as ledger:
        for _ in range(20):
            thread = threading.Thread(target=ledger.get, args=[1])
            thread.start()
            thread.join()
        assert open_files().count(str(filled)) == 1
    assert str(filled) not in open_files()


def check_closed(connections):
    assert connections
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def open_files():
    folder = Path("/proc/self/fd")
    names = []
    for link in folder.iterdir():
        with contextlib.suppress(OSError):
            names.append(str(link.readlink()))
    return names
