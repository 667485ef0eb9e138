"""How well labels agree with the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix:
    """Counts voxels by true class and by the class that they were given.

    Attributes:
        counts: ``(classes, classes)`` int64, the truth along the first axis; background is class 0.
    """

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Count the voxels of two label arrays of the same shape.

        Raises:
            ParameterError: the shapes differ, or a label is not below the number of classes.
        """
        classes = len(self.counts)
        if labels.shape != truth.shape:
            raise ParameterError(f"labels: expected the truth's shape {truth.shape}, found {labels.shape}")
        if labels.size and max(labels.max(), truth.max()) >= classes:
            found = max(labels.max(), truth.max())
            raise ParameterError(f"labels: expected labels from 0 to {classes - 1}, found {found}")
        pairs = truth.astype(np.int64) * classes + labels
        self.counts += np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)

    def dice(self) -> NDArray[np.float64]:
        """Return the Dice coefficient of each class, ``(classes,)`` float64.

        2 |A ∩ B| / (|A| + |B|), after Dice, Ecology 26 (1945) 297. NaN for a class that is neither in the truth nor in
        the labels, where there is nothing to say; 0 for one that is in only one of them.
        """
        both = np.diagonal(self.counts)
        either = self.counts.sum(axis=0) + self.counts.sum(axis=1)
        dice: NDArray[np.float64] = np.divide(2.0 * both, either, out=np.full(len(both), np.nan), where=either > 0)
        return dice
