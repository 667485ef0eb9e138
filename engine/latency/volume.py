"""A whole volume, from file to files, in a loaded model: how soon its first slice is labelled, and how fast all are.

What is measured is `Segmenter.segment` itself, on a tomogram of noise in a temporary folder: opening, intensities,
reading, the stream, labels and a volume for each class on the disk.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mrcfile
import numpy as np

from tomoscribe.engine.backends.gpu_choice import CPU
from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.latency.statistics import Figure
from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.segmentation import Segmenter

if TYPE_CHECKING:
    from tomoscribe.engine.plans.progress import BuildProgress

__all__ = ["VolumeTimes", "measure_volume"]

_FIRSTS = 5
_PASSES = 5
_INT16 = 1
_HEADER = 1024


@dataclass(frozen=True)
class VolumeTimes:
    """How long a volume took, once and again.

    Attributes:
        backend: that ran the model.
        precision: that it was computed in.
        device: where: ``cpu``, or the numbers of GPUs.
        shape: ``(z, y, x)`` of the tomogram, int16.
        description: what ran where, the backend's own words.
        first_slice: seconds from the call to the first slices that the stream is done with.
        whole: seconds from the call to its return.
    """

    backend: str
    precision: str
    device: str
    shape: tuple[int, int, int]
    description: str
    first_slice: tuple[float, ...]
    whole: tuple[float, ...]

    def configuration(self) -> dict[str, Any]:
        """Return what was measured, in JSON's types."""
        depth, *tile = self.shape
        return {
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device,
            "tile": tile,
            "slices": depth,
        }

    def figures(self) -> dict[str, Figure]:
        """Return the medians: the time to the first labelled slice, and the throughput."""
        mvoxels = math.prod(self.shape) / 1e6
        return {
            "first_slice_ms": Figure.median([1000 * seconds for seconds in self.first_slice]),
            "mvoxels_per_second": Figure.median([mvoxels / seconds for seconds in self.whole]),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the single times, in JSON's types."""
        return {
            "first_slice_s": [round(seconds, 6) for seconds in self.first_slice],
            "whole_s": [round(seconds, 6) for seconds in self.whole],
        }


class _FirstSliceLabelled(Exception):  # noqa: N818 - it ends a run that went well
    """Ends a run when its first slices are labelled."""


def measure_volume(
    bundle: Bundle,
    backend: str,
    precision: str,
    shape: tuple[int, int, int],
    folder: Path | None = None,
    *,
    device: str = CPU,
    building: BuildProgress | None = None,
) -> VolumeTimes:
    """Segment a tomogram of noise: five times up to its first slice, and five times to the end.

    The model is loaded, and has labelled a slice, before. The tomogram was just written, so that it comes from the page
    cache.

    Args:
        bundle: the model.
        backend: a name of `GPU_BACKENDS` or `BACKENDS`.
        precision: one of `PRECISIONS`.
        shape: ``(z, y, x)`` of the tomogram.
        folder: where it and the outputs lie meanwhile; that of temporary files if None.
        device: ``cpu``, or the numbers of GPUs.
        building: is told how far a plan is, where TensorRT has to build one.

    Raises:
        ParameterError: an empty shape.
        BackendUnavailableError: the backend cannot run here in the precision.
        BackendError: the backend failed.
        OutputError: there is no space for the tomogram or the outputs.
    """
    if min(shape) < 1:
        raise ParameterError(f"expected a volume of at least one slice of at least one pixel, found {shape}")
    with (
        tempfile.TemporaryDirectory(prefix="tomoscribe-bench-", dir=folder) as scratch,
        Segmenter(bundle, backend=backend, precision=precision, device=device, building=building) as segmenter,
    ):
        tomogram, output = Path(scratch) / "noise.mrc", Path(scratch) / "labels"
        _write_noise(tomogram, shape, bundle.specification)

        def run(progress: Callable[[int], None] | None = None) -> None:
            segmenter.segment(tomogram, output, overwrite=True, progress=progress)

        _to_first_slice(run)
        return VolumeTimes(
            backend=backend,
            precision=precision,
            device=device,
            shape=shape,
            description=segmenter.backend,
            first_slice=tuple(_to_first_slice(run) for _ in range(_FIRSTS)),
            whole=tuple(_to_end(run) for _ in range(_PASSES)),
        )


def _to_first_slice(run: Callable[[Callable[[int], None]], None]) -> float:
    labelled = math.inf

    def stop(_count: int) -> None:
        nonlocal labelled
        labelled = time.perf_counter()
        raise _FirstSliceLabelled

    begin = time.perf_counter()
    with contextlib.suppress(_FirstSliceLabelled):
        run(stop)
    return labelled - begin


def _to_end(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _write_noise(path: Path, shape: tuple[int, int, int], specification: ModelSpecification) -> None:
    """Write a tomogram slice by slice, of a voxel size that the model was trained on, so that nothing is rescaled."""
    random = np.random.default_rng(0)
    with replacing(path) as temporary:
        with mrcfile.new_mmap(temporary, shape, _INT16) as file:
            file.voxel_size = math.sqrt(math.prod(specification.voxel_size))
        with temporary.open("r+b") as file:
            file.seek(_HEADER)
            for _ in range(shape[0]):
                file.write((20 * random.standard_normal(shape[1:], np.float32)).astype(np.int16).tobytes())
