"""What the engine knows of a tomogram file, whatever its format."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError

__all__ = ["Geometry", "Tomogram"]


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies and how it is stored; labels are written with the geometry of their tomogram.

    Attributes:
        shape: ``(z, y, x)`` in voxels, as the engine sees the volume.
        voxel_size: ``(x, y, z)`` in Å; 0 where it is not known.
        origin: ``(x, y, z)`` in Å, the MRC header's ``origin``.
        start: ``(x, y, z)`` in voxels, the MRC header's ``nxstart``, ``nystart``, ``nzstart``.
        map_axes: the MRC header's ``(mapc, mapr, maps)``.
        axes: how the file stores the axes, fastest first: ``xyz`` or, as AreTomo may write it, ``xzy``.
        standard_origin: whether the header declares MRC2014's sign of the origin (by its version, or by IMOD's flag).
            IMOD negates the origin of such a file and of no other, so that labels have to declare what their tomogram
            does or they lie elsewhere in IMOD.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: tuple[int, int, int] = (0, 0, 0)
    map_axes: tuple[int, int, int] = (1, 2, 3)
    axes: str = "xyz"
    standard_origin: bool = True

    def with_voxel_size(self, voxel_size: float) -> Geometry:
        """Return the same geometry with cubic voxels of another size in Å."""
        return replace(self, voxel_size=(voxel_size, voxel_size, voxel_size))


class Tomogram(ABC):
    """An open tomogram: header known, values read on demand. A context manager; `close` gives the file back.

    Attributes:
        path: the file.
        geometry: shape, voxel size, origin.
        dtype: dtype of the stored values, in native byte order.
        warnings: what a user should know of the header, a line each.
    """

    path: Path
    geometry: Geometry
    dtype: np.dtype[np.generic]
    warnings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(z, y, x)`` in voxels."""
        return self.geometry.shape

    def checked_range(self, z_range: tuple[int, int] | None) -> tuple[int, int]:
        """Return a z range that lies in the volume: its first slice and one past its last.

        Args:
            z_range: first slice and one past the last, counted from 0; all of them if None.

        Raises:
            ParameterError: the range is empty, reaches outside the volume, or is not two whole numbers.
        """
        depth = self.shape[0]
        try:
            # Through __index__, so that numpy's integers count and fractions do not.
            start, stop = (0, depth) if z_range is None else map(operator.index, z_range)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{self.path}: expected a z range of two whole numbers, found {z_range!r}") from error
        if not 0 <= start < stop <= depth:
            raise ParameterError(
                f"{self.path}: expected a z range within 0:{depth}, found {start}:{stop}; "
                "slices are counted from 0, and the second number is one past the last"
            )
        return start, stop

    @abstractmethod
    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Read the slices ``start`` to ``start + len(out)`` into a buffer.

        Args:
            start: z of the first slice.
            out: ``(n, y, x)``, any strides and any dtype that numpy casts the stored values to under "same_kind"
                or float32; no copy of the volume is made.

        Raises:
            ParameterError: the run reaches outside the volume, or the buffer has another ``(y, x)``.
            TomogramFormatError: the file ends early or its compressed data is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the file back; closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
