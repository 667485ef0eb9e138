"""One tomogram through the stream, and begun anew with smaller slots where the memory of a device does not suffice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

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
        paths: where to.
    """

    tomogram: Tomogram
    seen: Tomogram
    rescaling: Rescaling | None
    statistics: IntensityStatistics
    section: tuple[int, int]
    invert: bool
    keep: Sequence[LabelClass]
    paths: OutputPaths


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
        warnings: tuple[str, ...],
        *,
        progress: Callable[[int], None] | None,
        warn: Callable[[str], None] | None,
        recorder: Recorder | None,
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """Label a tomogram and write its outputs.

        Args:
            task: what to do.
            warnings: lines for the sidecar.
            progress: called with the number of slices that were just written, from another thread; and, where the
                tomogram is begun anew, with what is to be taken back, a negative number.
            warn: called with what is new of the warnings.
            recorder: what is to know when each stage was at work.

        Returns:
            Voxels of each class that was kept, by name, and all of the warnings.

        Raises:
            TomoscribeError: as `stream` and the outputs say.
        """
        limits, reported = self._limits, 0

        def count(slices: int) -> None:
            nonlocal reported
            reported += slices
            if progress is not None:
                progress(slices)

        while True:
            sizes = self._sizes(task, limits)
            sidecar, sinks = self._open_sinks(task, warnings)
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
                return sidecar.counts, warnings

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

    def _open_sinks(self, task: Task, warnings: Sequence[str]) -> tuple[Sidecar, list[Sink]]:
        specification = self._bundle.specification
        sidecar = Sidecar(task.paths.sidecar, specification.class_map, task.keep, self._facts(task, warnings))
        return sidecar, task.paths.open_sinks(task.tomogram.geometry, specification, task.keep, sidecar)

    def _facts(self, task: Task, warnings: Sequence[str]) -> dict[str, Any]:
        geometry, statistics = task.tomogram.geometry, task.statistics
        return {
            "tomoscribe": version("tomoscribe"),
            "tomogram": task.tomogram.path.name,
            "labels": task.paths.labels.name,
            "class_volumes": {name: path.name for name, path in task.paths.class_volumes.items()},
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
