"""Follows the files of a watched folder one by one, from noticed to complete, and writes it down in the ledger."""

from __future__ import annotations

import logging
import os
import posixpath
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tomoscribe.engine.inputs import tomogram_stem
from tomoscribe.engine.watch.arrival import Arrival, Verdict
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.naming import stack_reason, tilt_series_companion

__all__ = ["Follower"]

_LOGGER = logging.getLogger(__name__)

_TELL_EVERY = 2.0  # seconds between two lines of the ledger about a file that grows
_CHANGES_AT_ONCE = 1000
_REMEMBERED = 256
# How the reasons begin that may cease to hold while the file stays as it is.
_SAME_NAMES = "its outputs would have the same names as those of"
_UNREADABLE = "cannot be read"


@dataclass
class _Arriving:
    arrival: Arrival
    due: float = 0.0
    told: float = 0.0
    said: tuple[Identity, str | None] | None = None


class Follower:
    """What is known of the files, in memory, so that a file that has not changed costs a look and no more.

    For one thread. Paths are relative to the folder, with ``/``.
    """

    def __init__(
        self,
        root: Path,
        ledger: Ledger,
        *,
        any_content: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take up what the ledger knows.

        Args:
            root: the watched folder.
            ledger: where it is written down.
            any_content: take files for volumes that their headers or what lies beside them call image stacks.
            clock: seconds since the epoch, to be compared with the times of files.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        self._root = root
        self._ledger = ledger
        self._any_content = any_content
        self._clock = clock
        self._settled: dict[str, Identity] = {}  # to be left alone unless they change
        self._arriving: dict[str, _Arriving] = {}
        self._complete: dict[str, Arrival] = {}  # the last ones: should they change, it is known how long they pause
        self._held: set[str] = set()  # quarantined for how they lie there, which may change when they do not
        self._left_out: dict[str, Identity] = {}
        self._names: dict[str, str] = {}  # whose outputs have which name
        self._revision = ledger.revision()
        for path, (identity, state) in ledger.known().items():
            # One that was labelled and deleted is no news, and a start must not write a line for each.
            if state not in (State.DONE, State.GONE) or (state is State.DONE and (root / path).exists()):
                self._take_up(path, identity, state)

    def knows(self, path: str) -> bool:
        """Return whether a file is followed, or was and is still there."""
        return path in self._settled or path in self._arriving

    def paths(self) -> set[str]:
        """Return the files that are known to be there."""
        return {*self._settled, *self._arriving}

    def is_news(self, path: str, status: os.stat_result) -> bool:
        """Return whether a file, as `os.stat` sees it, is another than when it was last left alone."""
        return Identity.of(status) not in (self._settled.get(path), self._left_out.get(path))

    def look(self, path: str) -> None:
        """See what has become of a file.

        Args:
            path: of a file whose name is that of a reconstruction; it may be there or not.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        try:
            status = (self._root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            self._forget(path)
            return
        except OSError:
            return  # its folder may not be looked into; what was known of it holds
        if not stat.S_ISREG(status.st_mode):
            self._forget(path)
            return
        identity = Identity.of(status)
        if (self.is_news(path, status) or path in self._held) and not self._is_left_out(path, identity):
            self._judge(path, identity)

    def look_at_due(self) -> None:
        """Look at the files that are arriving and that it is time to look at.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        now = self._clock()
        for path in [path for path, arriving in self._arriving.items() if arriving.due <= now]:
            self.look(path)

    def look_at_held(self) -> None:
        """Look at the files that were quarantined for how they lie there: unreadable, or two of one name.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        for path in sorted(self._held):
            self.look(path)

    def catch_up(self) -> None:
        """Take note of what others wrote into the ledger: a watcher that found other content than was noticed.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        while changed := self._ledger.changed_since(self._revision, _CHANGES_AT_ONCE):
            for entry in changed:
                known = self._settled.get(entry.path)
                if known is not None and (entry.state in (State.ARRIVING, State.GONE) or entry.identity != known):
                    del self._settled[entry.path]
                    self._arriving.setdefault(entry.path, _Arriving(Arrival(self._root / entry.path)))
            self._revision = max(entry.revision for entry in changed)

    def _take_up(self, path: str, identity: Identity, state: State) -> None:
        if state is State.ARRIVING:
            self._arriving[path] = _Arriving(Arrival(self._root / path))
            return
        self._settled[path] = identity
        if state is not State.QUARANTINED:
            self._names.setdefault(_output_name(path), path)
            return
        entry = self._ledger.find(path)
        if entry is not None and (entry.reason or "").startswith((_SAME_NAMES, _UNREADABLE)):
            self._held.add(path)

    def _is_left_out(self, path: str, identity: Identity) -> bool:
        if self._any_content or self.knows(path):
            return False
        companion = tilt_series_companion(self._root / path)
        if companion is None:
            return False
        self._left_out[path] = identity
        _LOGGER.info("%s is left out: %s beside it says that it is a tilt series", path, companion)
        return True

    def _judge(self, path: str, identity: Identity) -> None:
        now = self._clock()
        other = self._names.setdefault(_output_name(path), path)
        if other != path:
            self._hold(path, identity, f"{_SAME_NAMES} {other}; rename one of the two", now)
            return
        arriving = self._arriving.get(path)
        if arriving is None:
            arriving = _Arriving(self._complete.pop(path) if path in self._complete else Arrival(self._root / path))
        try:
            verdict = self._verdict(path, arriving.arrival, identity, now)
        except FileNotFoundError:
            self.look(path)  # deleted since it was looked at, which is seen now
            return
        except OSError as error:
            self._release_name(path)
            self._hold(path, identity, f"{_UNREADABLE}: {error.strerror}; it is tried again when it can be", now)
            return
        if verdict.state is State.ARRIVING:
            self._await(path, identity, verdict, arriving, now)
        else:
            self._remember(path, arriving.arrival)
            self._settle(path, identity, verdict, now)

    def _remember(self, path: str, arrival: Arrival) -> None:
        self._complete[path] = arrival
        if len(self._complete) > _REMEMBERED:
            del self._complete[next(iter(self._complete))]

    def _verdict(self, path: str, arrival: Arrival, identity: Identity, now: float) -> Verdict:
        try:
            verdict = arrival.observe(identity, now)
            if verdict.state is State.WAITING and not self._any_content:
                reason = stack_reason(self._root / path)
                return verdict if reason is None else Verdict(State.QUARANTINED, reason)
        except OSError:
            raise
        except Exception as error:  # no file may end the watch over all the others
            _LOGGER.exception("%s cannot be judged", path)
            return Verdict(State.QUARANTINED, f"cannot be judged: {type(error).__name__}: {error}")
        return verdict

    def _await(self, path: str, identity: Identity, verdict: Verdict, arriving: _Arriving, now: float) -> None:
        """Go on following a file; the ledger hears of it, though not of every slice."""
        arriving.due = arriving.arrival.next_look(now)
        self._arriving[path] = arriving
        self._settled.pop(path, None)
        self._held.discard(path)
        said = (identity, verdict.reason)
        if said != arriving.said and not 0 <= now - arriving.told < _TELL_EVERY:
            self._ledger.notice(path, identity, State.ARRIVING, now, verdict.reason)
            arriving.said, arriving.told = said, now

    def _settle(self, path: str, identity: Identity, verdict: Verdict, now: float) -> None:
        """Leave a file alone from now on, unless it changes."""
        self._ledger.notice(path, identity, verdict.state, now, verdict.reason)
        self._arriving.pop(path, None)
        self._held.discard(path)
        self._settled[path] = identity
        if verdict.state is State.QUARANTINED:
            self._release_name(path)
            self._look_at_namesakes(path)

    def _hold(self, path: str, identity: Identity, reason: str, now: float) -> None:
        """Quarantine a file for what may change without a change of the file."""
        self._ledger.notice(path, identity, State.QUARANTINED, now, reason)
        self._arriving.pop(path, None)
        self._settled[path] = identity
        self._held.add(path)

    def _forget(self, path: str) -> None:
        """Take a file that is not there any more off the lists."""
        self._left_out.pop(path, None)
        if self.knows(path):
            self._ledger.gone(path, self._clock())
            self._arriving.pop(path, None)
            self._settled.pop(path, None)
            self._held.discard(path)
            self._release_name(path)
            self._look_at_namesakes(path)

    def _release_name(self, path: str) -> None:
        name = _output_name(path)
        if self._names.get(name) == path:
            del self._names[name]

    def _look_at_namesakes(self, path: str) -> None:
        name = _output_name(path)
        for other in [held for held in self._held if held != path and _output_name(held) == name]:
            self.look(other)


def _output_name(path: str) -> str:
    """Return what the names of a tomogram's outputs begin with, relative to the output folder."""
    return posixpath.join(posixpath.dirname(path), tomogram_stem(Path(posixpath.basename(path))))
