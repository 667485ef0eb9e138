"""The intensities of a tomogram: the mean and standard deviation that the graph normalises with.

They are measured on a sample of slices, so that a tomogram is read once, and robustly, because a gold bead is many
standard deviations darker than any cell and would otherwise decide how grey the cell is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import IntensityError, ParameterError
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["IntensityStatistics", "check_finite", "intensity_of", "measure_intensity", "sampled_slices"]

_SLICES = 16
# 2^16 pixels of each slice put the standard error of the mean at 1/1000 of the standard deviation, and bound the
# memory of the sample at 4 MiB for slices of any size.
_PIXELS_OF_A_SLICE = 2**16
_PERCENTILES = (0.5, 99.5)
# Outside of this, the standard deviation or one over it is not a normal float32 number.
_DEVIATIONS = (1e-30, 1e30)


@dataclass(frozen=True)
class IntensityStatistics:
    """Mean and standard deviation of a tomogram's intensities, in the file's own units.

    Raises:
        IntensityError: the mean is not finite, or the standard deviation is not a positive number that float32 holds.
    """

    mean: float
    standard_deviation: float

    def __post_init__(self) -> None:
        smallest, largest = _DEVIATIONS
        if not (math.isfinite(self.mean) and smallest < self.standard_deviation < largest):
            raise IntensityError(
                f"expected a finite mean and a standard deviation above 0, "
                f"found {self.mean:g} and {self.standard_deviation:g}"
            )

    def mean_and_rstd(self, count: int, invert: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the graph's inputs `mean` and `rstd` for a run of slices.

        Args:
            count: slices of the run, context slices counted.
            invert: whether to turn the contrast over, which is a change of sign after the mean is subtracted.

        Returns:
            Two ``(count,)`` float32 arrays: the mean, and one over the standard deviation (negative to invert).
        """
        rstd = (-1.0 if invert else 1.0) / self.standard_deviation
        return np.full(count, self.mean, np.float32), np.full(count, rstd, np.float32)


def measure_intensity(tomogram: Tomogram, z_range: tuple[int, int] | None = None) -> IntensityStatistics:
    """Measure the intensities of a tomogram on up to 16 slices spread evenly over z.

    Values are clipped to the sample's percentiles 0.5 and 99.5 before the mean and the standard deviation are taken.

    Args:
        tomogram: where the slices are read.
        z_range: first slice and one past the last; all of them if None.

    Raises:
        IntensityError: a sampled slice holds NaN or infinity, or practically all values are equal.
        ParameterError: `z_range` is empty or reaches outside the volume.
    """
    start, stop = tomogram.checked_range(z_range)
    buffer = np.empty((1, *tomogram.shape[1:]), np.float32)

    def read(z: int) -> NDArray[np.float32]:
        tomogram.read_slices(z, buffer)
        image: NDArray[np.float32] = buffer[0]
        return image

    return _measure(read, sampled_slices(start, stop), str(tomogram.path))


def intensity_of(array: NDArray[np.generic], *, name: str = "volume") -> IntensityStatistics:
    """Measure a volume in memory as `measure_intensity` measures the same volume in a file.

    Args:
        array: ``(z, y, x)`` of any real dtype.
        name: what an error calls the volume.

    Raises:
        IntensityError: a sampled slice holds NaN or infinity, or practically all values are equal.
        ParameterError: the array is empty or has not three axes.
    """
    if array.ndim != 3 or array.size == 0:
        raise ParameterError(f"{name}: expected a volume of (z, y, x), found an array of shape {array.shape}")
    return _measure(lambda z: array[z].astype(np.float32), sampled_slices(0, len(array)), name)


def sampled_slices(start: int, stop: int, most: int = _SLICES) -> list[int]:
    """Return up to `most` slices from `start` to `stop`, each in the middle of one of as many equal parts."""
    depth = stop - start
    count = min(most, depth)
    return [start + (2 * part + 1) * depth // (2 * count) for part in range(count)]


def check_finite(slices: NDArray[np.float32], start: int, name: str) -> None:
    """Check a run of slices for values that no net can work on.

    Args:
        slices: ``(n, y, x)``.
        start: z of the first.
        name: the file, for the error.

    Raises:
        IntensityError: a slice holds NaN or infinity; the message names the slice.
    """
    for z, values in enumerate(slices, start):
        finite = np.isfinite(values)
        if not finite.all():
            bad = finite.size - np.count_nonzero(finite)
            raise IntensityError(
                f"{name}: slice z = {z} (counted from 0) holds {bad} values that are NaN or infinite; expected finite "
                "intensities: repair the tomogram, or leave the slice out with --z-range"
            )


def _measure(read: Callable[[int], NDArray[np.float32]], positions: list[int], name: str) -> IntensityStatistics:
    parts = []
    for z in positions:
        values = read(z)
        check_finite(values[np.newaxis], z, name)
        step = math.ceil(math.sqrt(values.size / _PIXELS_OF_A_SLICE))
        # A copy, because the next slice is read into the same buffer.
        parts.append(values[::step, ::step].flatten())
    sample = np.concatenate(parts)
    low, high = np.percentile(sample, _PERCENTILES)
    if low == high:
        raise IntensityError(
            f"{name}: expected an image, found that 99 % or more of the sampled values are {low:g}; "
            "a constant or an empty volume, or labels, cannot be segmented"
        )
    np.clip(sample, low, high, out=sample)
    try:
        return IntensityStatistics(float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64)))
    except IntensityError as error:
        raise IntensityError(f"{name}: {error}") from None
