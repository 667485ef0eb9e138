"""`open_tomogram`: finds out what a file is by its content and opens it."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

from tomoscribe.engine.errors import ParameterError, TomogramFormatError, TomogramNotFoundError
from tomoscribe.engine.tomogram.compressed import compression_of, read_start
from tomoscribe.engine.tomogram.contract import Tomogram
from tomoscribe.engine.tomogram.mrc import MrcTomogram
from tomoscribe.engine.tomogram.mrc_header import HEADER_SIZE

__all__ = ["open_tomogram"]

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_OTHER_MAGIC = {
    b"\x93NUMPY": "a NumPy file",
    b"PK\x03\x04": "a ZIP archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
}
# These formats have no identifier that an MRC file could not have by chance, so the name decides.
_OTHER_SUFFIXES = {".em": "an EM file", ".dm3": "a DigitalMicrograph file", ".dm4": "a DigitalMicrograph file"}


def open_tomogram(
    path: str | os.PathLike[str], *, voxel_size: float | None = None, axes: str = "xyz", mode0: str = "auto"
) -> Tomogram:
    """Open a tomogram; only the header is read.

    Read are MRC files (modes 0, 1, 2, 6 and 12, either byte order, with or without an extended header, plain, gzip or
    bzip2), TIFF stacks and EMAN2's HDF5 files (where h5py is installed). The content decides which, not the name.

    Args:
        path: the file.
        voxel_size: Å; taken in place of the header's, and silences the warnings about it.
        axes: how the file stores the axes, fastest first. For ``xzy`` (AreTomo without FlipVol) the file's sections are
            y: the tomogram is presented as ``[z, y, x]`` all the same, and the header's y and z entries of voxel size,
            origin and start are exchanged; what is written with this geometry has the file's own order again.
        mode0: whether the bytes of MRC mode 0 are ``signed`` or ``unsigned``. ``auto``: as IMOD's flag has it where its
            stamp is there; else signed, as MRC2014 has it, unless the header's maximum is above 127.

    Returns:
        The open tomogram, a context manager. Its ``warnings`` say what is odd about the header.

    Raises:
        ParameterError: an argument has a value that is not listed here, or `axes` cannot be had for this file.
        TomogramNotFoundError: there is no such file.
        TomogramFormatError: the file is of another kind, truncated, damaged or cannot be read.
    """
    if voxel_size is not None and not (math.isfinite(voxel_size) and voxel_size > 0):
        raise ParameterError(f"voxel size: expected a positive number of Å, found {voxel_size}")
    if axes not in ("xyz", "xzy"):
        raise ParameterError(f"axes: expected 'xyz' or 'xzy', found '{axes}'")
    if mode0 not in ("auto", "signed", "unsigned"):
        raise ParameterError(f"mode0: expected 'auto', 'signed' or 'unsigned', found '{mode0}'")
    path = Path(path)
    start = _read_start(path)
    _refuse_other_formats(path, start)
    if start.startswith(_TIFF_MAGIC):
        from tomoscribe.engine.tomogram.tiff import TiffTomogram

        return TiffTomogram(path, voxel_size=voxel_size, axes=axes)
    if start.startswith(_HDF5_MAGIC):
        from tomoscribe.engine.tomogram.hdf import HdfTomogram

        return HdfTomogram(path, voxel_size=voxel_size, axes=axes)
    compression = compression_of(start)
    if compression is not None:
        start = read_start(path, compression, HEADER_SIZE)
    return MrcTomogram(path, start, compression, voxel_size=voxel_size, axes=axes, mode0=mode0)


def _read_start(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise TomogramFormatError(f"{path}: expected a tomogram file, found {_kind_of_folder(path)}")
        if not stat.S_ISREG(mode):
            raise TomogramFormatError(f"{path}: expected a tomogram file, found a device, pipe or socket")
        with path.open("rb") as file:
            start = file.read(HEADER_SIZE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TomogramNotFoundError(f"{path}: no such file; check the spelling") from error
    except OSError as error:
        raise TomogramFormatError(f"{path}: cannot be read: {error.strerror}") from error
    if not start:
        raise TomogramFormatError(f"{path}: expected a tomogram, found an empty file; it may still be being written")
    return start


def _kind_of_folder(path: Path) -> str:
    if any((path / name).exists() for name in (".zattrs", ".zgroup", ".zarray", "zarr.json")):
        return "an OME-Zarr folder, which is not read yet; write it as MRC with the Python packages zarr and mrcfile"
    return "a folder; name the files in it"


def _refuse_other_formats(path: Path, start: bytes) -> None:
    kind = next((kind for magic, kind in _OTHER_MAGIC.items() if start.startswith(magic)), None)
    kind = kind or _OTHER_SUFFIXES.get(path.suffix.lower())
    if kind is not None:
        raise TomogramFormatError(
            f"{path}: expected MRC (plain, gzip or bzip2), a TIFF stack or EMAN2's HDF5, found {kind}; convert it "
            "to MRC, for example with IMOD's newstack or the Python package mrcfile"
        )
