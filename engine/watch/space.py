"""Whether the disk has room for the outputs of the next tomogram."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.tomogram.mrc_header import HEADER_SIZE

__all__ = ["SpaceCheck", "output_bytes"]

# Of the sidecar, the pictures of the page and the ledger's row, generously.
_SMALL_FILES = 4 * 10**6


def output_bytes(shape: tuple[int, int, int], classes: int) -> int:
    """Return how many bytes the outputs of a tomogram take, at most.

    Args:
        shape: ``(z, y, x)`` in voxels.
        classes: how many class volumes are written beside the label volume; all of them have a byte a voxel.
    """
    return (classes + 1) * (math.prod(shape) + HEADER_SIZE) + _SMALL_FILES


class SpaceCheck:
    """Looks at the disk of the outputs.

    Outputs are written beside those that they replace, so that a tomogram that is labelled again needs room for both.

    Args:
        output: the folder for outputs; where it is not there yet, the disk of the nearest folder above counts.
        keep_free: bytes that are to stay free.
    """

    def __init__(self, output: Path, keep_free: int) -> None:
        self._output = output
        self._keep_free = keep_free

    def free_bytes(self) -> int:
        """Return the bytes that this user may still write; a quota is not seen.

        Raises:
            OutputError: the disk does not answer.
        """
        folder = self._output.absolute()
        # os.path, for pathlib's exists() raises where the folder may not be looked into.
        while folder != folder.parent and not os.path.exists(folder):  # noqa: PTH110
            folder = folder.parent
        try:
            return shutil.disk_usage(folder).free
        except OSError as error:
            raise OutputError(
                f"{folder}: its free space cannot be read ({error.strerror}); check that the disk is mounted"
            ) from error

    def reason_to_wait(self, expected_bytes: int) -> str | None:
        """Return why so many bytes are not to be written now, in a line; None where they can be.

        Raises:
            OutputError: the disk does not answer.
        """
        free = self.free_bytes()
        if free - expected_bytes >= self._keep_free:
            return None
        return (
            f"{self._output}: the next outputs take {_gigabytes(expected_bytes)} and {_gigabytes(self._keep_free)} are "
            f"to stay free (--keep-free), found {_gigabytes(free)}; labelling goes on when there is room"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
