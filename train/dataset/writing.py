"""Writes the arrays of one tomogram: first its labels, and when the images are chosen, the intensities they need.

Both go through a volume in runs of slices, so that memory is bounded by a run. What is written takes its place by
renaming, and says what it was made from: a build that was stopped goes on with what is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from tomoscribe.engine.intensity import IntensityStatistics, check_finite, measure_intensity
from tomoscribe.engine.polarity import polarity_of
from tomoscribe.engine.tomogram import Tomogram
from tomoscribe.engine.trimming import Trim, find_content
from tomoscribe.train.dataset.annotations import Annotation
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.dataset.folder import building
from tomoscribe.train.dataset.pairs import Input
from tomoscribe.train.dataset.recipe import TileRule
from tomoscribe.train.dataset.storage import ARRAYS_FOLDER, TomogramRecord
from tomoscribe.train.dataset.tiling import Tiling

__all__ = ["Survey", "find_survey", "survey", "write_intensity"]

_VERSION = 1  # of what the arrays hold; a new one has every tomogram built again
_RUN_SLICES = 16
_RUN_BYTES = 2**26
_FLOAT16_MAXIMUM = 65504.0
_AXES = ("z", "tile", "y", "x")

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Survey:
    """What is known of a tomogram when its labels are written.

    Attributes:
        record: for the index.
        voxels: ``(z, tiles, classes)`` int64, the voxels of each tile by label; 0 outside the trim range.
        profile: what the automatic trim measured of each slice; empty if the range was given.
        threshold: what it compared that with.
        warnings: what a user should know, a line each.
        stored: ``(z, tiles)`` bool, the intensities that are there.
    """

    record: TomogramRecord
    voxels: NDArray[np.int64]
    profile: tuple[float, ...]
    threshold: float
    warnings: tuple[str, ...]
    stored: NDArray[np.bool_]


def find_survey(source: Input, tiles: TileRule, output: Path) -> Survey | None:
    """Return what an earlier build left of a tomogram, or None where it was made from anything else."""
    folder = output / ARRAYS_FOLDER / source.name
    try:
        facts = _attributes(folder)
        if facts["fingerprint"] != _fingerprint(source, tiles):
            return None
        voxels = np.asarray(zarr.open_array(folder / "voxels", mode="r")[:], np.int64)
        stored = np.zeros(voxels.shape[:2], np.bool_)
        if (folder / "intensity").is_dir():
            for tile, runs in enumerate(_attributes(folder / "intensity")["stored"]):
                for start, stop in runs:
                    stored[start:stop, tile] = True
        return Survey(
            record=TomogramRecord.from_json(facts["tomogram"]),
            voxels=voxels,
            profile=tuple(facts["profile"]),
            threshold=facts["threshold"],
            warnings=tuple(facts["warnings"]),
            stored=stored,
        )
    except (OSError, LookupError, TypeError, ValueError):
        return None


def survey(source: Input, tiles: TileRule, output: Path, advance: Advance) -> Survey:
    """Write the labels of a tomogram, and of one that is in memory the intensities too.

    Args:
        source: the tomogram.
        tiles: how it is cut.
        output: the dataset's folder.
        advance: called with numbers of slices that are done.

    Raises:
        TomoscribeError: the tomogram or its annotation cannot be used, or the output cannot be written.
    """
    with source.open() as (tomogram, annotation), building(output, Path(source.name)) as folder:
        statistics = measure_intensity(tomogram)
        trim = _trim(source, tomogram)
        tiling = Tiling(tomogram.shape[1:], tiles.size)
        labels = _create(folder / "labels", tomogram.shape, tiling, np.uint8)
        voxels = np.zeros((*labels.shape[:2], len(source.class_map) + 1), np.int64)
        advance(trim.start)
        for start, stop in _runs(tomogram.shape, trim.start, trim.stop):
            block = np.empty((stop - start, *tomogram.shape[1:]), np.uint8)
            annotation.read(start, block)
            cut = tiling.cut_labels(block)
            labels[start:stop] = cut
            voxels[start:stop] = _count(cut, voxels.shape[-1])
            advance(stop - start)
        lost = _lost_warning(source, trim, tomogram, annotation)
        stored = np.full(labels.shape[:2], source.in_memory)
        if source.in_memory:
            _write_slices(folder / "intensity", tomogram, tiling, stored, statistics, source.invert)
        found = Survey(
            record=TomogramRecord(
                name=source.name,
                shape=tomogram.shape,
                voxel_size=tomogram.geometry.voxel_size[0],
                mean=statistics.mean,
                standard_deviation=statistics.standard_deviation,
                trim=(trim.start, trim.stop),
                trim_reason=trim.reason,
                sources=source.origin(),
            ),
            voxels=voxels,
            profile=tuple(float(value) for value in trim.profile),
            threshold=float(trim.threshold),
            warnings=(
                *tomogram.warnings,
                *annotation.warnings,
                *lost,
                *_polarity_warning(tomogram, trim, source.invert),
            ),
            stored=stored,
        )
        zarr.create_array(folder / "voxels", data=voxels, dimension_names=("z", "tile", "class"))
        _describe(folder, found, tiling, _fingerprint(source, tiles))
        advance(tomogram.shape[0] - trim.stop)
    return found


def write_intensity(
    source: Input, tiles: TileRule, output: Path, found: Survey, needed: NDArray[np.bool_], advance: Advance
) -> None:
    """Write the intensities that the images of a tomogram need.

    Args:
        source: the tomogram.
        tiles: how it is cut.
        output: the dataset's folder.
        found: what `survey` returned.
        needed: ``(z, tiles)`` bool.
        advance: called with numbers of slices that are done.

    Raises:
        IntensityError: a slice that is needed holds NaN or infinity.
        TomoscribeError: the tomogram cannot be read, or the output cannot be written.
    """
    tiling = Tiling(found.record.shape[1:], tiles.size)
    statistics = IntensityStatistics(found.record.mean, found.record.standard_deviation)
    with source.open() as (tomogram, _), building(output, Path(source.name, "intensity")) as folder:
        _write_slices(folder, tomogram, tiling, needed, statistics, source.invert, advance)


def _write_slices(
    path: Path,
    tomogram: Tomogram,
    tiling: Tiling,
    needed: NDArray[np.bool_],
    statistics: IntensityStatistics,
    invert: bool,
    advance: Advance = lambda _: None,
) -> None:
    array = _create(path, tomogram.shape, tiling, np.float16, stored=[_spans(column) for column in needed.T])
    mean, rstd = statistics.mean_and_rstd(1, invert)
    for start, stop in _runs(tomogram.shape):
        kept = needed[start:stop]
        used = np.flatnonzero(kept.any(axis=1))
        if len(used):
            # Only what lies between the first and the last slice that is needed.
            first, last = start + int(used[0]), start + int(used[-1]) + 1
            slices = np.empty((last - first, *tomogram.shape[1:]), np.float32)
            tomogram.read_slices(first, slices)
            check_finite(slices, first, str(tomogram.path))
            slices -= mean[0]
            slices *= rstd[0]
            np.clip(slices, -_FLOAT16_MAXIMUM, _FLOAT16_MAXIMUM, out=slices)
            cut = np.zeros((stop - start, *array.shape[1:]), np.float16)
            cut[first - start : last - start] = tiling.cut_intensities(slices.astype(np.float16))
            cut[~kept] = 0
            array[start:stop] = cut
        advance(stop - start)


def _create(
    path: Path, shape: tuple[int, int, int], tiling: Tiling, dtype: type[np.generic], stored: list[Any] | None = None
) -> zarr.Array[Any]:
    """Create an array of tiles; its shards are as deep as the runs, so that each is written once."""
    size, depth = tiling.size, _depth_of_run(shape)
    return zarr.create_array(
        path,
        shape=(shape[0], len(tiling.corners), size, size),
        chunks=(1, 1, size, size),
        shards=(depth, 1, size, size),
        dtype=dtype,
        # Labels shrink to a few hundredths; of noise nothing is gained, and reading it would cost time.
        compressors=[ZstdCodec(level=3, checksum=True)] if dtype is np.uint8 else None,
        fill_value=0,
        dimension_names=_AXES,
        attributes=None if stored is None else {"stored": stored},
    )


def _depth_of_run(shape: tuple[int, int, int]) -> int:
    return min(_RUN_SLICES, shape[0], max(1, _RUN_BYTES // (4 * shape[1] * shape[2])))


def _runs(shape: tuple[int, int, int], start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
    """Give the runs of slices from `start` to `stop`, none of them across two shards."""
    depth = _depth_of_run(shape)
    stop = shape[0] if stop is None else stop
    while start < stop:
        end = min((start // depth + 1) * depth, stop)
        yield start, end
        start = end


def _count(tiles: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return the ``(n, tiles, classes)`` voxels of each tile by label; voxels that are ignored are not counted."""
    flat = tiles.reshape(*tiles.shape[:2], -1)
    counts = [[np.bincount(tile, minlength=IGNORE + 1)[:classes] for tile in row] for row in flat]
    return np.array(counts, np.int64)


