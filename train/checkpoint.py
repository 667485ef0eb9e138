"""Checkpoints: a trained network in one safetensors file, its configuration in the file's metadata.

Nothing in it is pickled, so a checkpoint from anywhere can be opened without running anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.errors import ParameterError, TomoscribeError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.unet import UNet, UNetConfiguration

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"]

_FORMAT = "tomoscribe-checkpoint"
_FORMAT_VERSION = 1


class CheckpointError(TomoscribeError, ValueError):
    """A checkpoint that is missing, incomplete, or not one of tomoscribe's."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is known of it.

    Attributes:
        network: the U-Net, on the CPU, in evaluation mode once loaded.
        specification: what the engine has to know of it.
        training: where the weights come from: steps, seed, validation figures; anything that JSON can hold.

    Raises:
        ParameterError: the specification is that of another network.
    """

    network: UNet
    specification: ModelSpecification
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.network.configuration
        for name in ("classes", "context", "tile_multiple", "halo"):
            expected, found = getattr(size, name), getattr(self.specification, name)
            if expected != found:
                raise ParameterError(f"specification: expected the network's {name} {expected}, found {found}")


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, compact: bool = False) -> None:
    """Write a checkpoint beside its place and rename it, so that the file is whole whenever it is there.

    Args:
        path: the file.
        checkpoint: what is written.
        compact: keep the weights of convolutions in float16, which halves the file: enough to start a training from,
            and read back as float32.

    Raises:
        OutputError: it cannot be written.
    """
    about = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "network": checkpoint.network.configuration.to_json(),
        "specification": checkpoint.specification.to_json(),
        "training": dict(checkpoint.training),
    }
    # safetensors refuses tensors that are not contiguous, which those of a channels-last network are not.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()}
    if compact:
        tensors = {name: tensor.half() if tensor.ndim == 4 else tensor for name, tensor in tensors.items()}
    content = safetensors.torch.save(tensors, metadata={"tomoscribe": json.dumps(about)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: no such file, not a tomoscribe checkpoint, a newer format, or tensors that do not fit.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("tomoscribe", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected a checkpoint, found nothing there") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors checkpoint of tomoscribe, cannot read it ({error})"
        ) from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint that tomoscribe train wrote")
    if about.get("format_version") != _FORMAT_VERSION:
        found = about.get("format_version")
        raise CheckpointError(
            f"{path}: expected checkpoint format {_FORMAT_VERSION}, found {found}; upgrade tomoscribe"
        )
    try:
        specification = ModelSpecification.from_json(about["specification"])
        network = UNet(UNetConfiguration.from_json(about["network"]))
        network.load_state_dict(tensors)
        return Checkpoint(network.eval(), specification, about["training"])
    except (KeyError, ParameterError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its configuration and its tensors do not fit ({reason})") from error
