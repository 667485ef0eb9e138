"""What is done for a tomogram once its labels are there, when the machine has nothing better to do."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.engine.watch.entry import Entry
from tomoscribe.engine.watch.failures import may_pass
from tomoscribe.engine.watch.guard import Stopped
from tomoscribe.engine.watch.hook import HOOK_TIMEOUT, run_hook
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.objects import count_objects
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.pictures import Pictures
from tomoscribe.engine.watch.recovery import sweep
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["NO_COMMAND", "Background"]

_LOG = logging.getLogger(__name__)

NO_COMMAND = "no command was given"
"""How the command of a tomogram ended that was finished without one: a later watcher's is not for it."""

_LOOK = 0.2
_LEASE = HOOK_TIMEOUT + 60.0
_LOWEST_PRIORITY = 19


class Background:
    """Runs the command for finished tomograms, then counts objects and makes thumbnails, the newest first.

    A command is run once for a tomogram, and once more where the watcher was killed meanwhile.

    Args:
        settings: what was asked for.
        ledger: where the entries are.
        owner: this watcher.
        class_map: what is counted.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        settings: WatchSettings,
        ledger: Ledger,
        owner: Owner,
        class_map: ClassMap,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._owner = owner
        self._class_map = class_map
        self._clock = clock
        self._pictures = Pictures(settings.places.pictures, class_map)

    def run(self, stop: threading.Event) -> None:
        """Do what there is to do until `stop`, in a thread of the lowest priority.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        _lower_priority()
        sweep(self._ledger, self._settings)
        while not stop.is_set():
            if not self._do_one(stop):
                stop.wait(_LOOK)

    def _do_one(self, stop: threading.Event) -> bool:
        """Do the first thing that no other watcher does, and return whether there was one."""
        for entry in self._ledger.unhooked():
            if self._has_taken(entry):
                self._run_command(entry, stop)
                return True
        for entry in self._ledger.uncounted():
            if self._has_taken(entry):
                self._count(entry, stop)
                return True
        return False

    def _has_taken(self, entry: Entry) -> bool:
        # What another watcher did before it let go is only seen from then on.
        return (
            self._ledger.tend(entry.number, self._owner, _LEASE, self._clock())
            and self._ledger.get(entry.number) == entry
        )

    def _run_command(self, entry: Entry, stop: threading.Event) -> None:
        ended: str | None = NO_COMMAND
        if self._settings.on_done:
            try:
                ended = run_hook(self._settings.on_done, entry, self._settings, HOOK_TIMEOUT, stop)
            except OSError as error:
                raise OutputError(
                    f"{entry.path}: what the command is to read cannot be written ({error.strerror}); make space for "
                    "temporary files"
                ) from error
        if ended is not None:
            self._ledger.hook_ended(entry.number, ended)

    def _count(self, entry: Entry, stop: threading.Event) -> None:
        """Count the objects, of none where the labels cannot be read any more, and see that there is a thumbnail."""
        objects: dict[str, int] = {}
        try:
            self._pictures.thumbnail(entry, make=True)
            with open_tomogram(self._settings.output / (entry.outputs or {})["labels"], mode0="signed") as labels:
                counted = count_objects(_Interruptible(labels, stop), self._class_map)
            objects = {name: counted[name] for name in entry.counts or ()}
        except Stopped:
            return
        except Exception as error:
            if may_pass(error):
                raise
            _LOG.exception("%s: its objects cannot be counted", entry.path)
        now = self._ledger.get(entry.number)
        if now is not None and now.identity == entry.identity:
            self._ledger.set_objects(entry.number, objects)


class _Interruptible(Tomogram):
    """A tomogram whose reading ends when the watcher is to end.

    Args:
        tomogram: what is read.
        stop: ends it.
    """

    def __init__(self, tomogram: Tomogram, stop: threading.Event) -> None:
        self._tomogram = tomogram
        self._stop = stop
        self.path, self.geometry, self.dtype = tomogram.path, tomogram.geometry, tomogram.dtype
        self.warnings = tomogram.warnings

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Read a run of slices, see `Tomogram.read_slices`.

        Raises:
            Stopped: the watcher is to end.
        """
        if self._stop.is_set():
            raise Stopped
        self._tomogram.read_slices(start, out)

    def close(self) -> None:
        """Nothing is this object's own."""


def _lower_priority() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
