"""Networks as bundles, which the engine runs: how good their labels are, and what they cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import safetensors
import safetensors.torch
import torch
from accuracy_cost_networks import StridedUNet, Structure
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tomoscribe.engine.backends.contract import Backend, Slot, SlotShape
from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.export.augmentation import augmented
from tomoscribe.export.graph import to_onnx
from tomoscribe.train.dataset.contract import LabelledImages
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.unet import UNet, UNetConfiguration

__all__ = [
    "Model",
    "add_flips",
    "differences",
    "judge",
    "labelled",
    "load_network",
    "new_network",
    "operations",
    "parameters",
    "seconds",
    "write_bundle",
]

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]

_SIDE = 64
_MODEL_FILE = "model.fp32.onnx"


@dataclass(frozen=True)
class Model:
    """What is judged and timed.

    Attributes:
        title: what the results call it.
        bundle: the model.
        make_backend: what runs it: called with the bundle, and with `streams` where not as many as suit it.
        parameters: how many the network has.
        operations: of the network for a voxel; a multiplication and an addition are two.
        trained: whether its labels mean anything.
        structure: what was trained for the comparison; None for the bundled model.
        again: a repetition of a training that is compared as well.
    """

    title: str
    bundle: Bundle
    make_backend: Callable[..., Backend]
    parameters: int
    operations: float
    trained: bool = True
    structure: Structure | None = None
    again: bool = False


def load_network(checkpoint: Path, structure: Structure) -> tuple[UNet | StridedUNet, ModelSpecification]:
    """Return a trained network, in evaluation mode, and what the engine has to know of it.

    Args:
        checkpoint: what the trainer wrote.
        structure: what it trained.
    """
    with safetensors.safe_open(checkpoint, framework="pt") as file:
        about = json.loads(file.metadata()["tomoscribe"])
    network = structure.build(UNetConfiguration.from_json(about["network"]))
    network.load_state_dict(safetensors.torch.load_file(checkpoint))
    return network.eval(), ModelSpecification.from_json(about["specification"])


def new_network(
    images: LabelledImages, structure: Structure, context: int
) -> tuple[UNet | StridedUNet, ModelSpecification]:
    """Return a network with random weights, in evaluation mode, and what the engine has to know of it."""
    size = UNetConfiguration(len(images.class_map) + 1, context, structure.depth, structure.base_width)
    specification = ModelSpecification(
        name=structure.name,
        class_map=images.class_map,
        context=context,
        tile_multiple=size.tile_multiple,
        halo=size.halo,
        voxel_size=images.voxel_size,
    )
    return structure.build(size).eval(), specification


def write_bundle(network: nn.Module, specification: ModelSpecification, folder: Path) -> Bundle:
    """Write a network's FP32 bundle, which has no parity figures."""
    return _write(to_onnx(network, specification), specification, folder)


def add_flips(bundle: Bundle, folder: Path) -> Bundle:
    """Write a bundle whose FP32 network averages over flips, without parity figures."""
    specification = replace(bundle.specification, test_time_augmentation="flips")
    return _write(augmented(onnx.load(bundle.artifact_path("fp32")), specification), specification, folder)


def parameters(network: nn.Module) -> int:
    """Return how many parameters a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def operations(network: nn.Module) -> float:
    """Return a network's operations for a voxel: those of its convolutions; the rest is little beside them."""
    channels = 2 * network.configuration.context + 1
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, channels, _SIDE, _SIDE))
    return counter.get_total_flops() / _SIDE**2


def labelled(model: Model, images: LabelledImages, numbers: NDArray[np.int64]) -> Iterator[Labelled]:
    """Give what the engine makes of images of a dataset.

    Args:
        model: the model.
        images: the dataset; its images are whole tiles of the model.
        numbers: which images.

    Yields:
        Labels ``(h, w)`` and scores ``(classes, h, w)``, which the next image overwrites, and the truth ``(h, w)``.
    """
    with closing(model.make_backend(model.bundle, streams=1)) as backend:
        (slot,) = _slots(backend, model.bundle.specification, images.tile, 1)
        slot.mean[:], slot.rstd[:] = 0, 1  # the images are normalised already
        for number in numbers.tolist():
            slot.slices[:], truth = images.read(number, model.bundle.specification.context)
            backend.submit(slot)
            backend.wait(slot)
            yield slot.labels[0], slot.scores[0], truth


def judge(model: Model, images: LabelledImages, numbers: NDArray[np.int64]) -> ConfusionMatrix:
    """Return the voxels of images by true and given class."""
    counted = ConfusionMatrix(len(images.class_map) + 1)
    for labels, _, truth in labelled(model, images, numbers):
        counted.add(labels, truth)
    return counted


def differences(
    model: Model, reference: Model, images: LabelledImages, numbers: NDArray[np.int64]
) -> tuple[float, int]:
    """Return the share of voxels that two models label differently, and the largest difference of their scores."""
    different = voxels = largest = 0
    pairs = zip(labelled(model, images, numbers), labelled(reference, images, numbers), strict=True)
    for (labels, scores, _), (expected, expected_scores, _) in pairs:
        different += np.count_nonzero(labels != expected)
        voxels += labels.size
        largest = max(largest, int(np.abs(scores.astype(np.int16) - expected_scores).max()))
    return int(different) / voxels, largest


def seconds(model: Model, side: int, slices: int) -> float:
    """Return the seconds for a megavoxel, on whole slices that lie in the backend's slots already.

    Args:
        model: the model.
        side: height and width of a slice.
        slices: how many are timed, after as many as there are streams, which are not.
    """
    with closing(model.make_backend(model.bundle)) as backend:
        slots = _slots(backend, model.bundle.specification, side, backend.streams)
        random = np.random.default_rng(0)
        for slot in slots:
            slot.slices[:] = random.standard_normal(slot.slices.shape, np.float32)
            slot.mean[:], slot.rstd[:] = 0, 1
        _run(backend, slots, len(slots))
        begun = time.perf_counter()
        _run(backend, slots, slices)
        return (time.perf_counter() - begun) / (slices * side**2) * 1e6


def _write(graph: onnx.ModelProto, specification: ModelSpecification, folder: Path) -> Bundle:
    folder.mkdir(parents=True)
    path = folder / _MODEL_FILE
    onnx.save(graph, path)
    bundle = Bundle(folder, specification, {"fp32": Artifact.of(path)})
    bundle.write()
    return bundle


def _slots(backend: Backend, specification: ModelSpecification, side: int, count: int) -> list[Slot]:
    shape = SlotShape(1, specification.context, side, side, specification.classes)
    slots = list(backend.allocate(shape, count))
    for slot in slots:
        slot.count = 1
    return slots


def _run(backend: Backend, slots: list[Slot], count: int) -> None:
    """Work on slots in turn, all of them at the same time, `count` times in all."""
    for number in range(count):
        slot = slots[number % len(slots)]
        if number >= len(slots):
            backend.wait(slot)
        backend.submit(slot)
    for number in range(max(0, count - len(slots)), count):
        backend.wait(slots[number % len(slots)])
