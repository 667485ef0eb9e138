"""TIFF stacks: every page a slice.

Sources: TIFF 6.0; ImageJ's description tag (``spacing`` and ``unit``, with the resolution tags in that unit) and
OME-TIFF (``PhysicalSizeX`` and so on, in µm where no unit is given), as tifffile reads them.
"""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from tomoscribe.engine.errors import ParameterError, TomogramFormatError
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram
from tomoscribe.engine.tomogram.raw import RawVolume, check_run

__all__ = ["TiffTomogram"]

_DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32")
_ANGSTROM = {
    "": 1e4,  # OME-TIFF: µm unless it says otherwise
    "µm": 1e4,
    "μm": 1e4,
    "um": 1e4,
    "micron": 1e4,
    "microns": 1e4,
    "nm": 10.0,
    "nanometer": 10.0,
    "å": 1.0,
    "a": 1.0,
    "angstrom": 1.0,
    "mm": 1e7,
    "cm": 1e8,
}


class TiffTomogram(Tomogram):
    """A stack of grey TIFF pages of one size and type; rows and pages keep the order that they have in the file.

    Pages with three or four colour channels count as grey where the colours are equal.
    """

    def __init__(self, path: Path, *, voxel_size: float | None, axes: str) -> None:
        """Look at the pages' sizes and types.

        Args:
            path: the file.
            voxel_size: Å, in place of the file's.
            axes: ``xyz`` or ``xzy``, fastest first; only ``xyz`` can be had.

        Raises:
            ParameterError: `axes` is ``xzy``.
            TomogramFormatError: the pages are no volume of grey values, or the file is damaged.
        """
        if axes != "xyz":
            raise ParameterError(f"{path}: axes {axes} are only for MRC files; convert the TIFF stack to MRC")
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        self._file = path.open("rb")
        try:
            tiff, every_series, self.warnings = _series_of(path, self._file)
            self._series = _single_series(path, every_series)
            self.dtype = np.dtype(self._series.dtype).newbyteorder("=")
            count = math.prod(self._series.shape) // math.prod(self._series.keyframe.shape)
            self.geometry = Geometry((count, *_image_shape(self._series.keyframe)), _voxel_size(tiff))
            self._volume = self._find_raw_volume(tiff)
            if self._volume is None:
                self._read_page(0)  # colour or an unknown compression is better refused now than between outputs
        except BaseException:
            self.close()
            raise
        if voxel_size is not None:
            self.geometry = self.geometry.with_voxel_size(voxel_size)
        elif self.geometry.voxel_size == (0.0, 0.0, 0.0):
            self.warnings += ("the TIFF file has no voxel size: pass --voxel-size",)
        if self._series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            self.warnings += (
                "the TIFF file shows 0 as white (MINISWHITE): what a viewer shows dark is numerically bright; "
                "pass --invert if density is dark in the viewer",
            )

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Read a run of slices, see `Tomogram.read_slices`; pages that are compressed are decoded one by one.

        Raises:
            TomogramFormatError: a page is damaged, or is in colour.
        """
        if self._closed:
            raise ParameterError(f"{self.path}: is closed")
        if self._volume is not None:
            self._volume.read(self._file.fileno(), start, out)
            return
        check_run(self.path, self.shape, self.dtype, start, out)
        with self._lock:
            for index, slice_out in enumerate(out, start):
                np.copyto(slice_out, self._read_page(index), casting="same_kind")

    def close(self) -> None:
        """Give the file back; closing twice is fine."""
        self._closed = True
        self._file.close()

    def _find_raw_volume(self, tiff: tifffile.TiffFile) -> RawVolume | None:
        """Return where the values lie if they lie in one piece, as in most stacks: then no page has to be decoded."""
        offset = self._series.dataoffset
        if offset is None or not _is_grey(self._series.keyframe):
            return None
        expected = offset + math.prod(self.shape) * self.dtype.itemsize
        found = tiff.filehandle.size
        if found < expected:
            raise TomogramFormatError(
                f"{self.path}: expected at least {expected} bytes for {' × '.join(map(str, self.shape))} values, "
                f"found {found}; the file is truncated or still being written"
            )
        return RawVolume(self.path, offset, self.dtype.newbyteorder(tiff.byteorder), self.shape, "xyz")

    def _read_page(self, index: int) -> NDArray[np.generic]:
        try:
            page = self._series[index]
            image = np.zeros(self._series.keyframe.shape, self.dtype) if page is None else page.asarray()
        except Exception as error:  # tifffile and its codecs raise whatever the damage leads to
            raise TomogramFormatError(f"{self.path}: page {index + 1} cannot be decoded: {error}") from error
        if _is_grey(self._series.keyframe):
            return image.reshape(self.shape[1:])
        channels = image if self._series.keyframe.axes[0] == "S" else np.moveaxis(image, -1, 0)
        if not (np.array_equal(channels[0], channels[1]) and np.array_equal(channels[0], channels[2])):
            raise TomogramFormatError(
                f"{self.path}: expected grey values, found colour on page {index + 1}; convert the stack to grey"
            )
        return np.asarray(channels[0])


def _series_of(path: Path, file: BinaryIO) -> tuple[tifffile.TiffFile, list[tifffile.TiffPageSeries], tuple[str, ...]]:
    """Return a file's series of pages, and what tifffile finds odd about them.

    tifffile logs what it finds damaged and goes on with the pages before it, so that a truncated stack would pass for a
    shorter one.
    """
    log = _Log()
    logger = logging.getLogger("tifffile")
    logger.addFilter(log.take)
    try:
        tiff = tifffile.TiffFile(file)
        every_series = list(tiff.series)
    except Exception as error:  # whatever the damage leads to
        log.errors.append(str(error))
    finally:
        logger.removeFilter(log.take)
    if log.errors:
        raise TomogramFormatError(
            f"{path}: expected an intact TIFF stack, found: {log.errors[0]}; the file is truncated, damaged or still "
            "being written"
        )
    return tiff, every_series, tuple(log.warnings)


class _Log:
    """Keeps what is logged, sorted into errors and warnings, and off the terminal."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def take(self, record: logging.LogRecord) -> bool:
        message = " ".join(record.getMessage().split())
        (self.errors if record.levelno >= logging.ERROR else self.warnings).append(message)
        return False


