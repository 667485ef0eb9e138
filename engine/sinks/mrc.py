"""Labels, class scores and other values as MRC volumes that lie exactly where their tomogram lies."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import textwrap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError, ParameterError
from tomoscribe.engine.tomogram.contract import Geometry
from tomoscribe.engine.tomogram.mrc_header import HEADER_SIZE, MODE_DTYPES, exchange_axes, pack_imod_flags

__all__ = ["ClassVolume", "LabelVolume", "ValueVolume", "mrc_dtype"]

_LARGEST_INT8 = 127
_TEXT_LINES = 10
# So much is left in memory before the disk is told to begin.
_UNWRITTEN_BYTES = 8 * 2**20


class _MrcVolume:
    """An MRC file that is written slice by slice under a temporary name; slices that are never written stay 0.

    The header is MRC2014: little-endian, a volume (``ispg`` 1, ``mz`` = ``nz``), no extended header. Voxel size,
    origin, start and axis order are the tomogram's, and so is the order of the axes in the file. IMOD's stamp says that
    the bytes are signed. Where the tomogram does not declare MRC2014's sign of the origin, this file does not either
    (its ``nversion`` is 0), or IMOD would put it elsewhere than its tomogram.
    """

    def __init__(self, path: Path | str, geometry: Geometry, mode: int, text: Sequence[str]) -> None:
        self._path = Path(path)
        self._geometry = geometry
        self._mode = mode
        self._text = text
        self._dtype = np.dtype("<" + MODE_DTYPES[mode])
        self._statistics = _Statistics()
        # The process writes with its own permissions and umask, which a file of the tempfile module would not have.
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
        self._file = -1
        self._unwritten = 0
        with self._failure_named():
            self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._file, HEADER_SIZE + math.prod(geometry.shape) * self._dtype.itemsize)

    @property
    def path(self) -> Path:
        """The file that is there after `commit`."""
        return self._path

    def prepare(self) -> None:
        """Write the header with its statistics, bring all to the disk and close the file, see `Sink.prepare`.

        Raises:
            OutputError: the disk is full or the file cannot be written; nothing is left behind.
        """
        with self._failure_named():
            self._write_at(0, self._header())
            os.fsync(self._file)
            file, self._file = self._file, -1
            os.close(file)

    def commit(self) -> None:
        """Give the prepared file its name, see `Sink.commit`.

        Raises:
            OutputError: the file cannot be renamed; nothing is left behind.
        """
        with self._failure_named():
            self._temporary.replace(self._path)

    def abort(self) -> None:
        """Remove what was written; never raises."""
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.close(self._file)
        self._file = -1
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def _write_values(self, start: int, values: NDArray[np.generic]) -> None:
        """Write a run of slices ``(n, y, x)`` of the file's dtype."""
        depth, height, width = self._geometry.shape
        if values.shape[1:] != (height, width) or not 0 <= start <= start + len(values) <= depth:
            raise ParameterError(
                f"{self._path}: expected slices of ({height}, {width}) up to {depth}, found {values.shape} at {start}"
            )
        row_size = width * self._dtype.itemsize
        self._statistics.add(values)
        with self._failure_named():
            if self._geometry.axes == "xzy":
                for y in range(height):
                    self._write_at(HEADER_SIZE + (y * depth + start) * row_size, values[:, y])
            else:
                position = HEADER_SIZE + start * height * row_size
                self._write_at(position, values)
                self._begin_writing(position, values.nbytes)

    def _write_at(self, position: int, values: NDArray[np.generic]) -> None:
        view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        while view:
            count = os.pwrite(self._file, view, position)
            view = view[count:]
            position += count

    def _begin_writing(self, position: int, size: int) -> None:
        """Have the disk begin with what was written, once it is much, so that `prepare` has little to wait for.

        Linux starts to write pages that it is told are not needed (posix_fadvise(2)), and keeps them until it has.
        """
        self._unwritten += size
        if self._unwritten >= _UNWRITTEN_BYTES and hasattr(os, "posix_fadvise"):
            first = position + size - self._unwritten
            with contextlib.suppress(OSError):  # it is advice
                os.posix_fadvise(self._file, first, self._unwritten, os.POSIX_FADV_DONTNEED)
            self._unwritten = 0

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abort()
            raise OutputError(
                f"{self._path}: cannot be written: {error.strerror or error}; check space and permission in "
                f"{self._path.parent.resolve()}, or choose another folder"
            ) from error

    def _header(self) -> NDArray[np.uint8]:
        geometry = self._geometry
        header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
        depth, height, width = geometry.shape
        size = exchange_axes((width, height, depth), geometry.axes)
        # The sampling is counted along the cell's x, y and z, the size along columns, rows and sections.
        sampling = [size[geometry.map_axes.index(axis)] for axis in (1, 2, 3)]
        voxel_size = exchange_axes(geometry.voxel_size, geometry.axes)
        origin = exchange_axes(geometry.origin, geometry.axes)
        start = exchange_axes(geometry.start, geometry.axes)
        for index, axis in enumerate("xyz"):
            header[f"n{axis}"] = size[index]
            header[f"n{axis}start"] = start[index]
            header[f"m{axis}"] = sampling[index]
            header["cella"][axis] = voxel_size[index] * sampling[index]
            header["origin"][axis] = origin[index]
        header["mapc"], header["mapr"], header["maps"] = geometry.map_axes
        header["cellb"] = (90.0, 90.0, 90.0)
        header["mode"] = self._mode
        header["ispg"] = 1
        header["nversion"] = 20141 if geometry.standard_origin else 0
        header["map"] = b"MAP "
        header["machst"] = (0x44, 0x44, 0, 0)
        header["dmin"], header["dmax"], header["dmean"], header["rms"] = self._statistics.of(math.prod(geometry.shape))
        lines = [line for text in self._text for line in textwrap.wrap(text, 80)][:_TEXT_LINES]
        header["nlabl"] = len(lines)
        header["label"][: len(lines)] = [line.encode("ascii", "replace") for line in lines]
        packed = bytearray(header.tobytes())
        pack_imod_flags(packed, standard_origin=geometry.standard_origin)
        return np.frombuffer(packed, np.uint8)


