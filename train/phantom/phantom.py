"""Synthetic tomograms with exact labels of all five features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap
from tomoscribe.train.phantom.carbon import add_carbon_edge
from tomoscribe.train.phantom.membranes import add_double_membranes, add_single_membranes
from tomoscribe.train.phantom.microtubules import add_filaments, add_microtubules
from tomoscribe.train.phantom.parameters import PhantomParameters, SampleParameters
from tomoscribe.train.phantom.particles import add_crowding, add_gold, add_ribosomes
from tomoscribe.train.phantom.scene import VACUUM, Scene
from tomoscribe.train.phantom.tilt_series import image_and_reconstruct

__all__ = ["Phantom", "make_phantom"]


@dataclass(frozen=True)
class Phantom:
    """A synthetic tomogram.

    Attributes:
        intensity: ``(z, y, x)`` float32; dense matter is dark; mean 0, standard deviation 1.
        labels: ``(z, y, x)`` uint8, exact: what was painted, whatever the missing wedge leaves of it.
        parameters: all that it was made from.
        class_map: the meaning of the labels.
    """

    intensity: NDArray[np.float32]
    labels: NDArray[np.uint8]
    parameters: PhantomParameters
    class_map: ClassMap = DEFAULT_CLASS_MAP


def make_phantom(parameters: PhantomParameters) -> Phantom:
    """Build a sample, record a tilt series of it and reconstruct it."""
    generator = np.random.default_rng(parameters.seed)
    scene = Scene(parameters.shape, parameters.voxel_size, generator)
    _populate(scene, parameters.sample)
    thickness = parameters.sample.thickness * parameters.shape[0] * parameters.voxel_size
    intensity = image_and_reconstruct(scene.potential, parameters.voxel_size, thickness, parameters.imaging, generator)
    intensity += _undulation(scene, parameters.imaging.background)
    intensity -= intensity.mean(dtype=np.float64)
    intensity /= intensity.std(dtype=np.float64)
    return Phantom(intensity, scene.labels, parameters)


def _populate(scene: Scene, sample: SampleParameters) -> None:
    """Add everything, the largest first, and cut it at the sample's surfaces, as a lamella is cut."""
    if scene.generator.random() < sample.carbon_edge:
        add_carbon_edge(scene)
    add_microtubules(scene, scene.draw_count(sample.microtubules * scene.area), sample.in_plane)
    add_double_membranes(
        scene, scene.draw_count(sample.double_membranes * scene.area), scene.draw_count(sample.double_sheets)
    )
    add_single_membranes(scene, 0, scene.draw_count(sample.single_sheets))
    add_single_membranes(scene, scene.draw_count(sample.single_membranes * scene.area), 0)
    add_ribosomes(scene, scene.draw_count(sample.ribosomes * scene.volume))
    add_filaments(scene, scene.draw_count(sample.filaments * scene.area))
    add_crowding(scene, sample.crowding)
    surfaces = _surfaces(scene, sample)
    _cut(scene, surfaces)
    add_gold(scene, scene.draw_count(sample.gold * scene.area), surfaces)


def _surfaces(scene: Scene, sample: SampleParameters) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the heights of the sample's bottom and top in Å, each ``(y, x)``."""
    depth = float(scene.size[2])
    bottom = (1 - sample.thickness) / 2
    return (
        np.float32(depth) * (np.float32(bottom) + _undulation(scene, sample.thickness_variation)),
        np.float32(depth) * (np.float32(1 - bottom) + _undulation(scene, sample.thickness_variation)),
    )


def _undulation(scene: Scene, amplitude: float) -> NDArray[np.float32]:
    """Return a smooth random ``(y, x)`` field whose largest magnitude is `amplitude`."""
    coarse = gaussian_filter(scene.generator.standard_normal((24, 24)), 4.0)
    fine = zoom(coarse / np.abs(coarse).max(), (scene.shape[1] / 24, scene.shape[2] / 24), order=1)
    return np.asarray(amplitude * fine, np.float32)


def _cut(scene: Scene, surfaces: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    bottom, top = surfaces
    for z in range(scene.shape[0]):
        height = np.float32((z + 0.5) * scene.voxel_size)
        outside = (height < bottom) | (height > top)
        scene.potential[z][outside] = VACUUM
        scene.labels[z][outside] = 0
