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
        factors, planes = self._factors(z, y, x)
        return self._sum(factors, planes, np.ones(len(self.phases), np.float32))

    def with_gradient(self, z: Floats, y: Floats, x: Floats) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
        """Return the displacement as `__call__` does, and its derivatives along x, y and z, each ``(z, y, x)``."""
        factors, planes = self._factors(z, y, x)
        ones = np.ones(len(self.phases), np.float32)
        # The derivative of sin is cos, which is sin a quarter turn on: (cos, sin) of the plane becomes (-sin, cos).
        turned = np.concatenate([-planes[len(ones) :], planes[: len(ones)]])
        along_x, along_y, along_z = (self._sum(factors, turned, k) for k in self.wave_vectors.T)
        return self._sum(factors, planes, ones), (along_x, along_y, along_z)

    def _factors(self, z: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Return the waves as factors ``(2n, z)`` and planes ``(2n, y, x)``, whose products add up to them.

        The sine of a sum of phases factorises, so all waves are one small matrix product and no sine is taken over
        the whole volume.
        """
        kx, ky, kz = (column[:, None] for column in self.wave_vectors.T)
        flat = kx[:, :, None] * x[0] + ky[:, :, None] * y[0] + self.phases[:, None, None]
        upright = kz * z[:, 0, 0]
        return np.concatenate([np.sin(upright), np.cos(upright)]), np.concatenate([np.cos(flat), np.sin(flat)])

    def _sum(self, factors: Floats, planes: Floats, weights: Floats) -> Floats:
        scale = np.float32(self.amplitude / np.sqrt(len(weights))) * np.tile(weights, 2)
        total: Floats = (factors * scale[:, None]).T @ planes.reshape(len(planes), -1)
        return total.reshape(-1, *planes.shape[1:])
