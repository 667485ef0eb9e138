"""Fixtures of the dataset's tests: a folder with small tomograms and their labels, and recipes for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml

from tomoscribe.engine.intensity import intensity_of
from tomoscribe.train.dataset.contract import IGNORE

CLASSES = [{"name": "round thing", "colour": "#e69f00"}, {"name": "long thing", "colour": "#56b4e9"}]
TILES = {"size": 32, "context": 1, "background": 0.2}


@dataclass(frozen=True)
class Lab:
    """A folder with `tomograms/t0.mrc` to `t3.mrc`, and `labels/t0__labels.mrc` to `t3__labels.mrc`."""

    folder: Path
    source = {"tomograms": "tomograms/*.mrc", "labels": "labels/{tomogram}__labels.mrc"}  # noqa: RUF012

    def volume(self, number, shape=(12, 40, 70)):
        """Return dark things on noise, float32, and their labels: 1 in the lower slices, 2 in the upper ones."""
        random = np.random.default_rng(number)
        labels = np.zeros(shape, np.uint8)
        labels[1 : shape[0] // 2, 6:14, 4 : 12 + 2 * number] = 1
        labels[shape[0] // 2 : -2, 20:24, 10:60] = 2
        intensity = 50 + 4 * random.standard_normal(shape) - 20.0 * (labels > 0)
        return intensity.astype(np.float32), labels

    def write(self, name, volume, voxel_size=10.0):
        """Write a volume as MRC."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path, volume, overwrite=True) as file:
            file.voxel_size = voxel_size
            file.set_volume()
        return path

    def recipe(self, *sources, **keys):
        """Write a recipe, by default for all tomograms with their label volumes."""
        base = {"name": "things", "classes": CLASSES, "trim": "none", "tiles": TILES}
        path = self.folder / "recipe.yaml"
        text = yaml.safe_dump({**base, **keys, "sources": list(sources) or [self.source]}, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def lab(tmp_path):
    """The lab with its four tomograms."""
    lab = Lab(tmp_path / "lab")
    for number in range(4):
        intensity, labels = lab.volume(number)
        lab.write(f"tomograms/t{number}.mrc", intensity)
        lab.write(f"labels/t{number}__labels.mrc", labels.astype(np.int8))
    return lab


def _normalised(volume):
    statistics = intensity_of(volume)
    return (volume - statistics.mean) / statistics.standard_deviation


def _check_images(dataset, volumes, tile, invert=False):
    """Compare every image with its place in the volumes, a plain loop over what is in memory."""
    for number, image in enumerate(dataset.images):
        intensity, labels = volumes[image.tomogram]
        expected = np.pad(_normalised(intensity), ((0, 0), (0, tile), (0, tile)), mode="symmetric")
        truth = np.pad(labels, ((0, 0), (0, tile), (0, tile)), constant_values=IGNORE)
        window = (slice(image.top, image.top + tile), slice(image.left, image.left + tile))
        slices, found = dataset.read(number, dataset.context)
        np.testing.assert_array_equal(found, truth[image.z][window])
        for row, z in zip(slices, range(image.z - dataset.context, image.z + dataset.context + 1), strict=True):
            wanted = expected[min(max(z, 0), len(expected) - 1)][window]
            np.testing.assert_allclose(row, -wanted if invert else wanted, atol=4e-3)
        counts = [(found == label).sum() for label in range(len(dataset.class_map) + 1)]
        assert dataset.counts[number].tolist() == counts


@pytest.fixture
def check_images():
    """Compares every image of a dataset with its place in the volumes."""
    return _check_images