def _single_series(path: Path, every: list[tifffile.TiffPageSeries]) -> tifffile.TiffPageSeries:
    """Return the one series of alike pages that a stack consists of."""
    if len(every) != 1:
        sizes = ", ".join(" × ".join(map(str, series.shape)) for series in every[:3])
        raise TomogramFormatError(
            f"{path}: expected pages of one size and type, found {len(every)} kinds ({sizes}); "
            "write the volume alone to a file of its own"
        )
    series = every[0]
    page = series.keyframe
    if np.dtype(series.dtype).name not in _DTYPES:
        raise TomogramFormatError(
            f"{path}: expected values of {', '.join(_DTYPES)}, found {np.dtype(series.dtype).name}; "
            "convert the stack to float32"
        )
    meaning = tifffile.PHOTOMETRIC(page.photometric).name
    if meaning not in ("MINISBLACK", "MINISWHITE", "RGB") or page.axes not in ("YX", "YXS", "SYX"):
        raise TomogramFormatError(
            f"{path}: expected pages of grey values, found {meaning.lower()} with axes {page.axes}; "
            "convert the stack to grey"
        )
    stacked = [length for length, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXS"]
    if sum(length > 1 for length in stacked) > 1:
        raise TomogramFormatError(
            f"{path}: expected one axis of pages, found {' × '.join(map(str, stacked))} (axes {series.axes}); "
            "write one channel and one time to a file of its own"
        )
    return series


def _is_grey(page: tifffile.TiffPage) -> bool:
    return bool(page.axes == "YX")


def _image_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    height, width = (length for length, axis in zip(page.shape, page.axes, strict=True) if axis != "S")
    return int(height), int(width)


def _voxel_size(file: tifffile.TiffFile) -> tuple[float, float, float]:
    """Return ``(x, y, z)`` in Å from ImageJ's or OME's metadata, 0 where there is none or none that makes sense."""
    if file.is_imagej:
        sizes = _imagej_voxel_size(file)
    elif file.is_ome:
        sizes = _ome_voxel_size(file)
    else:
        # The plain resolution tags are for print: most programs write 72 dots an inch.
        sizes = (0.0, 0.0, 0.0)
    return sizes if all(math.isfinite(size) and size > 0 for size in sizes) else (0.0, 0.0, 0.0)


def _imagej_voxel_size(file: tifffile.TiffFile) -> tuple[float, float, float]:
    metadata = file.imagej_metadata or {}
    unit = _unit(metadata.get("unit", "pixel"))
    tags = file.pages.first.tags
    pixels_per_unit = [tags[name].value for name in ("XResolution", "YResolution") if name in tags]
    if len(pixels_per_unit) != 2 or not all(dots for dots, _ in pixels_per_unit):
        return 0.0, 0.0, 0.0
    x, y = (units * unit / dots for dots, units in pixels_per_unit)
    return x, y, float(metadata.get("spacing", 0) or 0) * unit or x


def _ome_voxel_size(file: tifffile.TiffFile) -> tuple[float, float, float]:
    image = tifffile.xml2dict(file.ome_metadata or "<OME/>").get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    x, y, z = (
        float(pixels.get(f"PhysicalSize{axis}", 0)) * _unit(pixels.get(f"PhysicalSize{axis}Unit", "")) for axis in "XYZ"
    )
    return x, y, z or x


def _unit(name: object) -> float:
    r"""Return a unit's length in Å, 0 for an unknown one; ImageJ writes µ as the six characters ``\u00B5``."""
    return _ANGSTROM.get(str(name).replace("\\u00B5", "µ").lower(), 0.0)
