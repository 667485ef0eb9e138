"""Training settings: everything that decides a training run, and the machines that it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tomoscribe.engine.errors import ParameterError

__all__ = ["AugmentationSettings", "Devices", "TrainingSettings"]

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    """Settings as YAML holds them: unknown keys and values that cannot be are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AugmentationSettings(_Table):
    """How crops are varied (`tomoscribe.train.augmentation`); intensities are in standard deviations of the tomogram.

    Attributes:
        flips: mirror half of the crops.
        turns: turn crops by 0, 90, 180 or 270°.
        mirror_z: reverse the context slices of half of the crops.
        repeat_share: share of the crops whose context slices are replaced by the slice itself, which is what a
            single image looks like.
        warp_share: share of the crops that are turned by any angle up to `rotation` and scaled.
        rotation: largest angle, degrees.
        scale: largest change of size, as a part of it: 0.1 for 1 / 1.1 to 1.1.
        fourier_share: share of the crops whose Fourier amplitudes are changed.
        fourier: standard deviation of the steps, from ring to ring of the spectrum, of the logarithm of the gain.
        wedge_share: share of the crops that look as if recorded with a smaller tilt range.
        least_tilt: the smallest of these ranges, degrees on either side.
        contrast: standard deviation of the logarithm of the contrast.
        brightness: standard deviation of the brightness.
        noise: largest standard deviation of the noise that is added to half of the crops.
    """

    flips: bool = True
    turns: bool = True
    mirror_z: bool = True
    repeat_share: Share = 0.1
    warp_share: Share = 0.2
    rotation: Annotated[float, Field(ge=0, le=180)] = 20.0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.15
    fourier_share: Share = 0.3
    fourier: Amount = 0.25
    wedge_share: Share = 0.1
    least_tilt: Annotated[float, Field(gt=0, le=60)] = 40.0
    contrast: Amount = 0.15
    brightness: Amount = 0.15
    noise: Amount = 0.4


class TrainingSettings(_Table):
    """How a network is trained. The length is in steps, not in time, so that a run is the same on any machine.

    Attributes:
        name: the model's name.
        context: context slices on each side, k; of the model that the training starts from, else 1.
        base_width: the U-Net's channels at full resolution; of the model that the training starts from, else 16.
        depth: how many times the U-Net halves the slice; of the model that the training starts from, else 4.
        crop: height and width of a crop in pixels; 256, or less where the dataset's images are smaller.
        foreground_share: share of the crops that contain a foreground class chosen evenly from those there are.
        steps: optimiser steps.
        batch_size: crops a step on each device.
        learning_rate: the highest of the one-cycle schedule: a rise over the first tenth, then half a cosine to 0.
        weight_decay: AdamW's.
        class_weights: weights of the classes in the loss, background first; ``balanced`` weighs each by the inverse of
            its share of the voxels; equal if None.
        dice: weight of the soft Dice term that is added to the cross-entropy.
        focal: exponent of the focal loss; 0 is the plain cross-entropy.
        precision: ``bf16`` (mixed; for CPUs with AVX512-BF16 or AMX, and GPUs), ``fp16`` (mixed; GPUs) or ``fp32``.
        seed: decides the initial weights and every crop.
        validation_interval: steps between validations; each writes a line of the log and a checkpoint.
        validation_images: images of the dev split that are looked at, evenly spread; all where there are fewer.
        examples: how many of them are drawn at each validation.
        patience: validations without a better one after which the training ends; it goes on to `steps` if None.
        checkpoint_interval: steps between writings of the state that an interrupted run goes on from.
        augmentation: how crops are varied.
    """

    name: Annotated[str, Field(min_length=1)] = "unet"
    context: Annotated[int, Field(ge=0, le=64)] | None = None
    base_width: Annotated[int, Field(ge=1, le=512)] | None = None
    depth: Annotated[int, Field(ge=1, le=8)] | None = None
    crop: Count | None = None
    foreground_share: Share = 0.5
    steps: Count = 5000
    batch_size: Count = 8
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Amount = 1e-4
    class_weights: Literal["balanced"] | tuple[Amount, ...] | None = None
    dice: Amount = 0.0
    focal: Amount = 0.0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    validation_interval: Count = 250
    validation_images: Count = 64
    examples: Annotated[int, Field(ge=0)] = 4
    patience: Count | None = None
    checkpoint_interval: Count = 100
    augmentation: AugmentationSettings = AugmentationSettings()


@dataclass(frozen=True)
class Devices:
    """The machines that a training runs on.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: processes on each node, one a GPU; ``auto`` takes every GPU.
        nodes: how many machines.
        strategy: how Lightning spreads the work, such as ``ddp``; ``auto`` is ``ddp`` where there are several devices.
        workers: processes that read crops for each device; by default none on a CPU, where they would only take the
            cores from the network, and for GPUs as many as there are cores, 16 at most.

    Raises:
        ParameterError: a value that cannot be.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise ParameterError(f"accelerator: expected auto, cpu or gpu, found {self.accelerator!r}")
        if self.devices != "auto" and not (isinstance(self.devices, int) and self.devices >= 1):
            raise ParameterError(f"devices: expected auto or a number of at least 1, found {self.devices!r}")
        if self.nodes < 1 or (self.workers is not None and self.workers < 0):
            raise ParameterError(f"nodes and workers: expected numbers, found {self.nodes} and {self.workers}")
