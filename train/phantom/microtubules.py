"""Microtubules of 13 protofilaments, seen from every side, and thin filaments that are not labelled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.train.phantom.scene import PROTEIN, Floats, Scene, blur_width
from tomoscribe.train.phantom.shapes import random_rotation

__all__ = ["MICROTUBULE", "add_filaments", "add_microtubules"]

MICROTUBULE = 1

# A 13-protofilament, 3-start microtubule: protofilament centres at a radius of 112 Å, a monomer every 40 Å along a
# protofilament, and neighbours 3 × 40 / 13 = 9.2 Å apart along the axis (Amos and Klug 1974; Zhang et al. 2015).
_PROTOFILAMENTS = 13
_STARTS = 3
_RADIUS = 112.0
_MONOMER = 40.0
_WALL_WIDTH = 14.0
_OUTER_RADIUS = 130.0
_FILAMENT_RADIUS = 35.0
_SEGMENT = 250.0
_ATTEMPTS = 40


@dataclass(frozen=True)
class _Axis:
    """An axis that bends gently: a parabola in the plane of its first two directions.

    `frame` holds the directions along, across and beside the axis as rows, ``(x, y, z)``.
    """

    centre: Floats
    frame: NDArray[np.float32]
    curvature: float
    half_length: float

    def points(self) -> Floats:
        """Return points along the axis, one a segment, ``(n, 3)`` for ``(x, y, z)`` in Å."""
        count = int(np.ceil(2 * self.half_length / _SEGMENT))
        along = np.float32(_SEGMENT) * (np.arange(count, dtype=np.float32) + np.float32(0.5))
        along -= np.float32(self.half_length)
        bend = np.float32(self.curvature / 2) * along**2
        return np.asarray(self.centre + along[:, None] * self.frame[0] + bend[:, None] * self.frame[1], np.float32)

    def cylindrical(self, z: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the position along the axis in Å, the distance from it in Å and the angle around it."""
        offsets = (x - self.centre[0], y - self.centre[1], z - self.centre[2])
        along, across, beside = (sum(row[j] * offsets[j] for j in range(3)) for row in self.frame)
        slope = np.float32(self.curvature) * along
        across = (across - np.float32(0.5) * slope * along) / np.sqrt(1 + slope**2)
        return along, np.hypot(across, beside), np.arctan2(beside, across)


def add_microtubules(scene: Scene, count: int, in_plane: float) -> None:
    """Add microtubules, singly and in loose bundles; a share of `in_plane` runs within 15° of the xy plane."""
    generator = scene.generator
    for _ in range(_ATTEMPTS * count):
        if count <= 0:
            return
        leader = _draw_axis(scene, in_plane)
        for member in range(int(generator.choice([1, 1, 2, 4]))):
            axis = leader if member == 0 else _beside(scene, leader)
            if count > 0 and _is_free(scene, axis, _OUTER_RADIUS + 20) and _paint_microtubule(scene, axis):
                count -= 1


def add_filaments(scene: Scene, count: int) -> None:
    """Add thin filaments (actin is 70 Å across), which carry no label."""
    for _ in range(count):
        axis = _draw_axis(scene, in_plane=0.8)
        if not _is_free(scene, axis, _FILAMENT_RADIUS):
            continue
        width = blur_width(18.0, scene.voxel_size)
        for window, along, distance, _ in _segments(scene, axis, 3 * width):
            beads = 1 + np.float32(0.3) * np.cos(along * np.float32(2 * np.pi / 55.0))
            scene.potential[window] += np.float32(0.8 * PROTEIN) * beads * np.exp(-0.5 * (distance / width) ** 2)


def _draw_axis(scene: Scene, in_plane: float) -> _Axis:
    generator = scene.generator
    tilt = np.deg2rad(7.5) if generator.random() < in_plane else None
    frame = random_rotation(generator, tilt)
    length = float(generator.uniform(1500, 8000))
    return _Axis(scene.draw_position(), frame, float(generator.normal(0, 4e-5)), length / 2)


def _beside(scene: Scene, leader: _Axis) -> _Axis:
    generator = scene.generator
    angle, spacing = generator.uniform(0, 2 * np.pi), generator.uniform(310, 900)
    shift = spacing * (np.cos(angle) * leader.frame[1] + np.sin(angle) * leader.frame[2])
    return _Axis((leader.centre + shift).astype(np.float32), leader.frame, leader.curvature, leader.half_length)


def _is_free(scene: Scene, axis: _Axis, radius: float) -> bool:
    def distance(z: Floats, y: Floats, x: Floats) -> Floats:
        along, distance, _ = axis.cylindrical(z, y, x)
        return np.where(np.abs(along) <= axis.half_length, distance, np.float32(np.inf))

    boxes = (scene.around(point, radius + _SEGMENT / 2) for point in axis.points())
    return all(box is None or scene.is_free(box, distance, -np.inf, radius) for box in boxes)


def _segments(
    scene: Scene, axis: _Axis, radius: float
) -> list[tuple[tuple[slice, slice, slice], Floats, Floats, Floats]]:
    """Return box by box (window, along, distance, angle); a voxel is near the axis in one box only.

    Outside its own segment a box's distances are set beyond reach, so that boxes that overlap add nothing twice.
    """
    found = []
    start = -axis.half_length
    for point in axis.points():
        box = scene.around(point, radius + _SEGMENT)
        if box is not None:
            along, distance, angle = axis.cylindrical(box.z, box.y, box.x)
            own = (along >= start) & (along < min(start + _SEGMENT, axis.half_length))
            found.append((box.window, along, np.where(own, distance, np.float32(1e4)), angle))
        start += _SEGMENT
    return found


def _paint_microtubule(scene: Scene, axis: _Axis) -> bool:
    """Paint a microtubule; return whether it comes near the volume, all of it or in part."""
    generator = scene.generator
    width = blur_width(_WALL_WIDTH, scene.voxel_size)
    height = PROTEIN * 1.3 * _WALL_WIDTH / width
    turn = float(generator.uniform(0, 2 * np.pi))
    # A few microtubules carry particles in their lumen.
    lumenal = float(generator.choice([0.0, 0.0, 0.5]))
    segments = _segments(scene, axis, _OUTER_RADIUS + 3 * width)
    for window, along, distance, angle in segments:
        around = angle + np.float32(turn)
        protofilaments = 1 + np.float32(0.5) * np.cos(_PROTOFILAMENTS * around)
        helix = along * np.float32(2 * np.pi / _MONOMER) + _STARTS * around
        monomers = 1 + np.float32(0.4) * np.cos(helix)
        wall = np.exp(-0.5 * ((distance - np.float32(_RADIUS)) / width) ** 2)
        values = np.float32(height) * wall * protofilaments * monomers
        if lumenal:
            beads = np.cos(along * np.float32(2 * np.pi / 110.0)) > 0.6
            values += np.float32(lumenal * PROTEIN) * beads * np.exp(-0.5 * (distance / 30) ** 2)
        scene.potential[window] += values
        tube = distance <= _OUTER_RADIUS
        scene.labels[window][tube] = MICROTUBULE
        scene.occupied[window] |= distance <= _OUTER_RADIUS + 15
    return bool(segments)
