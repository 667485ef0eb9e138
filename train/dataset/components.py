"""Small connected components dropped from a mask that does not fit the memory.

The mask is read twice, in slabs. The first time the components of every slab are labelled and those that touch across
the border of two slabs are joined, so that the size of every component is known. The second time each slab is labelled
again, which gives the same numbers, and the voxels of the small components are cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["LargeComponents"]

_NEIGHBOURS = np.ones((3, 3, 3), bool)  # 26
# A slab's labels take four bytes a voxel: 32 MiB, nine slices of 960 × 960.
_SLAB_VOXELS = 2**23


class LargeComponents:
    """A mask without its connected components (26 neighbours) of less than a number of voxels.

    Memory is bounded by one slab and by the number of components, not by the volume.

    Attributes:
        found: components of the mask.
        kept: components of the cleaned mask.
    """

    found: int
    kept: int

    def __init__(
        self,
        read: Callable[[int, NDArray[np.bool_]], None],
        shape: tuple[int, int, int],
        smallest: int,
        *,
        depth: int | None = None,
    ) -> None:
        """Read the mask once and measure its components.

        Args:
            read: fills a buffer ``(n, y, x)`` with the slices of the mask from a z on; has to give the same each time.
            shape: ``(z, y, x)`` of the mask.
            smallest: the voxels of the smallest component that is kept.
            depth: slices of a slab; None for what keeps a slab at 8 million voxels.
        """
        self._read = read
        self._shape = shape
        self._depth = depth or max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
        self._kept = self._measure(smallest)
        self._current = -1
        self._slab = np.empty((0, *shape[1:]), np.bool_)

    def read(self, start: int, out: NDArray[np.bool_]) -> None:
        """Fill a buffer ``(n, y, x)`` with slices of the cleaned mask; quick when runs follow each other."""
        for index in range(start // self._depth, -(-(start + len(out)) // self._depth)):
            if index != self._current:
                numbers, _ = self._label(index)
                self._slab = self._kept[index][numbers]
                self._current = index
            first = index * self._depth
            low, high = max(first, start), min(first + self._depth, start + len(out))
            out[low - start : high - start] = self._slab[low - first : high - first]

    def _label(self, index: int) -> tuple[NDArray[np.int32], int]:
        """Return a slab's component numbers, from 1 on, and how many there are."""
        start = index * self._depth
        mask = np.empty((min(self._depth, self._shape[0] - start), *self._shape[1:]), np.bool_)
        self._read(start, mask)
        numbers = np.empty(mask.shape, np.int32)
        return numbers, int(label(mask, _NEIGHBOURS, output=numbers))

    def _measure(self, smallest: int) -> list[NDArray[np.bool_]]:
        """Return for each slab which of its numbers are of a component that is kept; number 0 is none."""
        sizes: list[NDArray[np.int64]] = []
        pairs: list[NDArray[np.int64]] = []
        total = 0  # components of the slabs before
        below: NDArray[np.int64] | None = None
        for index in range(-(-self._shape[0] // self._depth)):
            numbers, count = self._label(index)
            sizes.append(np.bincount(numbers.reshape(-1), minlength=count + 1)[1:])
            if below is not None:
                pairs.extend(_touching(below, _numbered_from(total, numbers[0])))
            below = _numbered_from(total, numbers[-1])
            total += count
        components = _join(pairs, total)
        is_large = np.bincount(components, np.concatenate(sizes)) >= smallest
        self.found, self.kept = len(is_large), int(np.count_nonzero(is_large))
        large = is_large[components]
        ends = np.cumsum([len(part) for part in sizes])[:-1]
        return [np.concatenate([[False], part]) for part in np.split(large, ends)]


def _numbered_from(total: int, plane: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return a plane's numbers counted over all slabs, from 0 on, and -1 where there is no component."""
    return np.where(plane > 0, plane.astype(np.int64) + (total - 1), -1)


def _touching(below: NDArray[np.int64], above: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Give pairs ``(n, 2)`` of components that touch across a border, for each of the nine directions.

    Where a voxel's component goes on straight above it, all that is around the voxel above belongs to the same one.
    """
    height, width = below.shape
    ends = above < 0
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            here = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
            there = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
            both = (below[here] >= 0) & (above[there] >= 0)
            if dy or dx:
                both &= ends[here]
            pairs = np.stack([below[here][both], above[there][both]], axis=1)
            # Most repeat the one before, and need not be sorted to be found out.
            new = np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(axis=1)])[: len(pairs)]
            yield np.unique(pairs[new], axis=0)


def _join(pairs: list[NDArray[np.int64]], total: int) -> NDArray[np.int32]:
    """Return the component that each of the slabs' components belongs to."""
    first, second = np.concatenate([np.empty((0, 2), np.int64), *pairs]).T
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(total, total))
    components: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return components
