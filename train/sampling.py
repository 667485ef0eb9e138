"""Training samples: crops of a dataset's images, in balance between the classes.

numpy alone, and as little of it as can be: sampling shares the cores with the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import DatasetError, LabelledImages

__all__ = ["CropSampler", "StepNumbers"]


class CropSampler:
    """An endless numbered series of crops of the train split; a number and the seed decide a crop wholly.

    Of the first n samples floor(n · `foreground_share`) contain a foreground class, which is chosen evenly from those
    that the split has; the image is chosen evenly from those that have the class, and a voxel of the class evenly
    from the image's. The other samples go through the images in a new random order every epoch.

    Args:
        images: the dataset.
        crop: height and width of a crop in pixels.
        foreground_share: see above; 0 to 1.
        context: context slices on each side, k.
        seed: makes another series.

    Raises:
        DatasetError: the train split is empty.
        ParameterError: the crop is larger than an image.
    """

    def __init__(self, images: LabelledImages, *, crop: int, foreground_share: float, context: int, seed: int) -> None:
        self._images = images
        self._crop = crop
        self._context = context
        self._seed = seed
        self._numbers = images.numbers("train")
        if not len(self._numbers):
            raise DatasetError("dataset: its train split has no images; build it with other shares")
        if not 0 < crop <= images.tile:
            raise ParameterError(f"crop: expected 1 to {images.tile}, the size of the dataset's images, found {crop}")
        there = images.counts[self._numbers, 1:] > 0
        self._images_of = {int(c) + 1: self._numbers[there[:, c]] for c in np.flatnonzero(there.any(axis=0))}
        self._foreground_share = foreground_share if self._images_of else 0.0
        self._epoch = -1
        self._order = self._numbers

    def __getitem__(self, number: int) -> tuple[int, NDArray[np.float32], NDArray[np.uint8]]:
        """Return the number, ``(2k + 1, crop, crop)`` float32 slices and ``(crop, crop)`` uint8 labels.

        Raises:
            DatasetError: the dataset has fewer context slices, or its files are damaged.
        """
        random = np.random.default_rng((self._seed, number))
        balanced = self._balanced_before(number)
        if self._balanced_before(number + 1) > balanced:
            label: int | None
            label, candidates = list(self._images_of.items())[random.integers(len(self._images_of))]
            image = int(random.choice(candidates))
        else:
            label = None
            image = self._next_image(number - balanced)
        slices, labels = self._images.read(image, self._context)
        top, left = self._corner(labels, label, random)
        rows, columns = slice(top, top + self._crop), slice(left, left + self._crop)
        return number, slices[:, rows, columns], labels[rows, columns]

    def _balanced_before(self, number: int) -> int:
        return int(number * self._foreground_share)

    def _next_image(self, position: int) -> int:
        epoch, place = divmod(position, len(self._numbers))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self._seed, epoch, len(self._numbers))).permutation(self._numbers)
            self._epoch = epoch
        return int(self._order[place])

    def _corner(self, labels: NDArray[np.uint8], label: int | None, random: np.random.Generator) -> tuple[int, int]:
        """Return a crop's first row and column; evenly from those that contain a voxel of the label, chosen evenly."""
        room = self._images.tile - self._crop
        if label is None or not room:
            return int(random.integers(room + 1)), int(random.integers(room + 1))
        y, x = divmod(int(random.choice(np.flatnonzero(labels == label))), labels.shape[1])
        first = [(max(at - self._crop + 1, 0), min(at, room)) for at in (y, x)]
        return int(random.integers(first[0][0], first[0][1] + 1)), int(random.integers(first[1][0], first[1][1] + 1))


@dataclass(frozen=True)
class StepNumbers:
    """The numbers of the samples of each step on one device; step s of w devices has the batches s·w to s·w + w − 1.

    Attributes:
        batch_size: samples a step on each device.
        first: the step to begin with, from 0.
        steps: the step to end before.
        rank: which device.
        devices: how many.
    """

    batch_size: int
    first: int
    steps: int
    rank: int = 0
    devices: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.steps):
            start = (step * self.devices + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))
