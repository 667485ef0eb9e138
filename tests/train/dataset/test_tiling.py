from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.dataset.tiling import Tiling

LENGTHS = st.integers(1, 70)
SIZES = st.integers(8, 40)


@pytest.mark.parametrize(
    ("length", "starts"), [(960, [0, 448]), (1024, [0, 512]), (1025, [0, 512, 513]), (512, [0]), (300, [0])]
)
def test_the_last_tile_ends_where_the_slice_ends(length, starts):
    assert Tiling((length, 512), 512).corners == tuple((start, 0) for start in starts)
    assert Tiling((512, length), 512).corners == tuple((0, start) for start in starts)


@settings(max_examples=40)
@given(height=LENGTHS, width=LENGTHS, size=SIZES)
def test_every_pixel_is_fresh_in_exactly_one_tile(height, width, size):
    tiling = Tiling((height, width), size)
    counts = np.zeros((max(height, size), max(width, size)), int)
    for tile, (top, left) in enumerate(tiling.corners):
        counts[top : top + size, left : left + size][tiling.fresh(tile)] += 1
    assert (counts == 1).all()


@settings(max_examples=40)
@given(height=LENGTHS, width=LENGTHS, size=SIZES)
def test_tiles_hold_what_is_at_their_place(height, width, size):
    tiling = Tiling((height, width), size)
    slices = np.arange(2 * height * width, dtype=np.float32).reshape(2, height, width)
    labels = (slices % 251).astype(np.uint8)
    intensities, tiles = tiling.cut_intensities(slices), tiling.cut_labels(labels)
    assert intensities.shape == tiles.shape == (2, len(tiling.corners), size, size)
    for tile, (top, left) in enumerate(tiling.corners):
        inside = (slice(None), slice(0, height - top), slice(0, width - left))
        window = (slice(None), slice(top, top + size), slice(left, left + size))
        np.testing.assert_array_equal(intensities[:, tile][inside], slices[window])
        np.testing.assert_array_equal(tiles[:, tile][inside], labels[window])
        outside = np.ones((size, size), bool)
        outside[inside[1:]] = False
        assert (tiles[:, tile, outside] == IGNORE).all()


def test_a_small_slice_is_mirrored_at_its_end():
    cut = Tiling((2, 3), 5).cut_intensities(np.array([[[1, 2, 3], [4, 5, 6]]]))
    expected = np.pad([[1, 2, 3], [4, 5, 6]], ((0, 3), (0, 2)), mode="symmetric")
    np.testing.assert_array_equal(cut[0, 0], expected)
