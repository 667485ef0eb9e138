"""The line: three stages at work at the same time, and how they stop.

::

    free slots ─► reader thread ─► filled ─► calling thread ─► submitted ─► assembler thread ─► sinks
        ▲          reads, cuts                submits                        waits, pastes        │
        └─────────────────────────────────────────────────────────────────────────────────────────┘

A stage blocks only while it waits for the one before it, and there are only as many slots as were allocated, so the
slowest stage sets the pace and the memory does not depend on the size of the volume. The first thing to go wrong in
any stage stops them all and is the one exception that the caller sees.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from tomoscribe.engine.backends.contract import Backend, Slot
from tomoscribe.engine.clock import Clock
from tomoscribe.engine.tiles import Tile

__all__ = ["Job", "Line"]

T = TypeVar("T")

# A signal that comes just before the calling thread blocks does not wake it. So it blocks for this many seconds at
# most, which is how long Ctrl-C may take to be noticed.
_PULSE = 0.1


@dataclass(frozen=True)
class Job:
    """One tile of one run of slices: z of the run's first slice, its length, and the slot that carries it."""

    start: int
    count: int
    tile: Tile
    slot: Slot


class Line:
    """The three stages, the queues between them, and how they stop.

    A None in a queue says that nothing more comes. The queues need no bound of their own: what is in them are slots.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._free: SimpleQueue[Slot | None] = SimpleQueue()
        self._filled: SimpleQueue[Job | None] = SimpleQueue()
        self._submitted: SimpleQueue[Job | None] = SimpleQueue()
        self._first_error = threading.Lock()
        self._error: BaseException | None = None
        self._stopped = False
        self._finished = False

    def run(
        self,
        slots: Sequence[Slot],
        work: Iterable[tuple[int, int, Tile]],
        fill: Callable[[Job], None],
        take: Callable[[Job], None],
    ) -> None:
        """Carry every piece of work through the three stages.

        Raises:
            BaseException: the first error of any stage, or what was raised in the calling thread meanwhile, such as
                `KeyboardInterrupt`.
        """
        for slot in slots:
            self._free.put(slot)
        threads = [
            threading.Thread(target=self._guard, args=(lambda: self._read(work, fill),), name="reader", daemon=True),
            threading.Thread(target=self._guard, args=(lambda: self._assemble(take),), name="assembler", daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            self._submit()
            if not self._stopped:
                _join(threads)
        except Exception as error:
            self._fail(error)
        finally:
            try:
                if not self._finished:
                    self._stop()
                    self._backend.cancel()
            finally:  # Ctrl-C may come while the backend gives up
                _join(threads)
        if self._error is not None:
            raise self._error

    def _read(self, work: Iterable[tuple[int, int, Tile]], fill: Callable[[Job], None]) -> None:
        free = self._taken(self._free)
        for (start, count, tile), slot in zip(work, free, strict=False):
            job = Job(start, count, tile, slot)
            with self._clock.measure("read"):
                fill(job)
            self._filled.put(job)
        self._filled.put(None)

    def _submit(self) -> None:
        for job in self._taken(self._filled):
            with self._clock.measure("submit"):
                self._backend.submit(job.slot)
            self._submitted.put(job)
        self._submitted.put(None)

    def _assemble(self, take: Callable[[Job], None]) -> None:
        for job in self._taken(self._submitted):
            with self._clock.measure("wait"):
                self._backend.wait(job.slot)
            with self._clock.measure("write"):
                take(job)
            self._free.put(job.slot)
        self._finished = not self._stopped

    def _taken(self, queue: SimpleQueue[T | None]) -> Iterator[T]:
        while not self._stopped:
            try:
                item = queue.get(timeout=_PULSE)
            except Empty:
                continue
            if item is None:
                return
            yield item

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:  # nothing above a thread would see it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._first_error:
            self._error = self._error or error
        self._stop()

    def _stop(self) -> None:
        self._stopped = True
        for queue in (self._free, self._filled, self._submitted):
            queue.put(None)


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(_PULSE)
