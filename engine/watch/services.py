"""The threads beside the one that labels. None may end before the watcher does, or it would go on as half of one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tomoscribe.engine.watch.failures import in_a_line, may_pass

__all__ = ["Service"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
# Well below the time that a lease lasts, for it is one of these that renews it.
_LONGEST_PAUSE = 5.0


class Service(threading.Thread):
    """A thread that is to run until the watcher ends; where it does not, the watcher ends with it.

    What fails because a disk is full, or away, is begun again after a pause that grows.

    Attributes:
        error: what it died of.

    Args:
        name: for logs.
        serve: what it does until the event is set.
        stop: that event, which is set where `serve` fails or ends before.
    """

    def __init__(self, name: str, serve: Callable[[threading.Event], None], stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.error: BaseException | None = None
        self._serve = serve
        self._ending = stop

    def run(self) -> None:
        """Serve; called by `start`."""
        pause = _FIRST_PAUSE
        while not self._ending.is_set():
            try:
                self._serve(self._ending)
                if not self._ending.is_set():
                    raise RuntimeError(f"the {self.name} of the watcher ended by itself")
            except BaseException as error:
                if self._ending.is_set():
                    _LOG.info("%s: %s, while all was ended", self.name, in_a_line(error))
                    return
                if not may_pass(error):
                    _LOG.critical("%s: the watcher cannot go on", self.name, exc_info=error)
                    self.error = error
                    self._ending.set()
                    return
                _LOG.warning("%s: %s; tried again", self.name, in_a_line(error))
                self._ending.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
