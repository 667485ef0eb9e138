"""Locks on entries, among processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.watch.locks import EntryLocks

TAKE = (
    "import sys; from pathlib import Path; from tomoscribe.engine.watch.locks import EntryLocks; "
    "locks = EntryLocks(Path(sys.argv[1])); print(*(locks.take(int(n)) for n in sys.argv[2:]))"
)


def taken_elsewhere(path, *numbers):
    """Return which numbers another process can take."""
    command = [sys.executable, "-c", TAKE, str(path), *map(str, numbers)]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [word == "True" for word in words]


def test_a_lock_is_for_one_number_and_one_process(tmp_path):
    path = tmp_path / "lock"
    locks = EntryLocks(path)
    assert locks.take(7)
    assert taken_elsewhere(path, 6, 7, 8, 10**12) == [True, False, True, True]
    locks.give_back(7)
    locks.give_back(8)
    assert taken_elsewhere(path, 7) == [True]
    assert locks.take(7)
    locks.close()
    assert taken_elsewhere(path, 7) == [True]


def test_a_lock_that_cannot_be_made_or_had_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be made"):
        EntryLocks(tmp_path / "nowhere" / "lock")
    locks = EntryLocks(tmp_path / "lock")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.dup2(descriptor, locks._file)  # a folder cannot be locked for writing
    os.close(descriptor)
    with pytest.raises(OutputError, match="cannot be locked"):
        locks.take(1)
    locks.close()
