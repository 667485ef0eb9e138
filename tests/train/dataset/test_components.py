from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from tomoscribe.train.dataset.components import LargeComponents


def reader(mask):
    def read(start, out):
        out[...] = mask[start : start + len(out)]

    return read


def without_small(mask, smallest):
    """The same from one labelling of the whole volume."""
    numbers, _ = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(numbers.ravel())
    return mask & (sizes[numbers] >= smallest)


@st.composite
def masks(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 7)))
    share = draw(st.sampled_from([0.0, 0.05, 0.15, 0.3, 1.0]))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(shape) < share


@settings(max_examples=200)
@given(mask=masks(), smallest=st.integers(0, 30), depth=st.integers(1, 10), run=st.integers(1, 10))
def test_equals_the_labelling_of_the_whole_volume(mask, smallest, depth, run):
    components = LargeComponents(reader(mask), mask.shape, smallest, depth=depth)
    out = np.ones_like(mask)
    for start in range(0, len(mask), run):
        components.read(start, out[start : start + run])
    assert np.array_equal(out, without_small(mask, smallest))


def test_a_component_that_winds_through_all_slabs_is_one():
    # Two columns that meet only at the bottom, and only over a corner.
    mask = np.zeros((12, 5, 5), bool)
    mask[:11, 1, 1] = mask[:11, 3, 3] = True
    mask[11, 2, 2] = True
    for smallest, expected in ((23, 23), (24, 0)):
        out = np.empty_like(mask)
        LargeComponents(reader(mask), mask.shape, smallest, depth=3).read(0, out)
        assert out.sum() == expected


def test_slices_may_be_read_in_any_order():
    mask = np.random.default_rng(1).random((20, 8, 8)) < 0.1
    expected = without_small(mask, 3)
    components = LargeComponents(reader(mask), mask.shape, 3, depth=4)
    for start in (17, 0, 5, 4):
        out = np.empty((3, 8, 8), bool)
        components.read(start, out)
        assert np.array_equal(out, expected[start : start + 3])


@pytest.mark.parametrize("depth", [None, 2])
def test_reads_the_mask_in_slabs_twice_and_no_more(depth):
    mask = np.ones((6, 4, 4), bool)
    runs = []

    def read(start, out):
        runs.append((start, len(out)))
        reader(mask)(start, out)

    components = LargeComponents(read, mask.shape, 1, depth=depth)
    for z in range(6):
        components.read(z, np.empty((1, 4, 4), bool))
    once = [(0, 6)] if depth is None else [(0, 2), (2, 2), (4, 2)]
    assert runs == once * 2
