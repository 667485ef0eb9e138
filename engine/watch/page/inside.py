"""Opening files for a page: none that lies elsewhere than it should, whatever links lead there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_inside"]


def open_inside(folder: Path, path: Path | str) -> BinaryIO:
    """Open a regular file for reading if it lies in a folder once all links are followed, and is not hidden there.

    A file is found, looked at and only then opened (Linux: ``O_PATH``), so that a link that is changed meanwhile makes
    no difference, and nothing is opened that is refused: that could wait for a pipe or, for the ledger, take SQLite's
    locks away when it is closed.

    Args:
        folder: an absolute path without links.
        path: the file, relative to `folder`.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: it lies elsewhere, is hidden or not a regular file, or may not be read.
        OSError: it cannot be opened.
        ValueError: the path holds a character that no path can.
    """
    found = os.open(folder / path, os.O_PATH | os.O_CLOEXEC)
    try:
        name = f"/proc/self/fd/{found}"
        real = Path(name).readlink()
        inside = real.is_relative_to(folder) and not any(
            part.startswith(".") for part in real.relative_to(folder).parts
        )
        if not (inside and stat.S_ISREG(os.fstat(found).st_mode)):
            raise PermissionError(f"{path}: expected a file in {folder}, found {real}")
        return open(name, "rb", buffering=0)  # noqa: PTH123 - of a descriptor; the caller closes it
    finally:
        os.close(found)
