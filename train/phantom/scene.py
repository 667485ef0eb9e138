"""The scene that a phantom's objects are painted into: potential, labels, and what is taken already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["GOLD", "PROTEIN", "RNA", "Box", "Scene", "blur_width"]

Floats = NDArray[np.float32]
Field = Callable[[Floats, Floats, Floats], Floats]

# Mean inner potentials in V relative to vitreous ice. Ice is about 4.5 V (Harscher and Lichte 1998), protein 7 V,
# amorphous carbon 9 V (Wanner et al. 2006), gold 25 V and more (Sanchez and Ochando 1985). Nucleic acid is denser
# and richer in phosphorus than protein.
VACUUM = -4.5
PROTEIN = 2.4
RNA = 3.6
CARBON = 4.5
GOLD = 20.0

_SLAB_VOXELS = 4_000_000


@dataclass(frozen=True)
class Box:
    """A part of the scene: ``[z, y, x]`` slices, and the coordinates of their voxel centres in Å, broadcastable."""

    window: tuple[slice, slice, slice]
    z: Floats
    y: Floats
    x: Floats


def blur_width(sigma: float, voxel_size: float) -> float:
    """Return the standard deviation in Å of a Gaussian of `sigma` Å as a grid of `voxel_size` Å can show it.

    A voxel's value is a mean over the voxel, whose own standard deviation is its size over √12; anything narrower
    would alias.
    """
    return float(np.hypot(sigma, voxel_size / np.sqrt(12.0)))


class Scene:
    """Potential, labels and occupancy of a phantom while it is built.

    Attributes:
        shape: ``(z, y, x)`` in voxels.
        voxel_size: in Å.
        potential: ``(z, y, x)`` float32, V relative to vitreous ice.
        labels: ``(z, y, x)`` uint8.
        occupied: ``(z, y, x)`` bool, what no further object may enter.
        generator: of everything that is drawn.
    """

    def __init__(self, shape: tuple[int, int, int], voxel_size: float, generator: np.random.Generator) -> None:
        self.shape = shape
        self.voxel_size = voxel_size
        self.generator = generator
        self.potential: Floats = np.zeros(shape, np.float32)
        self.labels: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.occupied: NDArray[np.bool_] = np.zeros(shape, np.bool_)

    @property
    def size(self) -> Floats:
        """``(x, y, z)`` extent in Å."""
        z, y, x = self.shape
        return np.array([x, y, z], np.float32) * np.float32(self.voxel_size)

    @property
    def area(self) -> float:
        """The field of view in µm²."""
        return float(self.size[0] * self.size[1]) * 1e-8

    @property
    def volume(self) -> float:
        """The volume in µm³."""
        return float(np.prod(self.size.astype(np.float64))) * 1e-12

    def draw_count(self, expected: float) -> int:
        """Draw a whole number whose mean is `expected`: its floor or its ceiling."""
        return int(expected) + int(self.generator.random() < expected % 1.0)

    def draw_position(self) -> Floats:
        """Draw a point ``(x, y, z)`` in Å anywhere in the volume."""
        return self.generator.random(3).astype(np.float32) * self.size

    def box(self, low: Floats, high: Floats) -> Box | None:
        """Return the voxels whose centres lie between two corners ``(x, y, z)`` in Å, None where there are none."""
        first = np.maximum(np.ceil(low / self.voxel_size - 0.5), 0).astype(int)[::-1]
        last = np.minimum(np.floor(high / self.voxel_size - 0.5) + 1, np.array(self.shape)[::-1]).astype(int)[::-1]
        if np.any(last <= first):
            return None
        return self._box(tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)))

    def whole(self) -> Box:
        """Return all voxels."""
        return self._box(tuple(slice(0, n) for n in self.shape))

    def around(self, centre: Floats, radius: float) -> Box | None:
        """Return the box of half-width `radius` Å around a point ``(x, y, z)`` in Å."""
        return self.box(centre - np.float32(radius), centre + np.float32(radius))

    def slabs(self, box: Box) -> Iterator[Box]:
        """Cut a box along z, so that what is computed on it stays small whatever the size of the volume."""
        z, y, x = box.window
        step = max(1, _SLAB_VOXELS // ((y.stop - y.start) * (x.stop - x.start)))
        for start in range(z.start, z.stop, step):
            yield self._box((slice(start, min(start + step, z.stop)), y, x))

    def is_free(self, box: Box, distance: Field, low: float, high: float) -> bool:
        """Return whether nothing is taken where a distance lies between two bounds, at every third voxel."""
        z, y, x = (slice(s.start, s.stop, 3) for s in box.window)
        coarse = self._box((z, y, x))
        values = distance(coarse.z, coarse.y, coarse.x)
        return not bool(np.any(self.occupied[z, y, x] & (values > low) & (values < high)))

    def _box(self, window: tuple[slice, ...]) -> Box:
        z, y, x = window
        centres = [
            (np.arange(s.start, s.stop, s.step or 1, dtype=np.float32) + np.float32(0.5)) * np.float32(self.voxel_size)
            for s in (z, y, x)
        ]
        return Box((z, y, x), centres[0][:, None, None], centres[1][None, :, None], centres[2][None, None, :])
