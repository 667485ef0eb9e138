"""Tiles partition the slice, and a net run on them gives what it gives on the whole slice, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tiles import TilePlan

SIDES = st.integers(1, 150)


@st.composite
def plans(draw):
    multiple = draw(st.sampled_from([1, 2, 3, 8, 16]))
    halo = draw(st.integers(0, 20))
    margin = math.ceil(halo / multiple) * multiple
    smallest = (2 * margin + multiple) ** 2
    pixels = draw(st.integers(smallest, 3 * smallest + 2000))
    shape = draw(st.tuples(SIDES, SIDES))
    return TilePlan.for_slice(shape, multiple=multiple, halo=halo, pixels=pixels), multiple, halo, pixels


@given(plans())
def test_contributions_partition_the_slice(case):
    plan, *_ = case
    times = np.zeros(plan.slice_shape, int)
    for tile in plan.tiles:
        times[tile.rows.first : tile.rows.stop, tile.columns.first : tile.columns.stop] += 1
    assert (times == 1).all()


@given(plans())
def test_tiles_lie_on_the_grid_and_reach_past_what_they_contribute(case):
    plan, multiple, halo, pixels = case
    assert math.prod(plan.tile_shape) <= pixels
    for axis, size, length in zip(("rows", "columns"), plan.tile_shape, plan.slice_shape, strict=True):
        padded = math.ceil(length / multiple) * multiple
        assert size % multiple == 0
        for span in {getattr(tile, axis) for tile in plan.tiles}:
            assert span.start % multiple == 0
            assert span.first % multiple == 0
            assert span.first == 0 or span.first - span.start >= halo
            assert span.stop == length or span.start + size - span.stop >= halo
            assert span.start >= 0
            assert span.start + size <= padded


@given(plans())
def test_no_other_sides_compute_fewer_pixels(case):
    """Against every pair of sides, each with the fewest tiles that reach from end to end."""
    plan, multiple, halo, pixels = case
    margin = math.ceil(halo / multiple) * multiple

    def counts(length):
        padded = math.ceil(length / multiple) * multiple
        yield padded, 1
        for size in range(2 * margin + multiple, padded, multiple):
            yield size, math.ceil((padded - 2 * margin) / (size - 2 * margin))

    best = min(
        (rows * height * columns * width, rows * columns)
        for height, rows in counts(plan.slice_shape[0])
        for width, columns in counts(plan.slice_shape[1])
        if height * width <= pixels
    )
    assert (len(plan.tiles) * math.prod(plan.tile_shape), len(plan.tiles)) == best


@given(plans(), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_extract_is_a_window_of_the_symmetrically_padded_slice(case, depth, random):
    plan, multiple, *_ = case
    height, width = plan.slice_shape
    slices = np.random.default_rng(random.randrange(2**32)).integers(0, 1000, (depth, height, width))
    padded = np.pad(slices, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="symmetric")
    out = np.full((depth, *plan.tile_shape), -1)
    for tile in plan.tiles:
        plan.extract(tile, slices, out)
        y, x = tile.rows.start, tile.columns.start
        np.testing.assert_array_equal(out, padded[:, y : y + plan.tile_shape[0], x : x + plan.tile_shape[1]])


@given(plans())
@settings(max_examples=60)
def test_pasting_what_was_extracted_restores_the_slices(case):
    plan, *_ = case
    slices = np.arange(2 * math.prod(plan.slice_shape)).reshape(2, *plan.slice_shape)
    tile_values = np.empty((2, *plan.tile_shape), int)
    restored = np.full_like(slices, -1)
    for tile in plan.tiles:
        plan.extract(tile, slices, tile_values)
        plan.paste(tile, tile_values, restored)
    np.testing.assert_array_equal(restored, slices)


def test_paste_takes_scores_with_their_class_axis():
    plan = TilePlan.for_slice((8, 8), multiple=2, halo=0, pixels=16)
    assert plan.tile_shape == (2, 8)
    values = np.arange(3 * 4 * 16).reshape(3, 4, 2, 8)
    out = np.full((3, 4, 8, 8), -1)
    plan.paste(plan.tiles[-1], values, out)
    assert (out[:, :, :6] == -1).all()
    np.testing.assert_array_equal(out[:, :, 6:], values)


@pytest.mark.parametrize(
    ("shape", "tile_shape", "count"),
    [
        ((960, 960), (960, 960), 1),
        ((928, 959), (928, 960), 1),
        ((1, 1), (16, 16), 1),
        ((1024, 1440), (1024, 816), 2),
        ((1440, 1024), (816, 1024), 2),
        ((2048, 2048), (816, 1120), 6),
        ((4096, 4096), (848, 1168), 24),
    ],
)
def test_sizes_that_tomograms_have(shape, tile_shape, count):
    plan = TilePlan.for_slice(shape, multiple=16, halo=96, pixels=2**20)
    assert plan.tile_shape == tile_shape
    assert len(plan.tiles) == count
    assert plan.is_whole == (count == 1)
    assert plan.computed_ratio == count * math.prod(tile_shape) / math.prod(shape)


@pytest.mark.parametrize(
    "arguments",
    [
        {"slice_shape": (100, 100), "multiple": 16, "halo": 16, "pixels": 48**2 - 1},
        {"slice_shape": (100, 100), "multiple": 16, "halo": 17, "pixels": 64**2},
        {"slice_shape": (8, 8), "multiple": 16, "halo": 0, "pixels": 15 * 16},
        {"slice_shape": (0, 8), "multiple": 1, "halo": 0, "pixels": 64},
        {"slice_shape": (8, 8), "multiple": 0, "halo": 0, "pixels": 64},
        {"slice_shape": (8, 8), "multiple": 1, "halo": -1, "pixels": 64},
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(arguments):
    with pytest.raises(ParameterError, match=r"^tiles: expected .* found .*$"):
        TilePlan.for_slice(arguments.pop("slice_shape"), **arguments)


class IntegerUNet:
    """A U-Net in exact integer arithmetic: 3 × 3 convolutions between zeros, 2 × 2 maxima, skip connections."""

    channels = 2

    def __init__(self, depth, context, seed):
        self.depth, self.context = depth, context
        random = np.random.default_rng(seed)
        inputs = [2 * context + 1] + depth * [self.channels]
        self.down = [random.integers(-3, 4, (self.channels, count, 3, 3)) for count in inputs]
        self.up = [random.integers(-3, 4, (self.channels, 2 * self.channels, 3, 3)) for _ in range(depth)]
        self.spread = random.integers(-3, 4, (depth, self.channels, 2, 2))

    @property
    def halo(self):
        """How far a contribution that begins on the coarsest grid depends on its surroundings."""
        return self._reach(0, 0)

    def _reach(self, level, reach):
        if level == self.depth:
            return reach + 1
        below = self._reach(level + 1, math.ceil((reach + 1) / 2))
        return max(reach + 1, 2 * below) + 1

    def __call__(self, slices):
        count = len(slices) - 2 * self.context
        return np.stack([self._level(0, slices[z : z + 2 * self.context + 1]) for z in range(count)])

    def _level(self, level, image):
        image = convolve(image, self.down[level])
        if level == self.depth:
            return image
        channels, height, width = image.shape
        pooled = image.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))
        below = self._level(level + 1, pooled)
        above = np.concatenate([np.kron(values, self.spread[level, c])[None] for c, values in enumerate(below)])
        return convolve(np.concatenate([image, above]), self.up[level])


def convolve(image, weights):
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    summed = sum(
        np.tensordot(weights[:, :, dy, dx], padded[:, dy : dy + height, dx : dx + width], 1)
        for dy in range(3)
        for dx in range(3)
    )
    # Kept small, so that nothing ever overflows, by a function that no linear halo could hide behind.
    return np.maximum(summed, 0) % 251


def run_tiled(net, plan, slices):
    result = np.full((len(slices) - 2 * net.context, net.channels, *plan.slice_shape), -1)
    values = np.empty((len(slices), *plan.tile_shape), slices.dtype)
    for tile in plan.tiles:
        plan.extract(tile, slices, values)
        plan.paste(tile, net(values), result)
    return result


@given(
    depth=st.integers(1, 3),
    context=st.integers(0, 2),
    shape=st.tuples(SIDES, SIDES),
    spare=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_tiles_give_what_the_whole_slice_gives(depth, context, shape, spare, seed):
    net = IntegerUNet(depth, context, seed)
    multiple = 2**depth
    slices = np.random.default_rng(seed).integers(0, 256, (2 * context + 2, *shape))
    smallest = 2 * math.ceil(net.halo / multiple) * multiple + multiple
    plan = TilePlan.for_slice(shape, multiple=multiple, halo=net.halo, pixels=(smallest + spare) ** 2)

    height, width = shape
    padded = np.pad(slices, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="symmetric")
    np.testing.assert_array_equal(run_tiled(net, plan, slices), net(padded)[:, :, :height, :width])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_smaller_halo_shows_seams(depth):
    """What the proof above rests on: the halo is needed to the last row of the coarsest grid."""
    net = IntegerUNet(depth, context=0, seed=1)
    multiple = 2**depth
    margin = math.ceil(net.halo / multiple) * multiple
    slices = np.random.default_rng(1).integers(0, 256, (1, 144, 144))
    plan = TilePlan.for_slice(
        (144, 144), multiple=multiple, halo=margin - multiple, pixels=(2 * margin + multiple) ** 2
    )
    assert not plan.is_whole
    assert (run_tiled(net, plan, slices) != net(slices)).any()
