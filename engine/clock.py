"""How a stream is timed: the seconds of every stage, and for a profile also when each stage was at work."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

__all__ = ["STAGES", "Clock", "Recorder"]

STAGES = ("total", "allocate", "read", "submit", "wait", "write", "complete")


class Clock:
    """Adds up the time of every stage. A stage is measured by one thread at a time, so that nothing is locked.

    Attributes:
        slots: how many slots the stream that is measured has.

    Args:
        now: returns nanoseconds, and never less than before.
    """

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now = now
        self.begin(0)

    def begin(self, slots: int) -> None:
        """Forget what was measured: a stream begins, with so many slots."""
        self.slots = slots
        self._nanoseconds = dict.fromkeys(STAGES, 0)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        return {stage: nanoseconds / 1e9 for stage, nanoseconds in self._nanoseconds.items()}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time that a block takes to a stage."""
        start = self._now()
        try:
            yield
        finally:
            self.add(stage, start, self._now())

    def add(self, stage: str, start: int, stop: int) -> None:
        """Add the time from `start` to `stop`, in nanoseconds, to a stage."""
        self._nanoseconds[stage] += stop - start


class Recorder(Clock):
    """A clock that also keeps when: pass it to `stream`, and make a `Profile` or a trace of it afterwards.

    It holds the last stream that it was passed to, 64 bytes for every tile of every run of slices. How full the queues
    were and who waited follows from that, so that nothing else is recorded while the stream runs.
    """

    def begin(self, slots: int) -> None:
        """Forget what was recorded: a stream begins, with so many slots."""
        super().begin(slots)
        self._intervals = {stage: array("q") for stage in STAGES}

    def add(self, stage: str, start: int, stop: int) -> None:
        """Record that a stage was at work from `start` to `stop`, in nanoseconds."""
        super().add(stage, start, stop)
        self._intervals[stage].extend((start, stop))

    def intervals(self, stage: str) -> NDArray[np.int64]:
        """Return when a stage was at work, ``(n, 2)``: start and stop in nanoseconds of the clock, one after the other.

        The n-th of the stages ``read``, ``submit``, ``wait`` and ``write`` are of the same slotful.
        """
        return np.array(self._intervals[stage], np.int64).reshape(-1, 2)
