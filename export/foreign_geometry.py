"""How a network of others may be cut into tiles: found by trial, because no file says it.

Three things have to hold for tiles to give the labels of the whole slice (`tomoscribe.engine.tiles`): the network works
on every size that is a multiple of its tile multiple, an image that begins at such a multiple has the answers that the
whole has there, and no answer depends on pixels further off than the halo.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import BundleError
from tomoscribe.export.foreign_reading import describe_error
from tomoscribe.export.foreign_running import Network

__all__ = ["LARGEST_REACH", "Geometry", "find_geometry"]

LARGEST_REACH = 512
"""Pixels; tiles with a halo of more would be nothing but halo (`tomoscribe.engine.slot_sizes.plan_tiles`)."""

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
_SMALLEST_SIDE = 48
_TOLERANCE = 1e-3  # of the largest answer; sums are in another order in another size, and a wrong grid differs by all
_STRENGTHS = (1.0, 30.0)  # standard deviations; some paths through a network open for strong inputs alone


@dataclass(frozen=True)
class Geometry:
    """How a network may be cut into tiles.

    Attributes:
        tile_multiple: height and width are multiples of it, in pixels.
        reach: how far off a pixel may be that changes an answer, counted from a multiple of `tile_multiple`, in pixels;
            None where answers depend on all of the image, as with instance or group normalisation.
    """

    tile_multiple: int
    reach: int | None


def find_geometry(network: Network, path: Path, channels: int, outputs: int, multiple: int | None = None) -> Geometry:
    """Find the smallest power of two that is a tile multiple, and the network's reach.

    The reach is measured by changing one side of an image of noise: it is where no bit of the answer changes any more.

    Args:
        network: works on any batch and size, or should.
        path: what an error calls it.
        channels: of the image.
        outputs: channels of the answer.
        multiple: the one tile multiple to try; powers of two up to 128 if None.

    Raises:
        BundleError: no tile multiple works, or the images of a batch are not answered one by one.
    """
    trial = _Trial(network, channels, outputs)
    tried = _MULTIPLES if multiple is None else (multiple,)
    failure = "no answer"
    for candidate in tried:
        problem = trial.problem_with_sizes(candidate)
        if problem is not None:
            failure = problem
            continue
        reach = trial.reach(candidate)
        if reach is not None and not trial.begins_anywhere(candidate, reach):
            failure = f"other answers in tiles that begin at multiples of {candidate} than in the whole image"
            continue
        trial.check_batch(path, candidate)
        return Geometry(candidate, reach)
    expected = "of some power of two up to 128" if multiple is None else f"of {multiple}"
    advice = "give its tile multiple if it has another" if multiple is None else "leave the tile multiple to be found"
    raise BundleError(
        f"{path}: expected a network that labels images of any height and width that are multiples {expected}, found "
        f"{failure}; {advice}, or export it again with free height and width"
    )


class _Trial:
    """A network on images of noise."""

    def __init__(self, network: Network, channels: int, outputs: int) -> None:
        self._network = network
        self._channels = channels
        self._outputs = outputs
        self._random = np.random.default_rng(2015)

    def problem_with_sizes(self, multiple: int) -> str | None:
        """Return what is wrong with an image of odd multiples, in words; None if nothing is."""
        rows = -(-_SMALLEST_SIDE // multiple) | 1
        height, width = rows * multiple, (rows + 2) * multiple
        try:
            found = self._network(self._noise(height, width)).shape
        except BundleError as error:
            return describe_error(error.__cause__ or error)
        expected = (1, self._outputs, height, width)
        return None if found == expected else f"an answer of shape {found} where {expected} was expected"

    def reach(self, multiple: int) -> int | None:
        """Return how far a change reaches from a multiple of `multiple`, over rows and columns, to either side."""
        half = -(-LARGEST_REACH // multiple) * multiple
        short = -(-64 // multiple) * multiple
        reaches = []
        for turned in (False, True):
            image = self._noise(short, 2 * half, turned)
            before = self._network(image)
            for strength in _STRENGTHS:
                other = strength * self._noise(short, 2 * half, turned)
                for changed in (slice(0, half), slice(half, None)):
                    altered = image.copy()
                    _columns(altered, turned)[..., changed] = _columns(other, turned)[..., changed]
                    differs = (_columns(self._network(altered), turned) != _columns(before, turned)).any(axis=(0, 1, 2))
                    kept = differs[half:] if changed.start == 0 else differs[:half][::-1]
                    reaches.append(int(np.max(np.flatnonzero(kept) + 1, initial=0)))
        return max(reaches) if max(reaches) < half else None

    def begins_anywhere(self, multiple: int, reach: int) -> bool:
        """Tell whether an image without its first rows and columns has the answers that the whole has there."""
        side = -(-(2 * reach + _SMALLEST_SIDE) // multiple) * multiple + multiple
        image = self._noise(side, side)
        whole = self._network(image)[:, :, multiple:, multiple:]
        part = self._network(np.ascontiguousarray(image[:, :, multiple:, multiple:]))
        if part.shape != whole.shape:
            return False
        difference = np.abs(part - whole)[:, :, reach:, reach:].max()
        return bool(difference <= _TOLERANCE * np.abs(whole).max())

    def check_batch(self, path: Path, multiple: int) -> None:
        """Refuse a network that does not answer the images of a batch one by one.

        Raises:
            BundleError: it answers otherwise, or not at all.
        """
        rows = -(-_SMALLEST_SIDE // multiple)
        size = (rows * multiple, (rows + 1) * multiple)
        images = [self._noise(*size) * strength for strength in (*_STRENGTHS, 0.1)]
        single = np.concatenate([self._network(image) for image in images])
        try:
            batch = self._network(np.concatenate(images))
        except BundleError as error:
            found = describe_error(error.__cause__ or error)
        else:
            if batch.shape != single.shape:
                found = f"an answer of shape {batch.shape}"
            elif np.abs(batch - single).max() > _TOLERANCE * np.abs(single).max():
                found = "others"
            else:
                return
        raise BundleError(
            f"{path}: expected the images of a batch to have the answers that each has alone, found {found}; "
            "export the network in evaluation mode and with a free batch"
        )

    def _noise(self, height: int, width: int, turned: bool = False) -> NDArray[np.float32]:
        shape = (1, self._channels, *((width, height) if turned else (height, width)))
        return self._random.standard_normal(shape, np.float32)


def _columns(image: NDArray[np.float32], turned: bool) -> NDArray[np.float32]:
    return image.swapaxes(2, 3) if turned else image
