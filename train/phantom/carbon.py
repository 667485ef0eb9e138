"""The support: a carbon film whose round hole ends inside the field of view."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from tomoscribe.train.phantom.scene import CARBON, Scene
from tomoscribe.train.phantom.shapes import Warp

__all__ = ["CARBON_EDGE", "add_carbon_edge"]

CARBON_EDGE = 5

# How far from the rim the film still counts as its edge, in Å.
_EDGE_WIDTH = 300.0


def add_carbon_edge(scene: Scene) -> None:
    """Add a holey carbon film; the band of the film along the hole's rim is labelled.

    Films are 100 to 250 Å thick, holes 1 to 2 µm across (Quantifoil R1.2/1.3 to R2/2); the rim is a little thicker.
    """
    generator = scene.generator
    width, height, depth = scene.size
    radius = generator.uniform(5000, 10000)
    thickness = generator.uniform(100, 250)
    angle = generator.uniform(0, 2 * np.pi)
    rim = np.array([width / 2, height / 2]) + generator.uniform(0.15, 0.4) * np.array([width, height]) * np.array(
        [np.cos(angle), np.sin(angle)]
    )
    hole = rim - radius * np.array([np.cos(angle), np.sin(angle)])
    level = depth * generator.uniform(0.25, 0.75)
    lean = generator.normal(0, 0.02, 2)
    roughness = Warp.draw(generator, length=400.0, amplitude=12.0)
    for slab in scene.slabs(scene.whole()):
        outward = np.hypot(slab.x - np.float32(hole[0]), slab.y - np.float32(hole[1])) - np.float32(radius)
        outward = outward + roughness(slab.z, slab.y, slab.x)
        middle = (
            np.float32(level) + np.float32(lean[0]) * (slab.x - width / 2) + np.float32(lean[1]) * (slab.y - height / 2)
        )
        thickening = 1 + np.float32(0.3) * np.exp(-((outward / 150) ** 2))
        inward = np.float32(thickness / 2) * thickening - np.abs(slab.z - middle)
        film = np.clip(np.minimum(inward, outward) / np.float32(scene.voxel_size) + np.float32(0.5), 0, 1)
        grain = gaussian_filter(generator.standard_normal(film.shape, dtype=np.float32), 8.0 / scene.voxel_size)
        grain *= np.float32(0.2) / (grain.std() + np.float32(1e-6))
        scene.potential[slab.window] += np.float32(CARBON) * film * (1 + grain)
        inside = film >= 0.5
        scene.labels[slab.window][inside & (outward <= _EDGE_WIDTH)] = CARBON_EDGE
        scene.occupied[slab.window] |= film > 0
