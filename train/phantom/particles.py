"""Particles: ribosomes, the unlabelled proteins that crowd the cytosol, and gold beads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tomoscribe.train.phantom.scene import GOLD, PROTEIN, RNA, Floats, Scene, blur_width
from tomoscribe.train.phantom.shapes import random_rotation

__all__ = ["RIBOSOME", "add_crowding", "add_gold", "add_ribosomes"]

RIBOSOME = 2

# The eukaryotic ribosome as two bodies, (centre, half-axes) in Å: the large subunit, about 250 Å across, and the
# flatter small one on its face; 300 Å in all (Ben-Shem et al. 2011).
_LARGE_SUBUNIT = ((-35.0, 0.0, 0.0), (85.0, 125.0, 110.0))
_SMALL_SUBUNIT = ((80.0, 15.0, 0.0), (50.0, 110.0, 75.0))
_DOMAIN_WIDTH = 22.0
_BANK = 48
_PROTEIN_KINDS = 40


def add_ribosomes(scene: Scene, count: int) -> None:
    """Add ribosomes, singly and in strings as on a messenger RNA."""
    generator = scene.generator
    domains = _ribosome_domains()
    bank = [_render_ribosome(domains @ random_rotation(generator).T, scene.voxel_size) for _ in range(_BANK)]
    position = scene.draw_position()
    for _ in range(4 * count):
        if count <= 0:
            return
        potential, body = bank[int(generator.integers(_BANK))]
        if generator.random() < 0.3:
            direction = generator.normal(size=3)
            step = generator.uniform(270, 350) * direction / np.linalg.norm(direction)
            position = (position + step).astype(np.float32)
        else:
            position = scene.draw_position()
        if _stamp(scene, position, potential * np.float32(generator.uniform(0.85, 1.1)), body, RIBOSOME):
            count -= 1


def add_crowding(scene: Scene, share: float) -> None:
    """Add unlabelled proteins of 25 to 75 Å in radius wherever nothing else is, up to a volume share."""
    generator = scene.generator
    templates = [_protein(generator, scene.voxel_size) for _ in range(_PROTEIN_KINDS)]
    mean_volume = float(np.mean([volume for _, volume in templates]))
    count = int(share * scene.volume * 1e12 / mean_volume)
    positions = generator.random((count, 3)) * np.array(scene.shape)
    kinds = generator.integers(_PROTEIN_KINDS, size=count)
    for centre, kind in zip(positions.astype(int), kinds, strict=True):
        if not scene.occupied[tuple(centre)]:
            _add_template(scene.potential, centre, templates[kind][0])


def add_gold(scene: Scene, count: int, surfaces: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    """Add gold beads of 10 nm on the sample's surfaces, ``(bottom, top)`` as ``(y, x)`` heights in Å; no label."""
    generator = scene.generator
    for _ in range(count):
        y, x = (int(generator.integers(n)) for n in scene.shape[1:])
        surface = surfaces[int(generator.integers(2))]
        centre = np.array([(x + 0.5) * scene.voxel_size, (y + 0.5) * scene.voxel_size, surface[y, x]], np.float32)
        radius = generator.uniform(45, 55)
        box = scene.around(centre, radius + 3 * scene.voxel_size)
        if box is None:
            continue
        distance = np.sqrt((box.x - centre[0]) ** 2 + (box.y - centre[1]) ** 2 + (box.z - centre[2]) ** 2)
        scene.potential[box.window] += np.float32(GOLD) * _ball(distance, radius, scene.voxel_size)


def _ball(distance: Floats, radius: float, voxel_size: float) -> Floats:
    """Return the share of a voxel that lies in a ball, as a ramp one voxel wide."""
    share: Floats = np.clip((np.float32(radius) - distance) / np.float32(voxel_size) + np.float32(0.5), 0, 1)
    return share


def _ribosome_domains() -> Floats:
    """Return the places of a ribosome's domains, ``(n, 3)`` in Å; always the same, for it is one molecule."""
    generator = np.random.default_rng(80)
    domains = []
    for (centre, axes), number in ((_LARGE_SUBUNIT, 70), (_SMALL_SUBUNIT, 32)):
        points = generator.normal(size=(number, 3))
        points *= generator.random((number, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
        domains.append(np.array(centre) + 0.86 * points * np.array(axes))
    return np.concatenate(domains).astype(np.float32)


def _render_ribosome(domains: Floats, voxel_size: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Return potential and body of a turned ribosome, both ``(z, y, x)`` with its centre in the middle."""
    half = int(np.ceil(190.0 / voxel_size))
    grid = np.arange(-half, half + 1, dtype=np.float32) * np.float32(voxel_size)
    density = np.zeros((len(grid),) * 3, np.float32)
    outline = np.zeros_like(density)
    for sigma, target in ((blur_width(_DOMAIN_WIDTH, voxel_size), density), (blur_width(30.0, voxel_size), outline)):
        for x, y, z in domains:
            profile = [np.exp(-0.5 * ((grid - centre) / sigma) ** 2) for centre in (z, y, x)]
            target += profile[0][:, None, None] * profile[1][None, :, None] * profile[2][None, None, :]
    body = outline > 0.35 * np.percentile(outline[outline > 0.1 * outline.max()], 90)
    potential = np.float32(RNA) * density / np.float32(density[body].mean())
    potential[~body & (potential < 0.05)] = 0
    return potential, body


def _protein(generator: np.random.Generator, voxel_size: float) -> tuple[Floats, float]:
    """Return the potential of a random protein of a few domains, and its volume in Å³."""
    size = float(generator.uniform(25, 75))
    centres = generator.normal(size=(int(generator.integers(1, 6)), 3)) * size * 0.45
    width = blur_width(size * 0.45, voxel_size)
    half = int(np.ceil(2.2 * size / voxel_size))
    grid = np.arange(-half, half + 1, dtype=np.float32) * np.float32(voxel_size)
    density = np.zeros((len(grid),) * 3, np.float32)
    for x, y, z in centres:
        profile = [np.exp(-0.5 * ((grid - centre) / width) ** 2) for centre in (z, y, x)]
        density += profile[0][:, None, None] * profile[1][None, :, None] * profile[2][None, None, :]
    density *= np.float32(PROTEIN * generator.uniform(0.7, 1.2) / density.max())
    return density, float((density > 0.5 * density.max()).sum()) * voxel_size**3


def _stamp(scene: Scene, position: Floats, potential: Floats, body: NDArray[np.bool_], number: int) -> bool:
    """Add a template with its label where nothing is in its way; return whether it was added."""
    centre = (position[::-1] / scene.voxel_size).astype(int)
    windows = _overlap(scene.shape, centre, body.shape)
    if windows is None:
        return False
    window, part = windows
    if np.any(scene.occupied[window] & body[part]):
        return False
    scene.potential[window] += potential[part]
    scene.labels[window][body[part]] = number
    scene.occupied[window] |= body[part]
    return True


def _add_template(target: Floats, centre: NDArray[np.int_], template: Floats) -> None:
    windows = _overlap(target.shape, centre, template.shape)
    if windows is not None:
        window, part = windows
        target[window] += template[part]


def _overlap(
    shape: tuple[int, ...], centre: NDArray[np.int_], template: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Return the windows of volume and template that coincide, None where they do not."""
    window, part = [], []
    for length, middle, extent in zip(shape, centre.tolist(), template, strict=True):
        first = middle - extent // 2
        start, stop = max(first, 0), min(first + extent, length)
        if start >= stop:
            return None
        window.append(slice(start, stop))
        part.append(slice(start - first, stop - first))
    return tuple(window), tuple(part)
