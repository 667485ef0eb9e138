"""Validation: the network labels images of the dev split, and the voxels are counted by true and given class."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics.classification import MulticlassConfusionMatrix

from tomoscribe.engine.intensity import sampled_slices
from tomoscribe.train.dataset.contract import IGNORE, DatasetError, LabelledImages
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.unet import UNet

__all__ = ["Example", "Validator"]


@dataclass(frozen=True)
class Example:
    """An image with the labels that it should have and those it was given.

    Attributes:
        number: which image of the dataset.
        slice: ``(h, w)`` float32, normalised.
        truth: ``(h, w)`` uint8.
        labels: ``(h, w)`` uint8.
    """

    number: int
    slice: NDArray[np.float32]
    truth: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class Validator:
    """Labels images of the dev split, each process its part of them.

    Args:
        images: the dataset.
        most: images that are looked at, evenly spread over the split.
        examples: how many of them are kept to be drawn.

    Raises:
        DatasetError: the dev split is empty.
    """

    def __init__(self, images: LabelledImages, most: int, examples: int) -> None:
        numbers = images.numbers("dev")
        if not len(numbers):
            raise DatasetError("dataset: its dev split has no images to choose the checkpoint by; build it with others")
        self._images = images
        self._numbers = numbers[sampled_slices(0, len(numbers), most)]
        self._examples = examples

    def run(
        self, network: UNet, precision: Callable[[], AbstractContextManager[None]], rank: int = 0, processes: int = 1
    ) -> tuple[ConfusionMatrix, list[Example]]:
        """Label the images.

        Args:
            network: the network; in training mode before and after.
            precision: makes the context that the network runs in.
            rank: which part of the images is this process's.
            processes: how many parts there are; the counts of all come together.

        Returns:
            The voxels by true and given class, and examples from this process's part.
        """
        size = network.configuration
        device = next(network.parameters()).device
        counted = ConfusionMatrix(size.classes)
        counts = MulticlassConfusionMatrix(size.classes, ignore_index=IGNORE, validate_args=False).to(device)
        mine = self._numbers[rank::processes]
        shown, examples = _telling(self._images, mine, self._examples), []
        network.eval()
        with torch.inference_mode(), precision():
            for number in mine.tolist():
                slices, truth = self._images.read(number, size.context)
                labels = _label(network, torch.from_numpy(slices).to(device))
                counts.update(labels, torch.from_numpy(truth).long().to(device))
                if number in shown:
                    given = labels.to(torch.uint8).cpu().numpy()
                    examples.append(Example(number, slices[size.context], truth, given))
            # Adds up what all processes counted.
            counted.counts += counts.compute().cpu().numpy()
        network.train()
        return counted, examples


def _label(network: UNet, slices: Tensor) -> Tensor:
    """Return the labels of an image, ``(h, w)`` int64; one that the network cannot halve evenly is padded."""
    height, width = slices.shape[1:]
    multiple = network.configuration.tile_multiple
    padded = pad(slices[None], (0, -width % multiple, 0, -height % multiple), mode="replicate")
    logits: Tensor = network(padded.contiguous(memory_format=torch.channels_last))
    return logits[0, :, :height, :width].argmax(dim=0)


def _telling(images: LabelledImages, numbers: NDArray[np.int64], count: int) -> set[int]:
    """Return `count` images spread over the split, of their neighbours those that show most classes."""
    parts = [part for part in np.array_split(numbers, max(count, 1)) if len(part)] if count else []
    foreground = {int(n): images.counts[n, 1:] for part in parts for n in part}
    return {max(part.tolist(), key=lambda n: ((foreground[n] > 0).sum(), foreground[n].sum())) for part in parts}
