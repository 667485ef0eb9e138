"""A bundle's folder while it is written: under a temporary name beside its place, and renamed when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tomoscribe.engine.bundle import MODEL_FILE
from tomoscribe.engine.errors import OutputError, OutputExistsError, TomoscribeError

__all__ = ["new_bundle_folder"]


@contextmanager
def new_bundle_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write a bundle into; it takes its place where the block ends without an error.

    Otherwise nothing is left of it, and a bundle that was there stays.

    Args:
        output: the bundle's folder; folders above it are made.
        overwrite: replace a bundle that is there. A folder that is not a bundle is never replaced.

    Raises:
        OutputExistsError: there is something at `output` that may not be replaced; raised before the block begins.
        OutputError: the folder cannot be written, or the block failed with another `OSError`.
    """
    _check_free(output, overwrite)
    beside = output.parent / f".{output.name}.{os.getpid()}.tmp"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        yield beside
        _replace(beside, output)
    except TomoscribeError:
        raise
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); check space and permissions") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_free(output: Path, overwrite: bool) -> None:
    if not (output.exists() or output.is_symlink()):
        return
    if output.is_symlink() or not (output / MODEL_FILE).is_file():
        raise OutputExistsError(
            f"{output}: is there and is not the folder of a model bundle, so it is not replaced; choose another place"
        )
    if not overwrite:
        raise OutputExistsError(f"{output}: a bundle is there already; choose another folder, or overwrite it")


def _replace(folder: Path, output: Path) -> None:
    """Rename a folder to its place; the bundle that was there moves aside first, because folders cannot be swapped."""
    if not output.exists():
        folder.rename(output)
        return
    aside = folder.with_suffix(".old")
    output.rename(aside)
    try:
        folder.rename(output)
    except OSError:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)
