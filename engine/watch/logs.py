"""The watcher's log: a line an event, in files that are rotated.

Two watchers on one folder write the same log. `logging.handlers.RotatingFileHandler` would go on writing into the file
that the other one has moved away, and move a new one away as if it were full.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from tomoscribe.engine.errors import OutputError

__all__ = ["LOGGER", "one_line", "open_log"]

LOGGER = "tomoscribe.engine.watch"
"""The logger that all of the watcher's modules are under."""

_LARGEST = 10_000_000
_FILES = 5  # beside the one that is written
_PATIENCE = 0.5  # seconds


def one_line(text: str) -> str:
    """Return a text without what could begin a line or command a terminal: a file's name may hold anything."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


@contextlib.contextmanager
def open_log(path: Path, *, largest: int = _LARGEST, files: int = _FILES) -> Iterator[logging.Logger]:
    """Have what the watcher's modules log appended to a file, from level INFO on.

    Args:
        path: the log; its folder is made. Older ones are called ``<log>.1`` (the newest) and so on.
        largest: bytes at which a log is full.
        files: older ones that are kept.

    Yields:
        The logger `LOGGER`.

    Raises:
        OutputError: the log cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _SharedRotatingHandler(path, maxBytes=largest, backupCount=files, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path}: the log cannot be written ({error.strerror}); check the permissions, or choose another --output"
        ) from error
    handler.setFormatter(_OneLine("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logger = logging.getLogger(LOGGER)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from rotating; one that was stopped while it did is not waited for."""
    # The folder is locked, for the log itself is what changes its name. The lock ends with the descriptor.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _lock(descriptor) and time.monotonic() < deadline:
            time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _OneLine(logging.Formatter):
    """Keeps every event's line one line; a traceback follows it, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        first, *trace = super().format(record).split("\n")
        return "\n".join((first, *(f"    {line}" for line in trace)))


class _SharedRotatingHandler(RotatingFileHandler):
    """A rotating log that several processes write: each line goes to the file that has the log's name by then."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with _locked(Path(self.baseFilename).parent):
                self._follow()
                super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Leave a line out that cannot be written: a full disk is what the watcher waits for, not what ends it."""
        if isinstance(sys.exc_info()[1], OSError):
            return
        super().handleError(record)

    def _follow(self) -> None:
        """Open the log anew where another process has moved it away."""
        if self.stream is None:
            return
        ours = os.fstat(self.stream.fileno())
        try:
            named = Path(self.baseFilename).stat()
        except FileNotFoundError:
            named = None
        if named is None or not os.path.samestat(ours, named):
            # Without a stream, the next line opens the log.
            moved, self.stream = self.stream, None
            moved.close()
