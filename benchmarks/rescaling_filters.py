"""Other ways to resample a line than the engine's, as weights of the same form (`resampling_weights`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import numpy as np
from scipy.sparse import csr_array

from tomoscribe.engine import rescaling
from tomoscribe.engine.resampling import resampling_weights

__all__ = ["area_weights", "interpolation_weights", "reading_with"]


def area_weights(length: int, count: int) -> csr_array:
    """Return the weights ``(count, length)`` float32 of an average over the area that a pixel that is wanted covers."""
    edges = np.arange(count + 1)[:, np.newaxis] * (length / count)
    pixels = np.arange(length)
    overlap = np.maximum(np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels), 0)
    return csr_array((overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32))


def interpolation_weights(length: int, count: int) -> csr_array:
    """Return the weights ``(count, length)`` float32 of linear interpolation between the two nearest pixels.

    Shrinking by them averages nothing away: ``scipy.ndimage.zoom`` of order 1, with ``grid_mode=True``.
    """
    centres = (np.arange(count)[:, np.newaxis] + 0.5) * (length / count) - 0.5
    distance = np.abs(np.arange(length) - np.clip(centres, 0, length - 1))
    return csr_array(np.maximum(1 - distance, 0).astype(np.float32))


def reading_with(weights: Callable[[int, int], csr_array] | None) -> AbstractContextManager[object]:
    """Return a context in which tomograms are read with other weights; None leaves the engine's.

    What the model says of them is brought back with the engine's weights all the same.
    """
    return mock.patch.object(rescaling, "resampling_weights", weights or resampling_weights)
