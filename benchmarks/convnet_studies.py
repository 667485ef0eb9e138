"""What the U-Net and EMAN2's network are compared on: phantoms, and published labelled data."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.intensity import intensity_of, sampled_slices
from tomoscribe.train.dataset.contract import DatasetError, LabelledImages
from tomoscribe.train.dataset.storage import open_dataset
from tomoscribe.train.dataset.tiling import Tiling
from tomoscribe.train.phantom import draw_parameters, make_phantom
from tomoscribe.train.settings import TrainingSettings

__all__ = ["LabelledVolume", "Study", "VolumeImages", "deepfinder_study", "membrane_studies", "phantom_study"]

_TILE_MULTIPLE = 16  # of the U-Net, which halves its image four times
# Far from the seeds that recipes begin at: no such phantom is in a dataset.
_TEST_SEED = 3_000_000
_DEEPFINDER_CLASSES = 9
# With the Dice term rare classes count as much as the background.
_FINE_TUNING: Mapping[str, Any] = {"dice": 1.0, "learning_rate": 1e-3}
_LIGHT_BLUE = (86, 180, 233)


@dataclass(frozen=True)
class LabelledVolume:
    """A tomogram in memory.

    Attributes:
        intensity: ``(z, y, x)``.
        labels: ``(z, y, x)`` uint8.
        voxel_size: Å.
        splits: the slices that belong to each split.
    """

    intensity: NDArray[np.floating]
    labels: NDArray[np.uint8]
    voxel_size: float
    splits: Mapping[str, Sequence[int]]


class VolumeImages:
    """Volumes in memory as `tomoscribe.train.dataset.contract.LabelledImages`; an image is a whole slice.

    Slices are padded at their ends to one size for all, as in a dataset.
    """

    def __init__(self, class_map: ClassMap, volumes: Sequence[LabelledVolume]) -> None:
        self.class_map = class_map
        longest = max(max(volume.labels.shape[1:]) for volume in volumes)
        self.tile = -(-longest // _TILE_MULTIPLE) * _TILE_MULTIPLE
        self.voxel_size = (min(v.voxel_size for v in volumes), max(v.voxel_size for v in volumes))
        self._places = [(v, z, name) for v in volumes for name, slices in v.splits.items() for z in slices]
        self._scales = {id(v): intensity_of(v.intensity).mean_and_rstd(1) for v in volumes}
        found = [np.bincount(v.labels[z].ravel(), minlength=256)[: len(class_map) + 1] for v, z, _ in self._places]
        self.counts = np.array(found, np.int64)

    def numbers(self, split: str) -> NDArray[np.int64]:
        """Return the numbers of the images of a split."""
        return np.array([number for number, (*_, name) in enumerate(self._places) if name == split], np.int64)

    def read(self, number: int, context: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return an image with its neighbours, and its labels."""
        volume, z, _ = self._places[number]
        mean, rstd = self._scales[id(volume)]
        around = np.clip(np.arange(z - context, z + context + 1), 0, len(volume.labels) - 1)
        tiling = Tiling((volume.labels.shape[1], volume.labels.shape[2]), self.tile)
        slices = (volume.intensity[around].astype(np.float32) - mean) * rstd
        return tiling.cut_intensities(slices)[:, 0], tiling.cut_labels(volume.labels[z : z + 1])[0, 0]


@dataclass(frozen=True)
class Study:
    """Data to train both on, and data to judge them on.

    Attributes:
        group: studies of one group are reported together.
        name: of its folder.
        images: with the splits train and dev.
        tests: by name, what makes images whose split test is to be judged, the hardest first.
        settings: the U-Net's, but for steps and validation.
        start: the bundle whose weights the U-Net starts from, instead of random ones.
    """

    group: str
    name: str
    images: LabelledImages
    tests: Mapping[str, Callable[[], LabelledImages]]
    settings: TrainingSettings
    start: Path | None = None


def phantom_study(
    dataset: Path, settings: TrainingSettings, levels: Sequence[float], phantoms: int, slices: int
) -> Study:
    """Return the comparison on a dataset of phantoms, judged on new phantoms drawn as the dataset's own.

    Args:
        dataset: a dataset with a source of phantoms.
        settings: the U-Net's.
        levels: signal-to-noise ratios. The same samples are imaged at each.
        phantoms: how many at each level.
        slices: how many of each, evenly spread over z.

    Raises:
        DatasetError: there are no phantoms in it.
    """
    images = open_dataset(dataset)
    sources = [source for source in images.provenance["recipe"]["sources"] if "phantoms" in source]
    if not sources:
        raise DatasetError(f"{dataset}: expected a dataset of phantoms, found none in its recipe")
    table = sources[0]["phantoms"]["parameters"]
    tests = {f"{level:g}": partial(_phantom_images, table, level, phantoms, slices) for level in sorted(levels)}
    return Study("phantoms", "phantoms", images, tests, settings)


