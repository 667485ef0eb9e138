"""Random turns and smooth random displacements, shared by the objects of a phantom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tomoscribe.train.phantom.scene import Floats

__all__ = ["Warp", "random_rotation"]


def random_rotation(generator: np.random.Generator, tilt: float | None = None) -> NDArray[np.float32]:
    """Return a ``(3, 3)`` rotation matrix for ``(x, y, z)`` columns.

    Args:
        generator: the source of randomness.
        tilt: standard deviation in radians of the tilt out of the xy plane; None for any rotation, evenly.
    """
    if tilt is None:
        rotation = Rotation.from_quat(generator.normal(size=4))
    else:
        angles = [generator.uniform(0, 2 * np.pi), generator.normal(0, tilt), generator.uniform(0, 2 * np.pi)]
        rotation = Rotation.from_euler("zyx", angles)
    return np.asarray(rotation.as_matrix(), np.float32)


@dataclass(frozen=True)
class Warp:
    """A smooth random displacement: a sum of a few plane waves.

    Attributes:
        wave_vectors: ``(n, 3)`` float32 for ``(x, y, z)``, radians per Å.
        phases: ``(n,)`` float32, radians.
        amplitude: root mean square of the displacement is about this over √2, in Å.
    """

    wave_vectors: NDArray[np.float32]
    phases: NDArray[np.float32]
    amplitude: float

    @classmethod
    def draw(cls, generator: np.random.Generator, *, length: float, amplitude: float, waves: int = 4) -> Warp:
        """Draw a displacement that varies over about `length` Å and is at most a few `amplitude` Å."""
        directions = generator.normal(size=(waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = length * generator.uniform(1.0, 2.0, size=(waves, 1))
        phases = generator.uniform(0, 2 * np.pi, waves)
        return cls((2 * np.pi * directions / lengths).astype(np.float32), phases.astype(np.float32), amplitude)

    def __call__(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """Return the displacement in Å, ``(z, y, x)``.

        Args:
            z: in Å, ``(z, 1, 1)``.
            y: in Å, ``(1, y, 1)``.
            x: in Å, ``(1, 1, x)``.
        """
        # cos and sin of a sum of three phases factorise, so all waves are one small matrix product and no sine is
        # taken over the whole volume.
        kx, ky, kz = (column[:, None] for column in self.wave_vectors.T)
        flat = kx[:, :, None] * x[0] + ky[:, :, None] * y[0] + self.phases[:, None, None]
        upright = kz * z[:, 0, 0]
        factors = np.concatenate([np.sin(upright), np.cos(upright)]).T
        planes = np.concatenate([np.cos(flat), np.sin(flat)]).reshape(2 * len(kx), -1)
        waves: Floats = (factors @ planes).reshape(len(factors), *flat.shape[1:])
        waves *= np.float32(self.amplitude / np.sqrt(len(kx)))
        return waves
