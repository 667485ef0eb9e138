"""What training and evaluation know of a dataset, wherever its images are."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import TomoscribeError

__all__ = ["IGNORE", "SPLITS", "DatasetError", "LabelledImages"]

IGNORE = 255
"""The label of a voxel that is neither trained on nor judged."""

SPLITS = ("train", "dev", "test")
"""What images are for: to fit the weights, to choose the checkpoint, to judge it."""


class DatasetError(TomoscribeError, ValueError):
    """A dataset that is missing, incomplete, or cannot do what it was asked for."""


class LabelledImages(Protocol):
    """Numbered images with their labels; an image is one tile of one slice."""

    @property
    def class_map(self) -> ClassMap:
        """What the labels mean; 254 classes at most, because `IGNORE` is none."""

    @property
    def tile(self) -> int:
        """Height and width of an image in pixels."""

    @property
    def voxel_size(self) -> tuple[float, float]:
        """The smallest and the largest of the tomograms, Å."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """``(images, classes)``: the voxels of each image by label, background first; ignored ones are not counted."""

    def numbers(self, split: str) -> NDArray[np.int64]:
        """Return the numbers of the images of a split (`SPLITS`), ascending."""

    def read(self, number: int, context: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return an image with its neighbours in z, and its labels.

        Args:
            number: which image.
            context: neighbouring slices on each side, k; outside the tomogram its first or last slice is repeated.

        Returns:
            ``(2k + 1, tile, tile)`` float32, normalised as the engine normalises (mean 0 and standard deviation 1 over
            the tomogram, dark density on light), and ``(tile, tile)`` uint8 labels, `IGNORE` where nothing is known.

        Raises:
            DatasetError: the dataset has fewer slices around its images, or its files are damaged.
        """
