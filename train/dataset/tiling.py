"""How a slice is cut into the tiles that are images: side by side, the last one moved back to end at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.tiles import reflected
from tomoscribe.train.dataset.contract import IGNORE

__all__ = ["Tiling"]

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Tiling:
    """The tiles of a slice, row by row.

    Along an axis tiles begin at multiples of their size; the last is moved back until it ends where the slice ends, so
    that it overlaps the one before: 960 pixels are tiles of 512 at 0 and 448. A slice that is shorter than a tile is
    padded at its end: intensities mirrored as the engine mirrors them, labels `IGNORE`.

    Attributes:
        slice_shape: ``(y, x)`` of the slice in pixels.
        size: height and width of a tile in pixels.
    """

    slice_shape: tuple[int, int]
    size: int

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """The first row and column of every tile."""
        rows, columns = (_starts(length, self.size) for length in self.slice_shape)
        return tuple(product(rows, columns))

    def fresh(self, tile: int) -> tuple[slice, slice]:
        """Return the rows and columns of a tile, counted from its corner, that no tile before it covers."""
        top, left = self.corners[tile]
        return slice(-top % self.size, self.size), slice(-left % self.size, self.size)

    def cut_intensities(self, slices: NDArray[Value]) -> NDArray[Value]:
        """Return the tiles of ``(n, y, x)`` slices as ``(n, tiles, size, size)``."""
        height, width = self.slice_shape
        if height < self.size or width < self.size:
            rows, columns = (reflected(0, max(length, self.size), length) for length in self.slice_shape)
            slices = slices[:, rows[:, np.newaxis], columns]
        return self._cut(slices)

    def cut_labels(self, slices: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the tiles of ``(n, y, x)`` labels as ``(n, tiles, size, size)``."""
        missing = [(0, max(self.size - length, 0)) for length in self.slice_shape]
        return self._cut(np.pad(slices, [(0, 0), *missing], constant_values=IGNORE))

    def _cut(self, slices: NDArray[Value]) -> NDArray[Value]:
        size = self.size
        return np.stack([slices[:, top : top + size, left : left + size] for top, left in self.corners], axis=1)


def _starts(length: int, size: int) -> list[int]:
    return [*range(0, length - size, size), max(length - size, 0)]
