"""MRC files: the header's word is checked against the file before anything is believed."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError, TomogramFormatError
from tomoscribe.engine.tomogram.compressed import decompress
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram
from tomoscribe.engine.tomogram.mrc_header import HEADER_SIZE, MODE_DTYPES, MrcHeader, exchange_axes, parse_header
from tomoscribe.engine.tomogram.raw import RawVolume

__all__ = ["MrcTomogram"]

_REFUSED_MODES = {3: "complex int16", 4: "complex float32", 16: "RGB", 101: "4-bit"}
_READ_MODES = "0 (int8), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16)"


class MrcTomogram(Tomogram):
    """An MRC file, plain or compressed.

    A compressed file is decompressed into an unlinked temporary file when values are first asked for.
    """

    def __init__(
        self, path: Path, start: bytes, compression: str | None, *, voxel_size: float | None, axes: str, mode0: str
    ) -> None:
        """Check the header and, where the file is plain, its size.

        Args:
            path: the file.
            start: its first 1024 bytes, decompressed.
            compression: ``gzip``, ``bzip2`` or None.
            voxel_size: Å, in place of the header's.
            axes: ``xyz`` or ``xzy``, fastest first.
            mode0: ``auto``, ``signed`` or ``unsigned``.

        Raises:
            ParameterError: ``xzy`` for a file whose header has an axis order of its own.
            TomogramFormatError: the file is not a volume that is read here, or is truncated.
        """
        header = _checked_header(path, start)
        map_axes = header.map_axes if sorted(header.map_axes) == [1, 2, 3] else (1, 2, 3)
        if axes == "xzy" and map_axes != (1, 2, 3):
            raise ParameterError(f"{path}: expected the axis order 1-2-3 in the header for axes xzy, found {map_axes}")
        dtype = _stored_dtype(header, mode0)
        columns, rows, sections = header.size
        shape = (rows, sections, columns) if axes == "xzy" else (sections, rows, columns)
        geometry = Geometry(
            shape=shape,
            voxel_size=exchange_axes(_voxel_size(header), axes),
            origin=exchange_axes(_finite(header.origin), axes),
            start=exchange_axes(header.start, axes),
            map_axes=map_axes,
            axes=axes,
            standard_origin=header.has_standard_origin,
        )
        offset = HEADER_SIZE + header.extended_size
        self.path = path
        self.geometry = geometry if voxel_size is None else geometry.with_voxel_size(voxel_size)
        self.dtype = dtype.newbyteorder("=")
        self._volume = RawVolume(path, offset, dtype, shape, axes)
        self._section_size = columns * rows * dtype.itemsize
        self._size = offset + sections * self._section_size
        self._compression = compression
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._closed = False
        notes = _header_warnings(header)
        if header.mode == 0 and mode0 == "auto" and header.imod_flags is None and not header.bytes_are_signed:
            notes.append(
                f"the header's maximum of {header.value_range[1]:g} is above that of signed bytes, so they are read as "
                "unsigned: pass --mode0 signed if that is wrong"
            )
        if voxel_size is None:
            notes += _voxel_size_warnings(header, geometry.voxel_size)
        if axes == "xyz" and map_axes == (1, 2, 3) and 2 * rows < min(columns, sections):
            notes.append(
                f"{rows} rows between {columns} columns and {sections} sections look like the x-z-y order of a "
                "reconstruction that was not turned (AreTomo without FlipVol): pass --axes xzy"
            )
        if compression is None:
            notes += self._open_plain(header, offset)
        self.warnings = tuple(notes)

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Read a run of slices; see `Tomogram.read_slices`. Threads may read at the same time.

        Raises:
            OutputError: there is no space to decompress the file.
        """
        with self._lock:
            if self._closed:
                raise ParameterError(f"{self.path}: is closed")
            if self._file is None and self._compression is not None:
                self._file = decompress(self.path, self._compression, self._size, self._section_size)
            assert self._file is not None
            file = self._file.fileno()
        self._volume.read(file, start, out)

    def close(self) -> None:
        """Give the file back; closing twice is fine."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()

    def _open_plain(self, header: MrcHeader, offset: int) -> list[str]:
        """Open the file and hold its size against the header; return what to warn of."""
        self._file = self.path.open("rb", buffering=0)
        expected, found = self._size, os.fstat(self._file.fileno()).st_size
        if not expected <= found < expected + self._section_size:
            self._file.close()
            raise _size_error(self.path, header, offset, expected, found)
        return [f"{found - expected} bytes after the last section are ignored"] if found > expected else []


def _checked_header(path: Path, start: bytes) -> MrcHeader:
    if len(start) < HEADER_SIZE:
        raise TomogramFormatError(
            f"{path}: expected an MRC header of {HEADER_SIZE} bytes, found {len(start)} bytes; "
            "the file is not a tomogram, or is still being written"
        )
    header = parse_header(start)
    size = " × ".join(map(str, header.size))
    if not header.plausible and not header.has_map_id:
        raise TomogramFormatError(
            f"{path}: expected an MRC file or a TIFF stack, found neither; convert other formats to MRC, "
            "for example with IMOD's newstack or the Python package mrcfile"
        )
    if not header.plausible:
        raise TomogramFormatError(
            f"{path}: expected columns, rows and sections from 1 to 100000 in the header, found {size}; "
            "the header is damaged"
        )
    if header.mode not in MODE_DTYPES:
        kind = f" ({_REFUSED_MODES[header.mode]})" if header.mode in _REFUSED_MODES else ""
        raise TomogramFormatError(
            f"{path}: expected one of the MRC modes {_READ_MODES}, found mode {header.mode}{kind}; "
            "convert it, for example with IMOD: newstack -mode 2"
        )
    if header.extended_size < 0:
        raise TomogramFormatError(
            f"{path}: expected an extended header of 0 bytes or more, found {header.extended_size}; "
            "the header is damaged"
        )
    sections, depth = header.size[2], header.sampling[2]
    if 401 <= header.space_group <= 630 and sections != depth:
        raise TomogramFormatError(
            f"{path}: expected one volume, found a stack of volumes (space group {header.space_group}, {sections} "
            f"sections, {depth} each); write every volume to a file of its own"
        )
    return header


def _stored_dtype(header: MrcHeader, mode0: str) -> np.dtype[np.generic]:
    signed = header.bytes_are_signed if mode0 == "auto" else mode0 == "signed"
    name = "u1" if header.mode == 0 and not signed else MODE_DTYPES[header.mode]
    return np.dtype(header.byte_order + name)


def _size_error(path: Path, header: MrcHeader, offset: int, expected: int, found: int) -> TomogramFormatError:
    columns, rows, sections = header.size
    extended = f", extended header of {header.extended_size}" if header.extended_size else ""
    what = f"{expected} bytes from the header ({columns} × {rows} × {sections}, mode {header.mode}{extended})"
    if found < expected:
        return TomogramFormatError(
            f"{path}: expected {what}, found {found}; the file is truncated or still being written"
        )
    voxels = columns * rows * sections
    fitting = [mode for mode, name in MODE_DTYPES.items() if offset + voxels * np.dtype(name).itemsize == found]
    fit = f", the size of mode {' or '.join(map(str, fitting))}" if fitting else ""
    return TomogramFormatError(f"{path}: expected {what}, found {found}{fit}; the header does not fit the data")


def _voxel_size(header: MrcHeader) -> tuple[float, float, float]:
    """Return cell over sampling in Å, x, y, z, with 0 for all that cannot be a length."""
    x, y, z = (
        length / count if count > 0 and math.isfinite(length) and length > 0 else 0.0
        for length, count in zip(header.cell, header.sampling, strict=True)
    )
    return x, y, z


def _finite(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = (value if math.isfinite(value) else 0.0 for value in vector)
    return x, y, z


def _header_warnings(header: MrcHeader) -> list[str]:
    notes = []
    if not header.has_map_id:
        notes.append("the header has no MAP identifier; read as an old MRC file")
    elif not header.stamp_agrees:
        order = "little" if header.byte_order == "<" else "big"
        notes.append(f"the header's machine stamp is missing or wrong; read in {order}-endian byte order")
    if header.map_axes != (1, 2, 3):
        known = sorted(header.map_axes) == [1, 2, 3]
        how = "slices are cut along the file's sections" if known else "taken as 1-2-3"
        notes.append(f"the header's axis order is {'-'.join(map(str, header.map_axes))}, not 1-2-3; {how}")
    if header.space_group == 0 and header.sampling[2] == 1 and header.size[2] > 1:
        notes.append(f"the header calls it a stack of {header.size[2]} images; read as the slices of one volume")
    return notes


def _voxel_size_warnings(header: MrcHeader, voxel_size: tuple[float, float, float]) -> list[str]:
    text = " × ".join(f"{length:.4g}" for length in voxel_size)
    # A single section has no thickness that would matter.
    lengths = voxel_size if min(header.size) > 1 else voxel_size[:2]
    if min(lengths) == 0:
        return ["the header has no voxel size: pass --voxel-size"]
    if all(length == 1 for length in lengths):
        return ["the voxel size of 1 Å looks like a placeholder: pass --voxel-size"]
    if max(lengths) > 1.01 * min(lengths):
        return [f"the voxel is not a cube, {text} Å: pass --voxel-size if that is wrong"]
    return []
