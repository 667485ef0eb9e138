"""Slices to calibrate and to compare on: of phantoms that no training has seen, and of real tomograms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.intensity import IntensityStatistics, check_finite, intensity_of, measure_intensity
from tomoscribe.engine.polarity import polarity_of
from tomoscribe.engine.tomogram import open_tomogram
from tomoscribe.engine.tomogram.contract import Tomogram
from tomoscribe.export.parity import Sample
from tomoscribe.train.phantom import draw_parameters, make_phantom

__all__ = ["FIRST_SEED", "SampleSets", "gather_samples", "phantom_samples", "tomogram_samples"]

FIRST_SEED = 4_000_000
"""Seeds from here on are for calibration and parity; recipes and the demo use lower ones."""

_PHANTOMS = "phantoms"
_SIDE = 256  # of a phantom's slices, in pixels, where the tile multiple lets it
_PHANTOM_DEPTH = 40
_LARGEST_WINDOW = 320
_LABELLED = 2  # slices of a tomogram's block that are labelled; those next to each other say much the same
_BLOCKS = 4
_PHANTOM_UNITS = 137.0, 23.0  # mean and standard deviation, far from those that the network wants
# Phantoms hold all features, and vary in voxel size, noise and contrast transfer as those of the bundled recipe do.
_PHANTOM_RANGES = {
    "sample": {
        "thickness": [0.7, 1.0],
        "microtubules": [10.0, 30.0],
        "single_membranes": [20.0, 60.0],
        "double_membranes": [3.0, 8.0],
        "double_sheets": [0.0, 0.7],
        "carbon_edge": 0.5,
    },
    "imaging": {
        "defocus": [2.0, 7.0],
        "amplitude_contrast": [0.07, 0.3],
        "signal_to_noise": [0.1, 1.2],
        "background": [0.0, 2.0],
        "filter": ["ramp", "sirt"],
        "low_pass": [0.3, 1.1],
    },
}
_PHANTOM_VOXELS = 5.0, 40.0  # what phantoms can be made with, in Å
_PARITY_PHANTOMS, _CALIBRATION_PHANTOMS, _SEARCH_PHANTOMS = 6, 4, 3


@dataclass(frozen=True)
class SampleSets:
    """The slices of an export; no slice is in two of the sets.

    Attributes:
        parity: that every artifact is compared on.
        calibration: that the ranges of INT8 are taken from.
        search: that the search for layers to leave in float looks at.
    """

    parity: Sequence[Sample]
    calibration: Sequence[Sample] = ()
    search: Sequence[Sample] = ()


def gather_samples(specification: ModelSpecification, tomograms: Iterable[Path], *, quantised: bool) -> SampleSets:
    """Make phantoms and read tomograms for an export.

    Args:
        specification: of the model.
        tomograms: real ones; a part of each is for parity, another for calibration and search.
        quantised: whether slices for calibration and search are needed.

    Raises:
        TomoscribeError: a tomogram cannot be used, as `tomogram_samples` says.
    """
    paths = list(tomograms)
    ends = accumulate((FIRST_SEED, _PARITY_PHANTOMS, _CALIBRATION_PHANTOMS, _SEARCH_PHANTOMS))
    for_parity, for_calibration, for_search = (range(*pair) for pair in pairwise(ends))
    parity = phantom_samples(specification, for_parity)
    for path in paths:
        parity += tomogram_samples(path, specification, "parity")
    if not quantised:
        return SampleSets(parity)
    calibration, search = phantom_samples(specification, for_calibration), phantom_samples(specification, for_search)
    for path in paths:
        real = tomogram_samples(path, specification, "calibration")
        calibration += real[::2]
        search += real[1::2]
    return SampleSets(parity, calibration, search)


def phantom_samples(specification: ModelSpecification, seeds: Iterable[int]) -> list[Sample]:
    """Make phantoms and take slices from the middle of each.

    One to three slices are labelled, of a different height and width each, and every second phantom is stored with
    its contrast turned over. Only the images matter, so the model may have classes that no phantom has.

    Args:
        specification: of the model; its voxel sizes, context, tile multiple and polarity are used.
        seeds: one phantom each; the same seed gives the same samples on one machine.
    """
    return [_phantom_sample(specification, seed) for seed in seeds]


def tomogram_samples(
    path: Path, specification: ModelSpecification, part: Literal["calibration", "parity"]
) -> list[Sample]:
    """Read slices of a tomogram, spread over it.

    The volume is cut along z into blocks that hold their own context; blocks with even numbers are for calibration,
    those with odd ones for parity, so the two never share a slice. Up to four blocks of a part are taken, each with a
    window of at most 320 pixels on the diagonal of the slice, away from its edges.

    Args:
        path: the tomogram.
        specification: of the model; its context, tile multiple and polarity are used.
        part: which of the blocks.

    Raises:
        TomogramNotFoundError: no such file.
        TomogramFormatError: the file cannot be read.
        IntensityError: its values cannot be normalised.
        ParameterError: it has too few slices for a block of each part, or they are smaller than the tile multiple.
    """
    with open_tomogram(path) as tomogram:
        intensity = measure_intensity(tomogram)
        # Where it can be told; a contrast that the model never saw would say nothing of the slices that it will see.
        invert = polarity_of(tomogram) not in (None, specification.polarity)
        starts, depth = _blocks(tomogram, specification, part)
        windows = _windows(tomogram, specification, len(starts))
        return [
            _tomogram_sample(tomogram, range(start, start + depth), window, intensity, invert)
            for start, window in zip(starts, windows, strict=True)
        ]


def _phantom_sample(specification: ModelSpecification, seed: int) -> Sample:
    count = 1 + seed % 3
    depth = count + 2 * specification.context
    multiples = max(1, _SIDE // specification.tile_multiple)
    height, width = multiples + seed % 2, multiples + seed % 5
    low, high = (float(np.clip(size, *_PHANTOM_VOXELS)) for size in specification.voxel_size)
    shape = max(depth, _PHANTOM_DEPTH), *(max(8, size * specification.tile_multiple) for size in (height, width))
    volume = make_phantom(
        draw_parameters({**_PHANTOM_RANGES, "shape": shape, "voxel_size": [low, high]}, seed)
    ).intensity
    invert = (specification.polarity == "bright") != (seed % 2 == 1)
    offset, scale = _PHANTOM_UNITS
    stored = offset + (-scale if seed % 2 else scale) * volume
    start = (len(volume) - depth) // 2
    slices = np.ascontiguousarray(stored[start : start + depth], np.float32)
    mean, rstd = intensity_of(stored).mean_and_rstd(depth, invert)
    return Sample(f"phantom {seed}", slices, mean, rstd, source=_PHANTOMS)


def _blocks(tomogram: Tomogram, specification: ModelSpecification, part: str) -> tuple[list[int], int]:
    """Return where the blocks of a part begin, and how many slices each has."""
    needed = 2 * (1 + 2 * specification.context)
    if tomogram.shape[0] < needed:
        raise ParameterError(
            f"{tomogram.path}: expected at least {needed} slices, so that calibration and parity share none, found "
            f"{tomogram.shape[0]}; choose a thicker tomogram"
        )
    labelled = min(_LABELLED, tomogram.shape[0] // 2 - 2 * specification.context)
    depth = labelled + 2 * specification.context
    numbers = range(tomogram.shape[0] // depth)[1 if part == "parity" else 0 :: 2]
    chosen = np.linspace(0, len(numbers) - 1, min(_BLOCKS, len(numbers))).round().astype(int)
    return [numbers[index] * depth for index in chosen], depth


def _windows(tomogram: Tomogram, specification: ModelSpecification, count: int) -> list[tuple[slice, slice]]:
    multiple = specification.tile_multiple
    if min(tomogram.shape[1:]) < multiple:
        raise ParameterError(
            f"{tomogram.path}: expected slices of at least {multiple} × {multiple} pixels for this model, found "
            f"{tomogram.shape[1]} × {tomogram.shape[2]}; choose a larger tomogram"
        )
    spans = []
    for length in tomogram.shape[1:]:
        size = min(length, max(_LARGEST_WINDOW, multiple)) // multiple * multiple
        starts = np.linspace(0, length - size, count + 2)[1:-1].astype(int).tolist()
        spans.append([slice(start, start + size) for start in starts])
    return list(zip(*spans, strict=True))


def _tomogram_sample(
    tomogram: Tomogram,
    z_range: range,
    window: tuple[slice, slice],
    intensity: IntensityStatistics,
    invert: bool,
) -> Sample:
    buffer: NDArray[np.float32] = np.empty((len(z_range), *tomogram.shape[1:]), np.float32)
    tomogram.read_slices(z_range.start, buffer)
    check_finite(buffer, z_range.start, str(tomogram.path))
    slices = np.ascontiguousarray(buffer[:, window[0], window[1]])
    name = f"{tomogram.path.name}, slices {z_range.start} to {z_range.stop - 1}"
    mean, rstd = intensity.mean_and_rstd(len(slices), invert)
    return Sample(name, slices, mean, rstd, source=tomogram.path.name)
