"""The stream: slices in, finished labels out, every stage busy, and no more memory than a few slots.

A reader thread fills slots, the calling thread hands them to the backend, and an assembler thread empties them into the
sinks (`Line` has the picture). Memory does not depend on the size of the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.backends.contract import Backend, SlotShape
from tomoscribe.engine.clock import Clock, Recorder
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.intensity import IntensityStatistics, check_finite
from tomoscribe.engine.line import Job, Line
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["StreamTimes", "stream"]


@dataclass(frozen=True)
class StreamTimes:
    """What a stream's time went into, in seconds. The stages overlap, so they add up to more than the whole.

    Attributes:
        total: from the call on to the last file that is renamed.
        allocate: the backend, making the slots.
        read: the reader thread, reading, checking and cutting slices.
        submit: the calling thread, handing slots to the backend.
        wait: the assembler thread, waiting for the backend; close to `total` where the backend sets the pace.
        write: the assembler thread, pasting tiles and writing to the sinks.
        complete: bringing the files to the disk and renaming them, when the last slice is written.
    """

    total: float
    allocate: float
    read: float
    submit: float
    wait: float
    write: float
    complete: float


def stream(
    tomogram: Tomogram,
    backend: Backend,
    plan: TilePlan,
    statistics: IntensityStatistics,
    sinks: Sequence[Sink],
    *,
    context: int,
    classes: int,
    batch: int,
    z_range: tuple[int, int] | None = None,
    invert: bool = False,
    slots: int = 3,
    dtype: str = "float32",
    kept: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    recorder: Recorder | None = None,
) -> StreamTimes:
    """Label a tomogram slice by slice and write the labels.

    Slices above the first and below the last of the volume are repeats of those. The sinks are this function's from
    the call on. Once every slice is written, all are prepared, where a disk may still prove full, and only then
    committed, which is a rename each; both in the order given. If anything fails before the first commit, all are
    aborted and nothing has changed. If a commit fails, it and those after it are aborted, what had their names before
    keeps them, and the files before it stay: give the sink last whose file is to mean that all are there. Ctrl-C counts
    as a failure, and `KeyboardInterrupt` comes through. No thread is left running in either case.

    Args:
        tomogram: what is read, in one pass.
        backend: what labels it.
        plan: how its slices are cut.
        statistics: what the graph normalises with.
        sinks: what the labels go to, in order of z.
        context: context slices on each side of a labelled one, k.
        classes: classes with background, the second axis of the scores.
        batch: slices that are labelled at once, n.
        z_range: first slice to label and one past the last; all of them if None. Context is read outside of it too,
            where a slice that is not finite gives way to the nearest slice of the range.
        invert: whether the contrast is turned over.
        slots: how many sets of buffers there are, fewer where there is less work: as many as the backend works on at
            the same time, and one that is emptied and filled again meanwhile.
        dtype: what slices are handed to the backend in, one of its limits' dtypes: float32, or the tomogram's own.
        kept: classes whose scores the sinks read; all of them if None.
        progress: called from the assembler thread with the number of slices that were just written.
        recorder: what is to know when each stage was at work, for a profile.

    Returns:
        Where the time went.

    Raises:
        ParameterError: `z_range` or `plan` does not fit the tomogram.
        IntensityError: a slice of the range holds NaN or infinity.
        TomogramFormatError: the file ends early.
        BackendError: the backend failed.
        OutputError: a sink could not be written.
    """
    uncommitted = list(sinks)
    clock = Clock() if recorder is None else recorder
    clock.begin(slots)
    try:
        with clock.measure("total"):
            first, last = _checked_range(tomogram, plan, z_range, context, batch, slots)
            shape = SlotShape(
                min(batch, last - first),
                context,
                *plan.tile_shape,
                classes,
                dtype=dtype,
                kept=None if kept is None else tuple(kept),
            )
            runs = -(-(last - first) // shape.batch)
            # Where there is less work than slots, a backend may give more of the device to each.
            clock.slots = min(slots, runs * len(plan.tiles))
            with clock.measure("allocate"):
                buffers = backend.allocate(shape, clock.slots)
            for slot in buffers:
                slot.mean[:], slot.rstd[:] = statistics.mean_and_rstd(len(slot.mean), invert)
            work = (
                (start, min(shape.batch, last - start), tile)
                for start in range(first, last, shape.batch)
                for tile in plan.tiles
            )
            reader = _Reader(tomogram, plan, shape, (first, last))
            assembler = _Assembler(plan, sinks, shape, progress)
            Line(backend, clock).run(buffers, work, reader.fill, assembler.take)
            with clock.measure("complete"):
                for sink in sinks:
                    sink.prepare()
                while uncommitted:
                    uncommitted[0].commit()
                    del uncommitted[0]
    except BaseException:
        for sink in uncommitted:
            sink.abort()
        raise
    return StreamTimes(**clock.seconds)


def _checked_range(
    tomogram: Tomogram, plan: TilePlan, z_range: tuple[int, int] | None, context: int, batch: int, slots: int
) -> tuple[int, int]:
    slice_shape = tomogram.shape[1:]
    if plan.slice_shape != slice_shape:
        raise ParameterError(f"{tomogram.path}: expected a plan for slices of {slice_shape}, found {plan.slice_shape}")
    if context < 0 or batch < 1 or slots < 1:
        raise ParameterError(
            f"stream: expected a context of 0 or more and at least one slice in at least one slot, "
            f"found context {context}, batch {batch}, slots {slots}"
        )
    return tomogram.checked_range(z_range)


class _Reader:
    """Reads runs of slices with their context, and fills slots with tiles of them."""

    def __init__(self, tomogram: Tomogram, plan: TilePlan, shape: SlotShape, z_range: tuple[int, int]) -> None:
        self._tomogram = tomogram
        self._plan = plan
        self._first, self._last = z_range
        self._context = shape.context
        # A tile that is the slice, without padding, is read where it is needed.
        self._direct = plan.tile_shape == plan.slice_shape
        run_shape = (shape.batch + 2 * shape.context, *plan.slice_shape)
        self._run: NDArray[Any] = np.empty(run_shape if not self._direct else 0, shape.dtype)
        # What was read last, and z of its first slice.
        self._held: NDArray[Any] = np.empty((0, *plan.slice_shape), shape.dtype)
        self._held_first = 0

    def fill(self, job: Job) -> None:
        job.slot.count = job.count
        if self._direct:
            self._read(job, job.slot.slices)
            return
        if job.tile is self._plan.tiles[0]:
            self._read(job, self._run)
        self._plan.extract(job.tile, self._run, job.slot.slices)

    def _read(self, job: Job, out: NDArray[Any]) -> None:
        first = max(job.start - self._context, 0)
        stop = min(job.start + job.count + self._context, self._tomogram.shape[0])
        before = first - (job.start - self._context)
        after = before + stop - first
        run = out[before:after]
        # Two runs share their context, which is read once. No one writes to the inputs of the slot before this one:
        # they are what they were, even where that slot is this one.
        shared = max(self._held_first + len(self._held) - first, 0)
        run[:shared] = self._held[len(self._held) - shared :]
        if shared < len(run):
            self._tomogram.read_slices(first + shared, run[shared:])
        if self._tomogram.dtype.kind == "f":
            self._make_finite(first, run, shared)
        out[:before] = run[0]
        # Past the volume these are context; past the last slice to label they keep what a backend may compute finite.
        out[after:] = run[-1]
        self._held, self._held_first = run, first

    def _make_finite(self, start: int, slices: NDArray[Any], known: int) -> None:
        """Refuse slices of the range that are not finite, and replace such slices around it.

        Args:
            start: z of the first slice.
            slices: a run.
            known: how many of them have been through this already.
        """
        first, last = max(self._first - start, 0), min(self._last - start, len(slices))
        check_finite(slices[max(first, known) : last], start + max(first, known), str(self._tomogram.path))
        for outside, nearest in ((slices[known:first], slices[first]), (slices[max(last, known) :], slices[last - 1])):
            outside[~np.isfinite(outside).all(axis=(1, 2))] = nearest


class _Assembler:
    """Puts tiles together and hands finished slices to the sinks."""

    def __init__(
        self, plan: TilePlan, sinks: Sequence[Sink], shape: SlotShape, progress: Callable[[int], None] | None
    ) -> None:
        self._plan = plan
        self._sinks = sinks
        self._progress = progress
        # A single tile is handed over where it lies.
        batch = 0 if plan.is_whole else shape.batch
        self._labels = np.empty((batch, *plan.slice_shape), np.uint8)
        self._scores = np.empty((batch, shape.classes, *plan.slice_shape), np.uint8)

    def take(self, job: Job) -> None:
        labels, scores = job.slot.labels[: job.count], job.slot.scores[: job.count]
        if self._plan.is_whole:
            labels, scores = self._plan.kept(job.tile, labels), self._plan.kept(job.tile, scores)
        else:
            self._plan.paste(job.tile, labels, self._labels[: job.count])
            self._plan.paste(job.tile, scores, self._scores[: job.count])
            if job.tile is not self._plan.tiles[-1]:
                return
            labels, scores = self._labels[: job.count], self._scores[: job.count]
        for sink in self._sinks:
            sink.write(job.start, labels, scores)
        if self._progress is not None:
            self._progress(job.count)
