"""One volume of integer labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.train.dataset.annotations.contract import Annotation, AnnotationFiles, check_class_map
from tomoscribe.train.dataset.contract import IGNORE, DatasetError

__all__ = ["open_label_volume"]

# The values that a label can have: those of int16 and uint16. The table has one entry more at each end, for all others.
_LOWEST, _HIGHEST = -(2**15), 2**16 - 1
_UNKNOWN = -1
# EMAN2 restores values that it stored with fewer bits, and is off by rounding.
_TOLERANCE = 1e-3
_SHOWN = 5


def open_label_volume(
    path: Path,
    class_map: ClassMap,
    *,
    values: Mapping[int, str] | None = None,
    ignore: int | None = None,
    voxel_size: float | None = None,
    axes: str = "xyz",
) -> Annotation:
    """Open one volume of integer labels; only its header is read.

    Volumes of floating point are taken where all their values are whole numbers, as EMAN2, Dynamo and MATLAB write
    labels.

    Args:
        path: any file that `open_tomogram` reads.
        class_map: the classes.
        values: what each value of the file stands for: a class of the map in any spelling, ``background`` or
            ``ignore``. Without it a value is the number of its class. 0 is background unless it is listed.
        ignore: the value of voxels that are not annotated; wins over what a value means otherwise.
        voxel_size: Å, in place of the header's.
        axes: how the file stores the axes, see `open_tomogram`.

    Raises:
        ParameterError: `values` names a class that the map does not have, a value is none of int16 or uint16, or the
            map has more than 254 classes.
        TomogramNotFoundError: there is no such file.
        TomogramFormatError: the file is no volume, truncated or damaged.
    """
    check_class_map(class_map)
    meanings = _meanings(class_map, values, ignore)
    return _LabelVolume(open_tomogram(path, voxel_size=voxel_size, axes=axes), meanings)


def _meanings(class_map: ClassMap, values: Mapping[int, str] | None, ignore: int | None) -> dict[int, int]:
    """Return the label of every value that the file may have."""
    if values is None:
        meanings = {number: number for number in range(len(class_map) + 1)}
    else:
        meanings = {0: 0} | {value: _number(class_map, name) for value, name in values.items()}
    if ignore is not None:
        meanings[ignore] = IGNORE
    for value in meanings:
        if not _LOWEST <= value <= _HIGHEST:
            raise ParameterError(f"values: expected label values from {_LOWEST} to {_HIGHEST}, found {value}")
    return meanings


def _number(class_map: ClassMap, name: str) -> int:
    reserved = {"background": 0, "ignore": IGNORE}
    return reserved[name] if name in reserved else class_map.select([name])[0].number


class _LabelVolume(AnnotationFiles):
    """See `open_label_volume`."""

    def __init__(self, file: Tomogram, meanings: Mapping[int, int]) -> None:
        super().__init__([file])
        self._file = file
        self._known = sorted(meanings)
        self._table = np.full(_HIGHEST - _LOWEST + 3, _UNKNOWN, np.int16)
        for value, label in meanings.items():
            self._table[value - _LOWEST + 1] = label

    def read(self, start: int, out: NDArray[np.uint8]) -> None:
        """See `Annotation.read`."""
        values = np.empty((len(out), *self.shape[1:]), self._file.dtype)
        self._file.read_slices(start, values)
        for z, (slice_values, slice_out) in enumerate(zip(values, out, strict=True), start):
            labels = self._labels(z, slice_values)
            if labels.min() == _UNKNOWN:
                raise self._unknown_values()
            np.copyto(slice_out, labels, casting="unsafe")

    def _labels(self, z: int, values: NDArray[np.generic]) -> NDArray[np.int16]:
        """Return the labels of a slice, `_UNKNOWN` where the value means nothing."""
        clipped = np.clip(self._whole(z, values), _LOWEST - 1, _HIGHEST + 1).astype(np.intp)
        labels: NDArray[np.int16] = self._table[clipped - (_LOWEST - 1)]
        return labels

    def _whole(self, z: int, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as whole numbers.

        Raises:
            DatasetError: a value is not one.
        """
        if values.dtype.kind != "f":
            # Wide enough for the ends of the table, which are of no 16-bit type.
            return values.astype(np.int64)
        # float16 cannot hold the ends of the table.
        values = values.astype(np.result_type(values, np.float32), copy=False)
        rounded: NDArray[Any] = np.rint(values)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(values - rounded) <= _TOLERANCE)  # NaN and infinity are not below anything
        if wrong.any():
            raise DatasetError(
                f"{self.path}: expected whole numbers as labels, found {values[wrong][0]:.4g} in slice z = {z} "
                "(counted from 0); if these are scores, give them as `maps` with a threshold, one file for each feature"
            )
        return rounded

    def _unknown_values(self) -> DatasetError:
        """Return the error that tells which values of the whole file mean nothing."""
        unknown: dict[int, int] = {}
        values = np.empty((1, *self.shape[1:]), self._file.dtype)
        for z in range(self.shape[0]):
            self._file.read_slices(z, values)
            wrong = self._labels(z, values[0]) == _UNKNOWN
            for value in np.unique(values[0][wrong]).tolist():
                unknown.setdefault(round(value), z)
        shown = ", ".join(map(str, sorted(unknown)[:_SHOWN])) + (", …" if len(unknown) > _SHOWN else "")
        first = min(unknown.values())
        known = ", ".join(map(str, self._known[:10])) + (f", …, {self._known[-1]}" if len(self._known) > 10 else "")
        return DatasetError(
            f"{self.path}: expected the label values {known}, found {shown} (the first in slice z = {first}, counted "
            f"from 0); say what they mean: `values: {{{min(unknown)}: NAME}}`, NAME a class, background or ignore"
        )
