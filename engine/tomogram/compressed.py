"""Compressed files: told by their first bytes, decompressed into a temporary file that has no name."""

from __future__ import annotations

import bz2
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tomoscribe.engine.errors import OutputError, TomogramFormatError

__all__ = ["compression_of", "decompress", "read_start"]

_MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2"}
_BLOCK_SIZE = 1 << 20


def compression_of(start: bytes) -> str | None:
    """Return ``gzip``, ``bzip2`` or None from the first bytes of a file, whatever its name."""
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def read_start(path: Path, compression: str, size: int) -> bytes:
    """Return the first `size` decompressed bytes, or all where there are fewer.

    Raises:
        TomogramFormatError: the compressed data is damaged or ends early.
    """
    with _damage_named(path, compression), _open(path, compression) as stream:
        return stream.read(size)


def decompress(path: Path, compression: str, size: int, section_size: int) -> IO[bytes]:
    """Decompress a file into a temporary one, which is gone when it is closed.

    Args:
        path: the compressed file.
        compression: what `compression_of` said.
        size: the decompressed size in bytes that the header announces.
        section_size: bytes of a section; less than that after `size` is left out, as from a plain file.

    Raises:
        TomogramFormatError: the compressed data is damaged, holds less than `size` bytes, or a section more.
        OutputError: there is no space for the temporary file.
    """
    with _damage_named(path, compression), _open(path, compression) as stream:
        target = _create_temporary(path)
        try:
            written = 0
            while block := stream.read(min(_BLOCK_SIZE, size - written)):
                _write(path, target, block)
                written += len(block)
            if written < size:
                raise TomogramFormatError(
                    f"{path}: expected {size} bytes from the header once decompressed, found {written}; "
                    "the file is truncated or still being written"
                )
            # Reading to the end also makes the decompressor compare its checksum.
            if len(stream.read(section_size)) == section_size:
                raise TomogramFormatError(
                    f"{path}: expected {size} bytes from the header once decompressed, found at least {section_size} "
                    "more; the header does not fit the data"
                )
        except BaseException:
            target.close()
            raise
    return target


def _open(path: Path, compression: str) -> gzip.GzipFile | bz2.BZ2File:
    return gzip.open(path) if compression == "gzip" else bz2.open(path)


@contextmanager
def _damage_named(path: Path, compression: str) -> Iterator[None]:
    try:
        yield
    except (TomogramFormatError, OutputError):
        raise
    except (EOFError, zlib.error, OSError) as error:
        raise TomogramFormatError(
            f"{path}: expected intact {compression} data, found: {error}; the file is truncated, damaged or "
            "still being written"
        ) from error


def _create_temporary(path: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _no_space(path, error) from error


def _write(path: Path, target: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    try:
        while view:
            view = view[target.write(view) :]
    except OSError as error:
        raise _no_space(path, error) from error


def _no_space(path: Path, error: OSError) -> OutputError:
    folder = tempfile.gettempdir() if tempfile.tempdir else "the temporary folder"
    return OutputError(
        f"{path}: cannot be decompressed into {folder}: {error.strerror or error}; point TMPDIR to a folder with "
        "more space, or decompress the file first"
    )
