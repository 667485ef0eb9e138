"""Which slices show the sample: a volume is higher than the section, lamella or ice in it, and the rest is noise.

Structure adds to the variance of a slice at the scale of membranes and ribosomes, once fine noise is averaged away and
slow gradients are taken out. Along z that variance is a plateau above a floor of noise, which phantoms of all
thicknesses and signal-to-noise ratios show. Where the two cannot be told apart, all slices are the section.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.intensity import IntensityStatistics, sampled_slices
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["find_section"]

_SLICES = 96
_FEWEST = 8
_WINDOW = 1024
# In pixels of 10 to 20 Å: blocks average noise at the size of a membrane; a box of 15 blocks follows thickness.
_BLOCK, _GRADIENT = 4, 15
_CLIPPED = 3.0
# How far from the floor to the plateau the variance of a slice is that shows some of the sample, and at least how many
# standard deviations above the floor.
_SHARE, _NOISE = 0.1, 2.5
# Samples more on either side: a surface that is not flat fades.
_SPARE = 3
# Of the samples; an end of fewer may be such a surface.
_LEAST = 0.05
# A plateau that is fewer standard deviations of a slice's variance above the floor may be none.
_DEVIATIONS = 6.0


def find_section(
    tomogram: Tomogram, statistics: IntensityStatistics, z_range: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Return the first slice that shows the sample and one past the last, with a few to spare.

    Args:
        tomogram: where up to 96 slices are read, and 1024 × 1024 pixels in the middle of each count.
        statistics: of its intensities; what is 3 standard deviations or more from the mean, such as gold, is clipped.
        z_range: first slice to look at and one past the last; all of them if None.

    Returns:
        `z_range` itself where the section cannot be told: slices of less than 60 pixels, fewer than 8 slices, or a
        variance that hardly changes along z. Slices that are not finite do not show the sample.

    Raises:
        ParameterError: `z_range` is empty or reaches outside the volume.
    """
    first, last = tomogram.checked_range(z_range)
    _, height, width = tomogram.shape
    positions = sampled_slices(first, last, _SLICES)
    if min(height, width) < _BLOCK * _GRADIENT or len(positions) < _FEWEST:
        return first, last
    buffer = np.empty((1, height, width), np.float32)
    window = (0, _middle(height), _middle(width))
    variances = []
    for z in positions:
        tomogram.read_slices(z, buffer)
        variances.append(_structure((buffer[window] - statistics.mean) / statistics.standard_deviation))
    inside = np.flatnonzero(_above_floor(np.array(variances)))
    if not len(inside):
        return first, last
    start, stop = inside[0] - _SPARE, inside[-1] + _SPARE + 1
    fewest = len(positions) * _LEAST
    return (
        positions[start] if start >= fewest else first,
        positions[stop] if len(positions) - stop >= fewest else last,
    )


def _structure(image: NDArray[np.float32]) -> float:
    """Return the variance of a normalised slice at the scale of membranes; NaN if the slice is not finite."""
    from scipy.ndimage import uniform_filter  # here, because it takes longer to import than the rest of the engine

    if not np.isfinite(image).all():
        return np.nan
    height, width = (side // _BLOCK for side in image.shape)
    np.clip(image, -_CLIPPED, _CLIPPED, out=image)
    blocks = image[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK).mean((1, 3))
    return float((blocks - uniform_filter(blocks, _GRADIENT)).var(dtype=np.float64))


def _above_floor(variances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of the slices show the sample; none where floor and plateau cannot be told apart."""
    finite = np.isfinite(variances)
    variances = np.where(finite, variances, np.nanmin(variances)) if finite.any() else np.zeros_like(variances)
    smooth = np.convolve(np.pad(variances, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    floor, plateau = np.percentile(smooth, (5, 75))
    # What is left of a line through three neighbours has √6 times the deviation of each (median, so that surfaces
    # do not count; 0.6745 makes a standard deviation of it).
    bends = np.abs(variances[:-2] - 2 * variances[1:-1] + variances[2:])
    deviation = float(np.median(bends)) / (0.6745 * np.sqrt(6))
    if plateau - floor <= _DEVIATIONS * deviation:
        return np.zeros(len(variances), bool)
    shows: NDArray[np.bool_] = smooth > floor + max(_SHARE * (plateau - floor), _NOISE * deviation)
    return shows & finite


def _middle(side: int) -> slice:
    start = max(side - _WINDOW, 0) // 2
    return slice(start, start + _WINDOW)
