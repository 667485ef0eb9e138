"""The watcher: notices what lands in a folder, labels it, and goes on until it is told to stop.

One thread, the caller's, labels. Beside it one notices files, one tells the ledger that this watcher lives and holds
what it has claimed, one runs commands and counts objects, and one serves the page. All that they share is the ledger,
and the event that ends them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.watch.background import Background
from tomoscribe.engine.watch.failures import Blocked, in_a_line, may_pass
from tomoscribe.engine.watch.folder import FolderWatch
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_file import LedgerError
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.services import Service
from tomoscribe.engine.watch.settings import WatchSettings
from tomoscribe.engine.watch.space import SpaceCheck
from tomoscribe.engine.watch.worker import Worker

__all__ = ["Watcher"]

_LOG = logging.getLogger(__name__)

_PULSE = 0.25
_BEAT = 2.0
# How soon the ledger's changes are noticed, and how soon a lease that ended, which is no change.
_LOOK = 0.05
_CLAIM = 1.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_PATIENCE = 5.0


class Watcher:
    """Labels what lands in a folder.

    Args:
        settings: what was asked for.
        make_segmenter: loads the model.
        page: serves the page until the event is set, in a thread of its own.
        owner: this process, for the ledger.
        lease: seconds after which other watchers take over what this one had claimed, if it is not heard of.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        settings: WatchSettings,
        make_segmenter: Callable[[], Segmenter],
        *,
        page: Callable[[threading.Event], None] | None = None,
        owner: Owner | None = None,
        lease: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._make_segmenter = make_segmenter
        self._page = page
        self._owner = owner or Owner.current()
        self._lease = lease
        self._clock = clock
        self._started = clock()
        self._paused: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set; it is set, too, where the watcher fails.

        A tomogram that is being labelled then is given back, so that the next watcher begins with it.

        Args:
            stop: ends it.

        Raises:
            TomoscribeError: the model cannot be loaded, or the ledger cannot be used.
            BaseException: what one of its threads died of, or was raised in the calling thread meanwhile, such as
                `KeyboardInterrupt`.
        """
        settings = self._settings
        with (
            Ledger(settings.places.ledger) as ledger,
            Worker(settings, ledger, self._owner, self._make_segmenter, lease=self._lease, clock=self._clock) as worker,
        ):
            class_map = worker.bundle.specification.class_map
            background = Background(settings, ledger, self._owner, class_map, clock=self._clock)
            serving: dict[str, Callable[[threading.Event], None]] = {
                "pulse": lambda stop: self._pulse(ledger, worker, stop),
                "folder": FolderWatch(settings, ledger, clock=self._clock).run,
                "background": background.run,
            }
            if self._page is not None:
                serving["page"] = self._page
            services = [Service(name, serve, stop) for name, serve in serving.items()]
            try:
                for service in services:
                    service.start()
                self._work(ledger, worker, stop)
            finally:
                stop.set()
                _join(services)
        for service in services:
            if service.error is not None:
                raise service.error

    def _work(self, ledger: Ledger, worker: Worker, stop: threading.Event) -> None:
        pause = _FIRST_PAUSE
        while not stop.is_set():
            try:
                revision = ledger.revision()
                worked = worker.run_one(stop)
            except (Blocked, LedgerError) as error:
                if not isinstance(error, Blocked) and not may_pass(error):
                    raise
                self._pause(in_a_line(error))
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._resume()
            pause = _FIRST_PAUSE
            if not worked:
                _await_change(ledger, revision, stop)

    def _pause(self, reason: str) -> None:
        if reason != self._paused:
            _LOG.warning("paused: %s", reason)
        self._paused = reason

    def _resume(self) -> None:
        if self._paused is not None:
            _LOG.info("goes on")
        self._paused = None

    def _pulse(self, ledger: Ledger, worker: Worker, stop: threading.Event) -> None:
        """Tell the ledger, until `stop`, that this watcher lives and what it does."""
        space = SpaceCheck(self._settings.output, self._settings.keep_free)
        beaten = -_BEAT
        while not stop.wait(_PULSE):
            worker.pulse()
            if time.monotonic() - beaten >= _BEAT:
                ledger.beat(self._owner, self._clock(), self._facts(worker, space.free_bytes()))
                beaten = time.monotonic()

    def _facts(self, worker: Worker, free_bytes: int) -> dict[str, Any]:
        specification = worker.bundle.specification
        return {
            "folder": self._settings.folder.absolute().name,
            "model": specification.name,
            "classes": specification.class_map.to_json(),
            "backend": worker.backend,
            "paused": self._paused,
            "free_bytes": free_bytes,
            "started": self._started,
        }


def _await_change(ledger: Ledger, revision: int, stop: threading.Event) -> None:
    """Wait for a change of the ledger since `revision`, but not so long that an ended lease would go unnoticed."""
    end = time.monotonic() + _CLAIM
    while time.monotonic() < end and not stop.wait(_LOOK) and ledger.revision() == revision:
        pass


def _join(services: Sequence[Service]) -> None:
    end = time.monotonic() + _PATIENCE
    for service in services:
        if service.ident is not None:
            service.join(max(end - time.monotonic(), 0.0))
            if service.is_alive():
                _LOG.error("the %s of the watcher does not end", service.name)