class LabelVolume(_MrcVolume):
    """The label of every voxel: signed bytes, MRC mode 0.

    A class map of more than 127 classes does not fit signed bytes; its labels are written as uint16, mode 6.
    """

    def __init__(
        self, path: Path | str, geometry: Geometry, class_map: ClassMap, *, keep: Collection[int], provenance: str
    ) -> None:
        """Create the file under its temporary name.

        Args:
            path: the file that is there after `commit`.
            geometry: the tomogram's.
            class_map: the classes that labels stand for.
            keep: label numbers that are written; every other label becomes 0, the background.
            provenance: the first line of the header's text, such as ``tomoscribe 0.1.0 labels, model NAME``.

        Raises:
            ParameterError: `keep` has a number that is not in the class map.
            OutputError: the file cannot be created.
        """
        kept = sorted(set(keep))
        if not set(kept) <= {label_class.number for label_class in class_map.classes}:
            raise ParameterError(f"{path}: expected labels from 1 to {len(class_map)} to keep, found {kept}")
        names = [f"{c.number} {c.name}" for c in class_map.classes if c.number in kept]
        mode = 0 if len(class_map) <= _LARGEST_INT8 else 6
        super().__init__(path, geometry, mode, [provenance, "; ".join(["0 background", *names])])
        self._lookup = np.zeros(256, self._dtype)
        self._lookup[kept] = kept
        self._as_it_is = mode == 0 and len(kept) == len(class_map)

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Write the labels ``(n, y, x)`` of a run of slices, see `Sink.write`; the scores are not looked at.

        Raises:
            ParameterError: the run reaches outside the volume or has slices of another shape.
            OutputError: the disk is full or the file cannot be written.
        """
        # A view costs nothing; the look-up copies.
        self._write_values(start, labels.view(np.int8) if self._as_it_is else np.take(self._lookup, labels))


class ClassVolume(_MrcVolume):
    """The score of one class: signed bytes, MRC mode 0, from 0 to 127; 64 and above is a probability of 0.5 and above.

    A score of the graph is probability × 255, rounded, so that its half, 0 to 127, keeps one half where it belongs.
    """

    def __init__(self, path: Path | str, geometry: Geometry, label_class: LabelClass, *, provenance: str) -> None:
        """Create the file under its temporary name.

        Args:
            path: the file that is there after `commit`.
            geometry: the tomogram's.
            label_class: the class whose scores are written.
            provenance: the first line of the header's text, such as ``tomoscribe 0.1.0 scores, model NAME``.

        Raises:
            OutputError: the file cannot be created.
        """
        scale = f"score of {label_class.number} {label_class.name}: 0 to 127 is probability 0 to 1, 64 is 0.5"
        super().__init__(path, geometry, 0, [provenance, scale])
        self._label = label_class.number

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Write the class's scores, from ``(n, classes, y, x)``, of a run of slices, see `Sink.write`.

        Raises:
            ParameterError: the run reaches outside the volume or has slices of another shape.
            OutputError: the disk is full or the file cannot be written.
        """
        self._write_values(start, (scores[:, self._label] >> 1).view(np.int8))


