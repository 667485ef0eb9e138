"""What the stream knows of a backend: it hands out slots, works on them, and says when one is ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Slot", "SlotLimits", "SlotShape"]


@dataclass(frozen=True)
class SlotShape:
    """The size of a slot's buffers.

    Attributes:
        batch: slices that are labelled at once, n.
        context: context slices on each side, k; a slot holds ``n + 2k`` input slices.
        height: rows of a tile in pixels.
        width: columns of a tile in pixels.
        classes: classes with background, the second axis of the scores.
        dtype: of the slices, one of the backend's `SlotLimits.dtypes`.
        kept: classes whose scores are read; a backend may leave those of the others unwritten. All if None.
    """

    batch: int
    context: int
    height: int
    width: int
    classes: int
    dtype: str = "float32"
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SlotLimits:
    """How large the slots are that suit a backend, and what may be in them.

    Attributes:
        tile_pixels: a slice of up to so many pixels is one tile; tiles of larger slices are no larger.
        batch_pixels: small slices are labelled together up to so many pixels.
        dtypes: which dtypes it takes slices in; float32 is always one of them.
    """

    tile_pixels: int
    batch_pixels: int
    dtypes: tuple[str, ...] = ("float32",)


@dataclass
class Slot:
    """One reusable set of input and output buffers, laid out as the graph contract has them.

    Attributes:
        slices: ``(n + 2k, h, w)`` of the shape's dtype, in the file's own intensity units.
        mean: ``(n + 2k,)`` float32, the intensity mean of each slice.
        rstd: ``(n + 2k,)`` float32, one over the standard deviation; negative for inverted contrast.
        labels: ``(n, h, w)`` uint8, written by the backend.
        scores: ``(n, classes, h, w)`` uint8, probability × 255 rounded, written by the backend.
        count: how many of the n slices are in use; the last run of a tomogram is often shorter. The buffers keep
            their size and a backend may work on all of them, so the rest of the inputs must hold finite numbers.
    """

    slices: NDArray[Any]
    mean: NDArray[np.float32]
    rstd: NDArray[np.float32]
    labels: NDArray[np.uint8]
    scores: NDArray[np.uint8]
    count: int = 0


class Backend(Protocol):
    """Runs a bundle on a device.

    `submit` and `wait` may be called from different threads; slots are waited for in the order of their submission.
    """

    @property
    def name(self) -> str:
        """The name that ``--backend`` takes."""
        ...

    @property
    def description(self) -> str:
        """One line that says what runs where, such as ``ONNX Runtime 1.23, 2 threads, FP32``."""
        ...

    @property
    def streams(self) -> int:
        """Slots that it works on at the same time; so many have to be submitted for it to be busy."""
        ...

    @property
    def limits(self) -> SlotLimits:
        """How large the slots are that suit it."""
        ...

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
        """Return `count` slots whose buffers the backend can work on.

        Where they are fewer than `streams`, a backend may give more of the device to each. No slot may be at work
        meanwhile, and those of an earlier call are not submitted any more: a backend may compile for the shape.

        Raises:
            BackendError: the memory for them cannot be had, or the network cannot take slices of that size.
        """
        ...

    def submit(self, slot: Slot) -> None:
        """Start work on a slot's first ``count`` slices and return at once."""
        ...

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of a submitted slot can be read.

        Raises:
            BackendError: the work on the slot failed.
        """
        ...

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for; never raises.

        When this returns, nothing reads or writes the slots any more and the backend can be used again. A `wait` for
        one of them that another thread is in, or still comes to, raises `BackendError`. Called by the thread that
        submits.
        """
        ...

    def close(self) -> None:
        """Give everything back; no slot is used after this."""
        ...
