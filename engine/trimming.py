"""The slices of a tomogram that hold the sample, found from statistics of every slice.

Above and below the sample a reconstruction holds noise and what the missing wedge smears out of the sample. Noise has
less contrast than the sample at the size of cellular structure, and its contrast is symmetric: membranes, ribosomes and
proteins are darker than what is around them, so that the grey values of the sample are skewed whatever the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.intensity import check_finite
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["Trim", "find_content"]

# Slices are averaged to some 300 pixels a side, 3 nm in a field of view of 1 µm, and what is larger than single pixels
# and smaller than the unevenness of ice and illumination is taken between two Gaussians, sigma in these pixels.
_SIDE = 300
_FINE, _COARSE = 2.0, 6.0
_END_SLICES = 3
_SHORTEST_RUN = 4
_MARGIN = 2
_SMOOTHED = 5
_RISE = 0.1
_HALF = 0.5
_LARGEST_FLOOR = 0.85
_LARGEST_ASYMMETRY = 0.12


@dataclass(frozen=True)
class Trim:
    """The slices of a tomogram that hold the sample.

    Attributes:
        start: the first slice.
        stop: one past the last.
        profile: ``(z,)`` float64, the contrast of every slice that was looked at; the middle of the upper half is 1.
        threshold: what the profile stays below in slices that are left out.
        reason: one line that says what is left out, and why.
    """

    start: int
    stop: int
    profile: NDArray[np.float64]
    threshold: float
    reason: str


def find_content(tomogram: Tomogram, z_range: tuple[int, int] | None = None) -> Trim:
    """Find the slices that hold the sample; every slice is read once.

    The contrast of a slice is the standard deviation of its band-passed values, relative to that of the sample: the
    third quartile over all slices. The floor is the mean contrast of the three outermost slices, at the end where it is
    lower. From either end, slices are left out up to the first whose contrast rises above the floor by a tenth of what
    lies between floor and sample, or whose skewness (mean of five slices) times contrast exceeds 0.12: what the missing
    wedge smears out of the sample is skewed too, but faint. The last two of them stay, for a surface is uneven. Nothing
    is left out of an end

    * where the floor is above 0.85 of the sample's contrast: nothing tells the two apart,
    * where the floor is shorter than four slices, or than the contrast takes from a tenth to one half of its rise: then
      the sample fades out, as it does at the end of a volume that it fills.

    So slices are rather kept that are empty than left out with sample in them; the profile tells where the line was
    drawn.

    Args:
        tomogram: the volume.
        z_range: first slice to look at and one past the last; all of them if None.

    Raises:
        IntensityError: a slice holds NaN or infinity.
        ParameterError: `z_range` is empty or reaches outside the volume.
        TomogramFormatError: the file is truncated or damaged.
    """
    span = tomogram.checked_range(z_range)
    contrast, skewness = _measure(tomogram, span)
    sample = float(np.percentile(contrast, 75))
    profile = contrast / sample if sample > 0 else np.zeros_like(contrast)
    floor = float(min(profile[:_END_SLICES].mean(), profile[-_END_SLICES:].mean()))
    threshold = floor + _RISE * (1 - floor)
    if floor > _LARGEST_FLOOR:
        return _everything(span, profile, threshold, f"the outermost slices have {floor:.0%} of the sample's contrast")
    is_sample = (profile > threshold) | (skewness * profile > _LARGEST_ASYMMETRY)
    is_half = profile > floor + _HALF * (1 - floor)
    start, end = (_empty_run(is_sample[::step], (profile > threshold)[::step], is_half[::step]) for step in (1, -1))
    if not start and not end:
        return _everything(span, profile, threshold, "the contrast does not stay low at either end")
    reason = (
        f"left out {start} slices at the bottom and {end} at the top: their contrast is below {threshold:.0%} of the "
        "sample's, and symmetric as that of noise"
    )
    return Trim(span[0] + start, span[1] - end, profile, threshold, reason)


def _everything(span: tuple[int, int], profile: NDArray[np.float64], threshold: float, why: str) -> Trim:
    return Trim(*span, profile, threshold, f"left out no slice: {why}")


def _empty_run(is_sample: NDArray[np.bool_], is_risen: NDArray[np.bool_], is_half: NDArray[np.bool_]) -> int:
    """Return how many slices are left out, of slices in order from one end."""
    run, risen, half = (int(np.argmax(flags)) for flags in (is_sample, is_risen, is_half))
    return run - _MARGIN if run >= max(_SHORTEST_RUN, half - risen) else 0


def _measure(tomogram: Tomogram, span: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the contrast of every slice in the file's units, and the magnitude of its skewness, smoothed over z."""
    # Here, because it takes longer to import than the rest of the engine.
    from scipy.ndimage import gaussian_filter, uniform_filter1d

    _, height, width = tomogram.shape
    depth = span[1] - span[0]
    block = max(1, round(min(height, width) / _SIDE))
    contrast, skewness = np.zeros(depth), np.zeros(depth)
    buffer = np.empty((1, height, width), np.float32)
    for index, z in enumerate(range(*span)):
        tomogram.read_slices(z, buffer)
        check_finite(buffer, z, str(tomogram.path))
        small = _average(buffer[0], block)
        band = gaussian_filter(small, _FINE) - gaussian_filter(small, _COARSE)
        band -= band.mean(dtype=np.float64)
        contrast[index] = band.std(dtype=np.float64)
        if contrast[index] > 0:
            standardised = band / contrast[index]
            skewness[index] = np.mean(standardised * standardised * standardised, dtype=np.float64)
    return contrast, np.abs(uniform_filter1d(skewness, _SMOOTHED, mode="nearest"))


def _average(image: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return the means of blocks of pixels; a rest at the right and bottom that fills no block is left out."""
    height, width = (length // block for length in image.shape)
    cut = image[: height * block, : width * block]
    means: NDArray[np.float32] = cut.reshape(height, block, width, block).mean(axis=(1, 3))
    return means
