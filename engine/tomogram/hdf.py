"""HDF5 files as EMAN2 writes them.

The layout and the attributes are those of EMAN2's ``libEM/io/hdfio2.cpp``: image *i* is the dataset
``/MDF/images/<i>/image`` of (z, y, x), and its header the attributes ``EMAN.*`` of the group ``/MDF/images/<i>``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError, TomogramFormatError
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram
from tomoscribe.engine.tomogram.raw import check_run

__all__ = ["HdfTomogram"]

_IMAGES = "MDF/images"
_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64")
# HDF5 keeps a decompressed chunk until another takes its place; in 64 MiB the chunks of a slice fit whatever their
# depth, so that none is decompressed once for every slice that it holds. EMAN2's own are one slice deep.
_CHUNK_CACHE = 64 * 1024**2


class HdfTomogram(Tomogram):
    """The one volume of an EMAN2 HDF5 file.

    Values that EMAN2 stored with fewer bits (its "compressed" mode) are given in the units that it shows: float32, from
    ``stored_renderbits``, ``stored_rendermin`` and ``stored_rendermax`` as ``HdfIO2::read_data`` has it.
    """

    def __init__(self, path: Path, *, voxel_size: float | None, axes: str) -> None:
        """Look at the file's groups and attributes.

        Args:
            path: the file.
            voxel_size: Å, in place of the file's.
            axes: ``xyz`` or ``xzy``, fastest first; only ``xyz`` can be had.

        Raises:
            ParameterError: `axes` is ``xzy``.
            TomogramFormatError: h5py is not installed, the file is damaged, is not EMAN2's, or holds several images.
        """
        if axes != "xyz":
            raise ParameterError(
                f"{path}: axes {axes} are only for MRC files; turn the volume with EMAN2's e2proc3d.py"
            )
        self.path = path
        self._file = _open(path)
        try:
            self._image, attributes = _single_image(path, self._file)
            self._scale = _scale(attributes)
            stored = self._image.dtype.newbyteorder("=")
            self.dtype = np.dtype(np.float32) if self._scale else stored
            geometry = Geometry(_shape(path, self._image), _vector(attributes, "apix"), _vector(attributes, "origin"))
        except BaseException:
            self.close()
            raise
        self.geometry = geometry if voxel_size is None else geometry.with_voxel_size(voxel_size)
        self.warnings = () if voxel_size is not None else _voxel_size_warnings(geometry.voxel_size)

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Read a run of slices, see `Tomogram.read_slices`.

        Raises:
            TomogramFormatError: the file is damaged.
        """
        if not self._file:
            raise ParameterError(f"{self.path}: is closed")
        check_run(self.path, self.shape, self.dtype, start, out)
        for z, slice_out in enumerate(out, start):
            try:
                values = self._image[z] if self._image.ndim == 3 else self._image[...]
            except OSError as error:
                raise _damaged(self.path, error) from error
            if self._scale:
                slope, offset = self._scale
                values = values * np.float32(slope) + np.float32(offset)
            np.copyto(slice_out, values, casting="same_kind")

    def close(self) -> None:
        """Give the file back; closing twice is fine."""
        self._file.close()


def _open(path: Path) -> Any:  # noqa: ANN401 - h5py has no types
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise TomogramFormatError(
            f"{path}: is an HDF5 file, which needs the package h5py to be read; install it with: pip install h5py"
        ) from error
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
    except OSError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: OSError) -> TomogramFormatError:
    reason = " ".join(str(error).split())
    return TomogramFormatError(
        f"{path}: expected an intact HDF5 file, found: {reason}; the file is truncated, damaged or still being written"
    )


def _single_image(path: Path, file: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return the dataset of the file's one image, and the attributes of its group."""
    try:
        groups = file.get(_IMAGES, {})
        numbers = sorted((name for name in groups if "image" in groups[name]), key=lambda name: (len(name), name))
        if not numbers:
            raise TomogramFormatError(
                f"{path}: expected {_IMAGES}/0/image, as EMAN2 writes it, found an HDF5 file with "
                f"{', '.join(file) or 'nothing in it'}; convert it to MRC, for example with the Python package mrcfile"
            )
        if len(numbers) > 1:
            raise TomogramFormatError(
                f"{path}: expected one volume, found a stack of {len(numbers)} images; write one to a file of its own, "
                "for example with EMAN2: e2proc3d.py --first 0 --last 0"
            )
        return groups[numbers[0]]["image"], groups[numbers[0]].attrs
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises depends on where the damage is
        raise _damaged(path, OSError(str(error))) from error


def _shape(path: Path, image: Any) -> tuple[int, int, int]:  # noqa: ANN401
    """Return (z, y, x); EMAN2 stores a volume of one slice with two axes."""
    shape = (1,) * (3 - len(image.shape)) + tuple(int(length) for length in image.shape)
    if len(image.shape) not in (2, 3) or not math.prod(shape):
        raise TomogramFormatError(f"{path}: expected an image of (z, y, x), found the shape {image.shape}")
    if image.dtype.name not in _DTYPES:
        raise TomogramFormatError(f"{path}: expected values of {', '.join(_DTYPES)}, found {image.dtype.name}")
    return shape[0], shape[1], shape[2]


def _number(attributes: Any, name: str) -> float:  # noqa: ANN401
    """Return a number of EMAN2's header, which it stores as an array of one; 0 where it is not there or not finite."""
    try:
        value = float(np.ravel(attributes[f"EMAN.{name}"])[0])
    except (KeyError, ValueError, IndexError, TypeError):
        return 0.0
    return value if math.isfinite(value) else 0.0


def _vector(attributes: Any, name: str) -> tuple[float, float, float]:  # noqa: ANN401
    x, y, z = (_number(attributes, f"{name}_{axis}") for axis in "xyz")
    return x, y, z


def _scale(attributes: Any) -> tuple[float, float] | None:  # noqa: ANN401
    """Return slope and offset of values that were stored with fewer bits, None for values as they are."""
    bits = int(_number(attributes, "stored_renderbits"))
    if bits <= 0 or not all(f"EMAN.stored_render{end}" in attributes for end in ("min", "max")):
        return None
    low, high = _number(attributes, "stored_rendermin"), _number(attributes, "stored_rendermax")
    return (high - low) / (2**bits - 1), low


def _voxel_size_warnings(voxel_size: tuple[float, float, float]) -> tuple[str, ...]:
    if min(voxel_size) <= 0:
        return ("the EMAN2 header has no voxel size: pass --voxel-size",)
    if all(length == 1 for length in voxel_size):
        return ("the voxel size of 1 Å looks like a placeholder: pass --voxel-size",)
    return ()
