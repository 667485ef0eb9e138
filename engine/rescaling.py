"""Rescaling: a tomogram of voxels that a model was not trained on is shown to it in voxels that it was.

Slices are resampled in y and x on their way to the network, and what it says of them is resampled to the tomogram's own
voxels on its way to the sinks; both go slice by slice. z is never resampled: slices keep their number and neighbours,
so that the context slices of a model that has some are as far apart as the tomogram's voxels, not as those it learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.resampling import ScoreResampler, resample, resampling_weights
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram
from tomoscribe.engine.tomogram.raw import check_run

__all__ = ["RescaledTomogram", "Rescaling", "RestoringSink"]

# A model labels voxels this far from those it was trained on as well as those.
_TOLERANCE = 0.05
# A slice that is enlarged more than this takes more than 16 times the work, and holds nothing that a model looks for.
_LARGEST_SCALE = 4.0


@dataclass(frozen=True)
class Rescaling:
    """What becomes of a tomogram's slices for a model.

    Attributes:
        source_shape: ``(y, x)`` of the tomogram's slices in voxels.
        source_voxel_size: ``(x, y)`` in Å.
        shape: ``(y, x)`` in pixels of the slices that the model sees.
        specification: the model's.
    """

    source_shape: tuple[int, int]
    source_voxel_size: tuple[float, float]
    shape: tuple[int, int]
    specification: ModelSpecification

    @classmethod
    def of(cls, geometry: Geometry, specification: ModelSpecification) -> Self | None:
        """Return how a tomogram is brought to a voxel size that a model was trained on.

        Smaller voxels become those in the middle of what it was trained on: there is detail enough, and noise is
        averaged away. Larger ones become the largest, because finer pixels cost more and show no more. Where x and y
        differ, each is brought there by its own factor.

        Returns:
            None where the voxel size is not known, or is within 5 % of what the model was trained on already.
        """
        x, y, _ = geometry.voxel_size
        # A header that says 0 or 1 Å does not know; the tomogram's own warning says so.
        if not all(0 < side < math.inf and side != 1 for side in (x, y)):
            return None
        smallest, largest = specification.voxel_size
        size = math.sqrt(x * y)
        nearest = min(max(size, smallest), largest)
        if all(1 - _TOLERANCE <= side / nearest <= 1 + _TOLERANCE for side in (x, y)):
            return None
        target = math.sqrt(smallest * largest) if size < smallest else nearest
        _, height, width = geometry.shape
        shape = max(1, round(height * y / target)), max(1, round(width * x / target))
        return cls((height, width), (x, y), shape, specification)

    @property
    def scale(self) -> tuple[float, float]:
        """``(x, y)``: pixels that the model sees for a voxel of the tomogram; less than 1 where slices are shrunk."""
        return self.shape[1] / self.source_shape[1], self.shape[0] / self.source_shape[0]

    @property
    def voxel_size(self) -> tuple[float, float]:
        """``(x, y)`` in Å of the pixels that the model sees; the field of view is the tomogram's."""
        return self.source_voxel_size[0] / self.scale[0], self.source_voxel_size[1] / self.scale[1]

    def check(self, path: Path) -> None:
        """See that the model can work on the slices, and that the work is worth it.

        Args:
            path: the tomogram, for the error.

        Raises:
            ParameterError: slices are shrunk to less than the net's pooling factor, or enlarged more than four times.
        """
        multiple = self.specification.tile_multiple
        advice = "correct the voxel size with --voxel-size, or label the tomogram as it is with --no-rescale"
        if any(new < min(old, multiple) for new, old in zip(self.shape, self.source_shape, strict=True)):
            raise ParameterError(
                f"{path}: slices with voxels of {_sizes(self.source_voxel_size)} would be {self.shape[1]} × "
                f"{self.shape[0]} pixels for the model, expected {multiple} or more a side; {advice}"
            )
        if max(self.scale) > _LARGEST_SCALE:
            raise ParameterError(
                f"{path}: slices with voxels of {_sizes(self.source_voxel_size)} would be enlarged "
                f"{max(self.scale):.2f} times for the model, expected {_LARGEST_SCALE:g} times or less; {advice}"
            )

    def describe(self, rescale: bool) -> str:
        """Return one line that says why slices are resampled and to what, or that they should be."""
        smallest, largest = self.specification.voxel_size
        reason = (
            f"voxels of {_sizes(self.source_voxel_size)} are not what the model {self.specification.name} was trained "
            f"on, {smallest:.1f} to {largest:.1f} Å"
        )
        if not rescale:
            return f"{reason}, and slices are not rescaled; expect worse labels"
        (height, width), (old_height, old_width) = self.shape, self.source_shape
        return (
            f"{reason}; it sees slices of {old_width} × {old_height} as {width} × {height} pixels of "
            f"{_sizes(self.voxel_size)}, and labels have the tomogram's voxels (--no-rescale leaves slices as they are)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what the model saw, as the sidecar and ``--json`` have it."""
        return {
            "shape_yx": list(self.shape),
            "voxel_size_xy": list(self.voxel_size),
            "scale_xy": list(self.scale),
        }


class RescaledTomogram(Tomogram):
    """A tomogram as a model is to see it: float32, resampled in y and x while it is read.

    It keeps the slices that were read last, because runs of slices overlap by their context.

    Args:
        tomogram: the tomogram; closed with this one.
        rescaling: of its slices.

    Raises:
        ParameterError: slices are shrunk to less than the net's pooling factor, or enlarged more than four times.
    """

    def __init__(self, tomogram: Tomogram, rescaling: Rescaling) -> None:
        rescaling.check(tomogram.path)
        self.path = tomogram.path
        self.geometry = replace(
            tomogram.geometry,
            shape=(tomogram.shape[0], *rescaling.shape),
            voxel_size=(*rescaling.voxel_size, tomogram.geometry.voxel_size[2]),
        )
        self.dtype = np.dtype(np.float32)
        self.warnings = tomogram.warnings
        self._tomogram = tomogram
        self._rows, self._columns = map(resampling_weights, rescaling.source_shape, rescaling.shape)
        self._source = np.empty((1, *rescaling.source_shape), np.float32)
        self._recent: dict[int, NDArray[np.float32]] = {}

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Read and resample the slices ``start`` to ``start + len(out)``, see `Tomogram.read_slices`."""
        check_run(self.path, self.shape, self.dtype, start, out)
        recent, self._recent = self._recent, {}
        for z, image in enumerate(out, start):
            self._recent[z] = recent[z] if z in recent else self._resampled(z)
            image[:] = self._recent[z]

    def close(self) -> None:
        """Give the file back; closing twice is fine."""
        self._tomogram.close()

    def _resampled(self, z: int) -> NDArray[np.float32]:
        self._tomogram.read_slices(z, self._source)
        return resample(self._source[0], self._rows, self._columns)


class RestoringSink:
    """Brings labels and scores of a model's pixels to the tomogram's voxels, and hands them on; a `Sink`.

    It stands for all the sinks of a tomogram, so that this is done once and no more than a slice is held.

    Args:
        sinks: what the labels go to, committed in this order.
        rescaling: of the tomogram's slices.
    """

    def __init__(self, sinks: Sequence[Sink], rescaling: Rescaling) -> None:
        self._sinks = sinks
        self._uncommitted = list(sinks)
        self._rescaling = rescaling
        self._resampler: ScoreResampler | None = None

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Take a run of slices of the model's shape, see `Sink.write`."""
        if self._resampler is None:
            rescaling = self._rescaling
            classes = rescaling.specification.classes
            self._resampler = ScoreResampler(rescaling.shape, rescaling.source_shape, classes)
        for z, of_slice in enumerate(zip(labels, scores, strict=True), start):
            restored_labels, restored_scores = self._resampler.resample(*of_slice)
            for sink in self._sinks:
                sink.write(z, restored_labels[np.newaxis], restored_scores[np.newaxis])

    def prepare(self) -> None:
        """Prepare every sink, see `Sink.prepare`."""
        for sink in self._sinks:
            sink.prepare()

    def commit(self) -> None:
        """Commit every sink, see `Sink.commit`; after a failure those before it stay."""
        while self._uncommitted:
            self._uncommitted[0].commit()
            del self._uncommitted[0]

    def abort(self) -> None:
        """Abort the sinks that are not committed, see `Sink.abort`."""
        for sink in self._uncommitted:
            sink.abort()


def _sizes(voxel_size: tuple[float, float]) -> str:
    """Return voxel sizes ``(x, y)`` as text, one number where they look the same."""
    return " × ".join(dict.fromkeys(f"{size:.2f}" for size in voxel_size)) + " Å"
