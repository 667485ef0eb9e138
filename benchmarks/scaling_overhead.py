"""What the interpreter spends on a slot of the stream: bookkeeping, without the data that passes through it.

The stream runs whole, three threads and all queues, with a tomogram that leaves slots as they are, sinks that take
nothing, and a backend that is ready at once (`InstantBackend`). A figure is the time by the clock of a stream that does
nothing else, divided by its slots, so that waiting for the interpreter's lock and waking threads up is in it:

*bookkeeping*: slots of 512 × 512, which are whole slices without context, so that no pixel is copied.
*bookkeeping, tiny slots*: with the model's context, which the reader copies, but of so few pixels that it is not felt.
*with a tiny network*: tiny slots and a real backend, for its `submit` and `wait` are Python too. The network has next
to nothing to do, but the runtime's own work on it is in the figure.
*with data in memory*: for comparison, what reading, checking and handing on 512 × 512 pixels adds, without any file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from memory import InstantBackend
from numpy.typing import NDArray

from tomoscribe.engine import Geometry, ModelSpecification, Tomogram
from tomoscribe.engine.backends.contract import Backend
from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import Span, Tile, TilePlan

__all__ = ["BOOKKEEPING", "TINY", "overhead_runs", "whole_slice_plan"]

BOOKKEEPING = ("bookkeeping", "bookkeeping, tiny slots", "with a tiny network")
"""The figures that hold no data; the largest is what Python costs, at most."""
TINY = 16
"""Side in pixels of a tile whose data is too little to be felt."""


class SilentTomogram(Tomogram):
    """Leaves the buffers as they are; whole numbers, in which the stream looks for no NaN."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.path = Path("silent")
        self.geometry = Geometry(shape)
        self.dtype: np.dtype[np.generic] = np.dtype(np.int8)
        self.warnings = ()

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class RepeatedTomogram(SilentTomogram):
    """One float32 slice of noise in memory, in every place."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.dtype = np.dtype(np.float32)
        self._slice = np.random.default_rng(0).standard_normal(shape[1:], np.float32)

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy the slice to every place of the buffer."""
        out[:] = self._slice


class SilentSink:
    """Takes nothing."""

    path = Path("silent")

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Do nothing."""

    def prepare(self) -> None:
        """Do nothing."""

    def commit(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


class CopyingSink(SilentSink):
    """Halves the scores of one class into memory, as the sink of a class volume does before it writes."""

    def __init__(self, number: int, shape: tuple[int, int]) -> None:
        self._number = number
        self._out = np.empty((1, *shape), np.uint8)

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Take one slice."""
        np.right_shift(scores[:, self._number], 1, out=self._out)


def whole_slice_plan(side: int) -> TilePlan:
    """Return the plan of slices that are one tile."""
    return TilePlan((side, side), (side, side), (Tile(Span(0, 0, side), Span(0, 0, side)),))


def overhead_runs(
    specification: ModelSpecification, tiny_network: Backend, side: int, count: int
) -> dict[str, Callable[[], float]]:
    """Return streams to run, by name; each returns its seconds a slot.

    Args:
        specification: of the model: its classes and its context.
        tiny_network: a real backend that runs a network with next to nothing to do, of the same classes and context.
        side: of the slices that are not tiny.
        count: slots of a stream of bookkeeping alone.
    """
    classes, context = specification.classes, specification.context
    silent: list[SilentSink] = [SilentSink()] * (classes + 1)
    copying: list[SilentSink] = [CopyingSink(number, (side, side)) for number in range(1, classes)]

    def run(
        kind: type[SilentTomogram], backend: Backend, side: int, context: int, count: int, sinks: Sequence[SilentSink]
    ) -> float:
        times = stream(
            kind((count + 2 * context, side, side)),
            backend,
            whole_slice_plan(side),
            IntensityStatistics(0.0, 1.0),
            sinks,
            context=context,
            classes=classes,
            batch=1,
            # Past the ends of the volume slices are repeated, which is copying.
            z_range=(context, context + count),
        )
        return (times.total - times.allocate) / count

    instant = InstantBackend()
    return {
        "bookkeeping": lambda: run(SilentTomogram, instant, side, 0, count, silent),
        "bookkeeping, tiny slots": lambda: run(SilentTomogram, instant, TINY, context, count, silent),
        "with a tiny network": lambda: run(RepeatedTomogram, tiny_network, TINY, context, count, silent),
        "with data in memory": lambda: run(RepeatedTomogram, instant, side, context, max(count // 20, 1), copying),
    }
