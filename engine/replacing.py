"""Files that are whole whenever they are there: written beside their place, and renamed when complete."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from tomoscribe.engine.errors import OutputError, TomoscribeError

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; what is written there takes the place of `path` at the end.

    Whatever ends the block early, Ctrl-C too, removes the temporary file, and `path` stays as it was.

    Args:
        path: the file to write; one that is there is replaced.

    Yields:
        The path to write to, the same in no two calls.

    Raises:
        OutputError: an `OSError` of the block, or of the renaming; errors of tomoscribe's own pass as they are.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, TomoscribeError):
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}); check space and permissions, "
                "or choose another folder"
            ) from error
        raise
