"""What ``tomoscribe watch`` says: a line an event, on the terminal and in the log."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

from tomoscribe.cli.page import file_size
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_file import LedgerError
from tomoscribe.engine.watch.logs import LOGGER, one_line

__all__ = ["EventTeller", "TerminalHandler", "describe_states"]

_LOG = logging.getLogger(f"{LOGGER}.events")
_LOOK = 0.25  # seconds
_PORTION = 500  # entries that are taken out of the ledger at once


class TerminalHandler(logging.Handler):
    """Prints what is logged with the time of day, a line each and no tracebacks; warnings and errors go to stderr.

    A terminal that was closed ends the printing, not the watcher.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self._open = True

    @contextlib.contextmanager
    def attached(self, logger: logging.Logger) -> Iterator[None]:
        """Print what is logged meanwhile."""
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        if not self._open:
            return
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a mistake in the event
            self.handleError(record)
            return
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  {one_line(message)}\n"
        try:
            stream.write(_encodable(line, stream))
            stream.flush()
        except (OSError, ValueError):  # the latter from a stream that is closed
            self._open = False


class EventTeller:
    """Logs what becomes of each tomogram, as the ledger has it: whichever watcher did it.

    Args:
        ledger: the ledger; what it has now is not told.
        hooked: whether commands for finished tomograms are run, and told of.
    """

    def __init__(self, ledger: Ledger, *, hooked: bool = False) -> None:
        self._ledger = ledger
        self._revision = ledger.revision()
        self._told: dict[str, tuple[Identity, State]] = dict(ledger.known())
        self._hooks_to_come = {entry.number for entry in ledger.unhooked()} if hooked else set()
        self._hooked = hooked

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tell in a thread of its own meanwhile, and at the end what is left to tell."""
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(ended,), name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _run(self, ended: threading.Event) -> None:
        while True:
            over = ended.wait(_LOOK)
            # A disk that is full, say: the watcher meets and tells it too, and what is missed is told once it is over.
            with contextlib.suppress(LedgerError):
                self.tell()
            if over:
                break

    def tell(self) -> None:
        """Tell what is new."""
        while changed := self._ledger.changed_since(self._revision, _PORTION):
            for entry in changed:
                for level, line in self._lines(entry):
                    _LOG.log(level, "%s", line)
            self._revision = max(entry.revision for entry in changed)

    def _lines(self, entry: Entry) -> Iterator[tuple[int, str]]:
        now = entry.identity, entry.state
        if self._told.get(entry.path) != now:
            before = self._told.get(entry.path)
            self._told[entry.path] = now
            if entry.state is State.WAITING and before == (entry.identity, State.RUNNING):
                yield logging.INFO, f"given back   {entry.path}"
            else:
                yield from _event(entry)
            if self._hooked and entry.state is State.DONE:
                self._hooks_to_come.add(entry.number)
        if entry.hook is not None and entry.number in self._hooks_to_come:
            self._hooks_to_come.remove(entry.number)
            level = logging.INFO if entry.hook.startswith("exit 0 ") else logging.WARNING
            yield level, f"command      {entry.path}: {entry.hook}"


def describe_states(states: Mapping[State, int]) -> str:
    """Return how many tomograms there are in which state, in a line."""
    return ", ".join(f"{count} {state.value}" for state, count in states.items() if count) or "no tomogram yet"


def _event(entry: Entry) -> Iterator[tuple[int, str]]:
    """Give the lines for a new state: with what the terminal puts before them, the names stand below each other."""
    match entry.state:
        case State.ARRIVING:
            yield logging.INFO, f"arriving     {entry.path}"
        case State.WAITING:
            yield logging.INFO, f"complete     {entry.path}, {file_size(entry.identity.size)}"
        case State.RUNNING:
            again = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
            yield logging.INFO, f"labelling    {entry.path}{again}"
        case State.DONE:
            yield logging.INFO, f"done         {entry.path}{_figures(entry)}"
            for warning in entry.warnings:
                yield logging.WARNING, f"warning      {entry.path}: {warning}"
        case State.QUARANTINED:
            yield logging.WARNING, f"quarantined  {entry.path}: {entry.reason}"
        case State.GONE:
            yield logging.INFO, f"gone         {entry.path}"


def _figures(entry: Entry) -> str:
    parts = []
    if entry.shape is not None:
        depth, height, width = entry.shape
        parts.append(f"{width} × {height} × {depth}")
        if entry.seconds:
            speed = math.prod(entry.shape) / entry.seconds / 1e6
            parts.append(f"{entry.seconds:.1f} s, {speed:.2f} Mvoxel/s")
        voxels = max(1, math.prod(entry.shape))
        parts.extend(f"{name} {count / voxels:.2%}" for name, count in (entry.counts or {}).items())
    return ": " + ", ".join(parts) if parts else ""


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
