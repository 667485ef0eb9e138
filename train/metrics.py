"""How well labels agree with the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import IGNORE

__all__ = ["ConfusionMatrix", "ratio"]

Figures = NDArray[np.float64]


class ConfusionMatrix:
    """Counts voxels by true class and by the class that they were given.

    Attributes:
        counts: ``(classes, classes)`` int64, the truth along the first axis; background is class 0.
    """

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Count the voxels of two label arrays of the same shape; where the truth is `IGNORE`, none.

        Raises:
            ParameterError: the shapes differ, or a label is not below the number of classes.
        """
        classes = len(self.counts)
        if labels.shape != truth.shape:
            raise ParameterError(f"labels: expected the truth's shape {truth.shape}, found {labels.shape}")
        counted = truth != IGNORE
        labels, truth = labels[counted], truth[counted]
        if labels.size and max(labels.max(), truth.max()) >= classes:
            found = max(labels.max(), truth.max())
            raise ParameterError(f"labels: expected labels from 0 to {classes - 1}, found {found}")
        pairs = truth.astype(np.int64) * classes + labels
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    @property
    def right(self) -> NDArray[np.int64]:
        """Voxels of each class that were given it, ``(classes,)``."""
        return np.diagonal(self.counts)

    @property
    def true(self) -> NDArray[np.int64]:
        """Voxels that are of each class, ``(classes,)``."""
        there: NDArray[np.int64] = self.counts.sum(axis=1)
        return there

    @property
    def found(self) -> NDArray[np.int64]:
        """Voxels that were given each class, ``(classes,)``."""
        given: NDArray[np.int64] = self.counts.sum(axis=0)
        return given

    def dice(self) -> Figures:
        """Return the Dice coefficient of each class, ``(classes,)`` float64.

        2 |A ∩ B| / (|A| + |B|), after Dice, Ecology 26 (1945) 297. NaN for a class that is neither in the truth nor in
        the labels, where there is nothing to say; 0 for one that is in only one of them.
        """
        return ratio(2 * self.right, self.true + self.found)

    def mean_dice(self) -> float:
        """Return the mean Dice of the classes that the truth has, background not counted; NaN if it has none.

        A class that the truth lacks has a Dice of 0 as soon as one voxel is given it, which says nothing of how well
        it would be found (Maier-Hein et al., Nature Methods 21 (2024) 195).
        """
        there = self.true[1:] > 0
        return float(self.dice()[1:][there].mean()) if there.any() else float("nan")

    def iou(self) -> Figures:
        """Return intersection over union, |A ∩ B| / |A ∪ B|, of each class; NaN where `dice` is."""
        return ratio(self.right, self.true + self.found - self.right)

    def precision(self) -> Figures:
        """Return which share of the voxels that were given each class is of it; NaN where none was."""
        return ratio(self.right, self.found)

    def recall(self) -> Figures:
        """Return which share of the voxels of each class was given it; NaN where there are none."""
        return ratio(self.right, self.true)

    def shares(self) -> Figures:
        """Return the counts as shares of the true class, ``(classes, classes)``; a row is NaN where it has none."""
        return ratio(self.counts, self.true[:, np.newaxis])


def ratio(part: NDArray[np.int64] | Figures, whole: NDArray[np.int64] | Figures) -> Figures:
    """Return ``part / whole`` in float64, NaN where `whole` is 0."""
    nowhere = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    quotient: Figures = np.divide(part, whole, out=nowhere, where=whole > 0)
    return quotient
