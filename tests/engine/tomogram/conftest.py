"""Writes MRC files byte by byte from the format's table, so that no code is shared with what reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

# MRC2014, Table 1: byte offset and struct format of the header's words.
WORDS = {
    "nx": (0, "i"), "ny": (4, "i"), "nz": (8, "i"), "mode": (12, "i"),
    "nxstart": (16, "i"), "nystart": (20, "i"), "nzstart": (24, "i"),
    "mx": (28, "i"), "my": (32, "i"), "mz": (36, "i"),
    "xlen": (40, "f"), "ylen": (44, "f"), "zlen": (48, "f"),
    "mapc": (64, "i"), "mapr": (68, "i"), "maps": (72, "i"),
    "dmin": (76, "f"), "dmax": (80, "f"), "dmean": (84, "f"),
    "ispg": (88, "i"), "nsymbt": (92, "i"), "nversion": (108, "i"),
    "imod_stamp": (152, "i"), "imod_flags": (156, "i"),
    "xorigin": (196, "f"), "yorigin": (200, "f"), "zorigin": (204, "f"),
    "map": (208, "4s"), "machst": (212, "4s"), "rms": (216, "f"),
}  # fmt: skip
MODES = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
IMOD_STAMP = 1146047817


@pytest.fixture(scope="session")
def mrc_bytes() -> Callable[..., bytes]:
    """The bytes of an MRC file with these sections, ``(z, y, x)``; words of the header by name, 10 Å voxels if not."""

    def pack(data: NDArray[np.generic], *, order: str = "<", extended: bytes = b"", **words: object) -> bytes:
        sections, rows, columns = data.shape
        values = {
            "nx": columns, "ny": rows, "nz": sections, "mode": MODES[data.dtype.name],
            "mx": columns, "my": rows, "mz": sections,
            "xlen": 10.0 * columns, "ylen": 10.0 * rows, "zlen": 10.0 * sections,
            "mapc": 1, "mapr": 2, "maps": 3, "dmin": 0.0, "dmax": -1.0, "dmean": -2.0, "rms": -1.0,
            "ispg": 1, "nsymbt": len(extended), "nversion": 20141,
            "map": b"MAP ", "machst": b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0",
        } | words  # fmt: skip
        header = bytearray(1024)
        for name, value in values.items():
            offset, kind = WORDS[name]
            struct.pack_into(order + kind, header, offset, value)
        return bytes(header) + extended + data.astype(data.dtype.newbyteorder(order)).tobytes()

    return pack


@pytest.fixture
def write_mrc(tmp_path: Path, mrc_bytes: Callable[..., bytes]) -> Callable[..., Path]:
    """Write such a file, `name` in the test's folder, and return its path."""

    def write(data: NDArray[np.generic], name: str = "tomogram.mrc", **options: object) -> Path:
        path = tmp_path / name
        path.write_bytes(mrc_bytes(data, **options))
        return path

    return write


@pytest.fixture
def volume() -> NDArray[np.int16]:
    """A volume of ``(5, 6, 7)`` in which every value is another."""
    return np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7) - 100
