"""Training samples: crops of labelled volumes, varied as tomograms vary.

numpy alone, and as little of it as can be: sampling shares the cores with the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.intensity import intensity_of
from tomoscribe.engine.tiles import reflected

__all__ = ["CropSampler", "NormalisedVolume", "SamplingConfiguration", "TrainingVolume"]

_POSITIONS_OF_A_SLICE = 64  # voxels of a class remembered in each slice, for crops that contain the class


@dataclass(frozen=True)
class TrainingVolume:
    """A tomogram with its truth, in memory.

    Attributes:
        intensity: ``(z, y, x)`` float16 or float32, in the file's own units, dark density on light.
        labels: ``(z, y, x)`` uint8, 0 is background.
        voxel_size: Å.

    Raises:
        ParameterError: the two arrays are not of one shape of three axes, or the voxel size is not positive.
    """

    intensity: NDArray[np.floating]
    labels: NDArray[np.uint8]
    voxel_size: float

    def __post_init__(self) -> None:
        if self.intensity.ndim != 3 or self.intensity.shape != self.labels.shape or not self.intensity.size:
            raise ParameterError(
                f"training volume: expected intensity and labels of one shape (z, y, x), "
                f"found {self.intensity.shape} and {self.labels.shape}"
            )
        if self.labels.dtype != np.uint8:
            raise ParameterError(f"training volume: expected uint8 labels, found {self.labels.dtype}")
        if not self.voxel_size > 0:
            raise ParameterError(f"training volume: expected a voxel size in Å, found {self.voxel_size}")


class NormalisedVolume:
    """Reads windows of a training volume as the network sees them in the engine.

    Normalised with the volume's own mean and standard deviation, measured as the engine measures them; context
    slices outside the volume repeat its first or last slice; pixels outside a slice are its reflection.
    """

    def __init__(self, volume: TrainingVolume, context: int) -> None:
        self.volume = volume
        self._context = context
        mean, rstd = intensity_of(volume.intensity).mean_and_rstd(1)
        self._mean, self._rstd = mean[0], rstd[0]

    def window(
        self, z: int, top: int, left: int, size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return ``(2k + 1, h, w)`` float32 normalised slices around z, and the ``(h, w)`` uint8 labels of slice z."""
        depth, height, width = self.volume.labels.shape
        rows = _pixels(top, size[0], height)
        columns = _pixels(left, size[1], width)
        slices = np.empty((2 * self._context + 1, *size), np.float32)
        for offset, out in enumerate(slices, -self._context):
            source = self.volume.intensity[min(max(z + offset, 0), depth - 1)]
            np.subtract(source[rows][:, columns], self._mean, out=out, dtype=np.float32)
        slices *= self._rstd
        return slices, np.ascontiguousarray(self.volume.labels[z][rows][:, columns])


@dataclass(frozen=True)
class SamplingConfiguration:
    """How crops are chosen and varied; intensities are in standard deviations of the tomogram.

    Attributes:
        crop: height and width of a crop in pixels.
        foreground_share: share of the crops that contain a foreground class chosen evenly from those there are.
        contrast: standard deviation of the logarithm of the contrast.
        brightness: standard deviation of the brightness.
        noise: largest standard deviation of the noise that is added to half of the crops.
        smoothing_share: share of the crops that are smoothed with a 3×3 binomial filter.
        repeat_share: share of the crops whose context slices are replaced by the slice itself, which is what a
            single image looks like.

    Raises:
        ParameterError: a share outside 0 to 1, or a value below 0.
    """

    crop: int = 256
    foreground_share: float = 0.5
    contrast: float = 0.15
    brightness: float = 0.15
    noise: float = 0.4
    smoothing_share: float = 0.2
    repeat_share: float = 0.1

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise ParameterError(f"crop: expected pixels, found {self.crop}")
        for name in ("foreground_share", "smoothing_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name}: expected a share from 0 to 1, found {getattr(self, name)}")
        for name in ("contrast", "brightness", "noise"):
            if not getattr(self, name) >= 0:
                raise ParameterError(f"{name}: expected 0 or more, found {getattr(self, name)}")


