"""Membranes: single bilayers and double membranes, closed or across the whole field of view.

A shape is a function that returns the signed distance in Å to its surface (negative inside); the bilayers are painted
along that distance. Distances are first order, ``f / |∇f|`` of an implicit function f with its analytic gradient, which
is exact at the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomoscribe.train.phantom.scene import Box, Field, Floats, Scene, blur_width
from tomoscribe.train.phantom.shapes import Warp, random_rotation

__all__ = ["DOUBLE_MEMBRANE", "SINGLE_MEMBRANE", "add_double_membranes", "add_single_membranes"]

DOUBLE_MEMBRANE = 3
SINGLE_MEMBRANE = 4

# A bilayer's phosphates lie about 38 Å apart (Nagle and Tristram-Nagle 2000); the tails are a little less dense than
# ice. The label covers the bilayer with what is bound to it, 60 Å in all.
_LEAFLET = 19.0
_LEAFLET_WIDTH = 5.0
_HEAD_POTENTIAL = 3.2
_TAIL_POTENTIAL = -0.5
_LABEL_HALF_WIDTH = 30.0
_CLEARANCE = 50.0
# Typical change of the spacing of two membranes along them, as a share of it.
_SWELLING = 0.2
_ATTEMPTS = 30


def add_single_membranes(scene: Scene, closed: int, sheets: int) -> None:
    """Add vesicles and tubules, and sheets that cross the field of view."""
    for _ in range(sheets):
        _add_sheet(scene, None, SINGLE_MEMBRANE)
    for _ in range(closed):
        generator = scene.generator
        if generator.random() < 0.2:
            width = generator.uniform(180, 350)
            radii = (generator.uniform(600, 2000), width, width * generator.uniform(1.0, 2.0))
        else:
            radius = float(np.exp(generator.uniform(np.log(180), np.log(900))))
            radii = tuple(radius * generator.uniform(0.75, 1.25, 3))
        _add_closed(scene, radii, None, SINGLE_MEMBRANE, lumen=float(generator.choice([0.0, 0.0, 0.25, 0.6])))


def add_double_membranes(scene: Scene, closed: int, sheets: int) -> None:
    """Add organelles in two membranes, and double sheets; the gap between the membranes belongs to the label.

    The membranes of a mitochondrion are some 100 to 250 Å apart, those of a nuclear envelope 250 to 500 Å.
    """
    for _ in range(sheets):
        _add_sheet(scene, float(scene.generator.uniform(250, 500)), DOUBLE_MEMBRANE)
    for _ in range(closed):
        generator = scene.generator
        spacing = float(generator.uniform(110, 240))
        short = generator.uniform(500, 1400)
        radii = (short * generator.uniform(1.0, 2.2), short, short * generator.uniform(0.8, 1.1))
        _add_closed(scene, radii, spacing, DOUBLE_MEMBRANE, lumen=float(generator.uniform(0.2, 0.9)))


@dataclass(frozen=True)
class _Closed:
    """The distance to a closed surface: an ellipsoid that a smooth displacement has bent.

    `rotation` holds the directions of the half-axes `axes` as rows, ``(x, y, z)``.
    """

    centre: Floats
    axes: Floats
    rotation: Floats
    warp: Warp

    def __call__(self, z: Floats, y: Floats, x: Floats) -> Floats:
        shift, slope = self.warp.with_gradient(z, y, x)
        push = (np.float32(1.0), np.float32(-1.0), np.float32(0.5))
        offsets = [p - c + shift * d for p, c, d in zip((x, y, z), self.centre, push, strict=True)]
        local = [
            (row[0] * offsets[0] + row[1] * offsets[1] + row[2] * offsets[2]) / axis
            for row, axis in zip(self.rotation, self.axes, strict=True)
        ]
        radius = np.sqrt(local[0] ** 2 + local[1] ** 2 + local[2] ** 2) + np.float32(1e-6)
        scaled = [part / axis for part, axis in zip(local, self.axes, strict=True)]
        # The gradient for the offsets, turned back to x, y and z; the displacement adds its share (chain rule).
        plain = [sum(row[i] * part for row, part in zip(self.rotation, scaled, strict=True)) for i in range(3)]
        pushed = plain[0] * push[0] + plain[1] * push[1] + plain[2] * push[2]
        gradient = [part + pushed * along for part, along in zip(plain, slope, strict=True)]
        steepness = np.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2) / radius + np.float32(1e-9)
        return np.asarray((radius - 1) / steepness, np.float32)


@dataclass(frozen=True)
class _Sheet:
    """The distance to a plane ``normal · (x, y, z) = offset`` that a smooth displacement has bent."""

    normal: Floats
    offset: float
    warp: Warp

    def __call__(self, z: Floats, y: Floats, x: Floats) -> Floats:
        shift, slope = self.warp.with_gradient(z, y, x)
        plane = self.normal[0] * x + self.normal[1] * y + self.normal[2] * z - np.float32(self.offset)
        gradient = [along + part for along, part in zip(slope, self.normal, strict=True)]
        steepness = np.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2) + np.float32(1e-3)
        return np.asarray((plane + shift) / steepness, np.float32)


def _add_closed(scene: Scene, radii: Sequence[float], spacing: float | None, number: int, *, lumen: float) -> None:
    """Add one closed shape where there is room for it, or nothing after a number of attempts.

    With a `spacing` in Å there is a second membrane that far inside the first.
    """
    generator = scene.generator
    axes = np.asarray(radii, np.float32)
    # Organelles are larger than the sample is thick, so any turn but a turn about z would only show less of them.
    rotation = random_rotation(generator, tilt=0.5)
    shortest = float(axes.min())
    for _ in range(_ATTEMPTS):
        warp = Warp.draw(generator, length=1.3 * shortest, amplitude=0.14 * shortest)
        distance = _Closed(scene.draw_position(), axes, rotation, warp)
        box = scene.around(distance.centre, float(axes.max()) * 1.5 + _CLEARANCE)
        if box is not None and scene.is_free(box, distance, -np.inf, _CLEARANCE):
            _paint(scene, box, distance, spacing, number, lumen)
            return


def _add_sheet(scene: Scene, spacing: float | None, number: int) -> None:
    """Add one membrane, or two, that cross the field of view, standing more or less upright in the sample."""
    generator = scene.generator
    whole = scene.whole()
    for _ in range(_ATTEMPTS):
        angle, lean = generator.uniform(0, 2 * np.pi), generator.normal(0, 0.25)
        normal = np.array([np.cos(angle), np.sin(angle), lean], np.float32) / np.float32(np.hypot(1, lean))
        passes = np.array([*generator.uniform(0.1, 0.9, 2), 0.5], np.float32) * scene.size
        warp = Warp.draw(generator, length=generator.uniform(1200, 3000), amplitude=generator.uniform(50, 250))
        distance = _Sheet(normal, float(normal @ passes), warp)
        if scene.is_free(whole, distance, -(1 + 2 * _SWELLING) * (spacing or 0.0) - _CLEARANCE, _CLEARANCE):
            _paint(scene, whole, distance, spacing, number, None)
            return


def _paint(scene: Scene, box: Box, distance: Field, spacing: float | None, number: int, lumen: float | None) -> None:
    """Paint one bilayer, or two, along a distance; what lies inside is filled and taken if `lumen` is given."""
    generator = scene.generator
    bound = Warp.draw(generator, length=90.0, amplitude=1.0)
    # Two membranes are never quite parallel, which is how they differ from the two walls of a microtubule.
    swelling = Warp.draw(generator, length=700.0, amplitude=_SWELLING)
    for slab in scene.slabs(box):
        outer = inner = distance(slab.z, slab.y, slab.x)
        values = _bilayer(outer, scene.voxel_size)
        if spacing is not None:
            inner = outer + np.float32(spacing) * (1 + swelling(slab.z, slab.y, slab.x))
            values += _bilayer(inner, scene.voxel_size)
        # Proteins sit in and on the bilayer in patches.
        values *= 1 + np.float32(0.35) * bound(slab.z, slab.y, slab.x)
        taken = (outer < _CLEARANCE) & (inner > -_CLEARANCE)
        potential = scene.potential[slab.window]
        potential[taken] += values[taken]
        labelled = (outer <= _LABEL_HALF_WIDTH) & (inner >= -_LABEL_HALF_WIDTH)
        scene.labels[slab.window][labelled] = number
        if lumen is not None:
            inside = inner < -_LEAFLET
            potential[inside] += np.float32(lumen)
            taken |= inside
        scene.occupied[slab.window] |= taken


def _bilayer(distance: Floats, voxel_size: float) -> Floats:
    width = blur_width(_LEAFLET_WIDTH, voxel_size)
    # Broader for the grid's sake, lower by as much: a coarse grid shows the same mass.
    head = _HEAD_POTENTIAL * _LEAFLET_WIDTH * 1.6 / width
    heads = np.exp(-0.5 * ((np.abs(distance) - _LEAFLET) / width) ** 2)
    core = np.exp(-0.5 * (distance / blur_width(8.0, voxel_size)) ** 2)
    return np.asarray(head * heads + _TAIL_POTENTIAL * core, np.float32)
