from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.evaluate import compare_label_volumes


def write(path, labels):
    with mrcfile.new(path, labels.astype(np.int8)) as mrc:
        mrc.voxel_size = 10.0
    return path


def test_the_counts_are_those_of_a_plain_loop(tmp_path):
    generator = np.random.default_rng(0)
    given, truth = generator.integers(0, 6, (2, 4, 5, 6))
    confusion = compare_label_volumes(
        write(tmp_path / "given.mrc", given), write(tmp_path / "truth.mrc", truth), DEFAULT_CLASS_MAP
    )
    expected = np.zeros((6, 6), int)
    for found, wanted in zip(given.ravel(), truth.ravel(), strict=True):
        expected[wanted, found] += 1
    np.testing.assert_array_equal(confusion.counts, expected)


def test_volumes_of_different_shapes_are_refused(tmp_path):
    one, two = np.zeros((4, 5, 6)), np.zeros((4, 5, 7))
    with pytest.raises(ParameterError, match=r"given\.mrc.*\(4, 5, 7\).*\(4, 5, 6\)"):
        compare_label_volumes(write(tmp_path / "given.mrc", one), write(tmp_path / "truth.mrc", two), DEFAULT_CLASS_MAP)