class CropSampler:
    """An endless numbered series of training samples; a number and the seed decide a sample wholly.

    Args:
        volumes: what the crops are taken from.
        configuration: how.
        context: context slices on each side, k.
        seed: makes another series.

    Raises:
        ParameterError: there are no volumes.
        IntensityError: a volume is constant or not finite.
    """

    def __init__(
        self, volumes: Sequence[TrainingVolume], configuration: SamplingConfiguration, context: int, seed: int
    ) -> None:
        if not volumes:
            raise ParameterError("training volumes: expected one at least, found none")
        self._volumes = [NormalisedVolume(volume, context) for volume in volumes]
        self._configuration = configuration
        self._seed = seed
        voxels = np.array([volume.labels.size for volume in volumes], np.float64)
        self._shares = voxels / voxels.sum()
        self._positions = _positions_by_class(volumes, np.random.default_rng(seed))

    def sample(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return sample `number`: ``(2k + 1, crop, crop)`` float32 slices and ``(crop, crop)`` uint8 labels."""
        random = np.random.default_rng((self._seed, number))
        crop = self._configuration.crop
        index, z, top, left = self._place(random)
        slices, labels = self._volumes[index].window(z, top, left, (crop, crop))
        return _vary(slices, labels, self._configuration, random)

    def _place(self, random: np.random.Generator) -> tuple[int, int, int, int]:
        """Return which volume, which slice, and the crop's first row and column."""
        crop = self._configuration.crop
        if self._positions and random.random() < self._configuration.foreground_share:
            positions = self._positions[random.integers(len(self._positions))]
            index, z, y, x = (int(value) for value in positions[random.integers(len(positions))])
            _, height, width = self._volumes[index].volume.labels.shape
            top, left = (
                min(max(at - int(random.integers(crop)), 0), max(length - crop, 0))
                for at, length in ((y, height), (x, width))
            )
            return index, z, top, left
        index = int(random.choice(len(self._shares), p=self._shares))
        depth, height, width = self._volumes[index].volume.labels.shape
        z = int(random.integers(depth))
        top, left = (int(random.integers(max(length - crop, 0) + 1)) for length in (height, width))
        return index, z, top, left


def _positions_by_class(volumes: Sequence[TrainingVolume], random: np.random.Generator) -> list[NDArray[np.int32]]:
    """Return for each foreground class that there is ``(n, 4)`` positions: volume, z, y, x."""
    found: dict[int, list[NDArray[np.int32]]] = {}
    for index, volume in enumerate(volumes):
        for z, labels in enumerate(volume.labels):
            for label in np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1:
                flat = np.flatnonzero(labels == label)
                flat = random.choice(flat, min(len(flat), _POSITIONS_OF_A_SLICE), replace=False)
                y, x = np.unravel_index(flat, labels.shape)
                where = [np.full_like(y, index), np.full_like(y, z), y, x]
                found.setdefault(int(label), []).append(np.stack(where, axis=1).astype(np.int32))
    return [np.concatenate(found[label]) for label in sorted(found)]


def _vary(
    slices: NDArray[np.float32], labels: NDArray[np.uint8], how: SamplingConfiguration, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Turn, mirror and change a crop's intensities; the arrays that go in are not used again."""
    if random.random() < how.repeat_share:
        slices[:] = slices[len(slices) // 2].copy()
    if random.random() < 0.5:
        slices = slices[::-1]
    if random.random() < 0.5:
        slices, labels = slices[..., ::-1], labels[..., ::-1]
    turns = int(random.integers(4))
    slices, labels = np.rot90(slices, turns, axes=(1, 2)), np.rot90(labels, turns)
    slices = np.ascontiguousarray(slices)
    if random.random() < how.smoothing_share:
        slices = _smoothed(slices)
    slices *= np.float32(np.exp(random.normal(0.0, how.contrast)))
    slices += np.float32(random.normal(0.0, how.brightness))
    if random.random() < 0.5:
        slices += np.float32(random.uniform(0.0, how.noise)) * random.standard_normal(slices.shape, np.float32)
    return slices, np.ascontiguousarray(labels)


def _smoothed(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return slices convolved with (1, 2, 1) / 4 along y and x, the edges repeated."""
    for axis in (1, 2):
        width = [(0, 0)] * 3
        width[axis] = (1, 1)
        padded = np.moveaxis(np.pad(slices, width, mode="edge"), axis, 0)
        mixed = (padded[:-2] + padded[2:] + padded[1:-1] * np.float32(2)) * np.float32(0.25)
        slices = np.moveaxis(mixed, 0, axis)
    return np.ascontiguousarray(slices)


def _pixels(start: int, count: int, length: int) -> slice | NDArray[np.intp]:
    """Return `count` positions from `start`; past the end they turn back, as where the engine pads a slice."""
    # A slice is read in place; positions cost a copy.
    return slice(start, start + count) if start + count <= length else reflected(start, count, length)
