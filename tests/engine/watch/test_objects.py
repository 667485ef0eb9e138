"""Connected objects, counted slice by slice, against scipy's labelling of the whole volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram
from tomoscribe.engine.watch.objects import count_objects


class Labels(Tomogram):
    """A label volume in memory that keeps count of what is read of it."""

    def __init__(self, values):
        self.path, self.warnings = Path("labels.mrc"), ()
        self.values, self.dtype, self.geometry = values, values.dtype, Geometry(values.shape)
        self.read = []

    def read_slices(self, start, out):
        self.read.append((start, len(out)))
        out[:] = self.values[start : start + len(out)]

    def close(self):
        pass


def classes(number):
    return ClassMap(tuple(LabelClass(n, f"class {n}", (n % 256, 0, 0)) for n in range(1, number + 1)))


def expected(values, number, smallest):
    counts = {}
    for n in range(1, number + 1):
        parts, _ = ndimage.label(values == n, np.ones((3, 3, 3)))
        counts[f"class {n}"] = int((np.bincount(parts.ravel())[1:] >= smallest).sum())
    return counts


@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 8), st.integers(1, 8)),
    seed=st.integers(0, 2**32 - 1),
    filled=st.floats(0.02, 0.7),
    number=st.integers(1, 3),
    smallest=st.integers(1, 5),
)
def test_as_the_whole_volume(shape, seed, filled, number, smallest):
    rng = np.random.default_rng(seed)
    values = (rng.integers(1, number + 1, shape) * (rng.random(shape) < filled)).astype(np.int8)
    found = count_objects(Labels(values), classes(number), smallest=smallest)
    assert found == expected(values, number, smallest)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16"])
def test_smooth_objects_that_join_and_part(dtype):
    smooth = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(24, 40, 50)), 1.5)
    values = np.digitize(smooth, np.quantile(smooth, [0.7, 0.85, 0.95])).astype(dtype)
    counts = expected(values, 3, 27)
    assert all(counts.values())
    assert count_objects(Labels(values), classes(3)) == counts


def test_prongs_that_meet_in_the_last_slice_are_one_object():
    values = np.zeros((9, 5, 12), np.uint8)
    values[:, 1:4, 0:3] = values[:, 1:4, 4:7] = values[:, 1:4, 9:12] = 1
    assert count_objects(Labels(values), classes(1)) == {"class 1": 3}
    values[-1, 2, 3] = 1
    assert count_objects(Labels(values), classes(1)) == {"class 1": 2}


def test_corners_join_and_other_classes_do_not():
    values = np.zeros((2, 2, 3), np.uint8)
    values[0, 0, 0] = values[1, 1, 1] = 1
    values[0, 0, 1] = 2
    assert count_objects(Labels(values), classes(2), smallest=1) == {"class 1": 1, "class 2": 1}


def test_as_many_classes_as_a_byte_holds():
    values = np.arange(256, dtype=np.uint16).reshape(1, 16, 16)
    assert set(count_objects(Labels(values), classes(255), smallest=1).values()) == {1}


def test_what_is_small_is_left_out():
    values = np.zeros((3, 3, 7), np.uint8)
    values[:, :, :3] = 1
    values[:, :, 4:] = 1
    values[0, 0, 6] = 0
    assert count_objects(Labels(values), classes(1)) == {"class 1": 1}


def test_a_slice_is_read_once_and_alone():
    labels = Labels(np.ones((6, 4, 4), np.uint8))
    count_objects(labels, classes(1))
    assert labels.read == [(z, 1) for z in range(6)]
