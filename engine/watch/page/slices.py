"""Slices of tomograms and of their labels as pictures, made when they are asked for and kept for a while."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.page.inside import open_inside
from tomoscribe.engine.watch.page.kept import KeptBytes, KeptVolumes, Volume
from tomoscribe.engine.watch.pictures import content_key, encode_grey, encode_labels, encode_thumbnail
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["NoSliceError", "SlicePicture", "Slices"]

_OPEN_VOLUMES = 8
_CACHED_BYTES = 64 * 2**20
_LARGEST_SIDECAR = 2**20


class NoSliceError(Exception):
    """There is no such slice, or its labels are not there (any more); the message is for the client."""


@dataclass(frozen=True)
class SlicePicture:
    """A slice as a picture.

    Attributes:
        data: the encoded picture.
        tomogram: ``here``; or why grey values are black: the tomogram is ``gone``, or has ``changed`` since.
    """

    data: bytes
    tomogram: str = "here"


class Slices:
    """Reads slices of finished tomograms. Any thread may ask; files and bytes that are kept are bounded.

    Args:
        settings: the folders, and how tomograms are opened.
        class_map: the colours of thumbnails.
    """

    def __init__(self, settings: WatchSettings, class_map: ClassMap) -> None:
        self._settings = settings
        self._class_map = class_map
        self._volumes = KeptVolumes(_OPEN_VOLUMES)
        self._encoded = KeptBytes(_CACHED_BYTES)

    def close_unused(self, seconds: float) -> None:
        """Close the files that nobody has read for so long."""
        self._volumes.close_unused(seconds)

    def close(self) -> None:
        """Close the files."""
        self._volumes.close()

    def grey(self, entry: Entry, z: int) -> SlicePicture:
        """Return the grey values of a slice, stretched as `encode_grey` says by the statistics of the whole tomogram.

        Where the tomogram cannot be read any more they are black, in the size of the labels' picture.

        Raises:
            NoSliceError: the entry has no labels, or not so many slices.
        """
        key = (*_version(entry), "grey", z)
        data = self._encoded.get(key)
        if data is not None:
            return SlicePicture(data)
        with self._label_volume(entry, z) as volume:
            shape = volume.tomogram.shape
        try:
            image, mean, deviation = self._grey_slice(entry, z, shape)
        except _ChangedError:
            state = "changed"
        except (OSError, ValueError, TomoscribeError):
            state = "gone"
        else:
            return SlicePicture(self._encoded.keep(key, encode_grey(image, mean, deviation)))
        return SlicePicture(encode_grey(np.zeros(shape[1:], np.uint8), 1.0, 0.1), state)

    def labels(self, entry: Entry, z: int) -> bytes:
        """Return the labels of a slice, as `encode_labels` says.

        Raises:
            NoSliceError: the entry has no labels, or not so many slices.
        """
        key = (*_version(entry), "labels", z)
        data = self._encoded.get(key)
        if data is None:
            with self._label_volume(entry, z) as volume:
                data = self._encoded.keep(key, encode_labels(_label_numbers(volume, z)))
        return data

    def thumbnail(self, entry: Entry) -> SlicePicture:
        """Return the central slice as `Pictures.thumbnail` has it, for an entry whose own was lost.

        Raises:
            NoSliceError: it has no labels.
        """
        key = (*_version(entry), "thumbnail")
        data = self._encoded.get(key)
        if data is not None:
            return SlicePicture(data)
        z = 0 if entry.shape is None else entry.shape[0] // 2
        grey = self.grey(entry, z)
        data = encode_thumbnail(grey.data, self.labels(entry, z), self._class_map)
        if grey.tomogram == "here":
            self._encoded.keep(key, data)
        return SlicePicture(data, grey.tomogram)

    @contextmanager
    def _label_volume(self, entry: Entry, z: int) -> Iterator[Volume]:
        """Give the label volume, which has such a slice.

        Raises:
            NoSliceError: it has not, or it cannot be read.
        """
        if entry.state is not State.DONE or not entry.outputs or "labels" not in entry.outputs:
            raise NoSliceError(f"tomogram {entry.number} has no labels yet")
        path = entry.outputs["labels"]
        try:
            with self._volumes.borrow((*_version(entry), "labels"), lambda: self._open_labels(path)) as volume:
                if z >= volume.tomogram.shape[0]:
                    raise NoSliceError(f"tomogram {entry.number} has {volume.tomogram.shape[0]} slices, counted from 0")
                yield volume
        except (OSError, ValueError, TomoscribeError) as error:
            raise NoSliceError(f"the labels of tomogram {entry.number} are not there any more") from error

    def _grey_slice(
        self, entry: Entry, z: int, shape: tuple[int, int, int]
    ) -> tuple[NDArray[np.float32], float, float]:
        """Return a slice of the tomogram, which has to have this shape, and the mean and deviation to stretch it by."""
        with self._volumes.borrow((*_version(entry), "grey"), lambda: self._open_grey(entry)) as volume:
            if volume.tomogram.shape != shape:
                raise _ChangedError
            image = volume.read(z, np.dtype(np.float32)).astype(np.float32, copy=False)
            mean, deviation = volume.intensity or _intensity_of_slice(image)
            return image, mean, deviation

    def _open_labels(self, path: str) -> Volume:
        file = open_inside(self._settings.output.resolve(), path)
        return Volume.of(file, axes=self._settings.axes, mode0="signed")

    def _open_grey(self, entry: Entry) -> Volume:
        settings = self._settings
        file = open_inside(settings.folder.resolve(), entry.path)
        if Identity.of(os.fstat(file.fileno())) != entry.identity:
            file.close()
            raise _ChangedError
        intensity = self._intensity(entry)
        return Volume.of(file, intensity, voxel_size=settings.voxel_size, axes=settings.axes, mode0=settings.mode0)

    def _intensity(self, entry: Entry) -> tuple[float, float] | None:
        """Return the mean and the standard deviation that the sidecar has, if they can be used."""
        try:
            with open_inside(self._settings.output.resolve(), (entry.outputs or {})["sidecar"]) as file:
                found = json.loads(file.read(_LARGEST_SIDECAR))["intensity"]
            mean, deviation = float(found["mean"]), float(found["standard_deviation"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return (mean, deviation) if math.isfinite(mean) and 0 < deviation < math.inf else None


class _ChangedError(OSError):
    """The file has other content than the one that was labelled."""


def _label_numbers(volume: Volume, z: int) -> NDArray[np.uint8]:
    return volume.read(z, volume.tomogram.dtype).astype(np.uint8, copy=False)


def _intensity_of_slice(image: NDArray[np.float32]) -> tuple[float, float]:
    finite = image[np.isfinite(image)].astype(np.float64)
    mean = float(finite.mean()) if finite.size else 0.0
    return mean, (float(finite.std()) if finite.size else 0.0) or 1.0


def _version(entry: Entry) -> tuple[int, str, float]:
    """Return what is another whenever the tomogram or its labels are."""
    return entry.number, content_key(entry), entry.finished or 0.0