class ValueVolume(_MrcVolume):
    """Values as they are, in the MRC mode of their type."""

    def __init__(self, path: Path | str, geometry: Geometry, dtype: np.dtype[np.generic], *, provenance: str) -> None:
        """Create the file under its temporary name.

        Args:
            path: the file that is there after `commit`.
            geometry: of the volume.
            dtype: of the values, one that `mrc_dtype` returns.
            provenance: the header's text.

        Raises:
            OutputError: the file cannot be created.
        """
        modes = {np.dtype(name): mode for mode, name in MODE_DTYPES.items()}
        super().__init__(path, geometry, modes[np.dtype(dtype)], [provenance])

    def write(self, start: int, values: NDArray[np.generic]) -> None:
        """Write a run of slices ``(n, y, x)`` of the volume's dtype, the first at z = `start`.

        Raises:
            ParameterError: the run reaches outside the volume or has slices of another shape.
            OutputError: the disk is full or the file cannot be written.
        """
        self._write_values(start, values)


def mrc_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the type in which an MRC file holds values: their own, else int16 for uint8, else float32."""
    if dtype in [np.dtype(name) for name in MODE_DTYPES.values()]:
        return dtype
    return np.dtype(np.int16 if dtype == np.uint8 else np.float32)


class _Statistics:
    """Sums over the values that were written, which no one has to read again for the header."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._smallest = math.inf
        self._largest = -math.inf

    def add(self, values: NDArray[np.generic]) -> None:
        """Count values ``(n, y, x)``."""
        # float32 lets BLAS square and sum bytes at memory speed, and one slice is short enough not to lose digits.
        dtype = np.float32 if values.dtype.itemsize == 1 else np.float64
        for slice_values in values:
            floats = slice_values.ravel().astype(dtype)
            self._count += floats.size
            self._sum += float(floats.sum())
            self._sum_of_squares += float(floats @ floats)
            # Bytes are compared many at a time.
            self._smallest = min(self._smallest, float(slice_values.min()))
            self._largest = max(self._largest, float(slice_values.max()))

    def of(self, count: int) -> tuple[float, float, float, float]:
        """Return minimum, maximum, mean and standard deviation of `count` values: those added, and 0 for the rest."""
        smallest, largest = self._smallest, self._largest
        if self._count < count:
            smallest, largest = min(smallest, 0.0), max(largest, 0.0)
        mean = self._sum / count
        return smallest, largest, mean, math.sqrt(max(0.0, self._sum_of_squares / count - mean**2))
