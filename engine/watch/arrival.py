"""When a file is complete: it has the size that its header promises, and nothing has changed for long enough.

Programs write slice by slice to the final path, so that a watcher sees files grow. Long enough is twice the longest
pause between two changes that this very file was seen to make; a file that was never seen to change waits the least
time. Where the format promises no size (compressed files, TIFF, HDF5) only that time speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomoscribe.engine.errors import OutputError, TomoscribeError
from tomoscribe.engine.tomogram.compressed import compression_of
from tomoscribe.engine.tomogram.mrc_header import HEADER_SIZE, MODE_DTYPES, parse_header
from tomoscribe.engine.tomogram.opening import open_tomogram
from tomoscribe.engine.watch.entry import Identity, State

__all__ = ["Arrival", "Verdict", "promised_size"]

# Seconds. A file without a promise, or at odds with it, may be between two writes of any length.
_LEAST_PAUSE = 0.25
_LEAST_PAUSE_UNPROMISED = 2.0
_LONGEST_PAUSE = 60.0
_STALLED_AFTER = 600.0
# How often a file that is short is looked at, where nobody says that it has changed.
_SOONEST_LOOK = 0.1
_LATEST_LOOK = 1.0

_OTHER_FORMATS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89HDF\r\n\x1a\n")


@dataclass(frozen=True)
class Verdict:
    """What is known of a file.

    Attributes:
        state: ``ARRIVING``, ``WAITING`` once it is complete, or ``QUARANTINED``.
        reason: what it is waited for, or why it is quarantined, one line; None once it is complete.
    """

    state: State
    reason: str | None = None


@dataclass(frozen=True)
class _Promise:
    """What a header says of its file's size in bytes; None where the format does not say."""

    size: int | None
    section: int = 1

    def is_kept_by(self, size: int) -> bool:
        """Return whether a file has the promised size; less than a section more is ignored by the reader."""
        return self.size is not None and self.size <= size < self.size + self.section


class Arrival:
    """Follows one file until it is complete. It has no clock: times, in seconds since the epoch, are handed in."""

    def __init__(self, path: Path) -> None:
        """Begin to follow a file, whose header is read when it changes."""
        self._path = path
        self._identity = Identity(-1, 0, -1)
        self._promise: _Promise | None = None
        self._looked = 0.0
        self._changed = 0.0
        self._seen = 0.0
        self._longest_pause = 0.0

    def observe(self, identity: Identity, now: float) -> Verdict:
        """Take note of what the file looks like now, and return what is known of it.

        Raises:
            OSError: its header cannot be read.
        """
        if identity != self._identity:
            self._promise = _read_promise(self._path)
            self._note_change(identity, now)
        # A clock that was set back must not make the file wait until it is where it was.
        self._changed, self._seen = min(self._changed, now), min(self._seen, now)
        self._looked = now
        if now < self._deadline():
            return Verdict(State.ARRIVING, self._what_is_missing())
        fits = self._promise is not None and (self._promise.size is None or self._promise.is_kept_by(identity.size))
        reason = None if fits else _why_not_opened(self._path)
        return Verdict(State.WAITING if reason is None else State.QUARANTINED, reason)

    def next_look(self, now: float) -> float:
        """Return when to look again at a file that is arriving, should nobody say before that it has changed."""
        pace = min(max((now - self._changed) / 2, _SOONEST_LOOK), _LATEST_LOOK)
        return min(self._deadline(), now + pace)

    def _note_change(self, identity: Identity, now: float) -> None:
        modified = identity.modified / 1e9
        if identity.inode != self._identity.inode:  # seen for the first time, or another file under this name
            self._changed, self._seen = modified, now
            self._longest_pause = 0.0
        else:
            # The change was after the last look; the file's own time says when, unless it is of another clock.
            changed = modified if self._looked <= modified <= now else now
            self._longest_pause = max(self._longest_pause, changed - self._changed)
            self._changed = changed
        self._identity = identity

    def _deadline(self) -> float:
        """Return when the file is judged, if it does not change before."""
        size, promise = self._identity.size, self._promise
        if promise is not None and promise.is_kept_by(size):
            return self._changed + self._patience(_LEAST_PAUSE)
        # The file's own time may be of another machine's clock; where the size does not confirm it, it does not count.
        since = max(self._changed, self._seen)
        if promise is not None and promise.size is not None and size < promise.size:
            return since + _STALLED_AFTER
        return since + self._patience(_LEAST_PAUSE_UNPROMISED)

    def _patience(self, least: float) -> float:
        return min(max(2 * self._longest_pause, least), _LONGEST_PAUSE)

    def _what_is_missing(self) -> str:
        size, promise = self._identity.size, self._promise
        if promise is None:
            return "its header makes no sense yet"
        if promise.size is None or promise.is_kept_by(size):
            return "complete once it has been left alone for a moment"
        if size < promise.size:
            return f"{size / 1e6:.1f} of {promise.size / 1e6:.1f} MB"
        return f"{size / 1e6:.1f} MB, and its header promises {promise.size / 1e6:.1f}"


def promised_size(path: Path) -> int | None:
    """Return how many bytes a file has when it is complete, as its header says; None where that is not said.

    It is said by a plain MRC file: header, extended header and sections. A file of another kind that is shorter than an
    MRC header, and has no sign of another format, is promised to have a header at least.

    Raises:
        OSError: the file cannot be read.
    """
    promise = _read_promise(path)
    return None if promise is None else promise.size


def _read_promise(path: Path) -> _Promise | None:
    """Return what a file's header promises, or None if it cannot be the header of a volume."""
    with path.open("rb") as file:
        start = file.read(HEADER_SIZE)
    if start.startswith(_OTHER_FORMATS) or compression_of(start) is not None:
        return _Promise(None)
    if len(start) < HEADER_SIZE:
        return _Promise(HEADER_SIZE)
    header = parse_header(start)
    if not header.plausible or header.mode not in MODE_DTYPES or header.extended_size < 0:
        return None
    columns, rows, sections = header.size
    section = columns * rows * np.dtype(MODE_DTYPES[header.mode]).itemsize
    return _Promise(HEADER_SIZE + header.extended_size + sections * section, section)


def _why_not_opened(path: Path) -> str | None:
    """Return why a file cannot be opened, in the words of what opens it, without its path; None if it can."""
    try:
        open_tomogram(path).close()
    except OutputError:
        return None  # the disk's fault, not the file's
    except TomoscribeError as error:
        return str(error).removeprefix(f"{path}: ")
    return None
