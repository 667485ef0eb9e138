"""What the stream knows of a sink: finished labels go in, in order of z, and become files when all are there."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sink"]


class Sink(Protocol):
    """Receives finished labels.

    A sink writes under a temporary name beside its target. `commit` renames it; `abort` removes it. One of the two
    is called once, and `abort` also after a `commit` that failed or was interrupted; it never raises.
    """

    @property
    def path(self) -> Path:
        """The file that is there after `commit`."""
        ...

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Take a run of finished slices; the arrays belong to the caller again when this returns.

        Args:
            start: z of the first slice.
            labels: ``(n, y, x)`` uint8.
            scores: ``(n, classes, y, x)`` uint8, probability × 255, background first.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        ...

    def commit(self) -> None:
        """Complete the file and give it its name.

        Raises:
            OutputError: the disk is full or the file cannot be renamed.
        """
        ...

    def abort(self) -> None:
        """Remove what was written."""
        ...
