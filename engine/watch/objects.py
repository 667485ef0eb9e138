"""Counting the connected objects of each class in a label volume, which is read slice by slice.

Each slice is labelled in 2D, its parts are joined with the objects of the slice before, and an object that has no part
in the next slice is complete. So memory is that of a few slices, whatever the volume's depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["SMALLEST_OBJECT", "count_objects"]

SMALLEST_OBJECT = 27
"""Voxels, 3 × 3 × 3: what is smaller is more often noise than anything."""

_NEIGHBOURS_2D = np.ones((3, 3), bool)


@dataclass(frozen=True)
class _Objects:
    """What one slice has a part in.

    Attributes:
        image: ``(y, x)`` int32, for each pixel one more than the index of its object; 0 is background.
        numbers: ``(n,)`` uint8, each object's label number.
        voxels: ``(n,)`` int64, voxels so far.
    """

    image: NDArray[np.int32]
    numbers: NDArray[np.uint8]
    voxels: NDArray[np.int64]


def count_objects(labels: Tomogram, class_map: ClassMap, *, smallest: int = SMALLEST_OBJECT) -> dict[str, int]:
    """Return the number of connected objects of each class, by name.

    Voxels belong together that have the same label and share a face, an edge or a corner (26 neighbours).

    Args:
        labels: ``(z, y, x)`` label numbers, integers from 0 to 255.
        class_map: the classes to count.
        smallest: voxels; what has fewer is not counted.

    Raises:
        TomogramFormatError: the volume cannot be read.
    """
    depth, height, width = labels.shape
    buffer = np.empty((1, height, width), labels.dtype)
    counts = np.zeros(256, np.int64)
    above = _Objects(np.zeros((height, width), np.int32), np.empty(0, np.uint8), np.empty(0, np.int64))
    for z in range(depth):
        labels.read_slices(z, buffer)
        above, complete = _join(above, _parts_of(buffer[0].astype(np.uint8)))
        counts += _counted(*complete, smallest)
    counts += _counted(above.numbers, above.voxels, smallest)
    return {label_class.name: int(counts[label_class.number]) for label_class in class_map.classes}


def _parts_of(labels: NDArray[np.uint8]) -> _Objects:
    """Return the connected parts of one slice, 8 neighbours."""
    image = np.zeros(labels.shape, np.int32)
    numbers: list[int] = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            parts, count = ndimage.label(labels[box] == number, _NEIGHBOURS_2D)
            np.copyto(image[box], parts + len(numbers), where=parts > 0, casting="same_kind")
            numbers += [number] * count
    voxels = np.bincount(image.ravel(), minlength=len(numbers) + 1)[1:]
    return _Objects(image, np.array(numbers, np.uint8), voxels)


def _join(above: _Objects, parts: _Objects) -> tuple[_Objects, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Join the parts of a slice with the objects of the one before.

    Returns:
        What the slice has a part in, and the label numbers and voxels of the objects that are complete.
    """
    known, new = len(above.numbers), len(parts.numbers)
    upper, lower = _touching(above, parts)
    joined = coo_matrix((np.ones(len(upper), bool), (upper, lower + known)), (known + new, known + new))
    count, objects = connected_components(joined, directed=False)
    numbers = np.zeros(count, np.uint8)
    numbers[objects] = np.concatenate([above.numbers, parts.numbers])
    voxels = np.zeros(count, np.int64)
    np.add.at(voxels, objects, np.concatenate([above.voxels, parts.voxels]))
    goes_on = np.zeros(count, bool)
    goes_on[objects[known:]] = True
    index = np.cumsum(goes_on, dtype=np.int32)  # one more than the index among those that go on
    image = np.concatenate([np.zeros(1, np.int32), index[objects[known:]]])[parts.image]
    return _Objects(image, numbers[goes_on], voxels[goes_on]), (numbers[~goes_on], voxels[~goes_on])


def _touching(above: _Objects, parts: _Objects) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return pairs of an object of the slice before and a part that touch and have the same label, as indices."""
    rows, columns = parts.image.nonzero()
    lower = parts.image[rows, columns] - 1
    # With background all around, every pixel has nine above it; no part has the number of the background.
    padded = np.pad(above.image, 1)
    numbers = np.concatenate([np.zeros(1, np.uint8), above.numbers])
    pairs = []
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            upper = padded[rows + dy, columns + dx]
            touches = numbers[upper] == parts.numbers[lower]
            # Most pixels have the pair of the one before.
            touches[1:] &= (upper[1:] != upper[:-1]) | (lower[1:] != lower[:-1])
            pairs.append((upper[touches] - 1, lower[touches]))
    uppers, lowers = zip(*pairs, strict=True)
    return np.concatenate(uppers), np.concatenate(lowers)


def _counted(numbers: NDArray[np.uint8], voxels: NDArray[np.int64], smallest: int) -> NDArray[np.int64]:
    """Return how many of these objects each of the 256 label numbers has."""
    return np.bincount(numbers[voxels >= smallest], minlength=256)
