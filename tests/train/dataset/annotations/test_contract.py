from __future__ import annotations

import numpy as np
import pytest

from tomoscribe.engine import open_tomogram
from tomoscribe.train.dataset.annotations import check_pair, open_label_volume
from tomoscribe.train.dataset.contract import DatasetError


@pytest.fixture
def pair(write, class_map):
    def check(tomogram_shape, labels_shape, tomogram_size=10.0, labels_size=10.0):
        tomogram = write(np.zeros(tomogram_shape, np.float32), "a.mrc", tomogram_size)
        labels = write(np.zeros(labels_shape, np.int8), "a__labels.mrc", labels_size)
        with open_tomogram(tomogram) as volume, open_label_volume(labels, class_map) as annotation:
            check_pair(volume, annotation)

    return check


@pytest.mark.parametrize("sizes", [(10.0, 10.0), (10.0, 10.49), (10.49, 10.0), (10.0, 0.0), (1.0, 10.0), (10.0, 1.0)])
def test_pairs_that_fit(pair, sizes):
    pair((4, 5, 6), (4, 5, 6), *sizes)


@pytest.mark.parametrize("sizes", [(10.0, 10.6), (10.6, 10.0), (10.0, 5.0), (10.0, (10.0, 10.0, 13.0))])
def test_other_voxel_sizes(pair, tmp_path, sizes):
    with pytest.raises(DatasetError, match="voxel size") as caught:
        pair((4, 5, 6), (4, 5, 6), *sizes)
    assert str(tmp_path / "a.mrc") in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'a__labels.mrc'}: ")


@pytest.mark.parametrize(("shape", "hint"), [((4, 6, 5), "another order"), ((2, 5, 6), "belongs to another")])
def test_other_shapes(pair, tmp_path, shape, hint):
    with pytest.raises(DatasetError, match=hint) as caught:
        pair((4, 5, 6), shape)
    assert f"{tmp_path / 'a.mrc'}, 4 × 5 × 6 (z, y, x)" in str(caught.value)
