"""The folder of a dataset while it is built: what is whole is in its place, what is not is beside."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import zarr

from tomoscribe.engine.errors import OutputError, OutputExistsError, TomoscribeError
from tomoscribe.train.dataset.storage import ARRAYS_FOLDER, DATASET_FILE

__all__ = ["building", "check_folder", "clean_folder", "prepare_folder"]

_BUILDING_FOLDER = "building"


def check_folder(output: Path, overwrite: bool) -> None:
    """See that a dataset may be built in a folder.

    Raises:
        OutputExistsError: a dataset is there and may not be replaced, or the folder holds something else.
    """
    index, arrays = output / DATASET_FILE, output / ARRAYS_FOLDER
    if output.exists() and not output.is_dir():
        raise OutputExistsError(
            f"{output}: expected a folder, or a name that is free, found a file; choose another one"
        )
    if index.exists() and not overwrite:
        raise OutputExistsError(f"{output}: a dataset is there already; pass --overwrite to replace it")
    if output.exists() and not (arrays.is_dir() or index.exists()) and any(output.iterdir()):
        raise OutputExistsError(f"{output}: expected a new or an empty folder, found files; choose another one")


def prepare_folder(output: Path) -> None:
    """Make the folder ready; a dataset that is there is none any more until the new one is complete.

    Raises:
        OutputError: the folder cannot be made.
    """
    index, arrays = output / DATASET_FILE, output / ARRAYS_FOLDER
    try:
        index.unlink(missing_ok=True)
        shutil.rmtree(output / _BUILDING_FOLDER, ignore_errors=True)
        arrays.mkdir(parents=True, exist_ok=True)
        if not (arrays / "zarr.json").exists():
            zarr.create_group(arrays)
    except OSError as error:
        raise OutputError(f"{output}: the dataset's folder cannot be made ({error.strerror})") from error


def clean_folder(output: Path, names: Collection[str]) -> None:
    """Remove the arrays of all tomograms but those that are named, and what was being built.

    Raises:
        OutputError: the folder cannot be written.
    """
    removed = output / _BUILDING_FOLDER
    try:
        removed.mkdir(exist_ok=True)
        for folder in (output / ARRAYS_FOLDER).iterdir():
            if folder.is_dir() and folder.name not in names:
                # Out of the way at once, as in `building`.
                folder.rename(removed / secrets.token_hex(8))
    except OSError as error:
        raise OutputError(f"{output}: cannot be cleaned up ({error.strerror}); check permissions") from error
    shutil.rmtree(removed, ignore_errors=True)


@contextlib.contextmanager
def building(output: Path, place: Path) -> Iterator[Path]:
    """Give a folder to write; at the end it takes its place among the arrays, and whatever stops that removes it.

    Args:
        output: the dataset's folder.
        place: where among the arrays; what is there is replaced.

    Raises:
        OutputError: an `OSError` of the block, or of the renaming; errors of tomoscribe's own pass as they are.
    """
    folder = output / _BUILDING_FOLDER / secrets.token_hex(8)
    target = output / ARRAYS_FOLDER / place
    try:
        yield folder
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # Out of the way at once: a folder that is only partly removed must not be taken for one that is whole.
            target.rename(folder.with_suffix(".old"))
        folder.rename(target)
    except OSError as error:
        if isinstance(error, TomoscribeError):
            raise
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error}); check space and permissions"
        ) from error
    finally:
        for left in (folder, folder.with_suffix(".old")):
            shutil.rmtree(left, ignore_errors=True)
