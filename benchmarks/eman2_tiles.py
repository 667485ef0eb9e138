"""What EMAN2's convolutional network is trained on and looks at: filtered slices, and tiles of them with targets.

"preproc:43" stands for line 43 of EMAN2's programs/e2tomoseg_preproc.py, as `eman2_convnet` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from tomoscribe.train.dataset.contract import IGNORE, DatasetError, LabelledImages

__all__ = ["CONTEXT", "Tiles", "draw_tiles", "prepare"]

CONTEXT = 2
"""Neighbouring slices on each side that `prepare` filters over; beyond them the filter is below 1/100."""

_TILE = 64  # box of the training set; convnet:302, trainset:52
_SHRINK = 2  # all the poolings of the network together; convnet:80
_IMAGES = 1000  # that tiles with the feature are drawn from at most, and those without it
_LOW_PASS = 0.25  # cycles per pixel, preproc:43
_HIGH_PASS = 5.0  # Fourier pixels, preproc:44
_CLAMP = 3.0  # standard deviations, preproc:46


@dataclass(frozen=True)
class Tiles:
    """A training set.

    Attributes:
        images: ``(n, 1, 64, 64)`` float32, prepared.
        targets: ``(n, 1, 32, 32)`` float32, the scores to reach.
        known: ``(n, 1, 32, 32)`` bool, where they are known.
    """

    images: Tensor
    targets: Tensor
    known: Tensor


def prepare(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filter a slice with its neighbours as EMAN2 filters a tomogram before annotation.

    Gaussian low-pass, Gaussian high-pass, normalisation, clamping (preproc:43-46), then a division that makes the range
    -1 to 1 (convnet:235, 290). EMAN2's Gaussians fall to 1/e at the cut-off (processor_sparx.h:144-148 and
    fourierfilter.cpp:177-182, 345-367 in libEM/sparx), which is a standard deviation of 1 / (√2 π cut-off) pixels in
    real space. Here the edges are mirrored instead of wrapped around, the high-pass is that of the slice, and each
    slice is normalised by itself.

    Args:
        slices: ``(2 × CONTEXT + 1, h, w)`` float32, the slice to prepare in the middle.

    Returns:
        ``(h, w)`` float32.
    """
    spread = 1 / (np.sqrt(2) * np.pi * _LOW_PASS)
    weights = np.exp(-((np.arange(-CONTEXT, CONTEXT + 1) / spread) ** 2) / 2).astype(np.float32)
    image = gaussian_filter(np.tensordot(weights / weights.sum(), slices, 1), spread)
    image -= gaussian_filter(image, image.shape[1] / (np.sqrt(2) * np.pi * _HIGH_PASS))
    deviation = image.std()
    if deviation > 0:
        image /= deviation
    prepared: NDArray[np.float32] = image.clip(-_CLAMP, _CLAMP) / np.float32(_CLAMP)
    return prepared


def draw_tiles(images: LabelledImages, label: int, count: int, seed: int) -> Tiles:
    """Draw a training set from a dataset's train split: tiles around voxels of a feature, and as many without it.

    EMAN2's users draw boxes with and without the feature, which are turned by random angles and balanced by copies
    (trainset:130-183). Here both are drawn from all annotated images, far more than anybody would box, and what comes
    into a turned tile from outside is the image, where EMAN2 has zeros. Targets are the annotation, shrunk by averaging
    (convnet:279), between 0 and 1 (convnet:292).

    Raises:
        DatasetError: no image of the train split has the feature.
    """
    random = np.random.default_rng((seed, label))
    numbers = images.numbers("train")
    positive = numbers[images.counts[numbers, label] > 0]
    if not len(positive):
        raise DatasetError(f"class {label}: expected it in the train split, found it in none of {len(numbers)} images")
    half = count // 2
    # Several tiles of an image, because filtering one takes longer than cutting a hundred tiles.
    positive, numbers = (random.choice(part, min(len(part), _IMAGES), replace=False) for part in (positive, numbers))
    wanted = [(int(number), True) for number in random.choice(positive, half)]
    wanted += [(int(number), False) for number in random.choice(numbers, count - half)]
    drawn: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]] = []
    loaded = -1
    for number, with_feature in sorted(wanted):
        if number != loaded:
            slices, labels = images.read(number, CONTEXT)
            image, loaded = prepare(slices), number
        centre = _place(labels, label, with_feature, random)
        if centre is not None:
            drawn.append(_cut(image, labels, label, centre, random.uniform(0, 2 * np.pi)))
    parts = (torch.from_numpy(np.stack(part)[:, np.newaxis]) for part in zip(*drawn, strict=True))
    return Tiles(*parts)


def _place(
    labels: NDArray[np.uint8], label: int, with_feature: bool, random: np.random.Generator
) -> tuple[float, float] | None:
    """Return the centre of a tile: near a voxel of the feature, or away from all; None where there is no such place."""
    reach = int(np.ceil(_TILE / np.sqrt(2)))
    if with_feature:
        rows, columns = np.nonzero(labels == label)
        chosen = random.integers(len(rows))
        y, x = random.uniform(-_TILE / 4, _TILE / 4, 2)
        return float(rows[chosen] + y), float(columns[chosen] + x)
    for _ in range(20):
        y, x = random.uniform((0, 0), labels.shape)
        top, left = (max(int(at) - reach, 0) for at in (y, x))
        if not (labels[top : int(y) + reach, left : int(x) + reach] == label).any():
            return float(y), float(x)
    return None


def _cut(
    image: NDArray[np.float32], labels: NDArray[np.uint8], label: int, centre: tuple[float, float], angle: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return a turned tile, its target and where that is known."""
    places = np.arange(_TILE) - (_TILE - 1) / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    rows = centre[0] + np.cos(angle) * y - np.sin(angle) * x
    columns = centre[1] + np.sin(angle) * y + np.cos(angle) * x

    def turned(values: NDArray[np.float32]) -> NDArray[np.float32]:
        tile: NDArray[np.float32] = map_coordinates(values, (rows, columns), order=1, mode="mirror")
        return tile

    target, known = (_shrunk(turned(part.astype(np.float32))) for part in (labels == label, labels != IGNORE))
    return turned(image), target, known > 0.99


def _shrunk(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    side = _TILE // _SHRINK
    shrunk: NDArray[np.float32] = tile.reshape(side, _SHRINK, side, _SHRINK).mean(axis=(1, 3))
    return shrunk
