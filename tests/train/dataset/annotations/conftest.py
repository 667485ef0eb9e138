from __future__ import annotations

import warnings

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import ClassMap, LabelClass


@pytest.fixture(scope="session")
def class_map():
    return ClassMap(
        (
            LabelClass(1, "microtubule", (230, 159, 0)),
            LabelClass(2, "ribosome", (240, 228, 66)),
            LabelClass(3, "double membrane", (213, 94, 0)),
        )
    )


@pytest.fixture(scope="session")
def many_classes():
    return ClassMap(tuple(LabelClass(n, f"class {n}", (0, 0, 0)) for n in range(1, 256)))


@pytest.fixture
def write(tmp_path):
    """Write a volume with mrcfile and return its path."""

    def write_volume(values, name="a__labels.mrc", voxel_size=10.0):
        path = tmp_path / name
        with warnings.catch_warnings(action="ignore"), mrcfile.new(path, overwrite=True) as file:
            file.set_data(np.asarray(values))  # warns of NaN
            file.voxel_size = voxel_size
        return path

    return write_volume


@pytest.fixture
def read():
    """Read all slices of an annotation, in runs."""

    def read_annotation(annotation, run=2):
        out = np.full(annotation.shape, 77, np.uint8)
        for start in range(0, len(out), run):
            annotation.read(start, out[start : start + run])
        return out

    return read_annotation
