"""The sizes of plans follow the tiles that a GPU gets, and what a slot holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.plans import PlanShapes
from tomoscribe.engine.plans.shapes import plan_shapes, standard_shapes


def specification(**changes):
    return SimpleNamespace(**{"tile_multiple": 16, "halo": 96, "classes": 6} | changes)


def test_whole_slices_are_tiles_and_a_batch_is_as_many_as_suit_a_gpu():
    assert plan_shapes((950, 921), specification()) == PlanShapes(4, 960, 928)  # 4 · 960 · 928 are 3.6 of 4.2 million
    assert plan_shapes((1000, 2000), specification()) == PlanShapes(2, 1008, 2000)
    assert plan_shapes((250, 250), specification()) == PlanShapes(64, 256, 256)


def test_a_batch_is_no_larger_than_a_slot():
    # 5 + 40 bytes a pixel: 64 MiB hold one slice of 1008 × 1008, and a second one not.
    assert plan_shapes((1000, 1000), specification(classes=40)) == PlanShapes(1, 1008, 1008)
    assert standard_shapes((512, 512), 40) == PlanShapes(5, 512, 512)
    assert standard_shapes((4096, 4096), 6) == PlanShapes(1, 4096, 4096)


def test_slices_that_are_too_large_are_cut():
    shapes = plan_shapes((5760, 4092), specification())
    assert shapes.batch >= 1
    assert shapes.height * shapes.width <= 2048**2


def test_a_halo_that_would_fill_a_tile_gets_a_larger_one():
    assert plan_shapes((9000, 9000), specification(halo=1200)).height > 2 * 1200


def test_shapes_are_those_of_the_contract():
    shapes = PlanShapes(4, 960, 928)
    assert shapes.inputs(2, 3) == {"slices": (8, 960, 928), "mean": (8,), "rstd": (8,)}
    assert shapes.outputs(2, 6) == {"labels": (2, 960, 928), "scores": (2, 6, 960, 928)}
    assert shapes.pixels == 4 * 960 * 928
    for sizes in ((0, 960, 928), (4, 0, 928), (4, 960, 0)):
        with pytest.raises(ParameterError, match="at least 1"):
            PlanShapes(*sizes)
