"""Resampling of slices and of what a network says of them, along y and x each with its own weights.

The corners of a slice stay where they are: n pixels become m that cover exactly the same field of view. Where slices
are shrunk, weights that fall linearly reach twice as far as an average over area, and leave less of the noise beyond
what the larger pixels can show. The bundled network finds as much in both (benchmarks/results/rescaling.md).

Scores are resampled so, and a label is the class of the highest score, background among them. A border then runs where
two scores cross, between the centres of pixels, as it does in the score volumes. The nearest label would leave steps
of a whole pixel of the network's, which is half of a thin membrane.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ScoreResampler", "resample", "resampling_weights"]

# Values that are resampled at once: few enough for a core's own cache.
_BAND_VALUES = 2**17
# Scores are worked on as uint16, in steps of 1/256 of a score.
_UNIT = 256
# What the label that the network gave has in advance, so that it is given where scores are equal once they are rounded:
# 1/16 of a score, too little to be seen in one.
_GIVEN = _UNIT // 16


def resampling_weights(length: int, count: int) -> csr_array:
    """Return the weights that resample a line linearly.

    A pixel that is wanted is a mean of those around its centre, whose weights fall linearly to 0 at a distance of one
    pixel: of the larger of the two kinds of pixels, so that shrinking averages away what larger pixels cannot show,
    and enlarging is linear interpolation. (The filter of Pillow's ``Resampling.BILINEAR``.)

    Args:
        length: pixels that there are.
        count: pixels that are wanted, over the same extent.

    Returns:
        ``(count, length)`` float32, of which every row adds up to 1.
    """
    from scipy.sparse import csr_array  # here, because it takes longer to import than the rest of the engine

    reach = max(length / count, 1.0)
    centres = (np.arange(count)[:, np.newaxis] + 0.5) * (length / count)
    columns = np.floor(centres - reach).astype(np.intp) + np.arange(math.ceil(2 * reach) + 1)
    weights = np.maximum(1 - np.abs(columns + 0.5 - centres) / reach, 0)
    weights[(columns < 0) | (columns >= length)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    rows, taps = np.nonzero(weights)
    return csr_array((weights[rows, taps].astype(np.float32), (rows, columns[rows, taps])), shape=(count, length))


def resample(image: NDArray[np.float32], rows: csr_array, columns: csr_array) -> NDArray[np.float32]:
    """Return an image ``(y, x)`` float32 resampled along y with the weights `rows` and along x with `columns`."""
    resampled: NDArray[np.float32] = (columns @ (rows @ image).T).T
    return resampled


class ScoreResampler:
    """Resamples the scores of one slice after the other, and its labels by them.

    Args:
        shape: ``(y, x)`` of the slices as the network sees them.
        target_shape: ``(y, x)`` that is wanted.
        classes: of the scores, background among them.
    """

    def __init__(self, shape: tuple[int, int], target_shape: tuple[int, int], classes: int) -> None:
        rows, self._columns = map(resampling_weights, shape, target_shape)
        self._bands = list(_bands(rows, max(1, _BAND_VALUES // (classes * target_shape[1]))))
        self._numbers = np.arange(classes, dtype=np.uint8)
        self._labels = np.empty(target_shape, np.uint8)
        self._scores = np.empty((classes, *target_shape), np.uint8)

    def resample(
        self, labels: NDArray[np.uint8], scores: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return labels ``(y, x)`` and scores ``(classes, y, x)`` of the wanted shape, overwritten by the next.

        Args:
            labels: ``(h, w)`` uint8, the class of the highest of the scores before they were rounded.
            scores: ``(classes, h, w)`` uint8.
        """
        for band in self._bands:
            values = self._band_values(band, labels, scores)
            highest = values[:, 0].copy()
            chosen = self._labels[band.target]
            chosen[:] = 0
            for number in self._numbers[1:]:
                higher = values[:, number] > highest
                # The numbers rise, so that the latest is the largest.
                np.maximum(chosen, higher * number, out=chosen)
                np.maximum(highest, values[:, number], out=highest)
            values += _UNIT // 2
            values //= _UNIT
            self._scores[:, band.target] = values.transpose(1, 0, 2)
        return self._labels, self._scores

    def _band_values(self, band: _Band, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Return the scores ``(rows, classes, x)`` of a band, 256 a step."""
        given = labels[band.source] == self._numbers[:, np.newaxis, np.newaxis]
        values = np.multiply(scores[:, band.source], _UNIT, dtype=np.uint16)
        values += given * np.uint16(_GIVEN)
        classes, count, width = values.shape
        # The product with sparse weights runs along the first axis.
        along_x = values.transpose(2, 1, 0).astype(np.float32, order="C").reshape(width, -1)
        wide = (self._columns @ along_x).T.reshape(count, -1)
        fine: NDArray[np.uint16] = (band.weights @ wide).astype(np.uint16)
        return fine.reshape(len(fine), classes, -1)


@dataclass(frozen=True)
class _Band:
    """Rows that are wanted, the rows that they are made of, and the weights of those."""

    target: slice
    source: slice
    weights: csr_array


def _bands(weights: csr_array, size: int) -> Iterator[_Band]:
    """Cut weights into bands of up to `size` rows, each with the columns that it needs alone."""
    count = weights.shape[0]
    for first in range(0, count, size):
        rows = slice(first, min(first + size, count))
        part = weights[rows]
        source = slice(int(part.indices.min()), int(part.indices.max()) + 1)
        yield _Band(rows, source, part[:, source])
