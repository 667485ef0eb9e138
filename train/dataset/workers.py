"""Runs units of work in processes, tells how far they are, and stops them promptly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any, Self, TypeVar

from threadpoolctl import threadpool_limits

from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.train.dataset.contract import DatasetError

__all__ = ["Advance", "WorkerError", "Workers"]

Unit = TypeVar("Unit")
Result = TypeVar("Result")

Advance = Callable[[int], None]
Function = Callable[[Unit, Advance], Result]

_POLL_SECONDS = 0.2


class WorkerError(DatasetError):
    """A process that ended in the middle of its work."""

    exit_status = 1


class _StoppedError(Exception):
    """Raised in a worker when the others have stopped."""


class Workers:
    """Processes that work on units, a context manager; started when there is work for two.

    Args:
        processes: how many; 1 runs everything in this one.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        # Started afresh, because a fork of a process whose libraries run threads can hang.
        self._context = multiprocessing.get_context("spawn")
        self._stop, self._reports = self._context.Event(), self._context.SimpleQueue()
        self._pool: ProcessPoolExecutor | None = None

    def run(
        self, function: Function[Unit, Result], units: Sequence[Unit], progress: Callable[[int, int], None]
    ) -> Iterator[tuple[int, Result | TomoscribeError]]:
        """Run a function over units and give what it returns, or the error of the unit, as they come.

        Args:
            function: takes a unit, and what it calls with numbers of finished slices; a function of a module.
            units: what can be sent to another process.
            progress: called with the number of a unit and the slices that were finished.

        Yields:
            The number of a unit and its result. Errors of bad input are results; those of the machine are raised.

        Raises:
            WorkerError: a process was killed, as happens where memory is short.
            TomoscribeError: an output cannot be written.
        """
        if self._processes == 1 or len(units) < 2:
            for number, unit in enumerate(units):
                yield number, _attempt(function, unit, partial(progress, number))
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._processes, self._context, _initialise, (self._stop, self._reports))
        try:
            futures: dict[Future[Result | TomoscribeError], int] = {
                self._pool.submit(_work, function, number, unit): number for number, unit in enumerate(units)
            }
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                while not self._reports.empty():
                    progress(*self._reports.get())
                for future in done:
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process ended in the middle of its work, as happens where memory is short; "
                "run the same command with fewer --processes: what is done is kept"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop what is under way and wait until it has."""
        if self._pool is not None:
            self._stop.set()
            # A worker that waits for room to report would never see it.
            while not self._reports.empty():
                self._reports.get()
            self._pool.shutdown(cancel_futures=True)


def _attempt(function: Function[Unit, Result], unit: Unit, advance: Advance) -> Result | TomoscribeError:
    try:
        return function(unit, advance)
    except TomoscribeError as error:
        if error.exit_status != TomoscribeError.exit_status:
            raise
        return error


# What a worker was started with.
_stop: Event
_reports: SimpleQueue[tuple[int, int]]


def _initialise(stop: Event, reports: SimpleQueue[tuple[int, int]]) -> None:
    global _stop, _reports
    _stop, _reports = stop, reports
    # Ctrl-C reaches the whole process group; the first process tells the others to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # There is a process for each core: the threads that BLAS starts in every one of them would wait for each other.
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End at once when the first process was killed, or what it left would be written for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(function: Function[Any, Result], number: int, unit: Any) -> Result | TomoscribeError:  # noqa: ANN401
    def advance(count: int) -> None:
        if _stop.is_set():
            raise _StoppedError
        _reports.put((number, count))

    return _attempt(function, unit, advance)
