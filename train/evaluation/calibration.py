"""Calibration: whether a score of 0.8 is right four times out of five.

The measure is the expected calibration error of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
(arXiv:1706.04599), equation 3, with 15 bins as there: voxels are binned by their score, and the distances between the
mean score of a bin and the share of its voxels that are right are averaged, weighted by voxels. Guo takes the score of
the label that was given; the same is done for the score of every class, as Kull et al., NeurIPS 2019
(arXiv:1910.12656), section 3, have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.metrics import ratio

__all__ = ["BINS", "Calibration", "ReliabilityCurve"]

BINS = 15


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often scores are right, by score. The bins divide 0 to 1 evenly.

    Attributes:
        voxels: ``(bins,)`` int64, the voxels in each bin.
        score: ``(bins,)`` float64, their mean score; NaN in an empty bin.
        accuracy: ``(bins,)`` float64, the share of them that are right; NaN in an empty bin.
    """

    voxels: NDArray[np.int64]
    score: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: 0 is perfect; NaN without voxels."""
        if not self.voxels.any():
            return float("nan")
        return float(np.nansum(self.voxels * np.abs(self.score - self.accuracy)) / self.voxels.sum())


class Calibration:
    """Counts voxels by score, and whether the score was right.

    Every value that a score may have is counted on its own, so that bins can be chosen afterwards and memory does not
    depend on the number of voxels.

    Attributes:
        probabilities: ``(values,)`` float64, the probability that each score value stands for.
        counts: ``(classes, values, 2)`` int64: by class and score, voxels that are not and that are of the class.
        given: ``(values, 2)`` int64: by the score of the label that was given, whether it was wrong or right.
    """

    def __init__(self, classes: int, probabilities: NDArray[np.float64]) -> None:
        self.probabilities = probabilities
        self.counts: NDArray[np.int64] = np.zeros((classes, len(probabilities), 2), np.int64)
        self.given: NDArray[np.int64] = np.zeros((len(probabilities), 2), np.int64)

    def add(self, labels: NDArray[np.uint8], truth: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Count voxels.

        Args:
            labels: ``(voxels,)``.
            truth: ``(voxels,)``, nowhere `IGNORE`.
            scores: ``(classes, voxels)``, indices into `probabilities`.

        Raises:
            ParameterError: a score that stands for no probability.
        """
        if scores.size and scores.max() >= len(self.probabilities):
            raise ParameterError(f"scores: expected 0 to {len(self.probabilities) - 1}, found {scores.max()}")
        for number, counts in enumerate(self.counts):
            counts += self._count(scores[number], truth == number)
        given = np.take_along_axis(scores, labels[np.newaxis], axis=0)[0]
        self.given += self._count(given, labels == truth)

    def curve(self, number: int | None, bins: int = BINS) -> ReliabilityCurve:
        """Return the reliability curve of a class's score, or (None) that of the label that was given."""
        counts = self.given if number is None else self.counts[number]
        position = np.minimum((self.probabilities * bins).astype(np.intp), bins - 1)
        voxels, right, score = (
            np.bincount(position, weights=weights, minlength=bins)
            for weights in (counts.sum(axis=1), counts[:, 1], counts.sum(axis=1) * self.probabilities)
        )
        return ReliabilityCurve(voxels.astype(np.int64), ratio(score, voxels), ratio(right, voxels))

    def _count(self, scores: NDArray[np.uint8], right: NDArray[np.bool_]) -> NDArray[np.int64]:
        values = len(self.probabilities)
        return np.bincount(2 * scores.astype(np.intp) + right, minlength=2 * values).reshape(values, 2)
