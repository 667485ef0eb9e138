"""Small label volumes, and comparisons in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.train.evaluation.judgement import JudgedImage, Place

CLASS_MAP = ClassMap((LabelClass(1, "dark matter", (230, 159, 0)), LabelClass(2, "light", (86, 180, 233))))


@dataclass
class MemoryComparison:
    """Labels and truth ``(z, y, x)`` by tomogram, with scores where they are given."""

    labels: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] | None = None
    class_map: ClassMap = CLASS_MAP
    warnings: list[str] = field(default_factory=list)

    @property
    def probabilities(self):
        return None if self.scores is None else np.arange(256) / 255

    def __len__(self):
        return sum(map(len, self.labels.values()))

    def images(self):
        for name, volume in self.labels.items():
            for z, labels in enumerate(volume):
                scores = None if self.scores is None else self.scores[name][z]
                yield JudgedImage(Place(name, z), labels, self.truth[name][z], scores=scores)

    def show(self, number):
        image = list(self.images())[number]
        return image, np.random.default_rng(number).normal(size=image.truth.shape).astype(np.float32)


@pytest.fixture
def comparison():
    """Two tomograms of different depth; some voxels are to be ignored."""
    generator = np.random.default_rng(0)
    labels, truth, scores = {}, {}, {}
    for name, depth in (("a", 3), ("b", 5)):
        truth[name] = generator.choice([0, 1, 2, 255], (depth, 40, 50), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
        labels[name] = generator.integers(0, 3, truth[name].shape).astype(np.uint8)
        scores[name] = generator.integers(0, 256, (depth, 3, 40, 50)).astype(np.uint8)
    return MemoryComparison(labels, truth, scores)


@pytest.fixture
def write(tmp_path):
    """Write a volume as MRC and return its path."""

    def write(name, values, dtype=np.int8, voxel_size=10.0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path) as file:
            file.set_data(np.asarray(values, dtype))
            file.set_volume()
            file.voxel_size = voxel_size
        return path

    return write
