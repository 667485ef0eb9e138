"""Signals that ask a command to come to an end, for one that has something to bring to its end first."""

from __future__ import annotations

import queue
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopSignals"]


class StopSignals:
    """Sets an event at the first Ctrl-C, SIGTERM, or end of the terminal; a second one is what it always was.

    A context manager for the main thread.

    Attributes:
        received: the number of the first; None where there was none.

    Args:
        stop: the event.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.received: int | None = None
        self._stop = stop
        self._arrived: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._wait, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A shell that starts a job in the background, and nohup, have some ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        self._arrived.put(None)
        self._thread.join()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        # Not `stop.set` itself: the thread that is interrupted may hold the lock within the event.
        self._arrived.put(number)
        self._restore()

    def _wait(self) -> None:
        self.received = self._arrived.get()
        if self.received is not None:
            self._stop.set()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
