"""Whether density is dark or bright, which no file says; a model that learnt the one is blind to the other.

Density is rare and stands out: membranes, filaments and ribosomes lie in a larger volume of cytosol. Once noise
is smoothed away and slow gradients of thickness are taken out, the tail of the grey values points to where density
lies, dark (negative skewness) or bright (positive); images turned over give the same number with the other sign.

The limit was set on the few published volumes whose polarity is known; the tests call them again. There is a single
real bright volume among them, and no whole cell: that is evidence for a warning, not for turning a volume over.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.intensity import sampled_slices
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["density_skewness", "polarity_of"]

_SLICES = 8
_WINDOW = 512
_SMALLEST = 64
_LIMIT = 0.2
_PERCENTILES = (0.5, 99.5)
# Box filters, in pixels of 10 to 20 Å: 3 smooths noise at the size of a membrane, 15 follows thickness.
_NOISE, _GRADIENT = 3, 15


def polarity_of(tomogram: Tomogram, z_range: tuple[int, int] | None = None) -> str | None:
    """Tell from a sample of slices whether density is ``dark`` or ``bright``, as ``model.json`` has the words.

    Args:
        tomogram: where up to 8 slices are read.
        z_range: first slice and one past the last; all of them if None.

    Returns:
        None where it cannot be told: slices of less than 64 pixels, values that are not finite, or that point neither
        way.

    Raises:
        ParameterError: `z_range` is empty or reaches outside the volume.
    """
    span = tomogram.checked_range(z_range)
    _, height, width = tomogram.shape
    if min(height, width) < _SMALLEST:
        return None
    buffer = np.empty((1, height, width), np.float32)
    window = (0, _middle(height), _middle(width))
    windows = []
    for z in sampled_slices(*span, _SLICES):
        tomogram.read_slices(z, buffer)
        windows.append(buffer[window].copy())
    slices = np.stack(windows)
    if not np.isfinite(slices).all():
        return None
    skewness = density_skewness(slices)
    if abs(skewness) < _LIMIT:
        return None
    return "bright" if skewness > 0 else "dark"


def density_skewness(slices: NDArray[np.float32]) -> float:
    """Return the skewness of slices once noise is smoothed away and slow gradients are taken out.

    Values are clipped to the percentiles 0.5 and 99.5 first, so that gold does not decide.

    Args:
        slices: ``(n, y, x)``, finite.

    Returns:
        The third standardised moment; 0 for slices without contrast.
    """
    # Every other pixel says as well where the percentiles lie.
    low, high = np.percentile(slices[:, ::2, ::2], _PERCENTILES)
    # Slices are filtered side by side, each in the cache of its core.
    with ThreadPoolExecutor(usable_cores()) as pool:
        sums = list(pool.map(lambda image: _powers(np.clip(image, low, high)), slices))
    first, second, third = np.sum(sums, axis=0) / slices.size
    variance = second - first**2
    # Where there is no contrast, nothing is left but what rounding left.
    if variance <= 1e-12 * (high - low) ** 2:
        return 0.0
    return float((third - 3 * first * second + 2 * first**3) / variance**1.5)


def _powers(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sums of the band-passed values, of their squares and of their cubes."""
    smooth = _box(_box(image, _NOISE), _NOISE)
    detail = smooth - _box(_box(image, _GRADIENT), _GRADIENT)
    squares = detail * detail
    return np.array([values.sum(dtype=np.float64) for values in (detail, squares, squares * detail)])


def _middle(side: int) -> slice:
    start = max(side - _WINDOW, 0) // 2
    return slice(start, start + _WINDOW)


def _box(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    from scipy.ndimage import uniform_filter  # here, because it takes longer to import than the rest of the engine

    filtered: NDArray[np.float32] = uniform_filter(image, size)
    return filtered
