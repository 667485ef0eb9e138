"""How large slots are: as suits a backend and bounds the memory, and smaller where that of its device runs out."""

from __future__ import annotations

import math
from dataclasses import replace

from tomoscribe.engine.backends.contract import SlotLimits
from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.tiles import TilePlan

__all__ = ["SLOT_BYTES", "halved", "plan_batch", "plan_tiles"]

SLOT_BYTES = 64 * 2**20
"""A slot may be larger than this only if a single slice is."""


def plan_tiles(slice_shape: tuple[int, int], specification: ModelSpecification, limits: SlotLimits) -> TilePlan:
    """Return the tiles that a model sees of slices of a size.

    Where the model's halo would fill tiles of the limits, they are larger than that.

    Args:
        slice_shape: ``(y, x)`` in pixels.
        specification: of the model.
        limits: of the backend that runs it.
    """
    multiple, halo = specification.tile_multiple, specification.halo
    # A tile begins and ends at multiples, so that its margins are the halo rounded up to one.
    least = (2 * -(-halo // multiple) + 2) * multiple
    return TilePlan.for_slice(slice_shape, multiple=multiple, halo=halo, pixels=max(limits.tile_pixels, least**2))


def plan_batch(tile_shape: tuple[int, int], classes: int, limits: SlotLimits) -> int:
    """Return how many slices go to a backend together.

    Args:
        tile_shape: ``(y, x)`` of the tiles in pixels.
        classes: of the model, with background.
        limits: of the backend.
    """
    pixels = math.prod(tile_shape)
    # Of a pixel, a slot holds a float32 of intensity, the label and the scores.
    by_memory = SLOT_BYTES // (pixels * (4 + 1 + classes))
    return max(1, min(limits.batch_pixels // pixels, by_memory))


def halved(limits: SlotLimits, tile_shape: tuple[int, int], batch: int) -> SlotLimits:
    """Return limits for slots of half the size: of half the batch, and where that is 1, with tiles of half the pixels.

    Args:
        limits: of the backend.
        tile_shape: ``(y, x)`` of the tiles that are too large together, in pixels.
        batch: how many slices were in a slot.
    """
    pixels = math.prod(tile_shape)
    if batch > 1:
        return replace(limits, batch_pixels=batch // 2 * pixels)
    return replace(limits, tile_pixels=pixels // 2, batch_pixels=pixels // 2)
