"""Tomograms merged along z into one volume, to be annotated in one go, and its annotation split back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tomoscribe.engine.errors import OutputError, OutputExistsError, ParameterError
from tomoscribe.engine.inputs import check_output_names, tomogram_stem
from tomoscribe.engine.intensity import measure_intensity
from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.sinks.mrc import ValueVolume, mrc_dtype
from tomoscribe.engine.tomogram import Geometry, Tomogram, open_tomogram
from tomoscribe.train.dataset.annotations.contract import known_voxel_size
from tomoscribe.train.dataset.contract import DatasetError

__all__ = ["MergeTable", "MergedTomogram", "merge", "split_labels", "table_path"]

_LARGEST_DIFFERENCE = 0.05

Shape = tuple[int, int, int]


class MergedTomogram(BaseModel):
    """One tomogram of a merged volume.

    Attributes:
        name: what the files of its labels begin with.
        path: where it was.
        z_range: its first slice in the merged volume, and one past its last.
        geometry: its own; its ``(y, x)`` is the top left corner of the merged slices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[^/]+$")  # of a file, not a path out of the folder
    path: Path
    z_range: tuple[int, int]
    geometry: Geometry


class MergeTable(BaseModel):
    """What is where in a merged volume, as the JSON file beside it has it.

    Attributes:
        shape: ``(z, y, x)`` of the merged volume.
        tomograms: what it consists of, from the bottom up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Shape
    tomograms: tuple[MergedTomogram, ...]

    @classmethod
    def read(cls, path: Path) -> MergeTable:
        """Read the table that `merge` wrote.

        Raises:
            ParameterError: the file cannot be read, or is no such table.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ParameterError(
                f"{path}: expected the table that `tomoscribe dataset merge` wrote beside the merged volume, found "
                f"{error.strerror if isinstance(error, OSError) else 'another file'}"
            ) from error


def table_path(merged: Path) -> Path:
    """Return where the table of a merged volume lies: ``merged.json`` beside ``merged.mrc``."""
    return merged.with_suffix(".json")


