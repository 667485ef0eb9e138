"""A folder while it is written: under a temporary name beside its place, and renamed when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tomoscribe.engine.bundle import MODEL_FILE
from tomoscribe.engine.errors import OutputError, OutputExistsError, TomoscribeError

__all__ = ["check_free", "new_bundle_folder", "new_folder"]


@contextmanager
def new_bundle_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write a bundle into; see `new_folder`."""
    with new_folder(output, "a bundle", _is_bundle, overwrite=overwrite) as folder:
        yield folder


@contextmanager
def new_folder(output: Path, what: str, is_one: Callable[[Path], bool], *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write into; it takes its place where the block ends without an error.

    Otherwise nothing is left of it, and what was there stays.

    Args:
        output: its place; folders above it are made.
        what: it will be, such as ``a bundle``, for messages.
        is_one: whether a folder that is there is one of these.
        overwrite: replace one of these that is there. Anything else is never replaced.

    Raises:
        OutputExistsError: there is something at `output` that may not be replaced; raised before the block begins.
        OutputError: the folder cannot be written, or the block failed with another `OSError`.
    """
    check_free(output, what, is_one, overwrite=overwrite)
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


def check_free(output: Path, what: str, is_one: Callable[[Path], bool], *, overwrite: bool) -> None:
    """Refuse a place for a folder that is taken; see `new_folder`.

    Raises:
        OutputExistsError: there is something at `output` that may not be replaced.
    """
    if not (output.exists() or output.is_symlink()):
        return
    if output.is_symlink() or not output.is_dir() or not is_one(output):
        raise OutputExistsError(f"{output}: is there and is not {what}, so it is not replaced; choose another place")
    if not overwrite:
        raise OutputExistsError(f"{output}: {what} is there already; choose another folder, or overwrite it")


def _is_bundle(folder: Path) -> bool:
    return (folder / MODEL_FILE).is_file()


def _replace(folder: Path, output: Path) -> None:
    """Rename a folder to its place; what was there moves aside first, because folders cannot be swapped."""
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