def _phantom_images(table: Mapping[str, Any], level: float, phantoms: int, slices: int) -> VolumeImages:
    imaging = {**table.get("imaging", {}), "signal_to_noise": level}
    volumes = []
    for number in range(phantoms):
        phantom = make_phantom(draw_parameters({**table, "imaging": imaging}, _TEST_SEED + number))
        chosen = sampled_slices(0, len(phantom.labels), slices)
        size = phantom.parameters.voxel_size
        volumes.append(LabelledVolume(phantom.intensity, phantom.labels, size, {"test": chosen}))
    return VolumeImages(phantom.class_map, volumes)


def deepfinder_study(folder: Path, start: Path) -> Study:
    """Return the comparison on DeepFinder's example data of 2021: four simulated tomograms of nine macromolecules.

    Tomograms 1, 2 and seven tenths of 3 are trained on, the last quarter of 3 chooses, every other slice of 4 judges.

    Args:
        folder: of the tomograms.
        start: the bundle whose weights the U-Net starts from.
    """
    classes = [LabelClass(n, f"macromolecule {n}", _LIGHT_BLUE) for n in range(1, _DEEPFINDER_CLASSES + 1)]
    whole = range(100)
    splits: list[dict[str, Sequence[int]]] = [
        {"train": whole},
        {"train": whole},
        {"train": whole[:70], "dev": whole[75:]},
        {"test": whole[::2]},
    ]
    first, second, third, last = (
        LabelledVolume(
            _hdf5(folder / f"deepfinder_tomo{number}_data.h5"),
            _hdf5(folder / f"deepfinder_tomo{number}_target.h5").astype(np.uint8),
            10.0,
            split,
        )
        for number, split in enumerate(splits, 1)
    )
    images = VolumeImages(ClassMap(tuple(classes)), [first, second, third])
    tests = {"tomogram 4": partial(VolumeImages, images.class_map, [last])}
    # The macromolecules are small and rare: smaller crops hold more of them.
    settings = TrainingSettings(**_FINE_TUNING, crop=64, batch_size=16)
    return Study("DeepFinder's simulated macromolecules", "deepfinder", images, tests, settings, start)


def membrane_studies(folder: Path, start: Path) -> list[Study]:
    """Return comparisons on DLCryoTomo's hand-drawn membranes: each of six slices judges once, another one chooses.

    The images are turned and mirrored variants of six slices, so that all of a slice stay together. They have no
    neighbours, and are their own context.

    Args:
        folder: of the images.
        start: the bundle whose weights the U-Net starts from.
    """
    with (folder / "groups.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["source_slice"] for row in rows})
    class_map = ClassMap((LabelClass(1, "membrane", _LIGHT_BLUE),))

    def images(chosen: Mapping[str, str]) -> VolumeImages:
        return VolumeImages(
            class_map,
            [
                LabelledVolume(
                    _grey(folder / row["file"]),
                    (_grey(folder / row["mask"]) > 127).astype(np.uint8),
                    10.0,
                    {chosen[row["source_slice"]]: [0]},
                )
                for row in rows
                if row["source_slice"] in chosen
            ],
        )

    studies = []
    for name, chooser in zip(names, names[1:] + names[:1], strict=True):
        learning = {other: "dev" if other == chooser else "train" for other in names if other != name}
        tests = {f"slice {name}": partial(images, {name: "test"})}
        settings = TrainingSettings(**_FINE_TUNING, crop=128)
        group = "DLCryoTomo's real membranes"
        studies.append(Study(group, f"membranes_{name}", images(learning), tests, settings, start))
    return studies


def _hdf5(path: Path) -> NDArray[Any]:
    with h5py.File(path) as file:
        return np.asarray(file["dataset"])


def _grey(path: Path) -> NDArray[np.floating]:
    """Return an image as a volume of one slice; a few have pixels that are not quite grey."""
    image = tifffile.imread(path).astype(np.float32)
    return image[np.newaxis, ..., :3].mean(axis=-1) if image.ndim == 3 else image[np.newaxis]