def merge(
    tomograms: Sequence[Path],
    output: Path,
    *,
    overwrite: bool = False,
    slice_done: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Put tomograms on top of each other into one MRC file, and beside it a table of what is where.

    Slices that are smaller than the largest are padded at the right and at the bottom with the mean of their tomogram.
    Values are kept as they are, and so is their type where all have the same; else float32 is written.

    Args:
        tomograms: any files that `open_tomogram` reads, from the bottom up.
        output: the MRC file.
        overwrite: whether files that are there are replaced.
        slice_done: called with the slices that are written and their total number.

    Returns:
        The table's path.

    Raises:
        ParameterError: fewer than two tomograms, two of one name, or an output that is one of them or not ``.mrc``.
        DatasetError: the voxel sizes differ by more than 5 %.
        OutputExistsError: an output is there and may not be replaced.
        TomogramNotFoundError: a file is not there.
        TomogramFormatError: a file is no volume, truncated or damaged.
        IntensityError: a tomogram that has to be padded holds NaN, or is constant.
        OutputError: the output cannot be written.
    """
    table = table_path(output)
    _check_merge(tomograms, output)
    _check_free([output, table], overwrite)
    with ExitStack() as stack:
        files = [stack.enter_context(open_tomogram(path)) for path in tomograms]
        voxel_size = _common_voxel_size(files)
        height, width = (max(file.shape[axis] for file in files) for axis in (1, 2))
        depth = sum(file.shape[0] for file in files)
        dtypes = {file.dtype for file in files}
        dtype = mrc_dtype(dtypes.pop()) if len(dtypes) == 1 else np.dtype(np.float32)
        geometry = Geometry((depth, height, width), voxel_size)
        _make_folder(output.parent)
        with _committed(ValueVolume(output, geometry, dtype, provenance=_provenance("merged tomograms"))) as volume:
            done, entries = 0, []
            for file in files:
                entries.append(
                    MergedTomogram(
                        name=tomogram_stem(file.path),
                        path=file.path.absolute(),
                        z_range=(done, done + file.shape[0]),
                        geometry=file.geometry,
                    )
                )
                buffer = np.full((1, height, width), _padding(file, (height, width), dtype), dtype)
                for z in range(file.shape[0]):
                    file.read_slices(z, buffer[:, : file.shape[1], : file.shape[2]])
                    volume.write(done, buffer)
                    done += 1
                    slice_done(done, depth)
            volume.prepare()
            content = MergeTable(shape=geometry.shape, tomograms=tuple(entries))
            with replacing(table) as temporary:
                temporary.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return table


def split_labels(labels: Path, table: Path, output: Path, *, overwrite: bool = False) -> list[Path]:
    """Cut the annotation of a merged volume into one file for each tomogram, with the tomogram's shape and geometry.

    Args:
        labels: a label volume, or a map of one feature, of the merged volume's shape. ``merged__Ribosome.mrc`` gives
            ``<tomogram>__Ribosome.mrc``; a name without ``__`` gives ``<tomogram>__labels.mrc``.
        table: what `merge` wrote beside the merged volume.
        output: the folder for the files.
        overwrite: whether files that are there are replaced.

    Returns:
        The files, in the order of the table.

    Raises:
        ParameterError: the table cannot be read.
        DatasetError: the annotation has another shape than the merged volume.
        OutputExistsError: a file is there and may not be replaced.
        TomogramNotFoundError: the annotation is not there.
        TomogramFormatError: it is no volume, truncated or damaged.
        OutputError: a file cannot be written.
    """
    content = MergeTable.read(table)
    _, separator, suffix = tomogram_stem(labels).rpartition("__")
    feature = suffix if separator else "labels"
    paths = [output / f"{entry.name}__{feature}.mrc" for entry in content.tomograms]
    _check_free(paths, overwrite)
    with open_tomogram(labels) as file, ExitStack() as written:
        if file.shape != content.shape:
            raise DatasetError(
                f"{labels}: expected the shape of the volume that {table} describes, {content.shape} (z, y, x), "
                f"found {file.shape}; it belongs to another one"
            )
        _make_folder(output)
        buffer = np.empty((1, *file.shape[1:]), mrc_dtype(file.dtype))
        for path, entry in zip(paths, content.tomograms, strict=True):
            provenance = _provenance(f"{feature}, split from {labels.name}")
            volume = written.enter_context(
                _committed(ValueVolume(path, entry.geometry, buffer.dtype, provenance=provenance))
            )
            _, height, width = entry.geometry.shape
            for z in range(entry.geometry.shape[0]):
                file.read_slices(entry.z_range[0] + z, buffer)
                volume.write(z, buffer[:, :height, :width])
            volume.prepare()
    return paths


@contextmanager
def _committed(volume: ValueVolume) -> Iterator[ValueVolume]:
    """Commit a volume at the end of the block, or remove it where the block fails."""
    try:
        yield volume
        volume.commit()
    except BaseException:
        volume.abort()
        raise


def _check_merge(tomograms: Sequence[Path], output: Path) -> None:
    if len(tomograms) < 2:
        raise ParameterError(f"{output}: expected two tomograms or more to merge, found {len(tomograms)}")
    if output.suffix != ".mrc":
        raise ParameterError(f"{output}: expected a name that ends in .mrc")
    check_output_names(tomograms, output.parent)
    for path in tomograms:
        if path.exists() and output.exists() and path.samefile(output):
            raise ParameterError(f"{output}: is one of the tomograms to merge; choose another name for the output")


def _check_free(paths: Sequence[Path], overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path}: is there already; pass --overwrite to replace it")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the output folder cannot be made ({error.strerror})") from error


def _common_voxel_size(files: Sequence[Tomogram]) -> tuple[float, float, float]:
    """Return the voxel size of the first file that knows it, 0 where none does.

    Raises:
        DatasetError: another differs from it by more than 5 %.
    """
    known = [(file, size) for file in files if any(size := known_voxel_size(file))]
    if not known:
        return 0.0, 0.0, 0.0
    first, expected = known[0]
    for file, size in known:
        if max(max(a / b, b / a) for a, b in zip(expected, size, strict=True)) > 1 + _LARGEST_DIFFERENCE:
            raise DatasetError(
                f"{file.path}: expected the voxel size of {first.path}, {expected[0]:.5g} Å, found {size[0]:.5g} Å; "
                "merge tomograms of one voxel size, or bin one of them first"
            )
    return expected


def _padding(file: Tomogram, size: tuple[int, int], dtype: np.dtype[np.generic]) -> float:
    """Return the value around slices that are smaller than the merged ones."""
    if file.shape[1:] == size:
        return 0.0
    mean = measure_intensity(file).mean
    return mean if dtype.kind == "f" else round(mean)


def _provenance(what: str) -> str:
    return f"tomoscribe {version('tomoscribe')} {what}"
