"""What the stream knows of a sink: finished labels go in, in order of z, and become files when all are there."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sink"]


class Sink(Protocol):
    """Receives finished labels.

    A sink writes under a temporary name beside its target. `prepare` completes that file after the last `write`, and
    `commit` renames it. No sink of a tomogram is committed before all are prepared, so that a full disk is found while
    no file has its name yet. `abort` removes the temporary file, at any time before `commit` or after one that failed
    or was interrupted; it never raises.
    """

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Take a run of finished slices; the arrays belong to the caller again when this returns.

        Args:
            start: z of the first slice.
            labels: ``(n, y, x)`` uint8.
            scores: ``(n, classes, y, x)`` uint8, probability × 255, background first. Those of classes that no sink
                was opened for may be anything.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        ...

    def prepare(self) -> None:
        """Complete the file under its temporary name, bring it to the disk and close it.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        ...

    def commit(self) -> None:
        """Give the prepared file its name; takes no space.

        Raises:
            OutputError: the file cannot be renamed; what had the name before still has it.
        """
        ...

    def abort(self) -> None:
        """Remove what was written."""
        ...
