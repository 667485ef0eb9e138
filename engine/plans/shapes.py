"""How large the plans are that tomograms need, which is a matter of the GPU's limits."""

from __future__ import annotations

from tomoscribe.engine.backends.gpu_backend import GPU_LIMITS
from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.plans.identity import PlanShapes
from tomoscribe.engine.slot_sizes import plan_batch, plan_tiles

__all__ = ["plan_shapes", "standard_shapes"]


def plan_shapes(slice_shape: tuple[int, int], specification: ModelSpecification) -> PlanShapes:
    """Return the sizes of the plan that serves tomograms of a size, however many slices they have.

    Args:
        slice_shape: ``(y, x)`` of the tomograms in pixels.
        specification: of the model.

    Raises:
        ParameterError: no tile of that size can be cut.
    """
    tiles = plan_tiles(slice_shape, specification, GPU_LIMITS)
    return standard_shapes(tiles.tile_shape, specification.classes)


def standard_shapes(tile_shape: tuple[int, int], classes: int) -> PlanShapes:
    """Return the sizes of the plan for some tiles: as many slices at once as a slot holds.

    Args:
        tile_shape: ``(y, x)`` of the tiles in pixels.
        classes: of the model, with background.
    """
    return PlanShapes(plan_batch(tile_shape, classes, GPU_LIMITS), *tile_shape)
