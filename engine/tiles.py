"""How a slice is cut into tiles: pure geometry.

A convolutional net sees its surroundings through zeros at the border of what it is given, so the outer pixels of a
tile differ from those of the whole slice. They are the halo: computed, and thrown away. What is left of every tile is
what the net makes of the whole slice, bit for bit, as long as three things hold, and `TilePlan` sees to them:

- a tile reaches past what it contributes by the halo on every side, or ends where the padded slice ends;
- tiles start and contributions begin at multiples of the net's pooling factor, so that the pooling grids coincide;
- the slice is padded to that multiple in the same way however it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError

__all__ = ["Span", "Tile", "TilePlan", "reflected"]


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels of the slice.

    Attributes:
        start: where the tile begins.
        first: the first pixel that the tile contributes.
        stop: one past the last pixel that it contributes.
    """

    start: int
    first: int
    stop: int

    @property
    def kept(self) -> slice:
        """What is contributed, counted from the start of the tile."""
        return slice(self.first - self.start, self.stop - self.start)

    @property
    def target(self) -> slice:
        """What is contributed, counted from the start of the slice."""
        return slice(self.first, self.stop)


@dataclass(frozen=True)
class Tile:
    """A window of a slice, and the part of the slice that it contributes."""

    rows: Span
    columns: Span


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a slice, all of one size.

    Attributes:
        slice_shape: ``(y, x)`` of the slice in pixels.
        tile_shape: ``(y, x)`` of every tile in pixels.
        tiles: row by row.
    """

    slice_shape: tuple[int, int]
    tile_shape: tuple[int, int]
    tiles: tuple[Tile, ...]

    @classmethod
    def for_slice(cls, slice_shape: tuple[int, int], *, multiple: int, halo: int, pixels: int) -> TilePlan:
        """Cut a slice so that the fewest pixels are computed, halo and padding counted; of equals, into fewest tiles.

        Args:
            slice_shape: ``(y, x)`` in pixels.
            multiple: what the sides of a tile are multiples of, the net's pooling factor.
            halo: how far the net sees, in pixels, from a contribution that begins at a multiple of `multiple`.
            pixels: the most that a tile may have, which is what bounds a backend's memory. A slice that fits is one
                tile and needs no halo.

        Raises:
            ParameterError: no tile of so few pixels can be cut.
        """
        if min(*slice_shape, multiple) < 1 or halo < 0 or pixels < multiple**2:
            raise ParameterError(
                f"tiles: expected sizes of at least 1 and tiles of at least {multiple**2} pixels, found slices of "
                f"{slice_shape[0]} × {slice_shape[1]}, halo {halo}, tiles of {pixels} pixels"
            )
        margin = -(-halo // multiple) * multiple
        cuts = [list(_cuts(length, multiple, margin)) for length in slice_shape]
        fitting = [(rows, columns) for rows, columns in product(*cuts) if rows.size * columns.size <= pixels]
        if not fitting:
            raise ParameterError(
                f"tiles: expected tiles of more than {2 * margin} pixels a side, twice the halo, for slices of "
                f"{slice_shape[0]} × {slice_shape[1]} pixels, found {pixels} pixels a tile; allow larger tiles"
            )
        rows, columns = min(fitting, key=_cost)
        tiles = product(rows.spans(slice_shape[0], margin), columns.spans(slice_shape[1], margin))
        return cls(slice_shape, (rows.size, columns.size), tuple(Tile(*spans) for spans in tiles))

    @property
    def is_whole(self) -> bool:
        """Whether one tile covers the slice."""
        return len(self.tiles) == 1

    @property
    def computed_ratio(self) -> float:
        """Pixels that are computed for every pixel of the slice: 1 without halo and padding."""
        return len(self.tiles) * math.prod(self.tile_shape) / math.prod(self.slice_shape)

    def extract(self, tile: Tile, slices: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy a tile out of a run of slices, reflected where it reaches past their lower and right edges.

        Args:
            tile: one of `tiles`.
            slices: ``(n, y, x)`` of `slice_shape`.
            out: ``(n, h, w)`` of `tile_shape`, overwritten.
        """
        rows, columns = self._sources[0][tile.rows.start], self._sources[1][tile.columns.start]
        height = min(len(rows), self.slice_shape[0] - tile.rows.start)
        width = min(len(columns), self.slice_shape[1] - tile.columns.start)
        inner = slices[:, tile.rows.start : tile.rows.start + height]
        out[:, :height, :width] = inner[:, :, tile.columns.start : tile.columns.start + width]
        out[:, :height, width:] = inner[:, :, columns[width:]]
        out[:, height:] = slices[:, rows[height:, np.newaxis], columns]

    def paste(self, tile: Tile, values: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy what a tile contributes to where it belongs.

        Args:
            tile: one of `tiles`.
            values: ``(…, h, w)`` of `tile_shape`.
            out: ``(…, y, x)`` of `slice_shape`; only the tile's contribution is overwritten.
        """
        out[..., tile.rows.target, tile.columns.target] = self.kept(tile, values)

    def kept(self, tile: Tile, values: NDArray[Any]) -> NDArray[Any]:
        """Return the view of ``(…, h, w)`` values that a tile contributes."""
        return values[..., tile.rows.kept, tile.columns.kept]

    @cached_property
    def _sources(self) -> tuple[dict[int, NDArray[np.intp]], dict[int, NDArray[np.intp]]]:
        """Which pixel of the slice every pixel of a tile shows, by the tile's start, for both axes."""
        (height, width), (rows, columns) = self.tile_shape, self.slice_shape
        return (
            {tile.rows.start: reflected(tile.rows.start, height, rows) for tile in self.tiles},
            {tile.columns.start: reflected(tile.columns.start, width, columns) for tile in self.tiles},
        )


def reflected(start: int, size: int, length: int) -> NDArray[np.intp]:
    """Return the positions that the pixels from `start` on show: … 0 1 2 | 2 1 0 | 0 1 2 … for a length of 3.

    The engine pads slices with it and training pads crops, so that a network learns the borders that it will see.
    """
    position = np.arange(start, start + size) % (2 * length)
    return np.minimum(position, 2 * length - 1 - position)


@dataclass(frozen=True)
class _Cut:
    """A way to cut an axis: into `count` tiles of `size` pixels, which together end where the padded slice ends."""

    count: int
    size: int
    padded: int

    @property
    def computed(self) -> int:
        return self.count * self.size

    def spans(self, length: int, margin: int) -> list[Span]:
        step = self.size - 2 * margin
        starts = [*(number * step for number in range(self.count - 1)), self.padded - self.size]
        cuts = [0, *(start + self.size - margin for start in starts[:-1]), length]
        return [Span(*span) for span in zip(starts, cuts[:-1], cuts[1:], strict=True)]


def _cuts(length: int, multiple: int, margin: int) -> Iterator[_Cut]:
    """Yield the ways to cut an axis, from one tile on, each into more and smaller tiles.

    For each count, tiles are as small as can be: the first and the last lose one margin and the others two, so that
    count · (size - 2 · margin) + 2 · margin ≥ padded.
    """
    padded = -(-length // multiple) * multiple
    previous = padded + 1
    for count in range(1, padded + 1):
        size = -(-(padded + 2 * (count - 1) * margin) // (count * multiple)) * multiple
        if size < previous:
            yield _Cut(count, size, padded)
        if size <= 2 * margin + multiple:
            return
        previous = size


def _cost(cuts: tuple[_Cut, _Cut]) -> tuple[int, int, int]:
    """Return computed pixels, and of equals the number of tiles, and of those how little of a row lies together."""
    rows, columns = cuts
    return rows.computed * columns.computed, rows.count * columns.count, rows.size
