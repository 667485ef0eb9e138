"""A dataset on disk: images with labels that training and evaluation read in any order.

::

    DATASET/
      dataset.json        name, class map, sizes, the tomograms and all that reproduces the dataset; written last
      images.csv          the index: a line an image with its split, its place and its voxels of each class
      images.zarr/        a Zarr v3 group, a group in it for each tomogram, and there
        <tomogram>/intensity    float16 (z, tile, y, x), normalised: mean 0, standard deviation 1, dark density on light
        <tomogram>/labels       uint8   (z, tile, y, x), 0 is background and 255 ignored
        <tomogram>/voxels       int64   (z, tile, class), the voxels of each image by label

A chunk is one tile of one slice, so that an image with context k is 2k + 1 chunks of intensity and one of labels; runs
of slices of one tile are a shard, a file. Slices that no image needs are not stored and read as zeros.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.dataset.contract import SPLITS, DatasetError
from tomoscribe.train.dataset.shards import ShardedChunks
from tomoscribe.train.dataset.tiling import Tiling

__all__ = [
    "ARRAYS_FOLDER",
    "DATASET_FILE",
    "INDEX_FILE",
    "Dataset",
    "ImageRecord",
    "TomogramRecord",
    "open_dataset",
    "write_index",
]

ARRAYS_FOLDER = "images.zarr"
DATASET_FILE = "dataset.json"
INDEX_FILE = "images.csv"
_FORMAT = 1
_PLACE = ("split", "tomogram", "z", "tile", "top", "left", "background")


class ImageRecord(NamedTuple):
    """Where an image is from: a tile of a slice; `top` and `left` are its corner in pixels of the slice."""

    split: str
    tomogram: str
    z: int
    tile: int
    top: int
    left: int


@dataclass(frozen=True)
class TomogramRecord:
    """A tomogram of a dataset.

    Attributes:
        name: its name in the dataset.
        shape: ``(z, y, x)`` in voxels.
        voxel_size: Å.
        mean: of its intensities, in the file's own units.
        standard_deviation: of its intensities.
        trim: first slice that images are taken from, and one past the last.
        trim_reason: why those.
        sources: the files it is from with their size in bytes and time of change, or the parameters of the phantom.
    """

    name: str
    shape: tuple[int, int, int]
    voxel_size: float
    mean: float
    standard_deviation: float
    trim: tuple[int, int]
    trim_reason: str
    sources: Mapping[str, Any]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TomogramRecord:
        """Read what `dataclasses.asdict` and JSON made of a record."""
        values = dict(entry)
        z, y, x = values.pop("shape")
        start, stop = values.pop("trim")
        return cls(shape=(z, y, x), trim=(start, stop), **values)


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk, which satisfies `tomoscribe.train.dataset.contract.LabelledImages`; `open_dataset` opens one.

    It can be pickled and forked: no file stays open.

    Attributes:
        path: its folder.
        name: what the recipe calls it.
        class_map: what the labels mean.
        tile: height and width of an image in pixels.
        context: neighbouring slices on each side that can be read with every image.
        tomograms: what the images were cut from.
        images: where each image is from; an image's number is its place here.
        counts: ``(images, classes)`` int64, the voxels of each image by label, background first.
        provenance: all that reproduces the dataset, as JSON has it.
    """

    path: Path
    name: str
    class_map: ClassMap
    tile: int
    context: int
    tomograms: tuple[TomogramRecord, ...]
    images: tuple[ImageRecord, ...]
    counts: NDArray[np.int64]
    provenance: Mapping[str, Any]

    @property
    def voxel_size(self) -> tuple[float, float]:
        """The smallest and the largest of the tomograms, Å."""
        sizes = [tomogram.voxel_size for tomogram in self.tomograms]
        return min(sizes), max(sizes)

    def numbers(self, split: str) -> NDArray[np.int64]:
        """Return the numbers of the images of a split, ascending.

        Raises:
            ParameterError: there is no such split.
        """
        if split not in SPLITS:
            raise ParameterError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
        return np.array([n for n, image in enumerate(self.images) if image.split == split], np.int64)

    def read(self, number: int, context: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return an image with its neighbours in z and its labels, as `LabelledImages.read` says.

        Raises:
            DatasetError: the dataset has fewer slices around its images, or its files are damaged.
        """
        if not 0 <= context <= self.context:
            raise DatasetError(
                f"{self.path}: expected a context of 0 to {self.context} slices, found {context}; "
                "build the dataset with a larger tiles.context"
            )
        image = self.images[number]
        intensity, labels = self._arrays(image.tomogram)
        depth = intensity.shape[0]
        slices = np.empty((2 * context + 1, self.tile, self.tile), np.float32)
        for out, z in zip(slices, range(image.z - context, image.z + context + 1), strict=True):
            out[:] = intensity.read(min(max(z, 0), depth - 1), image.tile)
        # A copy, for the caller may change it.
        return slices, labels.read(image.z, image.tile).astype(np.uint8)

    def fresh(self, number: int) -> tuple[slice, slice]:
        """Return the rows and columns of an image that no earlier tile of its slice covers.

        Tiles overlap where a slice is no multiple of their size; over these parts, every voxel of a slice counts once.
        """
        image = self.images[number]
        return self._tilings[image.tomogram].fresh(image.tile)

    @cached_property
    def _tilings(self) -> dict[str, Tiling]:
        return {t.name: Tiling((t.shape[1], t.shape[2]), self.tile) for t in self.tomograms}

    @cached_property
    def _opened(self) -> dict[str, tuple[ShardedChunks, ShardedChunks]]:
        return {}

    def _arrays(self, tomogram: str) -> tuple[ShardedChunks, ShardedChunks]:
        if tomogram not in self._opened:
            folder = self.path / ARRAYS_FOLDER / tomogram
            self._opened[tomogram] = ShardedChunks(folder / "intensity"), ShardedChunks(folder / "labels")
        return self._opened[tomogram]


def open_dataset(path: Path) -> Dataset:
    """Open a dataset that ``tomoscribe dataset build`` made.

    Raises:
        DatasetError: there is no dataset, it is not complete, or its index is damaged.
    """
    file = path / DATASET_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        found = "one whose building was not finished" if (path / ARRAYS_FOLDER).is_dir() else "none"
        raise DatasetError(
            f"{path}: expected a dataset, found {found}; make it with: tomoscribe dataset build RECIPE.yaml -o {path}"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); build the dataset again") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise DatasetError(f"{file}: expected a dataset of format {_FORMAT}, found another; build the dataset again")
    try:
        class_map = ClassMap.from_json(facts["classes"])
        images, counts = _read_index(path / INDEX_FILE, class_map)
        if len(images) != facts["images"]:
            raise ValueError(f"{facts['images']} images expected in {INDEX_FILE}, {len(images)} found")
        return Dataset(
            path=path,
            name=facts["name"],
            class_map=class_map,
            tile=facts["tile"],
            context=facts["context"],
            tomograms=tuple(TomogramRecord.from_json(entry) for entry in facts["tomograms"]),
            images=images,
            counts=counts,
            provenance=facts["provenance"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path}: damaged ({error}); build the dataset again") from error


def write_index(dataset: Dataset) -> None:
    """Write the index and then, which makes the dataset one, its facts.

    Raises:
        OutputError: a file cannot be written.
    """
    classes = [label_class.name for label_class in dataset.class_map.classes]
    with replacing(dataset.path / INDEX_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_PLACE, *classes])
        writer.writerows([*image, *counts] for image, counts in zip(dataset.images, dataset.counts, strict=True))
    facts = {
        "format": _FORMAT,
        "name": dataset.name,
        "classes": dataset.class_map.to_json(),
        "tile": dataset.tile,
        "context": dataset.context,
        "images": len(dataset.images),
        "tomograms": [asdict(tomogram) for tomogram in dataset.tomograms],
        "provenance": dataset.provenance,
    }
    with replacing(dataset.path / DATASET_FILE) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _read_index(path: Path, class_map: ClassMap) -> tuple[tuple[ImageRecord, ...], NDArray[np.int64]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if header != [*_PLACE, *(label_class.name for label_class in class_map.classes)]:
        raise ValueError(f"unexpected columns in {path.name}: {','.join(header)}")
    places = len(_PLACE) - 1
    images = tuple(ImageRecord(row[0], row[1], *map(int, row[2:places])) for row in rows)
    counts = np.array([row[places:] for row in rows], np.int64).reshape(len(rows), len(class_map) + 1)
    return images, counts
