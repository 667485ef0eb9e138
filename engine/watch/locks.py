"""Locks on the numbers of entries, which end with the process that holds them, however it ends.

A lease ends while its owner is stopped, and a process that was stopped between two system calls goes on with the second
when it wakes. These locks are held for the few system calls for which that must not be.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tomoscribe.engine.errors import OutputError

__all__ = ["EntryLocks"]


class EntryLocks:
    """A lock for each entry: a byte of a file (fcntl(2), ``F_SETLK``). They exclude other processes, not threads.

    Args:
        path: the file, which stays empty. A process has it open once, for whoever closes it gives all locks back.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be made ({error.strerror}); check space and permissions") from error

    def take(self, number: int) -> bool:
        """Lock an entry; False where another process has it.

        Raises:
            OutputError: the file system has no locks.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be locked ({error.strerror}); choose a local disk") from error
        return True

    def give_back(self, number: int) -> None:
        """Unlock an entry, if it is locked."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give all locks back."""
        os.close(self._file)
