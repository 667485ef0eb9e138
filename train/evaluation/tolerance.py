"""Dice that forgives a border that is a few pixels off.

A membrane is a few pixels thick, so that a label which follows it exactly, one pixel wider than the truth is drawn,
loses a third of its Dice. Whoever asks whether the membranes were found wants to know how much of what was labelled
lies within a few pixels of the truth, and how much of the truth within a few pixels of a label, as the boundary
measure of Martin et al., IEEE TPAMI 26 (2004) 530, and the surface Dice of Nikolov et al., arXiv:1809.04430, do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from tomoscribe.train.metrics import ratio

__all__ = ["TolerantCounts"]


class TolerantCounts:
    """Counts voxels that have the other side's class within a few pixels of them in their slice.

    Args:
        classes: how many, background counted.
        tolerance: pixels along y and along x.

    Attributes:
        found: ``(classes, 2)`` int64, voxels that were given a class: far from the truth's, and near.
        true: ``(classes, 2)`` int64, voxels that are of a class: far from the nearest such label, and near.
    """

    def __init__(self, classes: int, tolerance: int) -> None:
        self.tolerance = tolerance
        self.found: NDArray[np.int64] = np.zeros((classes, 2), np.int64)
        self.true: NDArray[np.int64] = np.zeros((classes, 2), np.int64)

    def add(self, labels: NDArray[np.uint8], truth: NDArray[np.uint8], counted: NDArray[np.bool_]) -> None:
        """Count the pixels of an image.

        Args:
            labels: ``(y, x)``.
            truth: ``(y, x)``.
            counted: ``(y, x)``, the pixels that count; those around them are looked at.
        """
        for number in range(1, len(self.found)):
            given, wanted = labels == number, truth == number
            for one, other, counts in ((given, wanted, self.found), (wanted, given, self.true)):
                mine = one & counted
                if mine.any():
                    near = np.count_nonzero(self._widened(other) & mine)
                    counts[number] += np.count_nonzero(mine) - near, near

    def dice(self) -> NDArray[np.float64]:
        """Return the harmonic mean of the two shares that are near, ``(classes,)`` float64.

        NaN for background, and for a class that occurs on neither side; 0 for one that occurs on one side only.
        """
        (_, precise), (_, recalled) = self.found.T, self.true.T
        precision, recall = (
            np.nan_to_num(ratio(near, counts.sum(axis=1)))
            for near, counts in ((precise, self.found), (recalled, self.true))
        )
        dice = np.divide(
            2 * precision * recall, precision + recall, out=np.zeros(len(precision)), where=precision + recall > 0
        )
        return np.where(self.found.sum(axis=1) + self.true.sum(axis=1) > 0, dice, np.nan)

    def _widened(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        wide: NDArray[np.bool_] = maximum_filter(mask, size=2 * self.tolerance + 1, mode="constant", cval=0)
        return wide
