"""Tiles and batches by a backend's limits, and by half of them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine import ClassMap, LabelClass, ModelSpecification
from tomoscribe.engine.backends import SlotLimits
from tomoscribe.engine.slot_sizes import SLOT_BYTES, halved, plan_batch, plan_tiles

LIMITS = SlotLimits(960**2, 2**18)


def model(halo=0, multiple=16, classes=5):
    class_map = ClassMap(tuple(LabelClass(number, f"c{number}", (0, 0, 0)) for number in range(1, classes + 1)))
    return ModelSpecification("m", class_map, 0, multiple, halo, (10.0, 10.0))


def test_a_slice_that_fits_is_one_tile_and_larger_ones_are_cut():
    assert plan_tiles((950, 921), model(96), LIMITS).tile_shape == (960, 928)
    cut = plan_tiles((5760, 4092), model(96), LIMITS)
    assert 0.8 * 960**2 < math.prod(cut.tile_shape) <= 960**2


def test_a_halo_that_would_fill_a_tile_gets_a_larger_one():
    assert min(plan_tiles((5000, 5000), model(600), LIMITS).tile_shape) > 2 * 600


@pytest.mark.parametrize(("classes", "batch"), [(5, 4), (250, 4), (255, 3)])
def test_small_tiles_go_together_and_a_slot_stays_small_however_many_classes_there_are(classes, batch):
    assert plan_batch((256, 256), classes + 1, SlotLimits(2**20, 2**18)) == batch
    assert batch * 256**2 * (5 + classes + 1) <= SLOT_BYTES


def test_a_tile_goes_alone_where_two_are_too_much():
    assert plan_batch((960, 960), 6, LIMITS) == 1
    assert plan_batch((9600, 9600), 6, SlotLimits(10**9, 10**9)) == 1


def test_half_is_half_of_the_batch_and_then_of_the_tile():
    assert halved(SlotLimits(2**20, 2**20, ("float32", "int8")), (256, 256), 7) == SlotLimits(
        2**20, 3 * 256**2, ("float32", "int8")
    )
    assert halved(SlotLimits(2**20, 2**18), (960, 928), 1) == SlotLimits(960 * 464, 960 * 464)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    halo=st.integers(0, 100),
    limits=st.builds(SlotLimits, st.integers(1, 2**22), st.integers(1, 2**22)),
)
def test_halves_come_to_an_end(height, width, halo, limits):
    specification = model(halo)
    sizes = []
    while len(sizes) < 2 or sizes[-1] < sizes[-2]:
        tile_shape = plan_tiles((height, width), specification, limits).tile_shape
        batch = plan_batch(tile_shape, specification.classes, limits)
        sizes.append(batch * math.prod(tile_shape))
        limits = halved(limits, tile_shape, batch)
    # No step is to more than half, rounded to whole tiles of the least size.
    least = (2 * -(-halo // 16) * 16 + 2 * 16) ** 2
    assert all(after <= max(before / 2, least) for before, after in pairwise(sizes[:-1]))
    assert sizes[-1] <= max(least, 16 * 16)
