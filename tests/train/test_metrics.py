"""Dice, against its definition voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.metrics import ConfusionMatrix

pairs = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.uint8, shape, elements=st.integers(0, 3))] * 2)
)


@given(pairs)
def test_dice_is_what_its_definition_says(pair):
    labels, truth = pair
    confusion = ConfusionMatrix(4)
    confusion.add(labels, truth)
    for number, dice in enumerate(confusion.dice()):
        here = {index for index, value in np.ndenumerate(labels) if value == number}
        there = {index for index, value in np.ndenumerate(truth) if value == number}
        if here or there:
            assert dice == pytest.approx(2 * len(here & there) / (len(here) + len(there)))
        else:
            assert np.isnan(dice)


def test_counts_are_by_truth_first_and_add_up():
    confusion = ConfusionMatrix(3)
    for _ in range(2):
        confusion.add(np.array([1, 1, 2], np.uint8), np.array([0, 1, 1], np.uint8))
    np.testing.assert_array_equal(confusion.counts, [[0, 2, 0], [0, 2, 2], [0, 0, 0]])


def test_labels_of_another_shape_or_outside_the_map_are_refused():
    ones = np.ones((2, 3, 4), np.uint8)
    with pytest.raises(ParameterError, match="shape"):
        ConfusionMatrix(4).add(ones, ones[:, :1])
    for labels, truth in ((ones * 4, ones), (ones, ones * 4)):
        with pytest.raises(ParameterError, match="from 0 to 3, found 4"):
            ConfusionMatrix(4).add(labels, truth)
