"""One tomogram through the stream, and begun anew with smaller slots where the memory of a device does not suffice."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.backends import Backend, SlotLimits
from tomoscribe.engine.backends.device_group import count_devices, slots_to_fill
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.class_map import LabelClass
from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.errors import BackendError
from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.outputs import OutputPaths
from tomoscribe.engine.rescaling import Rescaling, RestoringSink
from tomoscribe.engine.sidecar import Sidecar
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.slot_sizes import halved, plan_batch, plan_tiles
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.engine.tomogram import Tomogram

__all__ = ["Labeller", "Task"]


@dataclass(frozen=True)
class Task:
    """A tomogram that is to be labelled.

    Attributes:
        tomogram: as it is stored.
        seen: as the model is to see it, which is the same unless it is rescaled.
        rescaling: how; None where it is not.
        statistics: what intensities are normalised with.
        section: first slice to label and one past the last.
        invert: whether density is bright on dark.
        keep: classes that are written.
    """

    tomogram: Tomogram
    seen: Tomogram
    rescaling: Rescaling | None
    statistics: IntensityStatistics
    section: tuple[int, int]
    invert: bool
    keep: Sequence[LabelClass]


class Labeller:
    """Labels tomograms with a backend, in slots as large as suits it and as its device has memory for.

    Args:
        bundle: the model.
        backend: what runs it.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self._bundle = bundle
        self._backend = backend
        self._limits = backend.limits

    def label(
        self,
        task: Task,
        paths: OutputPaths,
        warnings: tuple[str, ...],
        *,
        sinks: Sequence[Sink] = (),
        progress: Callable[[int], None] | None = None,
        warn: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """Label a tomogram and write its outputs.

        Args:
            task: what to do.
            paths: where to.
            warnings: lines for the sidecar.
            sinks: what else gets the labels; committed before the outputs, and begun anew with them.
            progress: called with the number of slices that were just written, from another thread; and, where the
                tomogram is begun anew, with what is to be taken back, a negative number.
            warn: called with what is new of the warnings.
            recorder: what is to know when each stage was at work.

        Returns:
            Voxels of each class that was kept, by name, and all of the warnings.

        Raises:
            TomoscribeError: as `stream` and the outputs say.
        """
        source = task.tomogram.path.stat()
        sidecars: list[Sidecar] = []

        def open_sinks(warnings: Sequence[str]) -> list[Sink]:
            facts = self._facts(task, paths, source, warnings)
            specification = self._bundle.specification
            sidecars.append(Sidecar(paths.sidecar, specification.class_map, task.keep, facts))
            outputs = paths.open_sinks(task.tomogram.geometry, specification, task.keep, sidecars[-1])
            return [*sinks, *outputs]

        warnings = self._run(task, open_sinks, warnings, progress=progress, warn=warn, recorder=recorder)
        return sidecars[-1].counts, warnings

    def label_around(self, task: Task, z: int) -> NDArray[np.uint8]:
        """Return the labels ``(y, x)`` of one slice of the task's section; no file is written.

        As many slices around it are labelled as the backend works on at once, so that it is the same slots that it is
        made ready for here and for the whole tomogram.

        Raises:
            TomoscribeError: as `stream` says.
        """
        first, stop = task.section
        count = min(self._sizes(task, self._limits)[1] * self._backend.streams, stop - first)
        start = min(max(z - count // 2, first), stop - count)
        kept = _KeptSlice(z)
        self._run(replace(task, section=(start, start + count)), lambda _: [kept], ())
        assert kept.labels is not None
        return kept.labels

    def _run(
        self,
        task: Task,
        open_sinks: Callable[[Sequence[str]], Sequence[Sink]],
        warnings: tuple[str, ...],
        *,
        progress: Callable[[int], None] | None = None,
        warn: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> tuple[str, ...]:
        """Carry a tomogram through the stream, in smaller slots where memory lacks, and return all of the warnings."""
        limits, reported = self._limits, 0

        def count(slices: int) -> None:
            nonlocal reported
            reported += slices
            if progress is not None:
                progress(slices)

        while True:
            sizes = self._sizes(task, limits)
            sinks = open_sinks(warnings)
            try:
                self._stream(task, sizes, sinks, count, recorder)
            except BackendError as error:
                limits = halved(limits, sizes[0].tile_shape, sizes[1])
                smaller = self._sizes(task, limits)
                if not _lacks_memory(error) or _pixels(smaller) >= _pixels(sizes):
                    raise
                if reported:
                    count(-reported)
                warning = (
                    f"the memory of the device does not suffice for {_described(sizes)} at once; begun anew with "
                    f"{_described(smaller)}"
                )
                warnings += (warning,)
                if warn is not None:
                    warn(warning)
            else:
                # What was too much for one tomogram is too much for the next.
                self._limits = limits
                return warnings

    def _sizes(self, task: Task, limits: SlotLimits) -> tuple[TilePlan, int]:
        """Return the tiles of a slice, and how many slices are labelled at once."""
        specification = self._bundle.specification
        plan = plan_tiles(task.seen.shape[1:], specification, limits)
        batch = plan_batch(plan.tile_shape, specification.classes, limits)
        slices = task.section[1] - task.section[0]
        # No device of several is without a share.
        return plan, min(batch, -(-slices // count_devices(self._backend)))

    def _stream(
        self,
        task: Task,
        sizes: tuple[TilePlan, int],
        sinks: Sequence[Sink],
        progress: Callable[[int], None],
        recorder: Recorder | None,
    ) -> None:
        specification, rescaling = self._bundle.specification, task.rescaling
        plan, batch = sizes
        stored_as = task.seen.dtype.name
        stream(
            task.seen,
            self._backend,
            plan,
            task.statistics,
            sinks if rescaling is None else [RestoringSink(sinks, rescaling)],
            context=specification.context,
            classes=specification.classes,
            batch=batch,
            z_range=task.section,
            invert=task.invert != (specification.polarity == "bright"),
            slots=slots_to_fill(self._backend),
            dtype=stored_as if stored_as in self._backend.limits.dtypes else "float32",
            # Rescaled labels are made of the scores of all classes.
            kept=[label_class.number for label_class in task.keep] if rescaling is None else None,
            progress=progress,
            recorder=recorder,
        )

    def _facts(self, task: Task, paths: OutputPaths, source: os.stat_result, warnings: Sequence[str]) -> dict[str, Any]:
        geometry, statistics = task.tomogram.geometry, task.statistics
        return {
            "tomoscribe": version("tomoscribe"),
            "tomogram": task.tomogram.path.name,
            "source": {"size": source.st_size, "modified": source.st_mtime_ns},
            "labels": paths.labels.name,
            "class_volumes": {name: path.name for name, path in paths.class_volumes.items()},
            "scores": "int8, round(255 × probability) halved and rounded down: 0 to 127, 64 and more is 0.5 and more",
            "shape_zyx": list(geometry.shape),
            "voxel_size_xyz": list(geometry.voxel_size),
            "origin_xyz": list(geometry.origin),
            "unit": "angstrom",
            "z_range": list(task.section),
            "inverted": task.invert,
            "rescaling": None if task.rescaling is None else task.rescaling.to_json(),
            "intensity": {"mean": statistics.mean, "standard_deviation": statistics.standard_deviation},
            "model": {
                "name": self._bundle.specification.name,
                "sha256": {precision: artifact.sha256 for precision, artifact in self._bundle.artifacts.items()},
            },
            "backend": self._backend.description,
            "warnings": list(warnings),
        }


class _KeptSlice:
    """A sink that keeps the labels of one slice in memory."""

    def __init__(self, z: int) -> None:
        self._z = z
        self.labels: NDArray[np.uint8] | None = None

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Keep the slice if it is among these."""
        if start <= self._z < start + len(labels):
            self.labels = labels[self._z - start].copy()

    def prepare(self) -> None:
        """Nothing is to be brought to a disk."""

    def commit(self) -> None:
        """Nothing is to be named."""

    def abort(self) -> None:
        """Nothing is to be removed."""


def _lacks_memory(error: BackendError) -> bool:
    # Imported here, for one that cannot be of CUDA's must not bring it in.
    from tomoscribe.engine.cuda import DeviceMemoryError

    return isinstance(error, DeviceMemoryError)


def _pixels(sizes: tuple[TilePlan, int]) -> int:
    plan, batch = sizes
    return math.prod(plan.tile_shape) * batch


def _described(sizes: tuple[TilePlan, int]) -> str:
    plan, batch = sizes
    height, width = plan.tile_shape
    what = "slice" if plan.is_whole else "tile"
    return f"{batch} {what}{'' if batch == 1 else 's'} of {height} × {width} pixels"
