"""Label volumes against the truth, file against file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tomogram import open_tomogram
from tomoscribe.train.metrics import ConfusionMatrix

__all__ = ["compare_label_volumes"]


def compare_label_volumes(labels: Path, truth: Path, class_map: ClassMap) -> ConfusionMatrix:
    """Count the voxels of two label volumes by true and given class, slice by slice.

    Args:
        labels: what the voxels were given, an int8 MRC volume.
        truth: an int8 MRC volume of the same shape.
        class_map: the classes of both.

    Raises:
        ParameterError: the shapes differ, or a label is not in the class map.
        TomogramFormatError: a file is not a volume.
    """
    with open_tomogram(labels) as given, open_tomogram(truth) as wanted:
        if given.shape != wanted.shape:
            raise ParameterError(f"{labels}: expected the shape of {truth}, {wanted.shape}, found {given.shape}")
        confusion = ConfusionMatrix(len(class_map) + 1)
        found, expected = (np.empty((1, *given.shape[1:]), np.int16) for _ in range(2))
        for z in range(given.shape[0]):
            given.read_slices(z, found)
            wanted.read_slices(z, expected)
            confusion.add(found.astype(np.uint8), expected.astype(np.uint8))
    return confusion
