from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tomoscribe.train.evaluation.tolerance import TolerantCounts

CLASSES = 3
cases = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)),
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255])),
        hnp.arrays(np.bool_, shape),
    )
)


def near_share(one, other, counted, number, tolerance):
    """The share of one side's counted pixels with the class that the other side has nearby, by plain loops."""
    mine = [p for p, value in np.ndenumerate(one) if value == number and counted[p]]
    theirs = [p for p, value in np.ndenumerate(other) if value == number]
    near = [p for p in mine if any(max(abs(p[0] - q[0]), abs(p[1] - q[1])) <= tolerance for q in theirs)]
    return (len(near) / len(mine) if mine else 0.0), len(mine)


@given(cases, st.integers(1, 3))
def test_the_figure_is_that_of_plain_loops(case, tolerance):
    labels, truth, counted = case
    counts = TolerantCounts(CLASSES, tolerance)
    counts.add(labels, truth, counted)
    assert np.isnan(counts.dice()[0])
    for number in range(1, CLASSES):
        precision, found = near_share(labels, truth, counted, number, tolerance)
        recall, true = near_share(truth, labels, counted, number, tolerance)
        if not found + true:
            assert np.isnan(counts.dice()[number])
        else:
            both = precision + recall
            assert counts.dice()[number] == pytest.approx(2 * precision * recall / both if both else 0)


def test_a_membrane_that_is_a_pixel_off_is_found():
    truth, labels = np.zeros((2, 20, 20), np.uint8)
    truth[10], labels[11] = 1, 1
    for tolerance, expected in ((1, 1.0), (2, 1.0)):
        counts = TolerantCounts(2, tolerance)
        counts.add(labels, truth, np.ones((20, 20), bool))
        assert counts.dice()[1] == expected
    labels[:] = 0
    labels[12] = 1
    counts = TolerantCounts(2, 1)
    counts.add(labels, truth, np.ones((20, 20), bool))
    assert counts.dice()[1] == 0
