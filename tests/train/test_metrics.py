"""Figures against their definitions, voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.metrics import ConfusionMatrix

pairs = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 3)),
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORE])),
    )
)


def share(part, whole):
    return pytest.approx(len(part) / len(whole) if whole else np.nan, nan_ok=True)


@given(pairs)
def test_figures_are_what_their_definitions_say(pair):
    labels, truth = pair
    confusion = ConfusionMatrix(4)
    confusion.add(labels, truth)
    known = {index for index, value in np.ndenumerate(truth) if value != IGNORE}
    dice, of_truth = [], []
    for number in range(4):
        here = {index for index in known if labels[index] == number}
        there = {index for index in known if truth[index] == number}
        assert confusion.precision()[number] == share(here & there, here)
        assert confusion.recall()[number] == share(here & there, there)
        assert confusion.iou()[number] == share(here & there, here | there)
        assert (confusion.found[number], confusion.true[number]) == (len(here), len(there))
        dice.append(2 * len(here & there) / (len(here) + len(there)) if here or there else np.nan)
        if number and there:
            of_truth.append(dice[-1])
    assert confusion.dice() == pytest.approx(dice, nan_ok=True)
    expected = sum(of_truth) / len(of_truth) if of_truth else np.nan
    assert confusion.mean_dice() == pytest.approx(expected, nan_ok=True)


def test_counts_are_by_truth_first_and_add_up():
    confusion = ConfusionMatrix(3)
    for _ in range(2):
        confusion.add(np.array([1, 1, 2], np.uint8), np.array([0, 1, 1], np.uint8))
    np.testing.assert_array_equal(confusion.counts, [[0, 2, 0], [0, 2, 2], [0, 0, 0]])
    np.testing.assert_array_equal(confusion.shares(), [[0, 1, 0], [0, 0.5, 0.5], [np.nan] * 3])


def test_voxels_to_ignore_may_have_any_label():
    confusion = ConfusionMatrix(2)
    confusion.add(np.array([7, 1], np.uint8), np.array([IGNORE, 1], np.uint8))
    np.testing.assert_array_equal(confusion.counts, [[0, 0], [0, 1]])


def test_labels_of_another_shape_or_outside_the_map_are_refused():
    ones = np.ones((2, 3, 4), np.uint8)
    with pytest.raises(ParameterError, match="shape"):
        ConfusionMatrix(4).add(ones, ones[:, :1])
    for labels, truth in ((ones * 4, ones), (ones, ones * 4)):
        with pytest.raises(ParameterError, match="from 0 to 3, found 4"):
            ConfusionMatrix(4).add(labels, truth)
