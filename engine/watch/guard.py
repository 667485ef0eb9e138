"""What ends the labelling of a tomogram that is not to go on: it changed, another watcher has it, or all is to end."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.watch.claim import Claim
from tomoscribe.engine.watch.locks import EntryLocks

__all__ = ["Guard", "LeaseLost", "Occupied", "Stopped"]


class Stopped(Exception):  # noqa: N818 - none of these three is an error
    """The watcher is to end."""


class LeaseLost(Exception):  # noqa: N818
    """The entry is another watcher's, or has other content by now."""


class Occupied(Exception):  # noqa: N818
    """A watcher that had the entry before was stopped while it gave its outputs their names."""


class Guard:
    """A `Sink` that keeps nothing, and raises where the labelling is not to go on.

    It has to come before the outputs, so that its `commit` is what is asked last before the first of them gets its
    name. From there until `close`, no other watcher gives outputs of this tomogram their names: one that is stopped in
    between and wakes up much later does so alone.

    What the ledger is to know is told by `report` and `renew`, which another thread calls now and then: no slice is
    kept waiting for the ledger's disk.

    Args:
        claim: what is labelled.
        labels: the label volume; earlier content of the tomogram may have left one.
        locks: among watchers, for what `commit` begins.
        stop: ends the labelling.
    """

    def __init__(self, claim: Claim, labels: Path, locks: EntryLocks, stop: threading.Event) -> None:
        self._claim = claim
        self._labels = labels
        self._locks = locks
        self._stop = stop
        self._lost = threading.Event()
        self._slices = 0
        self._reported = 0

    def check(self) -> None:
        """See that the labelling is to go on.

        Raises:
            Stopped: the watcher is to end.
            LeaseLost: the entry is not this watcher's any more.
        """
        if self._stop.is_set():
            raise Stopped
        if self._lost.is_set():
            raise LeaseLost

    def check_free(self) -> None:
        """See that no watcher that had the entry before is giving its outputs their names; none begins to any more.

        Raises:
            Occupied: one is.
        """
        self._take()
        self.close()

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Count the slices, see `Sink.write`.

        Raises:
            Stopped: the watcher is to end.
            LeaseLost: the entry is not this watcher's any more.
        """
        self.check()
        self._slices = start + len(labels)

    def prepare(self) -> None:
        """See that the outputs are worth being brought to the disk.

        Raises:
            ContentChanged: the tomogram changed.
        """
        self._claim.check_content()

    def commit(self) -> None:
        """Let the outputs get their names, and remove the label volume of before.

        With it gone until the last of the new files has its name, there is never a label volume beside files of another
        run, wherever the watcher is killed.

        Raises:
            Occupied: another watcher names outputs of this tomogram.
            LeaseLost: the entry is not this watcher's any more.
            ContentChanged: the tomogram changed.
            OutputError: the label volume cannot be removed.
        """
        # In this order: a watcher that claims the entry from here on finds the lock taken.
        self._take()
        if not self._claim.renew():
            raise LeaseLost
        self._claim.check_content()
        try:
            self._labels.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._labels}: cannot be replaced ({error.strerror}); check permissions") from error

    def abort(self) -> None:
        """Forget what was written, see `Sink.abort`."""
        self._slices = 0
        self.close()

    def close(self) -> None:
        """Let other watchers name outputs of this tomogram; called when the ledger knows of those that are there."""
        self._locks.give_back(self._claim.entry.number)

    def report(self) -> None:
        """Tell the ledger how far the labelling is, where there is news."""
        slices = self._slices
        if slices != self._reported:
            self._reported = slices
            self._heed(self._claim.progress(slices))

    def renew(self) -> None:
        """Hold the entry for another lease."""
        self._heed(self._claim.renew())

    def _take(self) -> None:
        if not self._locks.take(self._claim.entry.number):
            raise Occupied(
                f"{self._claim.tomogram}: a watcher that had it before was stopped while it named the outputs; let "
                "that process go on, or end it"
            )

    def _heed(self, held: bool) -> None:
        if not held:
            self._lost.set()
