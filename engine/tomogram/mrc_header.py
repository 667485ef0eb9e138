"""The 1024-byte MRC header, as reader and sinks share it.

Sources: MRC2014 (https://www.ccpem.ac.uk/mrc_format/mrc2014.php; Cheng et al. 2015, doi:10.1016/j.jsb.2015.04.002) and
IMOD's additions (https://bio3d.colorado.edu/imod/doc/mrc_format.txt; what IMOD does with them is ``mrc_head_read`` and
``mrc_head_write`` in its ``mrcfiles.c``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

__all__ = ["HEADER_SIZE", "MODE_DTYPES", "MrcHeader", "exchange_axes", "pack_imod_flags", "parse_header"]

_Number = TypeVar("_Number", int, float)

HEADER_SIZE = 1024
_IMOD_STAMP = 1146047817
MODE_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}

_IMOD_OFFSET = 152  # imodStamp and imodFlags, two int32
_SIGNED_BYTES = 1
_INVERTED_ORIGIN = 4
_NEGATIVE_RMS = 8  # "RMS value is negative if it was not computed": IMOD sets it in all that it writes
_LARGEST_AXIS = 100_000  # no tomogram comes near it; a header in the wrong byte order or of random bytes exceeds it


@dataclass(frozen=True)
class MrcHeader:
    """What a header says, with nothing corrected but the byte order.

    Attributes:
        byte_order: ``<`` or ``>``, for the header and the data.
        size: ``(nx, ny, nz)``: columns, rows, sections.
        mode: the MRC mode, the type of the values.
        start: ``(nxstart, nystart, nzstart)``, of columns, rows and sections.
        sampling: ``(mx, my, mz)``, voxels along the cell's x, y and z.
        cell: the cell's length in Å along x, y and z.
        map_axes: ``(mapc, mapr, maps)``.
        value_range: ``(dmin, dmax)``; not to be trusted, as many programs do not set it.
        space_group: ``ispg``: 0 an image stack, 1 a volume, 401 to 630 a stack of volumes.
        extended_size: ``nsymbt``, bytes between header and data.
        origin: ``(x, y, z)`` in Å.
        version: ``nversion``.
        imod_flags: IMOD's bit flags, None where its stamp is missing.
        has_map_id: whether the file calls itself an MRC file.
        stamp_agrees: whether the machine stamp is there and gives the byte order that makes sense of the sizes.
        plausible: whether the sizes can be those of an image.
    """

    byte_order: str
    size: tuple[int, int, int]
    mode: int
    start: tuple[int, int, int]
    sampling: tuple[int, int, int]
    cell: tuple[float, float, float]
    map_axes: tuple[int, int, int]
    value_range: tuple[float, float]
    space_group: int
    extended_size: int
    origin: tuple[float, float, float]
    version: int
    imod_flags: int | None
    has_map_id: bool
    stamp_agrees: bool
    plausible: bool

    @property
    def bytes_are_signed(self) -> bool:
        """Whether the bytes of mode 0 are signed, as they are in MRC2014.

        IMOD's flag may say otherwise. Without its stamp, a maximum that no signed byte can have does, as it does in
        IMOD (``readBytesSigned`` in its ``b3dutil.c``): old programs wrote unsigned bytes.
        """
        if self.imod_flags is not None:
            return bool(self.imod_flags & _SIGNED_BYTES)
        smallest, largest = self.value_range
        return not (smallest >= 0 and 127 < largest <= 255)

    @property
    def has_standard_origin(self) -> bool:
        """Whether the header declares MRC2014's sign of the origin; an origin of zero has no sign to declare."""
        declared = 20140 <= self.version < 21000 or bool((self.imod_flags or 0) & _INVERTED_ORIGIN)
        return declared or not any(self.origin)


def parse_header(data: bytes) -> MrcHeader:
    """Read a header, in the byte order that its machine stamp gives if the sizes make sense in it, else in the other.

    Some programs write no machine stamp, or that of the machine rather than of the data, so the sizes decide, as they
    do in IMOD.

    Args:
        data: the file's first 1024 bytes.
    """
    stamp_order = _order_of_stamp(data[212:214])
    orders = [stamp_order, ">" if stamp_order == "<" else "<"] if stamp_order else ["<", ">"]
    headers = [_parse_as(data, order, stamp_order) for order in orders]
    return next((header for header in headers if header.plausible), headers[0])


def pack_imod_flags(header: bytearray, *, standard_origin: bool) -> None:
    """Set IMOD's stamp in a little-endian header, with the flags for signed bytes and for the sign of the origin."""
    flags = _SIGNED_BYTES | _NEGATIVE_RMS | (_INVERTED_ORIGIN if standard_origin else 0)
    struct.pack_into("<ii", header, _IMOD_OFFSET, _IMOD_STAMP, flags)


def exchange_axes(vector: tuple[_Number, _Number, _Number], axes: str) -> tuple[_Number, _Number, _Number]:
    """Turn a file's ``(x, y, z)`` into the engine's, and back: for ``xzy`` y and z are exchanged."""
    x, y, z = vector
    return (x, z, y) if axes == "xzy" else (x, y, z)


def _order_of_stamp(stamp: bytes) -> str | None:
    return {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}.get(stamp)


def _parse_as(data: bytes, order: str, stamp_order: str | None) -> MrcHeader:
    fields = np.frombuffer(data, HEADER_DTYPE.newbyteorder(order), count=1)[0]
    stamp, flags = struct.unpack_from(order + "ii", data, _IMOD_OFFSET)
    size = _integers(fields, "nx", "ny", "nz")
    return MrcHeader(
        byte_order=order,
        size=size,
        mode=int(fields["mode"]),
        start=_integers(fields, "nxstart", "nystart", "nzstart"),
        sampling=_integers(fields, "mx", "my", "mz"),
        cell=_vector(fields["cella"]),
        map_axes=_integers(fields, "mapc", "mapr", "maps"),
        value_range=(float(fields["dmin"]), float(fields["dmax"])),
        space_group=int(fields["ispg"]),
        extended_size=int(fields["nsymbt"]),
        origin=_vector(fields["origin"]),
        version=int(fields["nversion"]),
        imod_flags=flags if stamp == _IMOD_STAMP else None,
        has_map_id=bytes(fields["map"])[:3] == b"MAP",
        stamp_agrees=order == stamp_order,
        plausible=all(0 < length <= _LARGEST_AXIS for length in size),
    )


def _integers(fields: np.void, first: str, second: str, third: str) -> tuple[int, int, int]:
    return int(fields[first]), int(fields[second]), int(fields[third])


def _vector(field: np.void) -> tuple[float, float, float]:
    return float(field["x"]), float(field["y"]), float(field["z"])
