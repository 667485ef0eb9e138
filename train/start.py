"""What a training starts from: the weights of a model that is there, for fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tomoscribe.engine.bundle import CHECKPOINT, Artifact, Bundle
from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.train.checkpoint import Checkpoint, load_checkpoint
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.unet import UNet, UNetConfiguration

__all__ = ["Start", "network_size", "new_network", "read_start"]

_SIZES = {"context": 1, "base_width": 16, "depth": 4}  # of a network that starts from nothing


@dataclass(frozen=True)
class Start:
    """A model whose weights a training starts from.

    Attributes:
        path: the bundle or checkpoint.
        sha256: of the checkpoint's bytes.
        checkpoint: the model.
    """

    path: Path
    sha256: str
    checkpoint: Checkpoint

    def give_weights(self, network: UNet, class_map: ClassMap) -> dict[str, Any]:
        """Copy the weights into a network of the same size; its classes may be others.

        A class whose name the model has keeps its weights in the last layer, and so does background; those of the
        others stay as they are.

        Returns:
            What is on record of it: name, file, sha256, classes that were taken over and that begin anew.
        """
        there = self.checkpoint.network.state_dict()
        numbers = {c.feature.lower(): c.number for c in self.checkpoint.specification.class_map.classes}
        matches = {c.number: numbers[c.feature.lower()] for c in class_map.classes if c.feature.lower() in numbers}
        pairs = {0: 0, **matches}
        state = network.state_dict()
        for name, tensor in there.items():
            if name.startswith("head."):
                state[name][list(pairs)] = tensor[list(pairs.values())]
            else:
                state[name] = tensor
        network.load_state_dict(state)
        return {
            "name": self.checkpoint.specification.name,
            "file": self.path.name,
            "sha256": self.sha256,
            "classes_kept": [c.name for c in class_map.classes if c.number in matches],
            "classes_new": [c.name for c in class_map.classes if c.number not in matches],
        }


def read_start(path: Path) -> Start:
    """Read a checkpoint, or the one that a bundle brings with it.

    Raises:
        BundleError: the bundle cannot be read, or was exported without its checkpoint.
        CheckpointError: the checkpoint cannot be read.
    """
    file = path
    if path.is_dir():
        bundle = Bundle.load(path)
        if CHECKPOINT not in bundle.artifacts:
            raise BundleError(
                f"{path}: expected a bundle with the checkpoint that it was made from, found none in it; "
                "start from the .safetensors file, or export that again"
            )
        file = bundle.artifact_path(CHECKPOINT)
    checkpoint = load_checkpoint(file)
    return Start(path, Artifact.of(file).sha256, checkpoint)


def network_size(settings: TrainingSettings, start: Start | None, classes: int) -> UNetConfiguration:
    """Return the size of the network: what the settings say, else that of the start, else the default.

    Args:
        settings: the training's.
        start: the model that it starts from.
        classes: classes with background.

    Raises:
        ParameterError: the settings ask for another size than the start has.
    """
    sizes = dict(_SIZES)
    for name in sizes:
        wanted = getattr(settings, name)
        there = getattr(start.checkpoint.network.configuration, name) if start else None
        if start and wanted is not None and wanted != there:
            raise ParameterError(
                f"{start.path}: expected a model with {name} {wanted}, found {there}; leave {name} out to take the "
                "model's, or start from nothing"
            )
        sizes[name] = next(value for value in (wanted, there, sizes[name]) if value is not None)
    return UNetConfiguration(classes=classes, **sizes)


def new_network(size: UNetConfiguration, seed: int) -> UNet:
    """Return a network whose weights the seed decides; torch's own random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(size)
