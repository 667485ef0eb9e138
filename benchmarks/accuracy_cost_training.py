"""Short trainings, equal for all networks, that go on where they stopped."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from accuracy_cost_networks import StridedUNet, Structure

from tomoscribe.train.dataset.contract import LabelledImages
from tomoscribe.train.fit import fit
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.unet import UNet, UNetConfiguration
from tomoscribe.train.yaml_file import read_yaml

__all__ = ["Length", "finished", "train", "trainings"]

_RECIPE = Path(__file__).resolve().parent.parent / "train" / "recipes" / "bundled-training.yaml"
_PROGRESS = 50
_AGAIN_SEED = 1


@dataclass(frozen=True)
class Length:
    """How long every network is trained: steps, crops a step, height and width of a crop, images of a validation."""

    steps: int
    batch_size: int
    crop: int
    validation_images: int

    def settings(self, structure: Structure, seed: int | None = None) -> TrainingSettings:
        """Return the bundled model's settings for a network, but for the length and, if given, the seed."""
        changes = {
            "name": structure.name,
            "base_width": structure.base_width,
            "depth": structure.depth,
            "crop": self.crop,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "validation_interval": -(-self.steps // 3),
            "validation_images": self.validation_images,
            "checkpoint_interval": 50,
            "examples": 0,
        }
        if seed is not None:
            changes["seed"] = seed
        return read_yaml(_RECIPE, TrainingSettings).model_copy(update=changes)


def train(
    images: LabelledImages, structure: Structure, length: Length, folder: Path, *, seed: int | None = None
) -> Path:
    """Train a network from nothing, or go on with its run, and return its best checkpoint.

    Args:
        images: the dataset.
        structure: the network.
        length: of the training.
        folder: of the run.
        seed: of weights, crops and their variations; by default the bundled model's.

    Raises:
        ParameterError: the folder has a run with other settings.
    """
    begun = time.perf_counter()

    def tell(step: int, loss: float) -> None:
        if step % _PROGRESS == 0:
            print(f"{structure.name}: step {step}, loss {loss:.4f}, {time.perf_counter() - begun:.0f} s", flush=True)

    def new_network(size: UNetConfiguration, seed: int) -> UNet | StridedUNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return structure.build(size)

    # The trainer makes U-Nets; all else of a training is the same for any network.
    with patch("tomoscribe.train.fit.new_network", new_network):
        return fit(images, length.settings(structure, seed), folder, resume=True, progress=tell, note=print)


def trainings(structures: Sequence[Structure], work: Path) -> list[tuple[Structure, int | None, Path]]:
    """Return what is trained in which folder: network, seed where it is not the recipe's, folder."""
    first = structures[0]
    once: list[tuple[Structure, int | None, Path]] = [(s, None, work / s.name) for s in structures]
    return [*once, (first, _AGAIN_SEED, work / f"{first.name}-again")]


def finished(folder: Path, steps: int) -> bool:
    """Return whether the run of a folder has had all of its steps."""
    try:
        with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
            return any(int(line["step"]) == steps for line in csv.DictReader(file))
    except FileNotFoundError:
        return False