def _spans(column: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and one past last of each run of True."""
    edges = np.flatnonzero(np.diff(column, prepend=False, append=False))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def _trim(source: Input, tomogram: Tomogram) -> Trim:
    if source.trim == "automatic":
        return find_content(tomogram)
    start, stop = tomogram.checked_range(None if source.trim == "none" else source.trim)
    reason = "all slices" if source.trim == "none" else "as the recipe has it"
    return Trim(start=start, stop=stop, profile=np.empty(0), threshold=0.0, reason=reason)


def _lost_warning(source: Input, trim: Trim, tomogram: Tomogram, annotation: Annotation) -> tuple[str, ...]:
    """Warn of annotated slices that the automatic trim leaves out."""
    if source.trim != "automatic":
        return ()
    lost = 0
    for start, stop in (*_runs(tomogram.shape, 0, trim.start), *_runs(tomogram.shape, trim.stop)):
        block = np.empty((stop - start, *tomogram.shape[1:]), np.uint8)
        annotation.read(start, block)
        lost += int(((block > 0) & (block != IGNORE)).any(axis=(1, 2)).sum())
    if not lost:
        return ()
    return (
        f"the automatic trim leaves out {lost} slices in which something is annotated: look at trim.png; "
        "if they hold sample, set trim in the recipe's source",
    )


def _polarity_warning(tomogram: Tomogram, trim: Trim, invert: bool) -> tuple[str, ...]:
    looks = polarity_of(tomogram, (trim.start, trim.stop))
    if looks is None or (looks == "bright") is invert:
        return ()
    return (
        f"density looks {looks} and the recipe says invert: {str(invert).lower()}; "
        "models expect dark density on light: look at the contact sheet",
    )


def _fingerprint(source: Input, tiles: TileRule) -> str:
    facts = {
        "version": _VERSION,
        "origin": source.origin(),
        "trim": source.trim,
        "classes": source.class_map.to_json(),
        "tile": tiles.size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _describe(folder: Path, found: Survey, tiling: Tiling, fingerprint: str) -> None:
    """Make the tomogram's folder a group that says what is in it."""
    attributes = {
        "fingerprint": fingerprint,
        "tomogram": asdict(found.record),
        "corners": tiling.corners,
        "profile": found.profile,
        "threshold": found.threshold,
        "warnings": found.warnings,
    }
    zarr.create_group(folder, attributes=attributes)


def _attributes(folder: Path) -> dict[str, Any]:
    attributes: dict[str, Any] = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    return attributes
