"""Fixtures of the training's tests: a dataset in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.train.settings import TrainingSettings

TWO_CLASSES = ClassMap((LabelClass(1, "small blob", (230, 159, 0)), LabelClass(2, "absent thing", (86, 180, 233))))


@dataclass
class ImagesInMemory:
    """Dark squares on light noise as a dataset: an image is a whole slice; the second class is never there."""

    volumes: list[tuple[NDArray[np.float32], NDArray[np.uint8]]]
    splits: list[str]
    class_map: ClassMap = TWO_CLASSES
    voxel_size: tuple[float, float] = (10.0, 12.0)
    provenance: dict[str, object] = field(default_factory=lambda: {"name": "squares"})

    def __post_init__(self):
        self.images = [(v, z) for v, (_, labels) in enumerate(self.volumes) for z in range(len(labels))]
        self.tile = self.volumes[0][1].shape[1]
        self.counts = np.stack(
            [
                np.bincount(self.volumes[v][1][z].ravel(), minlength=256)[: len(self.class_map) + 1]
                for v, z in self.images
            ]
        )

    def numbers(self, split):
        return np.array([n for n, (v, _) in enumerate(self.images) if self.splits[v] == split], np.int64)

    def read(self, number, context):
        volume, z = self.images[number]
        intensity, labels = self.volumes[volume]
        around = np.clip(np.arange(z - context, z + context + 1), 0, len(intensity) - 1)
        return intensity[around].astype(np.float32), labels[z].copy()


def squares(seed, tile=40):
    random = np.random.default_rng(seed)
    labels = np.zeros((3, tile, tile), np.uint8)
    for _ in range(6):
        y, x = random.integers(0, tile - 8, 2)
        labels[:, y : y + 8, x : x + 8] = 1
    intensity = -3.0 * labels + random.standard_normal(labels.shape)
    return ((intensity - intensity.mean()) / intensity.std()).astype(np.float32), labels


def three_volumes():
    return ImagesInMemory([squares(0), squares(1), squares(2)], ["train", "train", "dev"])


def small_settings(**changes):
    """Settings of a network and a run that take a second."""
    values = {
        "name": "tiny",
        "context": 1,
        "base_width": 4,
        "depth": 2,
        "crop": 16,
        "steps": 60,
        "batch_size": 4,
        "learning_rate": 2e-2,
        "precision": "fp32",
        "validation_interval": 25,
    }
    return TrainingSettings(**{**values, **changes})


@pytest.fixture
def images():
    return three_volumes()


@pytest.fixture(scope="module")
def volumes():
    """The same, not to be changed."""
    return three_volumes()


@pytest.fixture(scope="session")
def small():
    return small_settings


@pytest.fixture(scope="module")
def one_thread():
    """Networks this small are faster on one thread, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
