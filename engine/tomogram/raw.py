"""Values of one type, one after the other in a file: what is inside an MRC file and most TIFF stacks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError, TomogramFormatError

__all__ = ["RawVolume", "check_run"]

# Values that need another type, byte order or place go through a buffer of this many bytes, small enough for a cache.
_SCRATCH_SIZE = 1 << 20


@dataclass(frozen=True)
class RawVolume:
    """Where the values lie in a file.

    Attributes:
        path: the file as the user named it, for messages.
        offset: of the first value, in bytes.
        dtype: type and byte order of the stored values.
        shape: ``(z, y, x)`` as the engine sees the volume.
        axes: ``xyz``: the file's sections are z; ``xzy``: the file's sections are y and its rows are z.
    """

    path: Path
    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, int, int]
    axes: str

    def read(self, file: int, start: int, out: NDArray[np.generic]) -> None:
        """Read the slices ``start`` to ``start + len(out)``; `Tomogram.read_slices` says what `out` may be.

        Args:
            file: descriptor of the open file. Its position is neither used nor moved, so threads may share it.
            start: z of the first slice.
            out: ``(n, y, x)``.

        Raises:
            ParameterError: the run reaches outside the volume, or the buffer cannot hold it.
            TomogramFormatError: the file ends early or cannot be read.
        """
        check_run(self.path, self.shape, self.dtype, start, out)
        depth, height, width = self.shape
        if self.axes == "xzy":
            for y in range(height):
                self._read_rows(file, y * depth + start, out[:, y])
        elif out.flags.c_contiguous:
            self._read_rows(file, start * height, out.reshape(-1, width))
        else:
            for z, slice_out in enumerate(out, start):
                self._read_rows(file, z * height, slice_out)

    def _read_rows(self, file: int, first: int, out: NDArray[np.generic]) -> None:
        """Read rows that follow each other in the file, counted from its first, into ``(rows, x)``."""
        row_size = self.shape[2] * self.dtype.itemsize
        if out.dtype == self.dtype and out.flags.c_contiguous:
            self._fill(file, self.offset + first * row_size, out)
            return
        step = max(1, _SCRATCH_SIZE // row_size)
        scratch = np.empty((min(step, len(out)), self.shape[2]), self.dtype)
        for row in range(0, len(out), step):
            part = scratch[: len(out) - row]
            self._fill(file, self.offset + (first + row) * row_size, part)
            np.copyto(out[row : row + step], part, casting="same_kind")

    def _fill(self, file: int, position: int, out: NDArray[np.generic]) -> None:
        view = out.reshape(-1).view(np.uint8).data
        while view:
            # Linux reads at most 2 GiB at once, and a network file system may give less than was asked for.
            try:
                count = os.preadv(file, [view], position)
            except OSError as error:
                raise TomogramFormatError(
                    f"{self.path}: cannot be read at byte {position}: {error.strerror}"
                ) from error
            if count == 0:
                raise TomogramFormatError(
                    f"{self.path}: expected {len(view)} more bytes at byte {position}, found the end of the file; "
                    "it is truncated or still being written"
                )
            view = view[count:]
            position += count


def check_run(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype[np.generic], start: int, out: NDArray[np.generic]
) -> None:
    """Check that a run of slices lies in the volume and fits the buffer.

    Raises:
        ParameterError: it does not.
    """
    if out.ndim != 3 or out.shape[1:] != shape[1:]:
        raise ParameterError(f"{path}: expected a buffer for slices of {shape[1:]}, found one of {out.shape}")
    if not 0 <= start <= start + len(out) <= shape[0]:
        raise ParameterError(f"{path}: expected slices from 0 to {shape[0]}, found {start} to {start + len(out)}")
    if not np.can_cast(dtype, out.dtype, casting="same_kind"):
        raise ParameterError(f"{path}: holds {dtype.name}, which a buffer of {out.dtype.name} cannot take")
