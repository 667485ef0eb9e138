"""What a dataset knows of an annotation, whatever its files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tomogram import Tomogram
from tomoscribe.train.dataset.contract import IGNORE, DatasetError

__all__ = ["Annotation", "AnnotationFiles", "check_class_map", "check_pair", "known_voxel_size"]

VoxelSize = tuple[float, float, float]

_LARGEST_DIFFERENCE = 0.05


class Annotation(Protocol):
    """The labels of one tomogram, open for reading; a context manager."""

    @property
    def path(self) -> Path:
        """The label volume, or the first of the feature maps."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are read."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(z, y, x)`` in voxels."""

    @property
    def voxel_size(self) -> VoxelSize:
        """``(x, y, z)`` in Å; 0 where the file does not know it or says 1 Å, the usual placeholder."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know, a line each, beginning with the file.

        Complete once `read` has run: the first `read` of feature maps looks at every value.
        """

    def read(self, start: int, out: NDArray[np.uint8]) -> None:
        """Read a run of slices; quick when runs follow each other from the bottom up.

        Args:
            start: z of the first slice.
            out: ``(n, y, x)`` uint8, filled with class numbers, 0 for background and `contract.IGNORE`.

        Raises:
            DatasetError: the file has values that are no labels, or scores that cannot be thresholded.
            ParameterError: the run reaches outside the volume, or the buffer has another ``(y, x)``.
            TomogramFormatError: the file is truncated or damaged.
        """

    def close(self) -> None:
        """Give the files back; closing twice is fine."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


class AnnotationFiles:
    """The open files of an annotation: all of an `Annotation` but `read`."""

    def __init__(self, files: Sequence[Tomogram]) -> None:
        """Take over open files of one shape; `close` closes them."""
        self._files = tuple(files)
        # A voxel size matters only to `check_pair` and to sizes in nm³, which see for themselves.
        self._warnings = [
            f"{file.path}: {line}" for file in files for line in file.warnings if "--voxel-size" not in line
        ]

    @property
    def path(self) -> Path:
        """See `Annotation`."""
        return self._files[0].path

    @property
    def paths(self) -> tuple[Path, ...]:
        """See `Annotation`."""
        return tuple(file.path for file in self._files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Annotation`."""
        return self._files[0].shape

    @property
    def voxel_size(self) -> VoxelSize:
        """See `Annotation`: of the first file that knows it."""
        return next((size for size in map(known_voxel_size, self._files) if any(size)), (0.0, 0.0, 0.0))

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `Annotation`."""
        return tuple(self._warnings)

    def close(self) -> None:
        """Give the files back; closing twice is fine."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def known_voxel_size(volume: Tomogram) -> VoxelSize:
    """Return ``(x, y, z)`` in Å, all 0 where the header has none or the placeholder of 1 Å."""
    size = volume.geometry.voxel_size
    return (0.0, 0.0, 0.0) if min(size) <= 0 or all(length == 1 for length in size) else size


def check_class_map(class_map: ClassMap) -> None:
    """See that every class has a label of its own beside `contract.IGNORE`.

    Raises:
        ParameterError: the map has more than 254 classes.
    """
    if len(class_map) >= IGNORE:
        raise ParameterError(
            f"class map: expected {IGNORE - 1} classes at most, for {IGNORE} is the label of voxels to ignore, "
            f"found {len(class_map)}"
        )


def check_pair(tomogram: Tomogram, annotation: Annotation) -> None:
    """See that an annotation can be one of this tomogram.

    Voxel sizes are compared where both files know theirs: one of 0 or 1 Å is a placeholder.

    Raises:
        DatasetError: the shapes differ, or the voxel sizes by more than 5 %; the message names both files.
    """
    if annotation.shape != tomogram.shape:
        turned = sorted(annotation.shape) == sorted(tomogram.shape)
        hint = "the axes are in another order: set `axes`, or turn the file" if turned else "it belongs to another one"
        raise DatasetError(
            f"{annotation.path}: expected the shape of its tomogram {tomogram.path}, {_times(tomogram.shape)} (z, y, "
            f"x), found {_times(annotation.shape)}; {hint}, or the tomogram was binned or trimmed since"
        )
    expected, found = known_voxel_size(tomogram), annotation.voxel_size
    if any(expected) and any(found):
        ratio = max(max(a / b, b / a) for a, b in zip(expected, found, strict=True))
        if ratio > 1 + _LARGEST_DIFFERENCE:
            raise DatasetError(
                f"{annotation.path}: expected the voxel size of its tomogram {tomogram.path}, {_times(expected)} Å, "
                f"found {_times(found)} Å; correct the header that is wrong, or set `voxel_size` for both"
            )


def _times(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:.5g}" for number in numbers)
